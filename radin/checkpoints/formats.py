"""Files of tensors as mappings: what torch.save wrote, safetensors, and shards with an index.

Tensors are mapped from disk when they are asked for. What a file is, its content says and not its
ending. No code in a file is ever run (`radin.checkpoints.safe_pickles`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from radin.checkpoints.contents import (
    check_plain,
    describe,
    is_extra_state,
    is_state_dict,
    state_dict_error,
)
from radin.checkpoints.dtypes import is_averaged
from radin.checkpoints.file_types import (
    describe_other_file,
    is_pickle,
    is_safetensors,
    read_head,
)
from radin.checkpoints.safe_pickles import load_torch
from radin.errors import CheckpointError, list_names
from radin.files import NO_SUCH_FILE, describe_unreadable

CHECKPOINT_SUFFIXES = (
    *(".safetensors", ".pt", ".pth", ".bin", ".ckpt"),
    *(".pth.tar", ".pt.tar", ".pyth", ".th"),  # of timm and torch's own examples, pycls, AllenNLP
)
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
    is_damaged_safetensors = path.suffix == ".safetensors" and not begins_as_torch_file(path)
    if is_safetensors(path) or is_damaged_safetensors:
        return SafetensorsFile(path)
    content = load_torch(path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: not a state dict, it holds {describe(content)}; save model.state_dict()."
        )
    return content


def _check_access(path: Path) -> None:
    """Refuse a file that is there and cannot be opened; torch would call it damaged."""
    reason = describe_unreadable(path)
    if reason not in ("", NO_SUCH_FILE):
        raise CheckpointError(
            f"{path}: could not be read ({reason}); check the path, and that you may read it."
        )
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{path}: its name is not UTF-8; rename it.") from None


def read_json(path: Path) -> Any:
    """What a JSON file beside checkpoints holds.

    Raises:
        CheckpointError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: truncated or not JSON ({error}); copy or make it again."
        ) from error


def read_index(path: Path) -> dict[str, str]:
    """The shard of every key, from an index of shards; no shard is opened.

    Raises:
        CheckpointError: the file is not such an index, or names a file outside its own folder.
    """
    content = read_json(path)
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


def is_parameter(key: str, tensor: Tensor) -> bool:
    """Whether training changes a tensor: no integers, and no running statistics of batch norm."""
    return is_averaged(tensor.dtype) and not key.endswith(RUNNING_STATISTICS)


def begins_as_torch_file(path: Path) -> bool:
    """Whether the first bytes are those of the zip archive or pickle that torch.save writes."""
    return read_head(path)[:4] == b"PK\x03\x04" or is_pickle(path)


class SafetensorsFile(Mapping[str, Tensor]):
    """A safetensors file as a mapping.

    Attributes:
        aliases: other names of its tensors, which the header gives, and the keys they stand for.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            if other := describe_other_file(path):
                raise CheckpointError(f"{path}: not a checkpoint but {other}.") from error
            raise CheckpointError(
                f"{path}: not a whole safetensors file ({error}); copy or make it again."
            ) from error
        self._path = path
        self._keys = dict.fromkeys(self._file.keys())
        metadata = self._file.metadata() or {}
        # Of tied tensors safetensors.torch.save_model keeps one, and notes the other names here.
        self.aliases = {
            alias: key
            for alias, key in metadata.items()
            if alias != "format" and key in self._keys and alias not in self._keys
        }
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
    if isinstance(content, SafetensorsFile):
        return content
    if not is_state_dict(content) or any(map(is_extra_state, content)):
        raise state_dict_error(path, content)
    check_plain(path, content)
    return content
