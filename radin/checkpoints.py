"""Checkpoints as people have them, opened lazily and safely: torch files, safetensors, and shards with an index."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from radin.errors import CheckpointError

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
INDEX_SUFFIX = ".safetensors.index.json"  # Hugging Face's: {"weight_map": {key: shard}}
# Where training programs put the state dict beside epochs and optimisers (Lightning, timm, torch's own tutorials) ...
ORDINARY_ENTRIES = ("state_dict", "model", "model_state_dict")
# ... and its exponential moving average over the training steps.
EMA_ENTRIES = ("ema", "state_dict_ema", "model_ema", "ema_state_dict")
DEEPEST_PREFIX = 8  # names joined by dots; no training program wraps a network so often, a hostile key may look it
MOST_NAMES = 8  # in one error or note


class Checkpoint(Mapping[str, Tensor]):
    """The state dict that a checkpoint holds; a tensor is mapped from disk when it is asked for.

    Attributes:
        path: the file it is read from; of shards, their index.
        entry: the entry of a nested checkpoint that it is, such as "state_dict", or "".
        emas: the entries of the file that hold an exponential moving average (EMA), read or not.
        prefix: what was taken off the front of every key, such as "module.", or "".
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], entry: str = "", emas: Sequence[str] = ()) -> None:
        self.path = path
        self.entry = entry
        self.emas = tuple(emas)
        self.prefix = ""
        self._tensors = tensors
        self._stored = {key: key for key in tensors}  # final name -> name in the file

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[self._stored[key]].detach()  # a file may hold parameters, which would record gradients

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def finding(self) -> str:
        """What was found and taken off, in words for a note; empty for a plain state dict."""
        parts = [f"its {self.entry!r}"] if self.entry else []
        parts += [f"less the prefix {self.prefix!r}"] if self.prefix else []
        said = ", ".join(parts)
        if self.entry in self.emas:
            return f"read {said} (an EMA; there is no ordinary state dict)"
        if self.emas:
            said += f"; an EMA is there too, not read: {some(map(repr, self.emas))}"
        return f"read {said}" if said else ""

    def fit(self, reference: Collection[str]) -> Checkpoint:
        """This checkpoint less a prefix before every key, where that makes more of its keys the reference's."""
        prefix = common_prefix(self, reference)
        less = self._select({key.removeprefix(prefix): stored for key, stored in self._stored.items()})
        less.prefix += prefix
        return less

    def without(self, keys: Collection[str]) -> Checkpoint:
        """This checkpoint less some keys."""
        return self._select({key: stored for key, stored in self._stored.items() if key not in keys})

    def _select(self, stored: dict[str, str]) -> Checkpoint:
        view = Checkpoint(self.path, self._tensors, self.entry, self.emas)
        view.prefix, view._stored = self.prefix, stored
        return view


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a state dict without reading its tensors, from a file, from shards or from inside a nested checkpoint.

    Nothing is ever unpickled beyond plain tensors, numbers, texts and lists of them (`weights_only=True`).

    Args:
        path: a `.safetensors` file; the `.safetensors.index.json` of shards, or a folder with just one of these;
            or a file that `torch.save` wrote, which may hold the state dict as its `state_dict`, `model`
            or `model_state_dict` (failing those, as an EMA: `ema`, `state_dict_ema` or `model_ema`).

    Returns:
        The tensors by name. Its `finding` says in words which entry was read and whether an EMA is there.

    Raises:
        CheckpointError: the file or a shard is missing, truncated, pickled code or not a state dict; an
            index does not agree with its shards; or several entries could be the state dict.
    """
    path = locate(path)
    if not os.path.isfile(path):  # unlike Path.is_file, it says no to a name that no file can have
        raise CheckpointError(f"{path}: no such checkpoint file.")
    if path.name.endswith(INDEX_SUFFIX):
        return Checkpoint(path, _Shards(path))
    if path.suffix == ".safetensors":
        return Checkpoint(path, _SafetensorsFile(path))
    return _open_torch(path)


def locate(path: str | Path) -> Path:
    """The file that a path means: itself, or the one index of shards in it when it is a folder.

    Raises CheckpointError for a folder with no such index, or with several.
    """
    path = Path(path).expanduser()
    if not os.path.isdir(path):
        return path
    indices = sorted(path.glob(f"*{INDEX_SUFFIX}"))
    if len(indices) != 1:
        what = f"several: {some(index.name for index in indices)}" if indices else "none"
        raise CheckpointError(
            f"{path}: a folder is one checkpoint when it holds one *{INDEX_SUFFIX}, and this one holds {what}; "
            "give the checkpoint file itself."
        )
    return indices[0]


def read_index(path: Path) -> dict[str, str]:
    """The shard of every key, as an index of shards says; no shard is touched.

    Raises CheckpointError when it is not such an index, or names a file outside its own folder.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: truncated or not JSON ({error}); copy or make it again.") from error
    shards: Any = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(
            f'{path}: not an index of shards, which holds {{"weight_map": {{key: file}}}}; copy or make it again.'
        )
    for name in sorted(set(shards.values())):
        # Windows' rules see the harm in both systems' paths. Links are followed: Hugging Face's cache is made of them.
        parts = PureWindowsPath(name)
        if parts.drive or parts.root or ".." in parts.parts or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{path}: refused, because it names {name!r}, which is no .safetensors file in its folder; "
                "an index and its shards lie together."
            )
    return shards


