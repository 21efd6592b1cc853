"""The compiled loops of stage 1 on the CPU. `radin.rank` says what they compute and why it is exact.

Kept apart because importing numba takes half a second: `radin.rank` imports this file when it first counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

Array = np.ndarray[Any, Any]

NEVER = -1  # some class is ahead of the label in every ingredient


# Row after row in the order of memory: this is the one pass over all logits, and it runs at memory speed.
# The two flags let the compiler take maxima eight at a time; logits are finite, a bank is checked for that.
@njit(parallel=True, cache=True, fastmath={"nnan", "nsz"})
def right_alone(logits: Array, labels: Array) -> Array:
    """Whether each ingredient is right on each image: (N, n)."""
    models, images, classes = logits.shape
    right = np.empty((models, images), np.bool_)
    for flat in prange(models * images):
        row, label = logits[flat // images, flat % images], labels[flat % images]
        own, below, above = row[label], np.float32(-np.inf), np.float32(-np.inf)
        for c in range(label):
            below = max(below, row[c])
        for c in range(label + 1, classes):
            above = max(above, row[c])
        right[flat // images, flat % images] = below < own and above <= own
    return right


@njit(cache=True, inline="always")
def _count_behind(logits: Array, image: int, label: int, behind: Array) -> None:
    """For each class: in how many ingredients the label is not ahead of it (a tie goes to the lower class)."""
    behind[:] = 0
    for k in range(logits.shape[0]):
        row = logits[k, image]
        own = row[label]
        for c in range(label):
            behind[c] += np.int32(row[c] >= own)
        for c in range(label + 1, logits.shape[2]):
            behind[c] += np.int32(row[c] > own)


@njit(parallel=True, cache=True)
def count_rivals(logits: Array, labels: Array, images: Array) -> Array:
    """How many classes can beat the label for some candidate, on each of the given images (I,): (I,), or NEVER."""
    models, _, classes = logits.shape
    counts = np.empty(len(images), np.int32)
    for j in prange(len(images)):
        behind = np.empty(classes, np.int32)
        _count_behind(logits, images[j], labels[images[j]], behind)
        rivals, most = 0, 0
        for c in range(classes):
            rivals += behind[c] > 0
            most = max(most, behind[c])
        counts[j] = NEVER if most == models else rivals
    return counts


@njit(parallel=True, cache=True)
def collect_margins(logits: Array, labels: Array, contested: Array, starts: Array) -> tuple[Array, Array]:
    """Margins of the label over each rival, ingredient by ingredient.

    Args:
        contested: (I,) images with rivals.
        starts: (I + 1,) where each one's rows begin.

    Returns: margins (R, N) in double precision; (R,) whether a rival wins ties (its class is the lower).
    """
    models, _, classes = logits.shape
    margins = np.empty((starts[-1], models), np.float64)
    wins_ties = np.empty(starts[-1], np.bool_)
    for j in prange(len(contested)):
        image, row = contested[j], starts[j]
        label = labels[image]
        behind = np.empty(classes, np.int32)
        _count_behind(logits, image, label, behind)
        for c in range(classes):
            if behind[c] > 0:
                for k in range(models):
                    margins[row, k] = np.float64(logits[k, image, label]) - np.float64(logits[k, image, c])
                wins_ties[row] = c < label
                row += 1
    return margins, wins_ties


@njit(parallel=True, cache=True)
def count_subsets(margins: Array, wins_ties: Array, starts: Array, threads: int) -> Array:
    """On how many contested images each subset of the ingredients is right: (2^N - 1,), by bitmask - 1.

    A rival's margins summed over a subset are those over the subset without its last ingredient plus
    one more: one addition for each of the 2^N sums, each half of the table from the half before it.
    """
    models = margins.shape[1]
    size = 1 << models
    hits = np.zeros((threads, size), np.int64)
    for thread in prange(threads):
        right = np.empty(size, np.uint8)
        sums = np.empty(size, np.float64)
        for j in range(thread, len(starts) - 1, threads):
            right[:] = 1
            for row in range(starts[j], starts[j + 1]):
                sums[0] = 0.0
                for k in range(models):
                    half = 1 << k
                    for s in range(half):
                        sums[half + s] = sums[s] + margins[row, k]
                if wins_ties[row]:
                    for s in range(size):
                        right[s] &= sums[s] > 0
                else:
                    for s in range(size):
                        right[s] &= sums[s] >= 0
            for s in range(size):
                hits[thread, s] += right[s]
    return hits.sum(0)[1:]


@njit(parallel=True, cache=True)
def count_candidates(averages: Array, wins_ties: Array, starts: Array, hits: Array, threads: int) -> None:
    """Add to hits (M,) on how many contested images each candidate is right, from its averaged margins (R, M)."""
    candidates = averages.shape[1]
    for thread in prange(threads):
        first, last = thread * candidates // threads, (thread + 1) * candidates // threads
        right = np.empty(last - first, np.uint8)
        for j in range(len(starts) - 1):
            right[:] = 1
            for row in range(starts[j], starts[j + 1]):
                if wins_ties[row]:
                    for m in range(first, last):
                        right[m - first] &= averages[row, m] > 0
                else:
                    for m in range(first, last):
                        right[m - first] &= averages[row, m] >= 0
            for m in range(first, last):
                hits[m] += right[m - first]
