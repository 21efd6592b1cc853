"""Soups on disk: safetensors files that name their ingredients, and appear whole or not at all."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from radin.checkpoints.formats import RUNNING_STATISTICS
from radin.checkpoints.origin import SOUP_ENTRY
from radin.checkpoints.zoo import Zoo
from radin.errors import ParameterError
from radin.files import atomic_files, expand_path, reserve
from radin.ranking.candidates import check_weights
from radin.soup.adapted import adapted_blocks, combine_rows
from radin.soup.average import tensor_specs
from radin.soup.blockwise import WriteBlock, gather, mix_blocks, to_shares
from radin.soup.shards import (
    CheckpointLayout,
    TensorSpecs,
    checkpoint_layout,
    parse_size,
    write_at,
)

_ELEMENTS_PER_SYNC = 1 << 24  # of a soup, sent to the disk together while more are read


def save_soup(
    zoo: Zoo,
    weights: Tensor | Sequence[float],
    path: str | Path,
    *,
    provenance: Mapping[str, object] | None = None,
    state: Mapping[str, Tensor] | None = None,
    max_shard_size: int | str | None = None,
) -> Path:
    """Average the ingredients into a safetensors file, a few blocks at a time, atomically.

    The header's `radin` entry is JSON: the names and content hashes of the ingredients, their
    weights, and `provenance`.

    Args:
        zoo: N ingredients.
        weights: (N,) mixing weights.
        path: ends in .safetensors.
        provenance: more entries for the header (recipe, budget, accuracy, ...).
        state: the soup's tensors, if they are not just the average: with batch norm, what
            `radin.inference.batch_norm.refresh_batch_norm` returns. Without it, a soup with batch
            norm is saved with a warning.
        max_shard_size: bytes of tensors in one file, or a text such as "2GB". A larger soup becomes
            shards beside `path`, `name-00001-of-00003.safetensors` and so on, with the index
            `name.safetensors.index.json` that Hugging Face's readers take. The index appears
            last, and a tensor is never cut.

    Returns:
        The path to open: `path`, or the index of the shards.

    Raises:
        ParameterError: the path does not end in .safetensors, or an impossible size or weights.
        RadinError: the system refuses to write.

    >>> import pathlib, tempfile, radin, torch
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for k in (1.0, 3.0):
    ...     torch.save({"w": torch.tensor([k, 0.0])}, folder / f"{k}.pt")
    >>> zoo = radin.Zoo.open(str(folder / "*.pt"), progress=False)
    >>> path = radin.save_soup(zoo, [0.5, 0.5], folder / "soup.safetensors")
    >>> path.name
    'soup.safetensors'
    """
    p = check_weights(weights, len(zoo))
    target = expand_path(path)
    _check_paths([target], 1)
    if state is None:
        _warn_of_batch_norm(zoo, [target])
    used = p.unsqueeze(0) if state is None else torch.ones(1, 1)
    states = [zoo[k] for k in range(len(zoo))] if state is None else [state]
    header = _header(zoo, p, provenance)
    max_bytes = None
    if max_shard_size is not None:
        max_bytes = parse_size("max_shard_size", max_shard_size)
    return _save(states, used, _stored_keys(zoo), [target], headers=[header], max_bytes=max_bytes)[
        0
    ]


def save_soups(
    zoo: Zoo,
    rows: Tensor | Sequence[Sequence[float]],
    paths: Sequence[str | Path],
    *,
    provenances: Sequence[Mapping[str, object] | None] | None = None,
) -> list[Path]:
    """Write several soups in one reading of the ingredients; each has the bytes of `save_soup`.

    All of them appear when all are on disk. After an error none appears. M files are open at the
    same time.

    Args:
        zoo: N ingredients.
        rows: (M, N) mixing weights.
        paths: M different files, each ending in .safetensors.
        provenances: M times the `provenance` of `save_soup`.

    Raises:
        ParameterError: numbers or endings that do not fit, or impossible weights.
        RadinError: the system refuses to write.
    """
    p = check_weights(rows, len(zoo), rows=True)
    targets = [expand_path(path) for path in paths]
    _check_paths(targets, len(p))
    _warn_of_batch_norm(zoo, targets)
    entries = [None] * len(p) if provenances is None else list(provenances)
    if len(entries) != len(p):
        raise ParameterError(
            f"{len(p)} soups need {len(p)} provenances, one for each; these are {len(entries)}."
        )
    headers = [_header(zoo, row, entry) for row, entry in zip(p, entries, strict=True)]
    states = [zoo[k] for k in range(len(zoo))]
    return _save(states, p, _stored_keys(zoo), targets, headers=headers, max_bytes=None)


def _check_paths(paths: list[Path], num_soups: int) -> None:
    for path in paths:
        if path.suffix != ".safetensors":
            raise ParameterError(f"{path}: a soup is saved as .safetensors; change the ending.")
    if len(paths) != num_soups:
        raise ParameterError(
            f"{num_soups} soups need {num_soups} paths, one for each; these are {len(paths)}."
        )
    if len({os.path.abspath(path) for path in paths}) < len(paths):
        raise ParameterError(
            f"Several soups cannot be saved under one name; these are {', '.join(map(str, paths))}."
        )


def _warn_of_batch_norm(zoo: Zoo, paths: list[Path]) -> None:
    if any(key.endswith(RUNNING_STATISTICS) for key in zoo.keys()):
        warnings.warn(
            f"{', '.join(map(str, paths))}: saved with averaged running statistics of batch norm, "
            "which fit no soup; pass state=radin.inference.batch_norm.refresh_batch_norm(zoo, "
            "weights, training_split) to save_soup.",
            stacklevel=3,
        )


def _header(zoo: Zoo, p: Tensor, provenance: Mapping[str, object] | None) -> dict[str, str]:
    """The metadata of a soup's file."""
    ingredients = [
        {"name": name, "sha256": fingerprint, "weight": weight}
        for name, fingerprint, weight in zip(zoo.names, zoo.fingerprints, p.tolist(), strict=True)
    ]
    content = json.dumps(
        {**(provenance or {}), "ingredients": ingredients}, sort_keys=True, default=str
    )
    # Hugging Face's readers refuse files without "pt". Tied weights are saved once, and named as
    # safetensors.torch.save_model does.
    return {"format": "pt", SOUP_ENTRY: content, **zoo.tied_keys()}


