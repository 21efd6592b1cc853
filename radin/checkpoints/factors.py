"""Weights that a file stores as a product of tensors, whose factors cannot be averaged apart.

The average of B A over several files is not the product of their average B and average A. It is
where all files share one of the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from radin.checkpoints.dtypes import SMALL_FLOATS
from radin.errors import CheckpointError, counted, list_names

_ADAPTER_WORDS = frozenset(("lora", "hada", "lokr"))  # of peft, diffusers, kohya, LyCORIS, loralib


class Product(NamedTuple):
    """The keys whose tensors are multiplied.

    Attributes:
        name: of the weight that they make.
        kind: a key of `_WAYS_OUT`.
        keys: of the factors.
    """

    name: str
    kind: str
    keys: tuple[str, ...]


_WAYS_OUT = {
    "LoRA adapter": (
        "the average of the factors of LoRA adapters is not the average of the adapters; give "
        "adapters in peft's layout, folders with adapter_config.json, and their base to "
        "radin.open_adapters(..., base) or --base, or merge each adapter into its base model "
        "(with peft: model.merge_and_unload()), save that model's state dict, and average those "
        "files"
    ),
    "pruned weight": (
        "the average of weights and of their masks is not the average of the pruned weights; "
        "apply each mask before saving (torch.nn.utils.prune.remove(module, 'weight'))"
    ),
    "scaled 8-bit weight": (
        "the average of 8-bit weights and of their scales is not the average of what they stand "
        "for; multiply each by its scale and save it in half or single precision"
    ),
}


def find_products(tensors: Mapping[str, Tensor]) -> list[Product]:
    """The weights of a state dict that are stored as a product."""
    scales = _scales_by_module(tensors)
    found: dict[tuple[str, str], list[str]] = {}
    for key in tensors:
        if name := _adapter_name(key):
            found.setdefault((name, "LoRA adapter"), []).append(key)
        weight = key.removesuffix("_mask")
        if weight != key and f"{weight}_orig" in tensors:
            found[weight, "pruned weight"] = [key, f"{weight}_orig"]
        beside = scales.get(key.rpartition(".")[0])
        if beside and tensors[key].dtype in SMALL_FLOATS:
            found[key, "scaled 8-bit weight"] = [key, *beside]
    return [Product(name, kind, tuple(keys)) for (name, kind), keys in found.items()]


def _adapter_name(key: str) -> str:
    """The part of a key before the word that marks a factor of an adapter, "" for other keys."""
    for word in re.finditer(r"[A-Za-z]+", key):
        if word[0].lower() in _ADAPTER_WORDS:
            return key[: word.start()].rstrip("._") or key[: word.end()]
    return ""


def _scales_by_module(keys: Iterable[str]) -> dict[str, list[str]]:
    """By their modules, the keys that name a scale, such as `weight_scale_inv`."""
    scales: dict[str, list[str]] = {}
    for key in keys:
        module, _, name = key.rpartition(".")
        if "scale" in name.lower():
            scales.setdefault(module, []).append(key)
    return scales


def check_products(products: Sequence[Product], different: frozenset[str]) -> None:
    """Raise CheckpointError where two factors of one product differ between the files.

    Args:
        different: the keys whose tensors are not the same in all files.
    """
    for kind, way_out in _WAYS_OUT.items():
        names = [
            product.name
            for product in products
            if product.kind == kind and len(different.intersection(product.keys)) > 1
        ]
        if names:
            raise CheckpointError(
                f"{counted(len(names), kind)} cannot be averaged factor by factor: "
                f"{list_names(names)}; {way_out}."
            )
