"""Files that hold the weights of another one in another precision.

Their hashes differ, and yet an average weighs such a network twice. A small part of each file finds
the pairs that may be copies; these are then compared element by element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from radin.checkpoints.dtypes import is_averaged, real_numbers

PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)  # to which programs round weights
MAX_SAMPLED_TENSORS = 64
SAMPLE_ELEMENTS = 16  # of a tensor
_ELEMENTS_PER_PIECE = 1 << 16  # compared at once: in double precision they fit a core's cache

State = Mapping[str, Tensor]


def rounded_copies(states: Sequence[State], fingerprints: Sequence[str]) -> dict[int, int]:
    """The files that are another one rounded to fewer bits, or in another dtype.

    Args:
        states: N state dicts with the same keys and finite numbers.
        fingerprints: N hashes of their tensors. Those with the same hash are no rounded copies.

    Returns:
        Of each copy its index and that of the file with more bits.
    """
    if len(states) < 2:
        return {}
    sampled = [key for key, tensor in states[0].items() if is_averaged(tensor.dtype)]
    sampled = sampled[:: math.ceil(len(sampled) / MAX_SAMPLED_TENSORS) or 1]
    samples = [torch.cat([_first(state[key]) for key in sampled]) for state in states if sampled]
    copies: dict[int, int] = {}
    for precision in PRECISIONS:
        alike: dict[bytes, list[int]] = {}
        for k, sample in enumerate(samples):
            rounded = sample.to(precision).view(torch.uint8).numpy().tobytes()
            alike.setdefault(rounded, []).append(k)
        for i, j in (pair for members in alike.values() for pair in combinations(members, 2)):
            wide, narrow = (i, j) if _num_bytes(states[i]) >= _num_bytes(states[j]) else (j, i)
            if fingerprints[i] == fingerprints[j]:
                continue
            if _is_rounded(states[narrow], states[wide], precision):
                copies.setdefault(narrow, wide)
            elif _is_rounded(states[wide], states[narrow], precision):
                copies.setdefault(wide, narrow)  # half precision that was saved as single again
    return copies


def describe_rounded_copies(paths: Sequence[Path], copies: Mapping[int, int]) -> str:
    """A message that names the copies of `rounded_copies`; "" when there are none."""
    if not copies:
        return ""
    pairs = (f"{paths[k]} holds the weights of {paths[of]}" for k, of in sorted(copies.items()))
    return (
        f"copies in another precision: {'; '.join(pairs)}; an average weighs such ingredients "
        "several times; leave all but one out if that is not meant"
    )


def _first(tensor: Tensor) -> Tensor:
    return real_numbers(tensor.reshape(-1)[:SAMPLE_ELEMENTS]).double()


def _num_bytes(state: State) -> int:
    return sum(tensor.nbytes for tensor in state.values())


def _is_rounded(copy: State, original: State, precision: torch.dtype) -> bool:
    """Whether each tensor of a copy is the original's, or that one rounded to a precision."""
    return all(_is_rounded_tensor(copy[key], tensor, precision) for key, tensor in original.items())


def _is_rounded_tensor(copy: Tensor, original: Tensor, precision: torch.dtype) -> bool:
    if not is_averaged(original.dtype):
        return copy.dtype == original.dtype and torch.equal(copy, original)
    is_same = is_rounded = True
    for a, b in zip(
        real_numbers(original).split(_ELEMENTS_PER_PIECE),
        real_numbers(copy).split(_ELEMENTS_PER_PIECE),
        strict=True,
    ):
        is_same = is_same and torch.equal(a.double(), b.double())
        is_rounded = is_rounded and torch.equal(a.to(precision).double(), b.double())
        if not (is_same or is_rounded):
            return False
    return True
