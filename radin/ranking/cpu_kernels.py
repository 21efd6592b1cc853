"""The compiled loops of stage 1 on the CPU. `radin.ranking.margins` says what they compute and why it is exact.

Kept apart because importing numba takes half a second: `radin.ranking.margins` imports this file when it first counts.
Each function works in one thread and lets go of Python's lock, so that blocks of images run side by side.
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
Found = tuple[int, Tensor, Tensor, Tensor]

_IMAGES_AT_ONCE = 32  # the logits of so many images are read twice and stay in the cache between
_CANDIDATES_AT_ONCE = 256  # the weights of so many stay in the cache
_STRONGEST = 8  # rivals that others are compared with; more drop hardly any further rival


def compiled_loop(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function compiled; kept on disk for the next process where there is a folder that may be written to."""
    try:
        return njit(function, nogil=True, cache=True, **options)
    except RuntimeError:  # numba found none
        return njit(function, nogil=True, **options)


def _order(logit):  # type: ignore[no-untyped-def]
    """A number in the order of the logits: a single-precision logit itself, an integer for a half-precision one.

    numba knows no half precision on CPUs; it is handed the 16 bits: a sign and a magnitude. Written as a
    two's complement they are in the order of the logits, and -0 equals 0.
    """


@overload(_order)
def _order_of(logit):  # type: ignore[no-untyped-def]  # numba wants both signatures alike
    if logit != types.int16:
        return lambda logit: logit

    def from_bits(logit):  # type: ignore[no-untyped-def]
        sign = np.int16(logit >> np.int16(15))
        return np.int16(np.int16(np.int16(logit & np.int16(0x7FFF)) ^ sign) - sign)

    return from_bits


def _value(logit):  # type: ignore[no-untyped-def]
    """The logit in double precision."""


@overload(_value)
def _value_of(logit):  # type: ignore[no-untyped-def]
    if logit != types.int16:
        return lambda logit: np.float64(logit)

    def from_bits(logit):  # type: ignore[no-untyped-def]
        magnitude = np.int32(np.int32(logit) & np.int32(0x7FFF))
        if magnitude < 0x400:  # exponent 0: no leading one
            value = magnitude * 2.0**-24
        else:  # exponent and fraction at single precision's place; the exponents' biases differ by 112
            value = np.float64(np.int32(magnitude << np.int32(13)).view(np.float32)) * 2.0**112
        return -value if logit < 0 else value

    return from_bits


@compiled_loop
def _is_ahead(row: Array, label: int) -> bool:
    """Whether the label's logit is above all others, with no tie."""
    own = _order(row[label])
    at_least = np.int32(0)
    for c in range(len(row)):
        at_least += np.int32(_order(row[c]) >= own)
    return at_least == 1  # the label itself


@compiled_loop
def _add_behind(row: Array, label: int, behind: Array) -> None:
    """Count, for each class, that the label is not ahead of it here; a tie goes to the lower class."""
    own = _order(row[label])
    for c in range(label):
        behind[c] += np.int32(_order(row[c]) >= own)
    for c in range(label + 1, len(row)):
        behind[c] += np.int32(_order(row[c]) > own)


@compiled_loop
def _beats(strong: Array, weak: Array) -> bool:
    """Whether the label's margins over one rival are nowhere larger than those over another."""
    larger = 0
    for k in range(len(strong)):
        larger += int(strong[k] > weak[k])
    return larger == 0


@compiled_loop
def _keep(rivals: Array, ties: Array, total: Array, margins: Array, wins_ties: Array) -> int:
    """Copy one image's rivals to the head of margins and wins_ties, strongest first; returns how many.

    A rival that another one beats in every ingredient never decides, and is left out. `total` holds each
    rival's margins added up; it is used up.
    """
    kept = 0
    for _ in range(min(_STRONGEST, len(rivals))):
        strongest = total.argmin()
        if total[strongest] == np.inf:
            break
        margins[kept], wins_ties[kept] = rivals[strongest], ties[strongest]
        total[strongest] = np.inf  # kept, or left out
        for q in range(len(rivals)):
            if (
                total[q] < np.inf
                and (wins_ties[kept] or not ties[q])
                and _beats(margins[kept], rivals[q])
            ):
                total[q] = np.inf
        kept += 1
    for q in range(len(rivals)):
        if total[q] < np.inf:
            margins[kept], wins_ties[kept] = rivals[q], ties[q]
            kept += 1
    return kept


