"""Files of LoRA factors without their settings: the soup as an adapter of the same rank.

`radin.soup.adapters` writes the exact soup, whose rank is the sum of the ranks. That needs the
settings of each adapter. Here only the factors are known, and the file keeps their shapes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from radin.checkpoints.checkpoint import Checkpoint
from radin.checkpoints.origin import SOUP_ENTRY
from radin.errors import CheckpointError
from radin.files import atomic_path, expand_path, update_hash
from radin.ranking.candidates import check_weights

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<which>[AB])(?P<rest>\..+)?")


class NearestAdapter(NamedTuple):
    """The adapter of the same rank that is nearest to the average of some products.

    Attributes:
        tensors: its factors, under the keys of the files.
        missed: the length of what the average has beside it, as a share of the average's length,
            over all modules.
    """

    tensors: dict[str, Tensor]
    missed: float


def holds_bare_factors(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds pairs of LoRA factors of linear layers and nothing else."""
    pairs = factor_pairs(tensors)
    return (
        bool(pairs)
        and 2 * len(pairs) == len(tensors)
        and all(tensors[key].ndim == 2 for pair in pairs for key in pair)
        and all(tensors[up].shape[1] == tensors[down].shape[0] for down, up in pairs)
    )


def factor_pairs(keys: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """The keys (of A, of B) of each module that has both."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for key in keys:
        if match := _FACTOR.fullmatch(key):
            module = (match["module"], match["rest"] or "")
            found.setdefault(module, {})[match["which"]] = key
    return [(pair["A"], pair["B"]) for pair in found.values() if len(pair) == 2]


def nearest_adapter(
    files: Sequence[Mapping[str, Tensor]], weights: Tensor | Sequence[float]
) -> NearestAdapter:
    """Average products B A, and write the average as factors of the first file's rank.

    The factors themselves are never averaged. The average of the products has a higher rank; its
    nearest matrix of the lower rank keeps its largest singular values.

    Args:
        files: N state dicts of the same pairs of factors; all have the same scale alpha / r.
        weights: (N,) mixing weights.

    Raises:
        CheckpointError: a file has other pairs or other shapes.
        ParameterError: impossible weights.

    Source: Eckart and Young 1936.
    """
    shares = check_weights(weights, len(files)).double()
    shares = shares / shares.sum()
    first = files[0]
    for number, tensors in enumerate(files[1:], start=1):
        different = [
            key
            for key in {*first, *tensors}
            if key not in first or key not in tensors or first[key].shape != tensors[key].shape
        ]
        if different:
            raise CheckpointError(
                f"file {number} of the adapters has other factors than file 0, such as "
                f"{min(different)}; give adapters of one kind, or folders with "
                "adapter_config.json."
            )
    soup: dict[str, Tensor] = {}
    kept = 0.0
    dropped = 0.0
    for down, up in factor_pairs(first):
        downs = torch.cat([tensors[down].double() for tensors in files])
        ups = torch.cat(
            [share * tensors[up].double() for tensors, share in zip(files, shares, strict=True)],
            dim=1,
        )
        rank = len(first[down])
        soup[down], soup[up], values = _cut(downs, ups, rank)
        soup[down] = soup[down].to(first[down].dtype)
        soup[up] = soup[up].to(first[up].dtype)
        kept += values[:rank].square().sum().item()
        dropped += values[rank:].square().sum().item()
    whole = kept + dropped
    return NearestAdapter(soup, (dropped / whole) ** 0.5 if whole else 0.0)


def save_nearest_adapter(
    files: Sequence[Checkpoint],
    weights: Tensor | Sequence[float],
    path: str | Path,
    *,
    provenance: Mapping[str, object] | None = None,
) -> float:
    """Write `nearest_adapter` as safetensors, atomically, and return the share that it misses.

    Args:
        files: N checkpoints of factors.
        weights: (N,) mixing weights.
        path: of the file.
        provenance: more entries for the header of the file.
    """
    soup = nearest_adapter(files, weights)
    shares = check_weights(weights, len(files)).tolist()
    ingredients = [
        {"name": str(file.path), "sha256": _fingerprint(file), "weight": share}
        for file, share in zip(files, shares, strict=True)
    ]
    content = {**(provenance or {}), "ingredients": ingredients, "missed": soup.missed}
    with atomic_path(expand_path(path)) as temporary:
        save_file(
            {key: tensor.contiguous() for key, tensor in soup.tensors.items()},
            temporary,
            {"format": "pt", SOUP_ENTRY: json.dumps(content, sort_keys=True)},
        )
    return soup.missed


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        update_hash(digest, key, tensors[key])
    return digest.hexdigest()


def _cut(downs: Tensor, ups: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Factors A (rank, in) and B (out, rank) of the nearest product, and all singular values.

    Two small QR decompositions come first, so that the (out, in) product is never formed.
    """
    left, left_rest = torch.linalg.qr(ups)
    right, right_rest = torch.linalg.qr(downs.T)
    u, values, v = torch.linalg.svd(left_rest @ right_rest.T)
    down = torch.zeros(rank, downs.shape[1], dtype=torch.float64)
    up = torch.zeros(len(ups), rank, dtype=torch.float64)
    size = min(rank, len(values))
    roots = values[:size].sqrt()
    down[:size] = roots[:, None] * (v[:size] @ right.T)
    up[:, :size] = (left @ u[:, :size]) * roots
    return down, up, values
