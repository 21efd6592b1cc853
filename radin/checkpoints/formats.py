"""Files of tensors as mappings: what torch.save wrote, safetensors, and shards of either with an index.

Tensors are mapped from disk when they are asked for. Nothing is ever unpickled beyond plain tensors, numbers, texts and
lists of them (`weights_only=True`).
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from radin.errors import CheckpointError

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# Hugging Face's: {"weight_map": {key: shard}}
INDEX_SUFFIX = ".safetensors.index.json"
TORCH_INDEX_SUFFIX = ".bin.index.json"
INDEX_SUFFIXES = (INDEX_SUFFIX, TORCH_INDEX_SUFFIX)
MOST_NAMES = 8  # in one error or note


def read(path: Path) -> Mapping[Any, Any]:
    """What a file or an index of shards holds: tensors by name, or whatever dict `torch.save` was given.

    Raises CheckpointError when a file is missing, truncated or pickled code, or an index and its shards disagree.
    """
    if not os.path.isfile(path):  # unlike Path.is_file, it says no to a name that no file can have
        raise CheckpointError(f"{path}: no such checkpoint file.")
    if path.name.endswith(INDEX_SUFFIXES):
        return _Shards(path)
    return _SafetensorsFile(path) if path.suffix == ".safetensors" else _load_torch(path)


def read_index(path: Path) -> dict[str, str]:
    """The shard of every key, as an index of shards says; no shard is touched.

    Raises CheckpointError when it is not such an index, or names a file outside its own folder.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: truncated or not JSON ({error}); copy or make it again."
        ) from error
    shards: Any = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not isinstance(shards, dict)
        or not shards
        or not all(isinstance(name, str) for name in shards.values())
    ):
        raise CheckpointError(
            f'{path}: not an index of shards, which holds {{"weight_map": {{key: file}}}}; copy or make it again.'
        )
    suffix = ".safetensors" if path.name.endswith(INDEX_SUFFIX) else ".bin"
    for name in sorted(set(shards.values())):
        # Windows' rules see the harm in both systems' paths. Links are followed: Hugging Face's cache is made of them.
        parts = PureWindowsPath(name)
        if parts.drive or parts.root or ".." in parts.parts or not name.endswith(suffix):
            raise CheckpointError(
                f"{path}: refused, because it names {name!r}, which is no {suffix} file in its folder; "
                "an index and its shards lie together."
            )
    return shards


def files_of(path: Path) -> list[Path]:
    """The files that a checkpoint is made of: itself, and the shards that an index names."""
    if not path.name.endswith(INDEX_SUFFIXES) or not os.path.isfile(path):
        return [path]
    return [path, *(path.parent / name for name in sorted(set(read_index(path).values())))]


def is_state_dict(entry: object) -> bool:
    """Whether it holds tensors by name, one at least, and nothing else."""
    if not isinstance(entry, Mapping) or not entry:
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entry.items())


def check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """CheckpointError unless every tensor out of a torch file is plain numbers that the file can hold."""
    size = path.stat().st_size
    for key, tensor in tensors.items():
        if (
            tensor.layout != torch.strided
            or tensor.is_quantized
            or tensor.is_nested
            or tensor.device.type != "cpu"
        ):
            raise CheckpointError(
                f"{path}: {key} is sparse, quantised or empty of data; save it as a plain tensor."
            )
        if tensor.numel() * tensor.element_size() > size:  # one stored number may pose as terabytes
            raise CheckpointError(
                f"{path}: {key} of shape {tuple(tensor.shape)} is larger than the file; save tensor.contiguous()."
            )


def not_a_state_dict(path: Path, content: Mapping[Any, Any]) -> CheckpointError:
    """The error for a dict of other things, which it names."""
    wrong = sorted(str(key) for key, value in content.items() if not is_state_dict({key: value}))
    what = f"entries that are not tensors: {some(wrong)}" if wrong else "no tensors"
    inner = [key for key, value in content.items() if is_state_dict(value)]
    mend = "save model.state_dict()" + (
        f", here torch.save(checkpoint[{inner[0]!r}], path)" if inner else ""
    )
    return CheckpointError(f"{path}: not a state dict, it holds {what}; {mend}.")


def some(names: list[str] | Iterator[str]) -> str:
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
            raise CheckpointError(
                f"{path}: not a whole safetensors file ({error}); copy or make it again."
            ) from error
        self._path = path
        self._keys = dict.fromkeys(self._file.keys())
        if not self._keys:
            raise CheckpointError(
                f"{path}: not a state dict, it holds no tensors; save model.state_dict()."
            )

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._keys:
            raise KeyError(key)
        try:
            return self._file.get_tensor(key)
        except (
            Exception
        ) as error:  # a kind of number that this torch does not have ends in any of several errors
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
        self._shards = {name: _read_shard(index.parent / name) for name in named}
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


def _read_shard(path: Path) -> Mapping[str, Tensor]:
    content = read(path)
    if isinstance(content, _SafetensorsFile):
        return content
    if not is_state_dict(content):
        raise not_a_state_dict(path, content)
    check_plain(path, content)
    return content


def _load_torch(path: Path) -> dict[Any, Any]:
    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            loaded = torch.load(
                path, map_location="cpu", weights_only=True
            )  # written before torch 1.6: no zip to map
    except pickle.UnpicklingError as error:
        culprit = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path}: refused, because it holds pickled objects other than plain tensors"
            f"{f' ({culprit[1]})' if culprit else ''} and loading those can run code; "
            "save model.state_dict() instead of the model."
        ) from error
    except (
        Exception
    ) as error:  # a damaged file fails wherever its reader happens to be: struct, zip, assert, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: truncated or not a checkpoint ({reason}); copy or make it again."
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path}: holds a {type(loaded).__name__}, not a state dict; save model.state_dict()."
        )
    return loaded


RUNNING_STATISTICS = (
    "running_mean",
    "running_var",
)  # how the keys of batch norm end, in every torch network


def is_parameter(key: str, tensor: Tensor) -> bool:
    """Whether training moves a tensor: no whole numbers, and no running statistics of batch norm."""
    return tensor.is_floating_point() and not key.endswith(RUNNING_STATISTICS)
