"""The file of a soup bench: banks and tables in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from radin.checkpoints.zoo import Zoo
from radin.errors import BankError
from radin.experiments.bench.shipped import BENCH_FORMAT
from radin.files import atomic_path, load_tensors, update_hash
from radin.ranking.bank import LogitBank

BENCH_PARTS = ("val", "test")
TablesByPart = Mapping[str, Tensor]  # a table for "val" and one for "test"


def bench_key(zoo: Zoo, banks: Sequence[LogitBank], subsets: Tensor | None) -> str:
    """Hex hash of the ingredients, their banks, which depend on networks and images, and subsets.

    Args:
        subsets: the bitmasks of the evaluated soups, None for all.
    """
    digest = hashlib.sha256("|".join([BENCH_FORMAT, *zoo.fingerprints]).encode())
    for part, bank in zip(BENCH_PARTS, banks, strict=True):
        update_hash(digest, f"{part}.logits", bank.logits)
        update_hash(digest, f"{part}.labels", bank.labels)
    if subsets is not None:
        update_hash(digest, "subsets", subsets)
    return digest.hexdigest()


def write_bench(
    path: Path,
    *,
    banks: Mapping[str, LogitBank],
    tables: Mapping[str, TablesByPart],
    right: TablesByPart,
    subsets: Tensor | None = None,
) -> Path:
    """Write a bench, atomically.

    Args:
        path: of the file.
        banks: for each part the logit bank.
        tables: for "soups" and "ensembles" and each part the table (R, 2).
        right: for some parts whether each soup is right on each image, packed.
        subsets: the bitmasks (R,) of the evaluated soups, where not all are.
    """
    # The names are a tensor: with a second entry in its header, safetensors would write the same
    # bench as other bytes each time.
    names = json.dumps(banks["val"].names).encode()
    tensors = {"names": torch.frombuffer(bytearray(names), dtype=torch.uint8)}
    for part in BENCH_PARTS:
        tensors[f"{part}.logits"] = banks[part].logits.contiguous()
        tensors[f"{part}.labels"] = banks[part].labels.contiguous()
        for kind, by_part in tables.items():
            tensors[f"{part}.{kind}"] = by_part[part].double().contiguous()
        if part in right:
            tensors[f"{part}.right"] = right[part].contiguous()
    if subsets is not None:
        tensors["subsets"] = subsets.contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": BENCH_FORMAT})
    return path


def read_bench(path: Path) -> dict[str, Any]:
    """What `write_bench` wrote, as arguments of `SoupBench`.

    Raises BankError when the file is missing, damaged or not a bench.
    """
    tensors, _ = load_tensors(path, BENCH_FORMAT)
    try:
        names = json.loads(bytes(tensors["names"].tolist()))
        found: dict[str, Any] = {
            part: LogitBank(tensors[f"{part}.logits"], tensors[f"{part}.labels"], names)
            for part in BENCH_PARTS
        }
        for kind in ("soups", "ensembles"):
            found[kind] = {part: tensors[f"{part}.{kind}"] for part in BENCH_PARTS}
    except (KeyError, json.JSONDecodeError) as error:
        raise BankError(
            f"{path}: not a whole soup bench ({error} is missing); build it again."
        ) from error
    found["subsets"] = tensors.get("subsets")
    rights = {part: tensors.get(f"{part}.right") for part in BENCH_PARTS}
    found["right"] = {part: packed for part, packed in rights.items() if packed is not None}
    return found
