"""The compiled weighted sum of tensors: several soups at a time, in one thread, without the GIL.

`radin.soup.blockwise` imports this file for its first large tensors, because importing numba is
slow. Every product and every sum is rounded to double precision, one after the other, as in
`total += p * tensor`. Adding four tensors at a time changes no bit, but reads the total once
instead of four times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from radin.ranking.cpu_kernels import compiled_loop

Array = np.ndarray[Any, Any]

_BLOCK_ELEMENTS = 1 << 13  # of a dozen ingredients, these fit a core's cache for the next soup


def weighted_sums(tensors: list[Tensor], rows: list[list[tuple[int, float]]]) -> list[Tensor]:
    """Weighted sums of flat tensors.

    Args:
        tensors: N tensors (n,), all single or all double precision, contiguous, on the CPU.
        rows: for each sum, the indices of its tensors and their weights.

    Returns:
        For each row a tensor (n,) of the same dtype.
    """
    sums = [torch.empty_like(tensors[0]) for _ in rows]
    terms = [term for row in rows for term in row]
    _weighted_sums(
        np.array([tensor.data_ptr() for tensor in tensors]),
        np.array([k for k, _ in terms]),
        np.array([p for _, p in terms]),
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


@compiled_loop
def _array_at(address: int, like: Array) -> Array:
    """The array at an address, with the dtype and length of another array."""
    return carray(_pointer(address), like.shape, like.dtype)  # type: ignore[call-arg]  # numba adds one


@compiled_loop
def _weighted_sums(
    tensors: Array, indices: Array, weights: Array, ends: Array, sums: Array, like: Array
) -> None:
    """The sums of all rows; row m has the terms from ends[m - 1] to ends[m].

    `tensors` and `sums` are addresses; `like` is an array with the dtype and length of all of them.
    """
    total = np.empty(min(_BLOCK_ELEMENTS, like.shape[0]))
    for begin in range(0, like.shape[0], _BLOCK_ELEMENTS):
        end = min(begin + _BLOCK_ELEMENTS, like.shape[0])
        block = total[: end - begin]
        i = 0
        for row in range(ends.shape[0]):
            _set(block, _array_at(tensors[indices[i]], like)[begin:end], weights[i])
            i += 1
            while i + 4 <= ends[row]:
                _add_four(
                    block,
                    _array_at(tensors[indices[i]], like)[begin:end],
                    _array_at(tensors[indices[i + 1]], like)[begin:end],
                    _array_at(tensors[indices[i + 2]], like)[begin:end],
                    _array_at(tensors[indices[i + 3]], like)[begin:end],
                    weights[i : i + 4],
                )
                i += 4
            while i < ends[row]:
                _add(block, _array_at(tensors[indices[i]], like)[begin:end], weights[i])
                i += 1
            _store(_array_at(sums[row], like)[begin:end], block)


@compiled_loop
def _set(total: Array, a: Array, p: float) -> None:
    for i in range(total.shape[0]):
        total[i] = p * np.float64(a[i])


@compiled_loop
def _add(total: Array, a: Array, p: float) -> None:
    for i in range(total.shape[0]):
        total[i] += p * np.float64(a[i])


@compiled_loop
def _add_four(total: Array, a: Array, b: Array, c: Array, d: Array, p: Array) -> None:
    p0, p1, p2, p3 = p[0], p[1], p[2], p[3]
    for i in range(total.shape[0]):
        now = total[i] + p0 * np.float64(a[i])
        now = now + p1 * np.float64(b[i])
        now = now + p2 * np.float64(c[i])
        total[i] = now + p3 * np.float64(d[i])


@compiled_loop
def _store(target: Array, total: Array) -> None:
    for i in range(total.shape[0]):
        target[i] = total[i]
