"""The compiled loops of stage 1 on the CPU. `radin.ranking.margins` says why they are exact.

`radin.ranking.margins` imports this file when it first counts, because importing numba takes half a
second. Each function runs in one thread without the GIL, so that blocks of images run in parallel.
`radin.ranking.gpu_kernels` has the same functions for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

Array = np.ndarray[Any, Any]
MarginFields = tuple[int, Tensor, Tensor, Tensor]  # of radin.ranking.margins.Margins, in order

_IMAGES_PER_BLOCK = 32  # their logits are read twice and stay in the cache in between
_CANDIDATES_PER_BLOCK = 256  # their weights stay in the cache
_NUM_STRONGEST_RIVALS = 8  # others are compared with these; more would drop few rivals
_FIRST_CAPACITY_ROWS = 256  # of the growing array of margins


def compiled_loop(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function compiled, and cached on disk if there is a folder that can be written to."""
    try:
        return njit(function, nogil=True, cache=True, **options)
    except RuntimeError:  # numba found no such folder
        return njit(function, nogil=True, **options)


def _sort_key(logit):  # type: ignore[no-untyped-def]
    """A number with the order of the logits: the logit, or an integer for half precision.

    numba has no half precision on CPUs, so it gets the 16 bits, a sign and a magnitude. As a two's
    complement they have the order of the logits, and -0 equals 0.
    """


@overload(_sort_key)
def _sort_key_of(logit):  # type: ignore[no-untyped-def]  # numba wants the same signature twice
    if logit != types.int16:
        return lambda logit: logit

    def from_bits(logit):  # type: ignore[no-untyped-def]
        sign = np.int16(logit >> np.int16(15))
        return np.int16(np.int16(np.int16(logit & np.int16(0x7FFF)) ^ sign) - sign)

    return from_bits


def _to_double(logit):  # type: ignore[no-untyped-def]
    """The logit in double precision."""


@overload(_to_double)
def _to_double_of(logit):  # type: ignore[no-untyped-def]
    if logit != types.int16:
        return lambda logit: np.float64(logit)

    def from_bits(logit):  # type: ignore[no-untyped-def]
        magnitude = np.int32(np.int32(logit) & np.int32(0x7FFF))
        if magnitude < 0x400:  # exponent 0: no leading one
            value = magnitude * 2.0**-24
        else:  # exponent and fraction moved to single precision; the exponents differ by 112
            value = np.float64(np.int32(magnitude << np.int32(13)).view(np.float32)) * 2.0**112
        return -value if logit < 0 else value

    return from_bits


@compiled_loop
def _label_wins(row: Array, label: int) -> bool:
    """Whether the label's logit is larger than all others."""
    own = _sort_key(row[label])
    num_at_least = np.int32(0)
    for c in range(len(row)):
        num_at_least += np.int32(_sort_key(row[c]) >= own)
    return num_at_least == 1  # the label itself


@compiled_loop
def _add_behind(row: Array, label: int, behind: Array) -> None:
    """Add 1 to each class that the label is not ahead of. The lower class wins a tie."""
    own = _sort_key(row[label])
    for c in range(label):
        behind[c] += np.int32(_sort_key(row[c]) >= own)
    for c in range(label + 1, len(row)):
        behind[c] += np.int32(_sort_key(row[c]) > own)


@compiled_loop
def _dominates(strong: Array, weak: Array) -> bool:
    """Whether no margin over one rival is larger than the margin over another."""
    num_larger = 0
    for k in range(len(strong)):
        num_larger += int(strong[k] > weak[k])
    return num_larger == 0


@compiled_loop
def _keep_rivals(rivals: Array, ties: Array, total: Array, margins: Array, wins_ties: Array) -> int:
    """Copy one image's rivals to the start of margins and wins_ties, strongest first.

    A rival that another one dominates never decides, and is left out. `total` is the sum of each
    rival's margins; it is overwritten.

    Returns: how many were copied.
    """
    num_kept = 0
    for _ in range(min(_NUM_STRONGEST_RIVALS, len(rivals))):
        strongest = total.argmin()
        if total[strongest] == np.inf:
            break
        margins[num_kept] = rivals[strongest]
        wins_ties[num_kept] = ties[strongest]
        total[strongest] = np.inf  # copied or left out
        for q in range(len(rivals)):
            if (
                total[q] < np.inf
                and (wins_ties[num_kept] or not ties[q])
                and _dominates(margins[num_kept], rivals[q])
            ):
                total[q] = np.inf
        num_kept += 1
    for q in range(len(rivals)):
        if total[q] < np.inf:
            margins[num_kept] = rivals[q]
            wins_ties[num_kept] = ties[q]
            num_kept += 1
    return num_kept


