"""The splits that benches are made from: those of `load_split`, halves of one, and sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from radin.data.download.catalog import find_data_set
from radin.data.load import load_split
from radin.data.splits import ArraySplit, FolderSplit, Split, in_memory
from radin.experiments.corruptions import corrupt
from radin.experiments.texts import TEXT_SETS, load_texts
from radin.ranking.projection import Projection

# Two fixed halves of each class of a part: to choose on one and to report on the other, where a
# data set has no other labelled part.
HALVES = ("choose", "report")
SHAPE_PARTS = ("cue-conflict", "edges", "filled-silhouettes")


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
            each class of a part. "<part>+noise3" is a part after a corruption (see `corrupt`) of
            severity 3. For mini-ImageNet, "cue-conflict", "edges" and "filled-silhouettes" are the
            drawings of the data set texture-vs-shape that show one of its classes.
        root: as `load_split` takes it.
        size: edge of images in pixels.
        progress: whether to show a bar.

    Raises:
        DataError: the data set or part is missing, or unreadable.
    """
    part, plus, corruption = part.partition("+")
    if plus:
        split = load_experiment_split(name, part, root, size=size, progress=progress)
        return corrupt(split, corruption[:-1], int(corruption[-1]))
    if part in SHAPE_PARTS and name.startswith("mini-imagenet"):
        return _shapes(name, part, root, size)
    whole, slash, half = part.rpartition("/")
    if slash and half in HALVES:
        split = load_experiment_split(name, whole, root, size=size, progress=progress)
        half_split = split.subset(_half(split, half))
        half_split.part = part
        return half_split
    if name in TEXT_SETS:
        return load_texts(name, part, root)
    return in_memory(load_split(name, part, root, size=size), progress=progress)


def _shapes(name: str, part: str, root: str | Path | None, size: int | None) -> ArraySplit:
    """Drawings whose shape is of a class in a data set, with a projection to these few classes.

    Source: Geirhos et al. 2019.
    """
    folder, _ = find_data_set("texture-vs-shape-96", root)
    table = (folder / "wnid_to_16class.tsv").read_text("utf-8").splitlines()[1:]
    photos = load_split(name, "train", root)
    wnids: dict[str, list[int]] = {}
    for wnid, category, data_sets, _ in (line.split("\t") for line in table):
        if name in data_sets.split(","):
            wnids.setdefault(category, []).append(photos.class_names.index(wnid))
    categories = sorted(wnids)
    edge = size or photos[0][0].shape[-1]
    drawings = FolderSplit(
        name,
        part,
        [
            (path, label)
            for label, category in enumerate(categories)
            for path in sorted((folder / part / category).iterdir())
        ],
        categories,
        size=edge,
    )
    drawings.projection = Projection(
        [wnids[category] for category in categories], photos.num_classes
    )
    return in_memory(drawings, progress=False)


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