@compiled_loop
def _collect(
    logits: Array, labels: Array, first: int, last: int
) -> tuple[int, Array, Array, Array]:
    models, _, classes = logits.shape
    ahead = np.empty((models, _IMAGES_AT_ONCE), np.bool_)
    behind = np.empty(
        classes, np.int32
    )  # in how many ingredients the label is not ahead of each class
    rivals, ties = np.empty((classes, models), np.float64), np.empty(classes, np.bool_)
    total = np.empty(classes, np.float64)
    room = 256
    margins, wins_ties = np.empty((room, models), np.float64), np.empty(room, np.bool_)
    starts = np.zeros(last - first + 1, np.int64)
    sure, contested, rows = 0, 0, 0
    for begin in range(first, last, _IMAGES_AT_ONCE):
        end = min(last, begin + _IMAGES_AT_ONCE)
        # Row after row in the order of memory: this is the pass over all logits, and it runs at memory speed.
        for k in range(models):
            for image in range(begin, end):
                ahead[k, image - begin] = _is_ahead(logits[k, image], labels[image])
        for image in range(begin, end):
            label = labels[image]
            behind[:] = 0
            for k in range(models):
                if not ahead[k, image - begin]:
                    _add_behind(logits[k, image], label, behind)
            most = behind.max()
            if most == 0:
                sure += 1
            if most == 0 or most == models:
                continue  # some class is ahead of the label in no ingredient, or in all, and so in every average
            found = 0
            for c in range(classes):
                if behind[c] > 0:
                    total[found] = 0.0
                    for k in range(models):
                        rivals[found, k] = _value(logits[k, image, label]) - _value(
                            logits[k, image, c]
                        )
                        total[found] += rivals[found, k]
                    ties[found] = c < label
                    found += 1
            if rows + found > room:
                while rows + found > room:
                    room *= 2
                more_margins, more_ties = (
                    np.empty((room, models), np.float64),
                    np.empty(room, np.bool_),
                )
                more_margins[:rows], more_ties[:rows] = margins[:rows], wins_ties[:rows]
                margins, wins_ties = more_margins, more_ties
            rows += _keep(
                rivals[:found], ties[:found], total[:found], margins[rows:], wins_ties[rows:]
            )
            contested += 1
            starts[contested] = rows
    return sure, margins[:rows].copy(), wins_ties[:rows].copy(), starts[: contested + 1].copy()


# Sums may be taken in any order here: the bound counts only when it is clear of zero.
@partial(compiled_loop, fastmath={"reassoc", "contract", "nsz"})
def _above_zero(margins: Array, sign: float, caps: Array) -> bool:
    """Whether sum_k p_k sign margin_k > 0 is certain for all weights with 0 <= p_k <= caps_k and sum 1.

    For any number t the sum is t - sum p_k (t - m_k), which is at least t - sum caps_k max(0, t - m_k): a concave
    function of t, whose top is searched by halving. Any t gives a bound, a better one a tighter one.
    """
    total, largest = 0.0, 0.0
    for k in range(len(margins)):
        total += caps[k] * sign * margins[k]
        largest = max(largest, abs(margins[k]))
    if total <= 0:
        return False  # weights in proportion to the caps are among them, and not above zero
    low, high = -largest, largest
    for _ in range(10):
        t = (low + high) / 2
        short, share = 0.0, 0.0
        for k in range(len(margins)):
            gap = max(t - sign * margins[k], 0.0)
            short += caps[k] * gap
            share += caps[k] if gap > 0 else 0.0
        if t - short > 1e-9 * largest:
            return True
        if share < 1:
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
    sure, contested, rows = 0, 0, 0
    for j in range(len(starts) - 1):
        left, lost = 0, False
        for row in range(starts[j], starts[j + 1]):
            kept[row] = not _above_zero(margins[row], 1.0, caps)
            lost = lost or _above_zero(margins[row], -1.0, caps)
            left += int(kept[row])
        if lost:
            kept[starts[j] : starts[j + 1]] = False
        elif left == 0:
            sure += 1
        else:
            rows += left
            contested += 1
            new_starts[contested] = rows
    return sure, margins[kept], wins_ties[kept], new_starts[: contested + 1].copy()


@compiled_loop
def _subset_sums(margins: Array, sums: Array) -> None:
    """Sums over every subset by bitmask: each from a smaller one by one addition."""
    sums[0] = 0.0
    for k in range(len(margins)):
        half = 1 << k
        for s in range(half):
            sums[half + s] = sums[s] + margins[k]


@compiled_loop
def _count_subsets(margins: Array, wins_ties: Array, starts: Array) -> Array:
    # A subset's margin is the sum over its low ingredients plus the sum over its high ones. The two small tables
    # are added up once for each rival; what is left for each of the 2^N subsets is one comparison.
    models = margins.shape[1]
    low_models = (models + 1) // 2
    low, high = (
        np.empty(1 << low_models, np.float64),
        np.empty(1 << (models - low_models), np.float64),
    )
    right = np.empty((len(high), len(low)), np.uint8)
    hits = np.zeros((len(high), len(low)), np.int32)
    for j in range(len(starts) - 1):
        right[:] = 1
        for row in range(starts[j], starts[j + 1]):
            _subset_sums(margins[row, :low_models], low)
            _subset_sums(margins[row, low_models:], high)
            if wins_ties[row]:
                for h in range(len(high)):
                    least = -high[h]
                    for s in range(len(low)):
                        right[h, s] &= np.uint8(low[s] > least)
            else:
                for h in range(len(high)):
                    least = -high[h]
                    for s in range(len(low)):
                        right[h, s] &= np.uint8(low[s] >= least)
        for h in range(len(high)):
            for s in range(len(low)):
                hits[h, s] += right[h, s]
    return hits.ravel()


