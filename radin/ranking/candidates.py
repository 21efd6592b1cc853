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

from radin.errors import ParameterError, check_seed, check_integer

EXHAUSTIVE_LIMIT = 20  # 2^20 - 1 rows of 20 numbers are 84 MB; each further ingredient doubles it
_MOST_ROWS = 2**EXHAUSTIVE_LIMIT - 1
_BLOCK = 1024  # rows drawn at once; part of what a seed means


def from_subsets(members: Tensor | np.ndarray) -> Tensor:
    """Rows of 0 and 1 (M, N), none of them empty, as equal mixing weights: p_k = `1/|S|` on each subset S.

    Counts do too: an ingredient that is in twice gets twice the weight.
    """
    chosen = torch.as_tensor(members).to(torch.float32, copy=True)
    chosen /= chosen.sum(1, keepdim=True)
    return chosen


def exhaustive(num_models: int, min_size: int = 1, max_size: int | None = None) -> Tensor:
    """Every subset of min_size to max_size (None: N) of N ingredients as a candidate: (M, N), single precision.

    Rows are in order of their bitmask, where ingredient k is the bit of value 2^k. Without limits on the size
    there are 2^N - 1 of them, and row i is the subset whose bitmask is i + 1.

    Raises ParameterError for sizes outside 1 <= min_size <= max_size <= N, and for more than 2^20 - 1 subsets.
    """
    sizes = _check_sizes(num_models, min_size, max_size)
    total = _count(num_models, sizes)
    if total > _MOST_ROWS:
        count = f"{total:,}" if total < 10**15 else f"more than 2^{total.bit_length() - 1}"
        raise ParameterError(
            f"The {count} subsets of {sizes[0]} to {sizes[-1]} of {num_models} ingredients are too many to list "
            f"(limit {_MOST_ROWS:,}); allow fewer sizes by min_size and max_size, or use monte_carlo."
        )
    return from_subsets(_subsets_at(np.arange(total), num_models, sizes))


def monte_carlo(
    num_models: int,
    num_candidates: int,
    seed: int = 0,
    uniform: str = "subsets",
    min_size: int = 1,
    max_size: int | None = None,
) -> Tensor:
    """M different subsets of min_size to max_size (None: N) of N ingredients, at random: (M, N), single precision.

    Fewer rows come back only when fewer subsets exist. A longer draw begins with a shorter one of the same seed.

    Args:
        uniform: "subsets" makes all subsets equally likely, as the paper does, so that most have about N/2
            ingredients. "sizes" makes all sizes equally likely: each row's size is drawn first, then a subset
            of that size among those not drawn yet. A size that has run out of subsets is left out of the draw
            from then on: a long draw holds all subsets of the sizes that have few, and the others in equal shares.

    Raises ParameterError for another `uniform`, and for sizes outside 1 <= min_size <= max_size <= N.

    Source: RADIN, stage 1 (candidates by Monte Carlo).
    """
    sizes = _check_sizes(num_models, min_size, max_size)
    check_integer("num_candidates", num_candidates, minimum=1)
    rng = np.random.default_rng(check_seed(seed))
    if uniform == "subsets":
        return from_subsets(_draw_subsets(num_models, num_candidates, rng, sizes))
    if uniform != "sizes":
        raise ParameterError(f"uniform must be one of subsets, sizes, not {uniform!r}.")
    drawn = _draw_sizes(num_models, num_candidates, rng, sizes)
    members = np.empty((len(drawn), num_models), np.int8)
    for size in np.unique(drawn).tolist():
        at = np.flatnonzero(drawn == size)
        own = np.random.default_rng(
            [int(seed), size]
        )  # so that its subsets do not depend on how many the others need
        members[at] = _draw_subsets(num_models, len(at), own, range(size, size + 1))
    return from_subsets(members)