@compiled_loop
def _find_rivals(
    logits: Array, image: int, label: int, behind: Array, rivals: Array, ties: Array, total: Array
) -> int:
    """Write margins, tie winners and sums of margins of one image's rivals; returns how many."""
    models, _, classes = logits.shape
    num_rivals = 0
    for c in range(classes):
        if behind[c] > 0:
            total[num_rivals] = 0.0
            for k in range(models):
                own = _to_double(logits[k, image, label])
                rivals[num_rivals, k] = own - _to_double(logits[k, image, c])
                total[num_rivals] += rivals[num_rivals, k]
            ties[num_rivals] = c < label
            num_rivals += 1
    return num_rivals


@compiled_loop
def _grown(margins: Array, wins_ties: Array, num_rows: int, capacity: int) -> tuple[Array, Array]:
    """Larger arrays with the same first rows."""
    more_margins = np.empty((capacity, margins.shape[1]), np.float64)
    more_ties = np.empty(capacity, np.bool_)
    more_margins[:num_rows] = margins[:num_rows]
    more_ties[:num_rows] = wins_ties[:num_rows]
    return more_margins, more_ties


@compiled_loop
def _collect(
    logits: Array, labels: Array, first: int, last: int
) -> tuple[int, Array, Array, Array]:
    models, _, classes = logits.shape
    label_wins = np.empty((models, _IMAGES_PER_BLOCK), np.bool_)
    behind = np.empty(classes, np.int32)  # in how many ingredients the label is not ahead
    rivals = np.empty((classes, models), np.float64)
    ties = np.empty(classes, np.bool_)
    total = np.empty(classes, np.float64)
    capacity = _FIRST_CAPACITY_ROWS
    margins = np.empty((capacity, models), np.float64)
    wins_ties = np.empty(capacity, np.bool_)
    starts = np.zeros(last - first + 1, np.int64)
    always_right, contested, rows = 0, 0, 0
    for begin in range(first, last, _IMAGES_PER_BLOCK):
        end = min(last, begin + _IMAGES_PER_BLOCK)
        # This is the pass over all logits. It reads them in the order of memory, at its speed.
        for k in range(models):
            for image in range(begin, end):
                label_wins[k, image - begin] = _label_wins(logits[k, image], labels[image])
        for image in range(begin, end):
            behind[:] = 0
            for k in range(models):
                if not label_wins[k, image - begin]:
                    _add_behind(logits[k, image], labels[image], behind)
            most = behind.max()
            if most == 0:
                always_right += 1
            # Either no class is ahead of the label in any ingredient, or one is ahead in all of
            # them. In both cases the same is true in every average.
            if most == 0 or most == models:
                continue
            found = _find_rivals(logits, image, labels[image], behind, rivals, ties, total)
            if rows + found > capacity:
                while rows + found > capacity:
                    capacity *= 2
                margins, wins_ties = _grown(margins, wins_ties, rows, capacity)
            rows += _keep_rivals(
                rivals[:found], ties[:found], total[:found], margins[rows:], wins_ties[rows:]
            )
            contested += 1
            starts[contested] = rows
    fields = margins[:rows].copy(), wins_ties[:rows].copy(), starts[: contested + 1].copy()
    return always_right, fields[0], fields[1], fields[2]


# The compiler may reorder these sums: a bound counts only if it is clearly above zero.
@partial(compiled_loop, fastmath={"reassoc", "contract", "nsz"})
def _surely_positive(margins: Array, sign: float, caps: Array) -> bool:
    """Whether sum_k p_k sign m_k > 0 for all weights p with 0 <= p_k <= caps_k and sum 1."""
    # For any t the sum is t - sum p_k (t - m_k), which is at least t - sum caps_k max(0, t - m_k).
    # This bound is a concave function of t. Bisection searches its maximum; any t gives a bound.
    total, largest = 0.0, 0.0
    for k in range(len(margins)):
        total += caps[k] * sign * margins[k]
        largest = max(largest, abs(margins[k]))
    if total <= 0:
        return False  # the weights in proportion to the caps are allowed and not positive
    low, high = -largest, largest
    for _ in range(10):
        t = (low + high) / 2
        shortfall, slope = 0.0, 0.0
        for k in range(len(margins)):
            gap = max(t - sign * margins[k], 0.0)
            shortfall += caps[k] * gap
            slope += caps[k] if gap > 0 else 0.0
        if t - shortfall > 1e-9 * largest:
            return True
        if slope < 1:
            low = t
        else:
            high = t
    return False


