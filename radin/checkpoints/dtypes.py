"""What each dtype of torch means in a checkpoint: averaged, copied or refused.

The page `book/inputs.md` has the table, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SMALL_FLOATS = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
COMPLEX = (torch.complex128, torch.complex64, torch.complex32)
AVERAGED = frozenset((*FLOATS, *SMALL_FLOATS, *COMPLEX))
WHOLE_NUMBERS = (
    torch.bool,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
# Scales that are powers of two, and pairs of 4-bit numbers in one byte: parts of quantised weights.
QUANTISATION_PARTS = (torch.float8_e8m0fnu, torch.float4_e2m1fn_x2)
COPIED = frozenset((*WHOLE_NUMBERS, *QUANTISATION_PARTS))

_WITHOUT_NAN = frozenset((*WHOLE_NUMBERS, torch.float4_e2m1fn_x2))


def is_averaged(dtype: torch.dtype) -> bool:
    """Whether the tensors of a dtype are averaged: all real and complex floating-point ones."""
    return dtype in AVERAGED


def can_hold_nan(dtype: torch.dtype) -> bool:
    """Whether a tensor of this dtype is checked for NaN and infinity."""
    return dtype not in _WITHOUT_NAN


def kind_of(dtype: torch.dtype) -> str:
    """What dtypes must have in common between two files: real, complex or whole numbers."""
    if dtype in COMPLEX:
        return "complex numbers"
    return "real numbers" if dtype in AVERAGED else "whole numbers"


def widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The dtype of an average: the narrowest that holds the values of all of these.

    torch has no answer for 8-bit floats. Half precision holds the values of all of them.
    """
    different = set(dtypes)
    if len(different) == 1:
        return different.pop()
    larger = different.difference(SMALL_FLOATS) or {torch.float16}
    return reduce(torch.promote_types, larger)


def real_numbers(tensor: Tensor) -> Tensor:
    """The flat tensor; of complex numbers their real and imaginary parts, in turn."""
    flat = tensor.reshape(-1)
    return torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat


def to_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in another real precision: complex numbers stay complex, whole numbers as they are.

    torch's own `.to(torch.float32)` drops the imaginary part of complex numbers.
    """
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if is_averaged(tensor.dtype) else tensor