def dirichlet(
    num_models: int, num_candidates: int, seed: int = 0, concentration: float = 1.0
) -> Tensor:
    """M different rows of mixing weights from a symmetric Dirichlet distribution: (M, N), single precision.

    A concentration of 1 makes all mixing weights equally likely; a smaller one favours a few ingredients, down to
    one alone, and a larger one nearly equal weights. A longer draw begins with a shorter one of the same seed.
    Repeated rows are dropped, and the draw ends with fewer than M once a block of 1,024 brings nothing new. So it
    is at the extremes: in single precision a tiny concentration has N different rows, a huge one has one.

    Raises ParameterError unless the concentration is a finite number above 0.
    """
    check_integer("num_models", num_models, minimum=1)
    check_integer("num_candidates", num_candidates, minimum=1)
    a = math.nan
    if isinstance(concentration, numbers.Real) and not isinstance(concentration, bool):
        with suppress(OverflowError):  # a whole number beyond every float
            a = float(concentration)
    if not 0 < a < math.inf:  # NaN fails this too
        raise ParameterError(
            f"concentration must be a finite number above 0, not {concentration!r}."
        )
    a = min(
        max(a, 1e-300), 1e300
    )  # rows are all alike long before; beyond, the sums below overflow
    rng = np.random.default_rng(check_seed(seed))

    def draw() -> np.ndarray:
        # Normalised Gamma(a) variables are Dirichlet; for a small a they underflow, their logarithms do not:
        # Gamma(a) is Gamma(a + 1) * U^(1/a) for a uniform U, and -log U is exponential.
        shape = (_BLOCK, num_models)
        logs = np.log(rng.standard_gamma(a + 1, shape)) - rng.standard_exponential(shape) / a
        p = np.exp(logs - logs.max(1, keepdims=True))
        return (p / p.sum(1, keepdims=True)).astype(np.float32)

    return torch.from_numpy(_different_rows(draw, num_candidates, may_end=True))


def distinct(candidates: Tensor) -> Tensor:
    """The rows (M, N) without repeats, in order of first appearance: a tensor of the same dtype, on the same device.

    Raises ParameterError when the candidates are no such table.
    """
    if candidates.ndim != 2 or candidates.shape[1] == 0:
        raise ParameterError(
            f"Candidates must have shape (M, N) with N >= 1; these have {tuple(candidates.shape)}."
        )
    return candidates[first_places(candidates).to(candidates.device)]


def first_places(candidates: Tensor) -> Tensor:
    """Where each different row of candidates (M, N) comes first: ascending indices (at most M,)."""
    rows = (candidates.detach().cpu() + 0).contiguous()  # + 0 makes -0.0 the 0.0 that it equals
    found: dict[bytes, int] = {}
    for i, key in enumerate(_keys(rows.view(torch.uint8).numpy())):
        found.setdefault(key, i)
    return torch.tensor(list(found.values()), dtype=torch.long)


def _check_sizes(num_models: int, min_size: int, max_size: int | None) -> range:
    """The allowed sizes of a subset; ParameterError unless 1 <= min_size <= max_size <= num_models."""
    check_integer("num_models", num_models, minimum=1)
    least = check_integer("min_size", min_size, minimum=1)
    most = int(num_models) if max_size is None else check_integer("max_size", max_size, minimum=1)
    if not least <= most <= num_models:
        raise ParameterError(
            f"Sizes must keep to min_size <= max_size <= num_models; here they are {least}, {most} and {num_models}."
        )
    return range(least, most + 1)


def _count(num_models: int, sizes: range) -> int:
    """How many subsets have one of the sizes."""
    if len(sizes) == num_models:
        return (1 << int(num_models)) - 1
    return sum(math.comb(num_models, size) for size in sizes)


def _subsets_at(ranks: np.ndarray, num_models: int, sizes: range) -> np.ndarray:
    """The subsets (M, N) at the given places (M,) of the list of all, which is in order of bitmasks.

    Bits are settled from the highest down: among the subsets that agree so far, those without the next bit come first.
    """
    members = np.empty((len(ranks), num_models), bool)
    left, held = ranks.copy(), np.zeros(len(ranks), np.int64)
    for k in reversed(range(num_models)):
        # How many subsets go without ingredient k, by the number of higher ingredients that they hold.
        without = [
            sum(math.comb(k, size - h) for size in sizes if size >= h)
            for h in range(min(num_models - k, sizes[-1] + 1))
        ]
        before = np.array(without)[held]
        members[:, k] = left >= before
        left -= before * members[:, k]
        held += members[:, k]
    return members


