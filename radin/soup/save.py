"""Write one soup or many as safetensors, block by block, whole or not at all."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import torch
from torch import Tensor

from radin.checkpoints.formats import RUNNING_STATISTICS
from radin.checkpoints.zoo import Zoo
from radin.errors import ParameterError
from radin.files import atomic_files, reserve
from radin.ranking.candidates import check_weights
from radin.soup.average import _layout
from radin.soup.blockwise import Gathered, Shares, gather, mix_blocks, shares
from radin.soup.shards import Plan, parse_size, plan, write_at

_AT_ONCE = (
    1 << 24
)  # numbers of a soup that are handed to the disk together, while the next are read


def save_soup(
    zoo: Zoo,
    weights: Tensor | Sequence[float],
    path: str | Path,
    provenance: Mapping[str, object] | None = None,
    state: Mapping[str, Tensor] | None = None,
    max_shard_size: int | str | None = None,
) -> Path:
    """Average the ingredients into a safetensors file that remembers where it came from, a few blocks at a time.

    The header's `radin` entry is JSON: the ingredients' names and content hashes, their weights, and
    whatever `provenance` adds (recipe, budget, accuracy, ...). The file is written atomically.

    Args:
        state: the soup's tensors, where they are more than the average: with batch norm what
            `radin.inference.batch_norm.refresh_batch_norm` returns. Without it, a soup with batch norm is saved with a warning.
        max_shard_size: the most bytes of tensors in one file, or a text such as "2GB". A larger soup becomes shards
            beside `path`, `name-00001-of-00003.safetensors` and so on, with the index `name.safetensors.index.json`
            that Hugging Face's readers take; the index appears last, and a tensor is never cut.

    Returns:
        The path to open: `path`, or the index of the shards.

    Raises ParameterError for a path that does not end in .safetensors or a size that is none, RadinError when the
    disk refuses.
    """
    p = check_weights(weights, len(zoo))
    _check_paths(zoo, [Path(path)], p.unsqueeze(0), warn=state is None)
    used = p.unsqueeze(0) if state is None else torch.ones(1, 1)
    sources = [zoo[k] for k in range(len(zoo))] if state is None else [state]
    header = _header(zoo, p, provenance)
    return _save(sources, used, zoo.keys(), [Path(path)], [header], max_shard_size)[0]


def save_soups(
    zoo: Zoo,
    rows: Tensor | Sequence[Sequence[float]],
    paths: Sequence[str | Path],
    provenances: Sequence[Mapping[str, object] | None] | None = None,
) -> list[Path]:
    """Write several soups in one reading of the ingredients, each byte for byte what `save_soup` makes of its row.

    All of them appear when all are on disk; a failure before leaves none. M files are open at once.

    Args:
        rows: (M, N) mixing weights.
        paths: M files, all different, each ending in .safetensors.
        provenances: M times what `save_soup` takes.

    Raises ParameterError for numbers or endings that do not fit, RadinError when the disk refuses.
    """
    p = check_weights(rows, len(zoo), rows=True)
    targets = [Path(path) for path in paths]
    _check_paths(zoo, targets, p)
    told = [None] * len(p) if provenances is None else list(provenances)
    if len(told) != len(p):
        raise ParameterError(
            f"{len(p)} soups need {len(p)} provenances, one for each; these are {len(told)}."
        )
    headers = [_header(zoo, row, each) for row, each in zip(p, told, strict=True)]
    return _save([zoo[k] for k in range(len(zoo))], p, zoo.keys(), targets, headers, None)


def _check_paths(zoo: Zoo, paths: list[Path], p: Tensor, warn: bool = True) -> None:
    for path in paths:
        if path.suffix != ".safetensors":
            raise ParameterError(f"{path}: a soup is saved as .safetensors; change the ending.")
    if len(paths) != len(p):
        raise ParameterError(
            f"{len(p)} soups need {len(p)} paths, one for each; these are {len(paths)}."
        )
    if len({os.path.abspath(path) for path in paths}) < len(paths):
        raise ParameterError(
            f"Several soups cannot be saved under one name; these are {', '.join(map(str, paths))}."
        )
    if warn and any(key.endswith(RUNNING_STATISTICS) for key in zoo.keys()):
        warnings.warn(
            f"{', '.join(map(str, paths))}: saved with averaged running statistics of batch norm, which fit no soup; "
            "pass state=radin.inference.batch_norm.refresh_batch_norm(zoo, weights, training_split) to save_soup.",
            stacklevel=3,
        )


def _header(zoo: Zoo, p: Tensor, provenance: Mapping[str, object] | None) -> dict[str, str]:
    """The texts in a soup's head. Readers in the manner of Hugging Face's refuse a file that does not say "pt"."""
    ingredients = [
        {"name": name, "sha256": fingerprint, "weight": weight}
        for name, fingerprint, weight in zip(zoo.names, zoo.fingerprints, p.tolist(), strict=True)
    ]
    content = json.dumps(
        {**(provenance or {}), "ingredients": ingredients}, sort_keys=True, default=str
    )
    return {"format": "pt", "radin": content}


def _save(
    sources: Sequence[Mapping[str, Tensor]],
    weights: Tensor,
    keys: list[str],
    paths: Sequence[Path],
    headers: Sequence[Mapping[str, str]],
    max_shard_size: int | str | None,
) -> list[Path]:
    most = None if max_shard_size is None else parse_size("max_shard_size", max_shard_size)
    rows = shares(weights)
    with gather(sources, rows, keys) as gathered:
        plans = [
            plan(path, _layout(gathered, row), header, most)
            for path, row, header in zip(paths, rows, headers, strict=True)
        ]
        _write(plans, gathered, rows)
    return [each.path for each in plans]


def _write(plans: Sequence[Plan], gathered: Gathered, rows: Sequence[Shares]) -> None:
    files = [file for each in plans for file in each.files]
    indices = [each for each in plans if each.contents]
    places = [
        *(file.path for file in files),
        *(each.path for each in indices),
    ]  # an index comes after its shards
    stale = [path for each in plans for path in each.stale()]
    with atomic_files(places, stale=stale) as opened:
        unwritten = iter(opened)
        where: list[dict[str, tuple[BinaryIO, Lock, int]]] = []
        for each in plans:
            where.append({})
            for planned in each.files:
                file, lock = next(unwritten), Lock()
                reserve(file, planned.size)
                write_at(file, 0, planned.head)
                where[-1] |= {key: (file, lock, start) for key, start in planned.starts.items()}
        for each in indices:
            write_at(next(unwritten), 0, each.contents)

        def put(number: int, key: str, start: int, block: Tensor) -> None:
            file, lock, begin = where[number][key]
            with lock:  # between its going to the place and its writing
                write_at(file, begin + start * block.element_size(), block)

        waiting = 0
        for count in mix_blocks(gathered, rows, put):
            waiting += count
            if waiting >= _AT_ONCE:
                waiting = 0
                for file in opened:
                    os.fsync(file.fileno())
