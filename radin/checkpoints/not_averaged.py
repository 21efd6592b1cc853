"""What has no average, which is never chosen silently: whole numbers, factors, extra state.

A counter may differ between files; a soup takes it from the ingredient with the largest weight.
Anything else that differs is refused, or told in a note where it is a single number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radin.checkpoints.checkpoint import Checkpoint
from radin.checkpoints.dtypes import COPIED, WHOLE_NUMBERS
from radin.checkpoints.factors import check_products, find_products
from radin.checkpoints.names import COUNTERS
from radin.checkpoints.safe_pickles import Ignored
from radin.errors import CheckpointError, counted, list_names

_ELEMENTS_PER_PIECE = 1 << 20

# The last names of numbers that belong to quantised weights
_QUANTISATION = frozenset(("zero_point", "zero_points", "qzeros", "zeros", "bits", "group_size"))


def is_counter(key: str, tensor: Tensor) -> bool:
    """Whether a tensor is one whole number that counts what training has done."""
    return tensor.numel() == 1 and key.rpartition(".")[2] in COUNTERS


def compared_keys(checkpoint: Mapping[str, Tensor]) -> set[str]:
    """The keys whose tensors are compared between files: copied ones, and factors of products."""
    factors = {key for product in find_products(checkpoint) for key in product.keys}
    copied = {
        key
        for key, tensor in checkpoint.items()
        if tensor.dtype in COPIED and not is_counter(key, tensor)
    }
    return factors | copied


def exact_hash(tensor: Tensor) -> str:
    """Hex hash of the values. Whole numbers of any width and booleans have one where they agree."""
    digest = hashlib.sha256(f"{tuple(tensor.shape)}|".encode())
    if tensor.dtype not in WHOLE_NUMBERS:
        digest.update(f"{tensor.dtype}|".encode())
    for piece in tensor.contiguous().reshape(-1).split(_ELEMENTS_PER_PIECE):
        digest.update(_exact_bytes(piece))
    return digest.hexdigest()


def _exact_bytes(flat: Tensor) -> bytes:
    if flat.dtype not in WHOLE_NUMBERS:
        return flat.view(torch.uint8).numpy().tobytes()
    values = flat.numpy()
    if values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
        return b"uint64|" + values.tobytes()
    return values.astype(np.int64).tobytes()


def check_not_averaged(
    checkpoints: Sequence[Checkpoint], hashes: Sequence[Mapping[str, str]]
) -> str:
    """Compare what cannot be averaged.

    Args:
        hashes: of each checkpoint, the `exact_hash` of each of its `compared_keys`.

    Returns:
        A note on single whole numbers that differ; "" if none does.

    Raises:
        CheckpointError: other whole numbers differ, or two factors of one product do.
    """
    different = {key for key in hashes[0] if len({each.get(key) for each in hashes}) > 1}
    first = checkpoints[0]
    check_products(find_products(first), frozenset(different))
    copied = sorted(key for key in different if first[key].dtype in COPIED)
    many = [
        key for key in copied if first[key].numel() > 1 or key.rpartition(".")[2] in _QUANTISATION
    ]
    if many:
        raise CheckpointError(_whole_number_error(checkpoints, hashes, many))
    if not copied:
        return ""
    names = list_names(f"{key} ({first[key].dtype})" for key in copied)
    return (
        f"no average of a whole number that differs between the files: {names}; a soup takes it "
        "from the ingredient with the largest weight, the first of equals"
    )


def _whole_number_error(
    checkpoints: Sequence[Checkpoint], hashes: Sequence[Mapping[str, str]], keys: Sequence[str]
) -> str:
    lines = []
    for key in keys[:8]:
        other = next(k for k, each in enumerate(hashes) if each.get(key) != hashes[0][key])
        lines.append(
            f"{key} ({checkpoints[other][key].dtype}) in {checkpoints[other].path} is not what it "
            f"is in {checkpoints[0].path}"
        )
    if len(keys) > len(lines):
        lines.append(f"... and {len(keys) - len(lines):,} more such tensors")
    return (
        "Whole numbers and masks have no average, so they must be the same in all files:\n  "
        + "\n  ".join(lines)
        + "\n  quantised weights: save them in half or single precision, multiplied by their "
        "scales; a mask: multiply the weights by it, and save the model without it; other models: "
        "leave those files out"
    )


def check_extra_state(checkpoints: Sequence[Checkpoint], needed: frozenset[str]) -> str:
    """Compare the extra state of the files, which is what `get_extra_state` of a module returns.

    Args:
        needed: the keys of the extra state that the model has; none without a model.

    Returns:
        A note on what no soup file will hold; "" if the files have no extra state.

    Raises:
        CheckpointError: the model needs extra state that differs between the files.
    """
    states = [checkpoint.extra_state for checkpoint in checkpoints]
    keys = sorted({key for state in states for key in state})
    if not keys:
        return ""
    different = [
        key
        for key in needed.intersection(keys)
        if not all(same_value(states[0].get(key), state.get(key)) for state in states)
    ]
    if different:
        raise CheckpointError(
            f"The extra state {list_names(sorted(different))} differs between the files, or holds "
            "objects that are not read, and the model needs it; what get_extra_state() returns has "
            "no average. Make it a buffer or a constant of the model, or leave those files out."
        )
    return (
        f"left out of the average: the extra state of {counted(len(keys), 'module')}, "
        f"{list_names(keys)}; a soup's file holds none, load it with "
        "load_state_dict(soup, strict=False)"
    )


def same_value(one: Any, other: Any) -> bool:
    """Whether two values of files are equal; what is not read is equal to nothing."""
    if isinstance(one, Ignored) or type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same_value(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_value, one, other))
    return bool(one == other)