def common_prefix(keys: Collection[str], reference: Collection[str]) -> str:
    """What stands before every key, such as "module.", if more of the keys are the reference's without it, or "".

    Keys that are the reference's as they stand keep their names: of prefixes that fit alike, the shortest counts.
    """
    known = frozenset(reference)
    best, most, prefix = "", sum(key in known for key in keys), ""
    first = next(iter(keys), "")
    for _ in range(DEEPEST_PREFIX):
        head, dot, _ = first[len(prefix) :].partition(".")
        prefix += head + dot
        if not dot or not all(key.startswith(prefix) for key in keys):
            break
        fitting = sum(key.removeprefix(prefix) in known for key in keys)
        if fitting > most:
            best, most = prefix, fitting
    return best


def some(names: Collection[str] | Iterator[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


class _SafetensorsFile(Mapping[str, Tensor]):
    """A safetensors file as a mapping."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy or make it again.") from error
        self._path = path
        self._keys = dict.fromkeys(self._file.keys())
        if not self._keys:
            raise CheckpointError(f"{path}: not a state dict, it holds no tensors; save model.state_dict().")

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._keys:
            raise KeyError(key)
        try:
            return self._file.get_tensor(key)
        except Exception as error:  # a kind of number that this torch does not have ends in any of several errors
            raise CheckpointError(
                f"{self._path}: {key} cannot be read ({error}); save it in single precision."
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class _Shards(Mapping[str, Tensor]):
    """The shards of one index as one mapping: headers are compared at once, tensors mapped when asked for."""

    def __init__(self, index: Path) -> None:
        self._where = read_index(index)
        named: dict[str, set[str]] = {}
        for key, name in self._where.items():
            named.setdefault(name, set()).add(key)
        if lost := [name for name in named if not os.path.isfile(index.parent / name)]:
            raise CheckpointError(
                f"{index}: missing shard{'s' if len(lost) > 1 else ''} {some(map(repr, lost))}; copy them beside it."
            )
        self._shards = {name: _SafetensorsFile(index.parent / name) for name in named}
        for name, shard in self._shards.items():
            for keys, what in (
                (named[name] - set(shard), f"does not hold what {index.name} says it does"),
                (set(shard) - named[name], f"holds what {index.name} does not say it does"),
            ):
                if keys:
                    raise CheckpointError(
                        f"{index.parent / name}: {what}: {some(sorted(keys))}; copy index and shards of one run again."
                    )

    def __getitem__(self, key: str) -> Tensor:
        return self._shards[self._where[key]][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _open_torch(path: Path) -> Checkpoint:
    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            loaded = torch.load(path, map_location="cpu", weights_only=True)  # written before torch 1.6: no zip to map
    except pickle.UnpicklingError as error:
        culprit = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path}: refused, because it holds pickled objects other than plain tensors"
            f"{f' ({culprit[1]})' if culprit else ''} and loading those can run code; "
            "save model.state_dict() instead of the model."
        ) from error
    except Exception as error:  # a damaged file fails wherever its reader happens to be: struct, zip, assert, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: truncated or not a checkpoint ({reason}); copy or make it again.") from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a state dict; save model.state_dict().")
    entry, emas = ("", []) if _is_state_dict(loaded) else _find_entry(path, loaded)
    tensors = loaded[entry] if entry else loaded
    size = path.stat().st_size
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {key} is sparse, quantised or empty of data; save it as a plain tensor.")
        if tensor.numel() * tensor.element_size() > size:  # one stored number may pose as terabytes
            raise CheckpointError(
                f"{path}: {key} of shape {tuple(tensor.shape)} is larger than the file; save tensor.contiguous()."
            )
    return Checkpoint(path, tensors, entry, emas)


def _is_state_dict(entry: object) -> bool:
    if not isinstance(entry, Mapping) or not entry:
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entry.items())


def _find_entry(path: Path, loaded: Mapping[Any, Any]) -> tuple[str, list[str]]:
    """The entry to read of a nested checkpoint, and its EMAs; never deeper, for a dict may hold itself."""
    ordinary = [name for name in ORDINARY_ENTRIES if _is_state_dict(loaded.get(name))]
    emas = [name for name in EMA_ENTRIES if _is_state_dict(loaded.get(name))]
    found = ordinary or emas
    if len(found) == 1:
        return found[0], emas
    if found:
        raise CheckpointError(
            f"{path}: holds several state dicts, {some(map(repr, found))}; save the one you mean, such as "
            f"torch.save(checkpoint[{found[0]!r}], path)."
        )
    wrong = sorted(str(key) for key, value in loaded.items() if not _is_state_dict({key: value}))
    what = f"entries that are not tensors: {some(wrong)}" if wrong else "no tensors"
    inner = [key for key, value in loaded.items() if _is_state_dict(value)]
    mend = "save model.state_dict()" + (f", here torch.save(checkpoint[{inner[0]!r}], path)" if inner else "")
    raise CheckpointError(f"{path}: not a state dict, it holds {what}; {mend}.")