def _draw_subsets(
    num_models: int, num_rows: int, rng: np.random.Generator, sizes: range
) -> np.ndarray:
    """Different subsets, all of them equally likely: rows of 0 and 1, fewer than asked only when fewer exist."""
    total = _count(num_models, sizes)
    if total <= _MOST_ROWS:
        return _subsets_at(rng.permutation(total)[:num_rows], num_models, sizes)
    if len(sizes) == num_models:

        def draw() -> np.ndarray:
            rows = rng.integers(0, 2, (_BLOCK, num_models), dtype=np.int8)
            return rows[rows.any(1)]
    else:
        ingredients = np.tile(np.arange(num_models, dtype=np.int32), (_BLOCK, 1))
        shares = [
            math.comb(num_models, size) / total for size in sizes
        ]  # of whole numbers: floats could not hold them

        def draw() -> np.ndarray:
            return rng.permuted(ingredients, axis=1) < rng.choice(sizes, (_BLOCK, 1), p=shares)

    return _different_rows(draw, min(num_rows, total))


def _draw_sizes(
    num_models: int, num_rows: int, rng: np.random.Generator, sizes: range
) -> np.ndarray:
    """A size for each row, equally likely among those with subsets left: (M,), fewer only when no subset is left."""
    left = {size: math.comb(num_models, size) for size in sizes}
    going = list(sizes)
    drawn = []
    for u in rng.random(min(num_rows, sum(left.values()))).tolist():
        size = going[int(u * len(going))]
        drawn.append(size)
        left[size] -= 1
        if left[size] == 0:
            going.remove(size)
    return np.array(drawn)


def _different_rows(
    draw: Callable[[], np.ndarray], num_rows: int, may_end: bool = False
) -> np.ndarray:
    """The first `num_rows` different rows of block after block; fewer when one brings none and it `may_end` there."""
    rows: dict[bytes, None] = {}  # in order of first appearance
    while len(rows) < num_rows:
        known = len(rows)
        block = draw()
        rows.update(dict.fromkeys(_keys(block)))
        if may_end and len(rows) == known:
            break
    found = np.array(list(islice(rows, num_rows)), f"S{block.shape[1] * block.itemsize}")
    return found.view(block.dtype).reshape(-1, block.shape[1])


def _keys(rows: np.ndarray) -> list[bytes]:
    """Each row's bytes, without the zeros at their end: equal exactly where rows are."""
    return rows.view(f"S{rows.shape[1] * rows.itemsize}").ravel().tolist()


def effective_number(candidates: Tensor) -> Tensor:
    """1 / sum_k p_k^2 for each row (M, N): the size of a subset, and its generalisation to any mixing weights."""
    p = candidates.double()
    return (p.sum(1) ** 2 / p.square().sum(1)).round(decimals=6)


def _are_subsets(p: Tensor) -> Tensor:
    """(M, 1) boolean: whether all positive weights of a row are the same."""
    return ((p == 0) | (p == p.amax(1, keepdim=True))).all(1, keepdim=True)


def without_scale(p: Tensor) -> Tensor:
    """Weights (M, N) with the same argmax: a subset's logits are added as they are, so that a tie between classes
    stays a tie instead of being broken by the rounding of 1/3."""
    return torch.where(_are_subsets(p), (p > 0).double(), p)


# Room for 1/N rounded to single precision, N times; a forgotten ingredient is far outside it.
SUM_TOLERANCE = 1e-4


def check_weights(weights: Tensor | Sequence[Any], num_models: int, rows: bool = False) -> Tensor:
    """Mixing weights as a float64 tensor on the CPU, after checking that they lie in the simplex.

    Args:
        weights: (N,), or (M, N) when `rows`.
        num_models: how many ingredients there are.

    Raises ParameterError when the shape is wrong, or a weight is negative or not finite, or a sum is not 1.
    """
    # A list would pass through single precision, in which three tenths are not three tenths.
    p = torch.as_tensor(weights, dtype=None if isinstance(weights, Tensor) else torch.float64)
    p = p.detach().to("cpu", torch.float64)
    shape = f"(M, {num_models})" if rows else f"({num_models},)"
    if p.ndim != (2 if rows else 1) or p.shape[-1] != num_models or p.shape[0] == 0:
        raise ParameterError(
            f"Mixing weights must have shape {shape}, one weight for each ingredient; these have {tuple(p.shape)}."
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
