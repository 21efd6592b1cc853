"""Candidates: rows of mixing weights for stage 1 to rank."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radin.errors import ParameterError, check_integer, check_seed

MAX_MODELS_EXHAUSTIVE = 20  # 2^20 - 1 rows of 20 weights are 84 MB; one more doubles it
_MAX_LISTED_SUBSETS = 2**MAX_MODELS_EXHAUSTIVE - 1
_ROWS_PER_BLOCK = 1024  # rows drawn at once; another number would give other rows for a seed


def from_subsets(members: Tensor | np.ndarray) -> Tensor:
    """Equal mixing weights for subsets: p_k = `1/|S|` on each subset S.

    Args:
        members: (M, N) rows of 0 and 1, none of them all 0. Counts are allowed, too: an ingredient
            that is in twice gets twice the weight.

    Returns:
        (M, N) single precision.
    """
    weights = torch.as_tensor(members).to(torch.float32, copy=True)
    weights /= weights.sum(1, keepdim=True)
    return weights


def exhaustive(num_models: int, *, min_size: int = 1, max_size: int | None = None) -> Tensor:
    """Every subset of N ingredients as a candidate.

    Args:
        num_models: N.
        min_size: the smallest number of ingredients in a subset.
        max_size: the largest number. Default: N.

    Returns:
        (M, N) single precision, in order of the bitmask, where ingredient k is the bit of value
        2^k. With all sizes, M is 2^N - 1 and row i is the subset of bitmask i + 1.

    Raises:
        ParameterError: not 1 <= min_size <= max_size <= N, or more than 2^20 - 1 subsets.

    >>> import radin
    >>> radin.exhaustive(2).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    """
    sizes = _check_sizes(num_models, min_size=min_size, max_size=max_size)
    total = _count_subsets(num_models, sizes)
    if total > _MAX_LISTED_SUBSETS:
        count = f"{total:,}" if total < 10**15 else f"more than 2^{total.bit_length() - 1}"
        raise ParameterError(
            f"The {count} subsets of {sizes[0]} to {sizes[-1]} of {num_models} ingredients are too "
            f"many to list (limit {_MAX_LISTED_SUBSETS:,}); allow fewer sizes by min_size and "
            "max_size, or use monte_carlo."
        )
    return from_subsets(_subsets_at(np.arange(total), num_models, sizes))


def monte_carlo(
    num_models: int,
    num_candidates: int,
    seed: int = 0,
    *,
    uniform: str = "subsets",
    min_size: int = 1,
    max_size: int | None = None,
) -> Tensor:
    """Different random subsets of N ingredients as candidates.

    The first rows of a longer draw are those of a shorter draw with the same seed.

    Args:
        num_models: N.
        num_candidates: M.
        uniform: "subsets" makes all subsets equally likely, as the paper does, so that most have
            about N/2 ingredients. "sizes" makes all sizes equally likely: first the size of a row
            is drawn, then a subset of this size that was not drawn before. When all subsets of a
            size are drawn, this size is no longer drawn.
        min_size: the smallest number of ingredients in a subset.
        max_size: the largest number. Default: N.

    Returns:
        (M, N) single precision; fewer rows only if fewer subsets exist.

    Raises:
        ParameterError: not 1 <= min_size <= max_size <= N, or another `uniform`.

    Source: RADIN, stage 1 (candidates by Monte Carlo).

    >>> import radin
    >>> candidates = radin.monte_carlo(72, 5000, seed=0)
    >>> candidates.shape
    torch.Size([5000, 72])
    """
    sizes = _check_sizes(num_models, min_size=min_size, max_size=max_size)
    check_integer("num_candidates", num_candidates, minimum=1)
    rng = np.random.default_rng(check_seed(seed))
    if uniform == "subsets":
        return from_subsets(_draw_subsets(num_models, num_candidates, rng, sizes))
    if uniform != "sizes":
        raise ParameterError(f"uniform must be one of subsets, sizes, not {uniform!r}.")
    drawn_sizes = _draw_sizes(num_models, num_candidates, rng, sizes)
    members = np.empty((len(drawn_sizes), num_models), np.int8)
    for size in np.unique(drawn_sizes).tolist():
        rows = np.flatnonzero(drawn_sizes == size)
        # A generator for each size: its subsets do not depend on how many the others need.
        size_rng = np.random.default_rng([int(seed), size])
        members[rows] = _draw_subsets(num_models, len(rows), size_rng, range(size, size + 1))
    return from_subsets(members)


def dirichlet(
    num_models: int, num_candidates: int, seed: int = 0, *, concentration: float = 1.0
) -> Tensor:
    """Different rows of mixing weights from a symmetric Dirichlet distribution.

    The first rows of a longer draw are those of a shorter draw with the same seed. Repeated rows
    are dropped. The draw ends early when a block of 1,024 rows brings no new one, which happens
    at the extremes: in single precision a tiny concentration has N different rows, a huge one has
    one.

    Args:
        num_models: N.
        num_candidates: M.
        concentration: 1 makes all mixing weights equally likely. A smaller one favours a few
            ingredients, a larger one nearly equal weights.

    Returns:
        (at most M, N) single precision.

    Raises:
        ParameterError: the concentration is not a finite number above 0.

    >>> import radin, torch
    >>> radin.dirichlet(3, 100).sum(1).allclose(torch.ones(100))
    True
    """
    check_integer("num_models", num_models, minimum=1)
    check_integer("num_candidates", num_candidates, minimum=1)
    alpha = _check_concentration(concentration)
    rng = np.random.default_rng(check_seed(seed))

    def draw() -> np.ndarray:
        # Normalised Gamma(alpha) variables are Dirichlet. For a small alpha they underflow, but
        # their logarithms do not: Gamma(alpha) is Gamma(alpha + 1) * U^(1/alpha) for a uniform U,
        # and -log U is exponential.
        shape = (_ROWS_PER_BLOCK, num_models)
        logs = np.log(rng.standard_gamma(alpha + 1, shape))
        logs -= rng.standard_exponential(shape) / alpha
        p = np.exp(logs - logs.max(1, keepdims=True))
        return (p / p.sum(1, keepdims=True)).astype(np.float32)

    return torch.from_numpy(_different_rows(draw, num_candidates, may_end=True))


def _check_concentration(concentration: float) -> float:
    """The concentration as a float that causes no overflow."""
    alpha = math.nan
    if isinstance(concentration, numbers.Real) and not isinstance(concentration, bool):
        with suppress(OverflowError):  # an integer too large for a float
            alpha = float(concentration)
    if not 0 < alpha < math.inf:  # also false for NaN
        raise ParameterError(
            f"concentration must be a finite number above 0, not {concentration!r}."
        )
    return min(max(alpha, 1e-300), 1e300)  # beyond these, sums overflow; the rows stay the same


def distinct(candidates: Tensor) -> Tensor:
    """The rows (M, N) without repeats, in order of first occurrence, dtype and device kept.

    Raises:
        ParameterError: the candidates are not of shape (M, N).
    """
    if candidates.ndim != 2 or candidates.shape[1] == 0:
        raise ParameterError(
            f"Candidates must have shape (M, N) with N >= 1; these have {tuple(candidates.shape)}."
        )
    return candidates[first_occurrences(candidates).to(candidates.device)]


def first_occurrences(candidates: Tensor) -> Tensor:
    """For each different row of candidates (M, N), the index where it occurs first.

    Returns:
        (at most M,) ascending indices.
    """
    rows = (candidates.detach().cpu() + 0).contiguous()  # + 0 turns -0.0 into the equal 0.0
    first: dict[bytes, int] = {}
    for i, key in enumerate(_row_bytes(rows.view(torch.uint8).numpy())):
        first.setdefault(key, i)
    return torch.tensor(list(first.values()), dtype=torch.long)


def _check_sizes(num_models: int, *, min_size: int, max_size: int | None) -> range:
    """The allowed sizes of a subset, after checking 1 <= min_size <= max_size <= num_models."""
    check_integer("num_models", num_models, minimum=1)
    smallest = check_integer("min_size", min_size, minimum=1)
    largest = int(num_models)
    if max_size is not None:
        largest = check_integer("max_size", max_size, minimum=1)
    if not smallest <= largest <= num_models:
        raise ParameterError(
            "Sizes must satisfy min_size <= max_size <= num_models; here they are "
            f"{smallest}, {largest} and {num_models}."
        )
    return range(smallest, largest + 1)


def _count_subsets(num_models: int, sizes: range) -> int:
    """How many subsets have one of the sizes."""
    if len(sizes) == num_models:
        return (1 << int(num_models)) - 1
    return sum(math.comb(num_models, size) for size in sizes)


def _subsets_at(indices: np.ndarray, num_models: int, sizes: range) -> np.ndarray:
    """The subsets at some indices (M,) of the list of all subsets in order of bitmask: (M, N)."""
    members = np.empty((len(indices), num_models), bool)
    remaining = indices.copy()
    num_members = np.zeros(len(indices), np.int64)
    # From the highest bit down: among subsets with equal higher bits, those without bit k come
    # first.
    for k in reversed(range(num_models)):
        # How many subsets do not have ingredient k, by the number of higher ingredients they have.
        without_k = [
            sum(math.comb(k, size - higher) for size in sizes if size >= higher)
            for higher in range(min(num_models - k, sizes[-1] + 1))
        ]
        skipped = np.array(without_k)[num_members]
        members[:, k] = remaining >= skipped
        remaining -= skipped * members[:, k]
        num_members += members[:, k]
    return members


def _draw_subsets(
    num_models: int, num_rows: int, rng: np.random.Generator, sizes: range
) -> np.ndarray:
    """Different, equally likely subsets: rows of 0 and 1, fewer only if fewer exist."""
    total = _count_subsets(num_models, sizes)
    if total <= _MAX_LISTED_SUBSETS:
        return _subsets_at(rng.permutation(total)[:num_rows], num_models, sizes)
    if len(sizes) == num_models:

        def draw() -> np.ndarray:
            rows = rng.integers(0, 2, (_ROWS_PER_BLOCK, num_models), dtype=np.int8)
            return rows[rows.any(1)]
    else:
        ingredients = np.tile(np.arange(num_models, dtype=np.int32), (_ROWS_PER_BLOCK, 1))
        # Quotients of integers: as floats the binomials could overflow.
        shares = [math.comb(num_models, size) / total for size in sizes]

        def draw() -> np.ndarray:
            ranks = rng.permuted(ingredients, axis=1)
            return ranks < rng.choice(sizes, (_ROWS_PER_BLOCK, 1), p=shares)

    return _different_rows(draw, min(num_rows, total))


def _draw_sizes(
    num_models: int, num_rows: int, rng: np.random.Generator, sizes: range
) -> np.ndarray:
    """A size for each row, equally likely among the sizes with subsets left: (at most M,)."""
    num_left = {size: math.comb(num_models, size) for size in sizes}
    open_sizes = list(sizes)
    drawn = []
    for u in rng.random(min(num_rows, sum(num_left.values()))).tolist():
        size = open_sizes[int(u * len(open_sizes))]
        drawn.append(size)
        num_left[size] -= 1
        if num_left[size] == 0:
            open_sizes.remove(size)
    return np.array(drawn)


def _different_rows(
    draw: Callable[[], np.ndarray], num_rows: int, *, may_end: bool = False
) -> np.ndarray:
    """The first `num_rows` different rows of blocks that `draw` returns.

    Args:
        may_end: return fewer rows when a block brings no new one.
    """
    rows: dict[bytes, None] = {}  # in order of first occurrence
    while len(rows) < num_rows:
        num_before = len(rows)
        block = draw()
        rows.update(dict.fromkeys(_row_bytes(block)))
        if may_end and len(rows) == num_before:
            break
    array = np.array(list(islice(rows, num_rows)), f"S{block.shape[1] * block.itemsize}")
    return array.view(block.dtype).reshape(-1, block.shape[1])


def _row_bytes(rows: np.ndarray) -> list[bytes]:
    """The bytes of each row without the zeros at their end. They are equal if rows are equal."""
    return rows.view(f"S{rows.shape[1] * rows.itemsize}").ravel().tolist()


def effective_number(candidates: Tensor) -> Tensor:
    """1 / sum_k p_k^2 of each row (M, N): the size of a subset, generalised to mixing weights.

    Returns:
        (M,) double.
    """
    p = candidates.double()
    return (p.sum(1) ** 2 / p.square().sum(1)).round(decimals=6)


def are_subsets(p: Tensor) -> Tensor:
    """Whether all positive weights of each row (M, N) are the same: (M, 1) boolean."""
    return ((p == 0) | (p == p.amax(1, keepdim=True))).all(1, keepdim=True)


def without_scale(p: Tensor) -> Tensor:
    """Weights (M, N) with the weights of subsets replaced by 1: the argmax stays the same.

    So the logits of a subset are added unchanged, and the rounding of 1/3 breaks no tie.
    """
    return torch.where(are_subsets(p), (p > 0).double(), p)


# Larger than the error of 1/N rounded to single precision, N times, and much smaller than the
# weight of a forgotten ingredient.
SUM_TOLERANCE = 1e-4


def check_weights(
    weights: Tensor | Sequence[Any], num_models: int, *, rows: bool = False
) -> Tensor:
    """Mixing weights as a double tensor on the CPU, after checking that they are in the simplex.

    Args:
        weights: (N,), or (M, N) with `rows`.
        num_models: N.

    Raises:
        ParameterError: the shape is wrong, a weight is negative or not finite, or a sum is not 1.
    """
    # As a single-precision tensor, the default for a list, 0.3 would be rounded.
    p = torch.as_tensor(weights, dtype=None if isinstance(weights, Tensor) else torch.float64)
    p = p.detach().to("cpu", torch.float64)
    shape = f"(M, {num_models})" if rows else f"({num_models},)"
    if p.ndim != (2 if rows else 1) or p.shape[-1] != num_models or p.shape[0] == 0:
        raise ParameterError(
            f"Mixing weights must have shape {shape}, one weight for each ingredient; these have "
            f"{tuple(p.shape)}."
        )
    if not torch.isfinite(p).all():
        raise ParameterError("Mixing weights must be finite numbers; these hold NaN or infinity.")
    if (p < 0).any():
        raise ParameterError(
            f"Mixing weights must not be negative; the smallest here is {p.min().item():.4g}."
        )
    sums = p.sum(-1)
    if ((sums - 1).abs() > SUM_TOLERANCE).any():
        worst = sums.flatten()[(sums - 1).abs().argmax()].item()
        raise ParameterError(
            f"Mixing weights must sum to 1; these sum to {worst:.6g}. Divide them by their sum."
        )
    return p