@compiled_loop
def _drop_decided(
    margins: Array, wins_ties: Array, starts: Array, caps: Array
) -> tuple[int, Array, Array, Array]:
    kept = np.empty(len(margins), np.bool_)
    new_starts = np.zeros(len(starts), np.int64)
    always_right, contested, rows = 0, 0, 0
    for j in range(len(starts) - 1):
        num_kept, always_wrong = 0, False
        for row in range(starts[j], starts[j + 1]):
            kept[row] = not _surely_positive(margins[row], 1.0, caps)
            always_wrong = always_wrong or _surely_positive(margins[row], -1.0, caps)
            num_kept += int(kept[row])
        if always_wrong:
            kept[starts[j] : starts[j + 1]] = False
        elif num_kept == 0:
            always_right += 1
        else:
            rows += num_kept
            contested += 1
            new_starts[contested] = rows
    return always_right, margins[kept], wins_ties[kept], new_starts[: contested + 1].copy()


@compiled_loop
def _subset_sums(margins: Array, sums: Array) -> None:
    """Sums over every subset by bitmask. Each is a smaller one plus one margin."""
    sums[0] = 0.0
    for k in range(len(margins)):
        half = 1 << k
        for s in range(half):
            sums[half + s] = sums[s] + margins[k]


@compiled_loop
def _count_subsets(margins: Array, wins_ties: Array, starts: Array) -> Array:
    # A subset's margin is the sum over its low ingredients plus the sum over its high ones. The two
    # small tables are computed once for each rival; then each subset costs one comparison.
    models = margins.shape[1]
    low_models = (models + 1) // 2
    low = np.empty(1 << low_models, np.float64)
    high = np.empty(1 << (models - low_models), np.float64)
    right = np.empty((len(high), len(low)), np.uint8)
    hits = np.zeros((len(high), len(low)), np.int32)
    for j in range(len(starts) - 1):
        right[:] = 1
        for row in range(starts[j], starts[j + 1]):
            _subset_sums(margins[row, :low_models], low)
            _subset_sums(margins[row, low_models:], high)
            if wins_ties[row]:
                for h in range(len(high)):
                    needed = -high[h]
                    for s in range(len(low)):
                        right[h, s] &= np.uint8(low[s] > needed)
            else:
                for h in range(len(high)):
                    needed = -high[h]
                    for s in range(len(low)):
                        right[h, s] &= np.uint8(low[s] >= needed)
        for h in range(len(high)):
            for s in range(len(low)):
                hits[h, s] += right[h, s]
    return hits.ravel()


@compiled_loop
def _update_right(right: Array, margins: Array, wins_ties: bool) -> None:
    """Set right to 0 where a margin is lost."""
    if wins_ties:
        for m in range(len(right)):
            right[m] &= np.uint8(margins[m] > 0)
    else:
        for m in range(len(right)):
            right[m] &= np.uint8(margins[m] >= 0)


