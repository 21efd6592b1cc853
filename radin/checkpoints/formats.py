"""Files of tensors as mappings: what torch.save wrote, safetensors, and shards with an index.

Tensors are mapped from disk when they are asked for. Nothing but plain tensors, numbers, texts and
lists of them is ever unpickled (`weights_only=True`).
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

from radin.errors import CheckpointError, list_names
from radin.files import NO_SUCH_FILE, describe_unreadable

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# Hugging Face's: {"weight_map": {key: shard}}
INDEX_SUFFIX = ".safetensors.index.json"
TORCH_INDEX_SUFFIX = ".bin.index.json"
INDEX_SUFFIXES = (INDEX_SUFFIX, TORCH_INDEX_SUFFIX)
RUNNING_STATISTICS = ("running_mean", "running_var")  # how the keys of batch norm end in torch


def open_file(path: Path) -> Mapping[Any, Any]:
    """The content of a file or of an index of shards: tensors by name, or any dict of torch.save.

    Raises:
        CheckpointError: a file is missing, truncated or pickled code, or an index and its shards
            disagree.
    """
    _check_access(path)
    if not os.path.isfile(path):  # unlike Path.is_file, it takes a name that no file can have
        raise CheckpointError(f"{path}: no such checkpoint file.")
    if path.name.endswith(INDEX_SUFFIXES):
        return _Shards(path)
    return _SafetensorsFile(path) if path.suffix == ".safetensors" else _load_torch(path)


def _check_access(path: Path) -> None:
    """Refuse a file that is there and cannot be opened; torch would call it damaged."""
    reason = describe_unreadable(path)
    if reason not in ("", NO_SUCH_FILE):
        raise CheckpointError(f"{path}: could not be read ({reason}).")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{path}: its name is not UTF-8; rename it.") from None


def read_index(path: Path) -> dict[str, str]:
    """The shard of every key, from an index of shards; no shard is opened.

    Raises:
        CheckpointError: the file is not such an index, or names a file outside its own folder.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: truncated or not JSON ({error}); copy or make it again."
        ) from error
    shard_of: Any = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not isinstance(shard_of, dict)
        or not shard_of
        or not all(isinstance(name, str) for name in shard_of.values())
    ):
        raise CheckpointError(
            f'{path}: not an index of shards, which holds {{"weight_map": {{key: file}}}}; copy or '
            "make it again."
        )
    suffix = ".safetensors" if path.name.endswith(INDEX_SUFFIX) else ".bin"
    for name in sorted(set(shard_of.values())):
        # Windows' rules find the harm in paths of both systems. Links are followed: Hugging Face's
        # cache consists of them.
        parts = PureWindowsPath(name)
        if parts.drive or parts.root or ".." in parts.parts or not name.endswith(suffix):
            raise CheckpointError(
                f"{path}: refused, because it names {name!r}, which is no {suffix} file in its "
                "folder; an index and its shards belong into one folder."
            )
    return shard_of


def checkpoint_files(path: Path) -> list[Path]:
    """The files of a checkpoint: itself, and the shards that an index names."""
    if not path.name.endswith(INDEX_SUFFIXES) or not os.path.isfile(path):
        return [path]
    return [path, *(path.parent / name for name in sorted(set(read_index(path).values())))]


def is_state_dict(entry: object) -> bool:
    """Whether it holds tensors by name, at least one, and nothing else."""
    if not isinstance(entry, Mapping) or not entry:
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entry.items())


def is_parameter(key: str, tensor: Tensor) -> bool:
    """Whether training changes a tensor: no integers, and no running statistics of batch norm."""
    return tensor.is_floating_point() and not key.endswith(RUNNING_STATISTICS)


def check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless every tensor of a torch file is dense, with data in the file."""
    num_bytes = path.stat().st_size
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
        # One stored element, expanded, may claim to be terabytes.
        if tensor.numel() * tensor.element_size() > num_bytes:
            raise CheckpointError(
                f"{path}: {key} of shape {tuple(tensor.shape)} is larger than the file; save "
                "tensor.contiguous()."
            )


def state_dict_error(path: Path, content: Mapping[Any, Any]) -> CheckpointError:
    """The error for a dict that is no state dict; it names the other entries."""
    wrong = sorted(str(key) for key, value in content.items() if not is_state_dict({key: value}))
    holds = f"entries that are not tensors: {list_names(wrong)}" if wrong else "no tensors"
    inner = [key for key, value in content.items() if is_state_dict(value)]
    way_out = "save model.state_dict()"
    if inner:
        way_out += f", here torch.save(checkpoint[{inner[0]!r}], path)"
    return CheckpointError(f"{path}: not a state dict, it holds {holds}; {way_out}.")


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
        except Exception as error:  # a dtype that this torch lacks gives errors of several types
            raise CheckpointError(
                f"{self._path}: {key} cannot be read ({error}); save it in single precision."
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class _Shards(Mapping[str, Tensor]):
    """The shards of one index as one mapping.

    Headers are compared at once; tensors are mapped when they are asked for.
    """

    def __init__(self, index: Path) -> None:
        self._shard_of = read_index(index)
        keys_of: dict[str, set[str]] = {}
        for key, name in self._shard_of.items():
            keys_of.setdefault(name, set()).add(key)
        if missing := [name for name in keys_of if not os.path.isfile(index.parent / name)]:
            plural = "s" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{index}: missing shard{plural} {list_names(map(repr, missing))}; copy "
                "them beside it."
            )
        self._shards = {name: _open_shard(index.parent / name) for name in keys_of}
        for name, shard in self._shards.items():
            for keys, difference in (
                (keys_of[name] - set(shard), f"does not hold what {index.name} says it does"),
                (set(shard) - keys_of[name], f"holds what {index.name} does not say it does"),
            ):
                if keys:
                    raise CheckpointError(
                        f"{index.parent / name}: {difference}: {list_names(sorted(keys))}; copy "
                        "index and shards of one run again."
                    )

    def __getitem__(self, key: str) -> Tensor:
        return self._shards[self._shard_of[key]][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def __len__(self) -> int:
        return len(self._shard_of)


def _open_shard(path: Path) -> Mapping[str, Tensor]:
    content = open_file(path)
    if isinstance(content, _SafetensorsFile):
        return content
    if not is_state_dict(content):
        raise state_dict_error(path, content)
    check_plain(path, content)
    return content


def _load_torch(path: Path) -> dict[Any, Any]:
    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            # Written before torch 1.6: not a zip file, so it cannot be mapped.
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path}: refused, because it holds pickled objects other than plain tensors"
            f"{f' ({culprit[1]})' if culprit else ''} and loading those can run code; "
            "save model.state_dict() instead of the model."
        ) from error
    except Exception as error:  # a damaged file raises errors of any type: struct, zip, assert, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: truncated or not a checkpoint ({reason}); copy or make it again."
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path}: holds a {type(loaded).__name__}, not a state dict; save model.state_dict()."
        )
    return loaded
