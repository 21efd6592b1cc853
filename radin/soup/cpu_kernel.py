"""The compiled sum behind soups: many ingredients and several soups at a time, in one thread, without Python's lock.

Kept apart because importing numba takes a moment: `radin.soup.blockwise` imports this file for its first large tensors. Every
product and every sum is rounded to double precision, one after the other, as in `total += p * tensor`; that four
tensors are added at a time changes no bit, and reads the total once instead of four times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from radin.ranking.cpu_kernels import _loop

Array = np.ndarray[Any, Any]

_AT_ONCE = (
    1 << 13
)  # numbers; of a dozen ingredients so many stay in a core's cache, for the next soup


def averages(parts: list[Tensor], rows: list[list[tuple[int, float]]]) -> list[Tensor]:
    """Weighted sums of flat tensors.

    Args:
        parts: N tensors (n,), all single or all double precision, on the CPU.
        rows: of each sum, the numbers of its parts and their weights.

    Returns tensors (n,) of the parts' kind, one for each row.
    """
    sums = [torch.empty_like(parts[0]) for _ in rows]
    shares = [share for row in rows for share in row]
    _averages(
        np.array([part.data_ptr() for part in parts]),
        np.array([k for k, _ in shares]),
        np.array([p for _, p in shares]),
        np.cumsum([len(row) for row in rows]),
        np.array([each.data_ptr() for each in sums]),
        sums[0].numpy(),
    )
    return sums


@intrinsic
def _pointer(typing, address):  # type: ignore[no-untyped-def]
    def to_pointer(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), to_pointer


@_loop
def _at(address: int, like: Array) -> Array:
    """The array at an address, of the kind and length of another."""
    return carray(_pointer(address), like.shape, like.dtype)  # type: ignore[call-arg]  # numba gives the first argument


@_loop
def _averages(
    parts: Array, which: Array, weights: Array, ends: Array, sums: Array, like: Array
) -> None:
    """The sums of a few rows; `parts` and `sums` hold addresses, row m has the shares from ends[m - 1] to ends[m]."""
    total = np.empty(min(_AT_ONCE, like.shape[0]))
    for begin in range(0, like.shape[0], _AT_ONCE):
        end = min(begin + _AT_ONCE, like.shape[0])
        here = total[: end - begin]
        share = 0
        for row in range(ends.shape[0]):
            _first(here, _at(parts[which[share]], like)[begin:end], weights[share])
            share += 1
            while share + 4 <= ends[row]:
                _four(
                    here,
                    _at(parts[which[share]], like)[begin:end],
                    _at(parts[which[share + 1]], like)[begin:end],
                    _at(parts[which[share + 2]], like)[begin:end],
                    _at(parts[which[share + 3]], like)[begin:end],
                    weights[share : share + 4],
                )
                share += 4
            while share < ends[row]:
                _one(here, _at(parts[which[share]], like)[begin:end], weights[share])
                share += 1
            _store(_at(sums[row], like)[begin:end], here)


@_loop
def _first(total: Array, a: Array, p: float) -> None:
    for i in range(total.shape[0]):
        total[i] = p * np.float64(a[i])


@_loop
def _one(total: Array, a: Array, p: float) -> None:
    for i in range(total.shape[0]):
        total[i] += p * np.float64(a[i])


@_loop
def _four(total: Array, a: Array, b: Array, c: Array, d: Array, p: Array) -> None:
    p0, p1, p2, p3 = p[0], p[1], p[2], p[3]
    for i in range(total.shape[0]):
        now = total[i] + p0 * np.float64(a[i])
        now = now + p1 * np.float64(b[i])
        now = now + p2 * np.float64(c[i])
        total[i] = now + p3 * np.float64(d[i])


@_loop
def _store(target: Array, total: Array) -> None:
    for i in range(total.shape[0]):
        target[i] = total[i]