@compiled_loop
def _count_candidates(margins: Array, wins_ties: Array, starts: Array, weights: Array) -> Array:
    models, candidates = weights.shape
    hits = np.zeros(candidates, np.int64)
    models_in_fours = models - models % 4
    right = np.empty(_CANDIDATES_PER_BLOCK, np.uint8)
    sum_a = np.empty(_CANDIDATES_PER_BLOCK, np.float64)
    sum_b = np.empty(_CANDIDATES_PER_BLOCK, np.float64)
    for first in range(0, candidates, _CANDIDATES_PER_BLOCK):
        last = min(candidates, first + _CANDIDATES_PER_BLOCK)
        for j in range(len(starts) - 1):
            right[:] = 1
            # Two rivals and four ingredients at a time: weights and sums are read less often.
            for row in range(starts[j], starts[j + 1], 2):
                other = min(row + 1, starts[j + 1] - 1)  # the last row again if there is no other
                a, b = margins[row], margins[other]
                sum_a[:] = 0.0
                sum_b[:] = 0.0
                for k in range(0, models_in_fours, 4):
                    p0, p1 = weights[k][first:last], weights[k + 1][first:last]
                    p2, p3 = weights[k + 2][first:last], weights[k + 3][first:last]
                    a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
                    b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
                    for m in range(last - first):
                        sum_a[m] += a0 * p0[m] + a1 * p1[m] + a2 * p2[m] + a3 * p3[m]
                        sum_b[m] += b0 * p0[m] + b1 * p1[m] + b2 * p2[m] + b3 * p3[m]
                for k in range(models_in_fours, models):
                    p0, a0, b0 = weights[k][first:last], a[k], b[k]
                    for m in range(last - first):
                        sum_a[m] += a0 * p0[m]
                        sum_b[m] += b0 * p0[m]
                _update_right(right[: last - first], sum_a, wins_ties[row])
                _update_right(right[: last - first], sum_b, wins_ties[other])
            for m in range(last - first):
                hits[first + m] += right[m]
    return hits


@compiled_loop
def _count_additions(margins: Array, wins_ties: Array, starts: Array, sums: Array) -> Array:
    models = margins.shape[1]
    hits, right = np.zeros(models, np.int64), np.empty(models, np.uint8)
    for j in range(len(starts) - 1):
        right[:] = 1
        for row in range(starts[j], starts[j + 1]):
            _update_right(right, sums[row] + margins[row], wins_ties[row])
        for k in range(models):
            hits[k] += right[k]
    return hits


def collect(logits: Tensor, labels: Tensor, first: int, last: int) -> MarginFields:
    """The margins that decide the images first to last - 1 in any ensemble.

    Args:
        logits: (N, n, C).
        labels: (n,).
        first, last: a range of images.

    Returns:
        The fields of `radin.ranking.margins.Margins`. Images that are wrong in every ensemble are
        in none of them.
    """
    if not logits.is_contiguous() or logits.dtype not in (torch.float32, torch.float16):
        block = logits[:, first:last].float().contiguous()
        return collect(block, labels[first:last], 0, last - first)
    # Single and half precision are read in place, from disk if they are mapped.
    values = logits.view(torch.int16).numpy() if logits.dtype == torch.float16 else logits.numpy()
    return _as_tensors(*_collect(values, labels.numpy(), first, last))


def _as_tensors(always_right: int, *arrays: Array) -> MarginFields:
    margins, wins_ties, starts = map(torch.from_numpy, arrays)
    return always_right, margins, wins_ties, starts


def drop_decided(margins: Tensor, wins_ties: Tensor, starts: Tensor, caps: Tensor) -> MarginFields:
    """`collect`'s answer without what is the same for all weights below some caps.

    Args:
        margins, wins_ties, starts: from `collect`.
        caps: (N,) the largest weight of each ingredient, for weights of sum 1.

    Returns:
        How many more images are right in every ensemble, and the margins that are left.
    """
    return _as_tensors(
        *_drop_decided(margins.numpy(), wins_ties.numpy(), starts.numpy(), caps.numpy())
    )


def count_subsets(margins: Tensor, wins_ties: Tensor, starts: Tensor) -> Tensor:
    """On how many contested images each subset is right: (2^N,) by bitmask."""
    return torch.from_numpy(_count_subsets(margins.numpy(), wins_ties.numpy(), starts.numpy()))


def count_candidates(margins: Tensor, wins_ties: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """On how many contested images each candidate is right: (M,), with weights (N, M) double."""
    return torch.from_numpy(
        _count_candidates(margins.numpy(), wins_ties.numpy(), starts.numpy(), weights.numpy())
    )


def count_additions(margins: Tensor, wins_ties: Tensor, starts: Tensor, sums: Tensor) -> Tensor:
    """On how many contested images an ensemble is right with one more of each ingredient: (N,).

    Args:
        margins, wins_ties, starts: from `collect`.
        sums: (R,) the margins of the ensemble before, not divided.
    """
    return torch.from_numpy(
        _count_additions(margins.numpy(), wins_ties.numpy(), starts.numpy(), sums.numpy())
    )
