"""Safetensors files, whole or in shards, planned before the first number is known."""

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

Layout = Mapping[
    str, tuple[torch.dtype, tuple[int, ...]]
]  # of every tensor its kind of number and shape
_SUFFIX = ".safetensors"
_UNITS = ("", "K", "M", "G", "T")
# What safetensors calls each kind of number. It lays tensors down from the last of these to the first, so that each
# begins at a multiple of its own size.
_KINDS = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
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


class FilePlan(NamedTuple):
    """A safetensors file that is yet to be written; its bytes are those of `safetensors.torch.save_file`.

    Attributes:
        path: where it goes.
        head: the bytes before the first number.
        starts: of every tensor, where in the file its first number goes.
        size: of the whole file, in bytes.
    """

    path: Path
    head: bytes
    starts: dict[str, int]
    size: int


class Plan(NamedTuple):
    """A checkpoint that is yet to be written.

    Attributes:
        path: what a reader opens: the one file, or the index.
        files: the file, or the shards.
        contents: the bytes of the index; empty when there is one file.
    """

    path: Path
    files: list[FilePlan]
    contents: bytes

    def stale(self) -> list[Path]:
        """What must be gone before the new files come, lest two soups have one name: an index of it and the shards that
        only that one names, and, where the new ones are shards, the one file."""
        stem = self.path.name.removesuffix(INDEX_SUFFIX).removesuffix(_SUFFIX)
        index, single = (
            self.path.with_name(stem + INDEX_SUFFIX),
            self.path.with_name(stem + _SUFFIX),
        )
        gone = [single] if self.contents and single.is_file() else []
        if not index.is_file():
            return gone
        try:
            old = set(read_index(index).values())
        except CheckpointError:
            old = set()
        left = sorted(old - {file.path.name for file in self.files})
        return [*gone, index, *(self.path.with_name(name) for name in left)]


def plan(
    path: Path, layout: Layout, metadata: Mapping[str, str], max_shard_size: int | None
) -> Plan:
    """How a state dict is written: as one file, or as shards with an index, named as Hugging Face does.

    Args:
        path: of the one file; shards become `name-00001-of-00003.safetensors` and so on beside it, and their index
            `name.safetensors.index.json`.
        layout: of the tensors, in the order in which they are dealt to shards.
        metadata: texts for the head of every file.
        max_shard_size: the most bytes of tensors in a file, unless one alone is larger; None for one file.

    Raises ParameterError for a kind of number that safetensors does not have.
    """
    dealt = _deal(layout, max_shard_size)
    if len(dealt) == 1:
        return Plan(path, [plan_file(path, layout, metadata)], b"")
    stem = path.name.removesuffix(_SUFFIX)
    files: list[FilePlan] = []
    where: dict[str, str] = {}
    for number, keys in enumerate(dealt, 1):
        name = f"{stem}-{number:05d}-of-{len(dealt):05d}{_SUFFIX}"
        files.append(plan_file(path.with_name(name), {key: layout[key] for key in keys}, metadata))
        where |= dict.fromkeys(keys, name)
    total = sum(_size(*tensor) for tensor in layout.values())
    index = (
        json.dumps(
            {"metadata": {"total_size": total}, "weight_map": where}, indent=2, sort_keys=True
        )
        + "\n"
    )
    return Plan(path.with_name(stem + INDEX_SUFFIX), files, index.encode())


def _deal(layout: Layout, most: int | None) -> list[list[str]]:
    """The keys of every shard, dealt as Hugging Face does: in order; a tensor that is too large has its own shard."""
    if most is None:
        return [list(layout)]
    dealt: list[list[str]] = []
    open_shard: list[str] = []
    used = 0
    for key, tensor in layout.items():
        size = _size(*tensor)
        if size > most:
            dealt.append([key])
            continue
        if used + size > most:
            dealt.append(open_shard)
            open_shard, used = [], 0
        open_shard.append(key)
        used += size
    return [*dealt, open_shard] if open_shard else dealt


def plan_file(path: Path, layout: Layout, metadata: Mapping[str, str]) -> FilePlan:
    """Where everything goes in one safetensors file.

    Raises ParameterError for a kind of number that safetensors does not have.
    """
    kinds = list(_KINDS)
    for key, (dtype, _) in layout.items():
        if dtype not in _KINDS:
            raise ParameterError(
                f"{key}: {dtype} has no name in safetensors; convert that tensor first."
            )
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    starts, end = {}, 0
    for key in sorted(layout, key=lambda key: (-kinds.index(layout[key][0]), key)):
        dtype, shape = layout[key]
        starts[key], end = end, end + _size(dtype, shape)
        header[key] = {
            "dtype": _KINDS[dtype],
            "shape": list(shape),
            "data_offsets": [starts[key], end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return FilePlan(
        path, head, {key: len(head) + start for key, start in starts.items()}, len(head) + end
    )


def _size(dtype: torch.dtype, shape: Sequence[int]) -> int:
    return math.prod(shape) * dtype.itemsize


def write_at(file: BinaryIO, position: int, content: Tensor | bytes) -> None:
    """Write bytes, or the numbers of a flat tensor, at a place of an unbuffered file."""
    rest = (
        memoryview(content)
        if isinstance(content, bytes)
        else content.cpu().view(torch.uint8).numpy().data
    )
    file.seek(position)
    while len(rest):  # a system may take less than it is given at once
        rest = rest[file.write(rest) :]


def parse_size(name: str, size: int | str) -> int:
    """Bytes, from a whole number of them or from a text such as "2GB" (10^9 each) or "500 MiB" (2^20 each).

    Raises ParameterError, with the argument's name, for anything else.
    """
    if isinstance(size, numbers.Integral) and not isinstance(size, bool) and size > 0:
        return int(size)
    found = (
        re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(I?)B", size.strip().upper())
        if isinstance(size, str)
        else None
    )
    count = (
        int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS.index(found[2]))
        if found
        else 0
    )
    if count < 1:
        raise ParameterError(
            f'{name} must be a number of bytes or a text such as "2GB", not {size!r}.'
        )
    return count
