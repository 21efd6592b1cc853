"""The layout of safetensors files, whole or in shards, before any element is computed."""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from radin.checkpoints.formats import INDEX_SUFFIX, read_index
from radin.errors import CheckpointError, ParameterError

TensorSpecs = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # dtype and shape of each key
_SUFFIX = ".safetensors"
_PREFIXES = ("", "K", "M", "G", "T")
# The names of dtypes in safetensors. It writes tensors from the last of these to the first, so that
# each begins at a multiple of its own element size.
_DTYPE_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}


class FileLayout(NamedTuple):
    """The layout of a safetensors file, with the bytes of `safetensors.torch.save_file`.

    Attributes:
        path: of the file.
        header: the bytes before the first tensor.
        starts: for each key, where in the file its tensor begins.
        num_bytes: of the whole file.
    """

    path: Path
    header: bytes
    starts: dict[str, int]
    num_bytes: int


class CheckpointLayout(NamedTuple):
    """The layout of a checkpoint: one file, or shards with an index.

    Attributes:
        path: the file to open: the only one, or the index.
        files: the file, or the shards.
        index_bytes: of the index; empty if there is one file.
    """

    path: Path
    files: list[FileLayout]
    index_bytes: bytes

    def stale(self) -> list[Path]:
        """Files to remove before the new ones appear, so that no two soups have one name.

        These are an old index of this name with the shards that only it names, and the single file
        of this name if the new files are shards.
        """
        stem = self.path.name.removesuffix(INDEX_SUFFIX).removesuffix(_SUFFIX)
        index = self.path.with_name(stem + INDEX_SUFFIX)
        single = self.path.with_name(stem + _SUFFIX)
        stale = [single] if self.index_bytes and single.is_file() else []
        if not index.is_file():
            return stale
        try:
            old = set(read_index(index).values())
        except CheckpointError:
            old = set()
        unused = sorted(old - {file.path.name for file in self.files})
        return [*stale, index, *(self.path.with_name(name) for name in unused)]


def checkpoint_layout(
    path: Path, specs: TensorSpecs, metadata: Mapping[str, str], *, max_shard_size: int | None
) -> CheckpointLayout:
    """How a state dict is written: as one file, or as shards with an index, as Hugging Face does.

    Args:
        path: of the one file. Shards are `name-00001-of-00003.safetensors` and so on beside it,
            and their index is `name.safetensors.index.json`.
        specs: of the tensors, in the order in which they are divided into shards.
        metadata: texts for the header of every file.
        max_shard_size: bytes of tensors in a file, unless one tensor is larger; None for one file.

    Raises:
        ParameterError: safetensors does not have a dtype.
    """
    shards = _split_keys(specs, max_shard_size)
    if len(shards) == 1:
        return CheckpointLayout(path, [file_layout(path, specs, metadata)], b"")
    stem = path.name.removesuffix(_SUFFIX)
    files: list[FileLayout] = []
    shard_names: dict[str, str] = {}
    for number, keys in enumerate(shards, 1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}{_SUFFIX}"
        files.append(file_layout(path.with_name(name), {key: specs[key] for key in keys}, metadata))
        shard_names |= dict.fromkeys(keys, name)
    total = sum(_num_bytes(*spec) for spec in specs.values())
    content = {"metadata": {"total_size": total}, "weight_map": shard_names}
    index = json.dumps(content, indent=2, sort_keys=True) + "\n"
    return CheckpointLayout(path.with_name(stem + INDEX_SUFFIX), files, index.encode())


def _split_keys(specs: TensorSpecs, max_bytes: int | None) -> list[list[str]]:
    """The keys of every shard, in order, divided as Hugging Face does.

    A tensor that is larger than a shard has its own.
    """
    if max_bytes is None:
        return [list(specs)]
    shards: list[list[str]] = []
    current: list[str] = []
    used = 0
    for key, spec in specs.items():
        size = _num_bytes(*spec)
        if size > max_bytes:
            shards.append([key])
            continue
        if used + size > max_bytes:
            shards.append(current)
            current = []
            used = 0
        current.append(key)
        used += size
    return [*shards, current] if current else shards


def file_layout(path: Path, specs: TensorSpecs, metadata: Mapping[str, str]) -> FileLayout:
    """The layout of one safetensors file.

    Raises:
        ParameterError: safetensors does not have a dtype.
    """
    for key, (dtype, _) in specs.items():
        if dtype not in _DTYPE_NAMES:
            raise ParameterError(
                f"{key}: {dtype} has no name in safetensors; convert that tensor of the "
                "ingredients first."
            )
    order = {dtype: -i for i, dtype in enumerate(_DTYPE_NAMES)}
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    begins = {}
    end = 0
    for key in sorted(specs, key=lambda key: (order[specs[key][0]], key)):
        dtype, shape = specs[key]
        begins[key] = end
        end += _num_bytes(dtype, shape)
        entries[key] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [begins[key], end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    starts = {key: len(header) + begin for key, begin in begins.items()}
    return FileLayout(path, header, starts, len(header) + end)


def _num_bytes(dtype: torch.dtype, shape: Sequence[int]) -> int:
    return math.prod(shape) * dtype.itemsize


def write_at(file: BinaryIO, position: int, content: Tensor | bytes) -> None:
    """Write bytes, or the elements of a flat tensor, at a position of an unbuffered file."""
    if isinstance(content, bytes):
        rest = memoryview(content)
    else:
        rest = content.cpu().view(torch.uint8).numpy().data
    file.seek(position)
    while len(rest):  # the system can write less than it is given
        rest = rest[file.write(rest) :]


def parse_size(name: str, size: int | str) -> int:
    """Bytes, from their number or from a text such as "2GB" (10^9 each) or "500 MiB" (2^20 each).

    Args:
        name: of the argument, for the error message.
        size: the number or text.

    Raises:
        ParameterError: it is neither.
    """
    if isinstance(size, numbers.Integral) and not isinstance(size, bool) and size > 0:
        return int(size)
    match = None
    if isinstance(size, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(I?)B", size.strip().upper())
    count = 0
    if match:
        amount, prefix, binary = match.groups()
        count = int(float(amount) * (1024 if binary else 1000) ** _PREFIXES.index(prefix))
    if count < 1:
        raise ParameterError(
            f'{name} must be a number of bytes or a text such as "2GB", not {size!r}.'
        )
    return count