def _stored_keys(zoo: Zoo) -> list[str]:
    """The keys of a soup's file: all but those that stand for another in the ingredients' files."""
    tied = zoo.tied_keys()
    return [key for key in zoo.keys() if key not in tied]


def _save(
    states: Sequence[Mapping[str, Tensor]],
    weights: Tensor,
    keys: list[str],
    paths: Sequence[Path],
    *,
    headers: Sequence[Mapping[str, str]],
    max_bytes: int | None,
) -> list[Path]:
    rows = to_shares(weights)
    if adapted := combine_rows(states, rows):
        specs: list[TensorSpecs] = [{key: soup.spec(key) for key in keys} for soup in adapted]
        layouts = _layouts(paths, specs, headers, max_bytes)
        _write(layouts, partial(adapted_blocks, adapted, keys))
        return [layout.path for layout in layouts]
    with gather(states, rows, keys) as sources:
        specs = [tensor_specs(sources, row) for row in rows]
        layouts = _layouts(paths, specs, headers, max_bytes)
        _write(layouts, partial(mix_blocks, sources, rows))
    return [layout.path for layout in layouts]


def _layouts(
    paths: Sequence[Path],
    specs: Sequence[TensorSpecs],
    headers: Sequence[Mapping[str, str]],
    max_bytes: int | None,
) -> list[CheckpointLayout]:
    return [
        checkpoint_layout(path, of_path, header, max_shard_size=max_bytes)
        for path, of_path, header in zip(paths, specs, headers, strict=True)
    ]


class _Target(NamedTuple):
    """Where a tensor of a soup is written: an open file, its lock, and a position."""

    file: BinaryIO
    lock: Lock
    start: int


def _write(
    layouts: Sequence[CheckpointLayout], blocks: Callable[[WriteBlock], Iterator[int]]
) -> None:
    """Write soups into files. Row m is written to the files of layout m.

    Args:
        blocks: calls its argument with each block, and yields the number of its elements.
    """
    tensor_paths = [file.path for layout in layouts for file in layout.files]
    index_paths = [layout.path for layout in layouts if layout.index_bytes]
    stale = [path for layout in layouts for path in layout.stale()]
    # The indices come last: files are moved in this order, and an index follows its shards.
    with atomic_files([*tensor_paths, *index_paths], stale=stale) as files:
        targets = _write_headers(layouts, files)

        def write_block(row: int, key: str, start: int, block: Tensor) -> None:
            target = targets[row][key]
            with target.lock:  # one seek and write at a time
                write_at(target.file, target.start + start * block.element_size(), block)

        num_waiting = 0
        for num_elements in blocks(write_block):
            num_waiting += num_elements
            if num_waiting >= _ELEMENTS_PER_SYNC:
                num_waiting = 0
                for file in files:
                    os.fsync(file.fileno())


def _write_headers(
    layouts: Sequence[CheckpointLayout], files: Sequence[BinaryIO]
) -> list[dict[str, _Target]]:
    """Write headers and indices; returns the target of each tensor of each layout."""
    unwritten = iter(files)
    targets = []
    for layout in layouts:
        of_layout: dict[str, _Target] = {}
        for file_layout in layout.files:
            file = next(unwritten)
            lock = Lock()
            reserve(file, file_layout.num_bytes)
            write_at(file, 0, file_layout.header)
            of_layout |= {
                key: _Target(file, lock, start) for key, start in file_layout.starts.items()
            }
        targets.append(of_layout)
    for layout in layouts:
        if layout.index_bytes:
            write_at(next(unwritten), 0, layout.index_bytes)
    return targets
