"""The splits that benches are made from: those of `load_split`, halves of one, and sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from radin.data.load import load_split
from radin.data.splits import ArraySplit, Split, in_memory
from radin.experiments.texts import TEXT_SETS, load_texts

# Two fixed halves of each class of a part: to choose on one and to report on the other, where a
# data set has no other labelled part.
HALVES = ("choose", "report")


def load_experiment_split(
    name: str,
    part: str,
    root: str | Path | None = None,
    *,
    size: int | None = None,
    progress: bool = True,
) -> ArraySplit:
    """A part of a data set in memory.

    Args:
        name: as `load_split` takes it, or a key of `radin.experiments.texts.TEXT_SETS`.
        part: as `load_split` takes it. "<part>/choose" and "<part>/report" are two fixed halves of
            each class of a part.
        root: as `load_split` takes it.
        size: edge of images in pixels.
        progress: whether to show a bar.

    Raises:
        DataError: the data set or part is missing, or unreadable.
    """
    whole, slash, half = part.rpartition("/")
    if slash and half in HALVES:
        split = load_experiment_split(name, whole, root, size=size, progress=progress)
        half_split = split.subset(_half(split, half))
        half_split.part = part
        return half_split
    if name in TEXT_SETS:
        return load_texts(name, part, root)
    return in_memory(load_split(name, part, root, size=size), progress=progress)


def _half(split: Split, half: str) -> list[int]:
    """The indices of one half of each class, in their order; an odd one is in the first half."""
    labels = split.labels.numpy()
    chosen: list[int] = []
    for label, class_name in enumerate(split.class_names):
        indices = np.flatnonzero(labels == label)
        order = np.random.default_rng([2, *class_name.encode()]).permutation(len(indices))
        middle = (len(indices) + 1) // 2
        selected = order[:middle] if half == HALVES[0] else order[middle:]
        chosen += indices[selected].tolist()
    return sorted(chosen)