@compiled_loop
def _still_right(right: Array, margins: Array, wins_ties: bool) -> None:
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
    whole = models - models % 4
    right = np.empty(_CANDIDATES_AT_ONCE, np.uint8)
    one, two = np.empty(_CANDIDATES_AT_ONCE, np.float64), np.empty(_CANDIDATES_AT_ONCE, np.float64)
    for first in range(0, candidates, _CANDIDATES_AT_ONCE):
        last = min(candidates, first + _CANDIDATES_AT_ONCE)
        for j in range(len(starts) - 1):
            right[:] = 1
            # Two rivals and four ingredients at a time: fewer trips to the weights and to the running sums.
            for row in range(starts[j], starts[j + 1], 2):
                other = min(
                    row + 1, starts[j + 1] - 1
                )  # an odd one at the end is done twice, which does no harm
                a, b = margins[row], margins[other]
                one[:], two[:] = 0.0, 0.0
                for k in range(0, whole, 4):
                    p0, p1 = weights[k][first:last], weights[k + 1][first:last]
                    p2, p3 = weights[k + 2][first:last], weights[k + 3][first:last]
                    a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
                    b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
                    for m in range(last - first):
                        one[m] += a0 * p0[m] + a1 * p1[m] + a2 * p2[m] + a3 * p3[m]
                        two[m] += b0 * p0[m] + b1 * p1[m] + b2 * p2[m] + b3 * p3[m]
                for k in range(whole, models):
                    p0, a0, b0 = weights[k][first:last], a[k], b[k]
                    for m in range(last - first):
                        one[m] += a0 * p0[m]
                        two[m] += b0 * p0[m]
                _still_right(right[: last - first], one, wins_ties[row])
                _still_right(right[: last - first], two, wins_ties[other])
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
            _still_right(right, sums[row] + margins[row], wins_ties[row])
        for k in range(models):
            hits[k] += right[k]
    return hits


def collect(logits: Tensor, labels: Tensor, first: int, last: int) -> Found:
    """What decides the images first to last - 1 in any ensemble.

    Args:
        logits: (N, n, C).
        labels: (n,).

    Returns: how many images are right in every ensemble; margins (R, N) of the label over each rival in each
        ingredient, double; (R,) whether a rival wins ties (its class is the lower); (I + 1,) where the
        margins of each contested image begin. Images that no ensemble has right are in none of them.
    """
    if not logits.is_contiguous() or logits.dtype not in (torch.float32, torch.float16):
        block = logits[:, first:last].float().contiguous()
        return collect(block, labels[first:last], 0, last - first)
    # Single and half precision are read in place, from disk if they lie there.
    values = logits.view(torch.int16).numpy() if logits.dtype == torch.float16 else logits.numpy()
    return _as_tensors(*_collect(values, labels.numpy(), first, last))


def _as_tensors(sure: int, *arrays: Array) -> Found:
    margins, wins_ties, starts = map(torch.from_numpy, arrays)
    return sure, margins, wins_ties, starts


def drop_decided(margins: Tensor, wins_ties: Tensor, starts: Tensor, caps: Tensor) -> Found:
    """`collect`'s answer without what no candidate can change, when ingredient k weighs at most caps[k] in each.

    Margins (R, N), ties (R,) and starts (I + 1,) are those of `collect`; caps (N,) belong to weights of sum 1.

    Returns: how many images more are right in each of them, and the rest as `collect` does.
    """
    return _as_tensors(
        *_drop_decided(margins.numpy(), wins_ties.numpy(), starts.numpy(), caps.numpy())
    )


def count_subsets(margins: Tensor, wins_ties: Tensor, starts: Tensor) -> Tensor:
    """On how many contested images each subset of the ingredients is right: (2^N,), by bitmask."""
    return torch.from_numpy(_count_subsets(margins.numpy(), wins_ties.numpy(), starts.numpy()))


def count_candidates(margins: Tensor, wins_ties: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """On how many contested images each candidate is right: (M,), with weights (N, M) in double precision."""
    return torch.from_numpy(
        _count_candidates(margins.numpy(), wins_ties.numpy(), starts.numpy(), weights.numpy())
    )


def count_additions(margins: Tensor, wins_ties: Tensor, starts: Tensor, sums: Tensor) -> Tensor:
    """On how many contested images one is right with one more of each ingredient: (N,).

    Args:
        sums: (R,) margins summed over what there is before.
    """
    return torch.from_numpy(
        _count_additions(margins.numpy(), wins_ties.numpy(), starts.numpy(), sums.numpy())
    )
