"""Data of small zoos, drawn anew for each: embedded digits, gratings and clusters.

Gratings and clusters are made from formulas. The other data sets that scikit-learn embeds have at
most 569 rows, too few for training, validation and test parts, and all others are downloads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from radin.data.splits import ArraySplit

NUM_PRETRAINING = 300
NUM_CLASSES = {"digits": 10, "gratings": 10, "clusters": 10}
# Standard deviations of the Gaussian noise. A start that saw less noise leaves room to fine-tune.
NOISE_BEFORE = {"digits": 0.3, "gratings": 0.3, "clusters": 0.0}
NOISE_AFTER = {"digits": 0.6, "gratings": 0.5, "clusters": 0.4}
IMAGE_PIXELS = 8  # height and width
CYCLES_PER_PIXEL = (0.15, 0.3)  # of gratings
NUM_FEATURES = 20  # of clusters
BLUR_PIXELS = 0.7  # standard deviation, of the shifted part

Labelled = tuple[np.ndarray, np.ndarray]  # inputs (n, ...) and labels (n,)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many labelled examples each part has; the start has `NUM_PRETRAINING`."""

    train: int = 150
    val: int = 500
    test: int = 847

    @property
    def total(self) -> int:
        return NUM_PRETRAINING + self.train + self.val + self.test


@dataclass(frozen=True)
class Parts:
    """The parts of one zoo's data.

    Attributes:
        pretrain: what the start is trained on.
        train: what ingredients are fine-tuned on.
        val: what recipes choose by.
        test: what is reported.
        shifted: the test part blurred; None where inputs are not images.
    """

    pretrain: ArraySplit
    train: ArraySplit
    val: ArraySplit
    test: ArraySplit
    shifted: ArraySplit | None


def draw_parts(name: str, sizes: Sizes, *, wrong_labels: float = 0.0, seed: int) -> Parts:
    """Draw one zoo's data: examples, their noise and the wrong labels among them.

    Args:
        name: "digits", "gratings" or "clusters".
        sizes: examples in each part.
        wrong_labels: the share of the fine-tuning examples whose label is another class.
        seed: of everything.

    >>> from radin.experiments.collection.data import Sizes, draw_parts
    >>> parts = draw_parts("gratings", Sizes(train=50), seed=0)
    >>> parts.train.images.shape, len(parts.val)
    (torch.Size([50, 1, 8, 8]), 500)
    """
    rng = np.random.default_rng(seed)
    inputs, labels = _SOURCES[name](sizes.total, rng)
    counts = {"pretrain": NUM_PRETRAINING, "train": sizes.train}
    counts |= {"val": sizes.val, "test": sizes.test}
    ends = np.cumsum(list(counts.values()))
    splits = {}
    for part, end in zip(counts, ends, strict=True):
        chosen = slice(end - counts[part], end)
        level = (NOISE_BEFORE if part == "pretrain" else NOISE_AFTER)[name]
        noise = level * rng.standard_normal(inputs[chosen].shape)
        truth = labels[chosen]
        if part == "train":
            truth = replace_labels(truth, wrong_labels, NUM_CLASSES[name], rng)
        splits[part] = _split(name, part, inputs[chosen] + noise, truth)
    shifted = None
    if inputs.ndim == 4:  # the loop has ended with the test part
        shifted = _split(name, "shifted", blur(inputs[chosen]) + noise, labels[chosen])
    return Parts(**splits, shifted=shifted)


def replace_labels(
    labels: np.ndarray, share: float, num_classes: int, rng: np.random.Generator
) -> np.ndarray:
    """Give a share of the labels another class, drawn at random among the others: (n,)."""
    count = round(share * len(labels))
    chosen = rng.choice(len(labels), count, replace=False)
    changed = labels.copy()
    changed[chosen] = (labels[chosen] + rng.integers(1, num_classes, count)) % num_classes
    return changed


def blur(images: np.ndarray) -> np.ndarray:
    """Each image (n, 1, height, width) after a Gaussian blur of `BLUR_PIXELS`."""
    from scipy import ndimage

    return ndimage.gaussian_filter(images, (0, 0, BLUR_PIXELS, BLUR_PIXELS), mode="nearest")


def _split(name: str, part: str, inputs: np.ndarray, labels: np.ndarray) -> ArraySplit:
    class_names = [str(k) for k in range(NUM_CLASSES[name])]
    images: Tensor = torch.from_numpy(inputs).float()
    return ArraySplit(name, part, images, torch.from_numpy(labels).long(), class_names)


def _digits(count: int, rng: np.random.Generator) -> Labelled:
    """`count` of the 1,797 embedded scans, in an order of the zoo's own."""
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    chosen = rng.permutation(len(scans))[:count]
    return scans[chosen].reshape(-1, 1, IMAGE_PIXELS, IMAGE_PIXELS) / 8 - 1, labels[chosen]


def _gratings(count: int, rng: np.random.Generator) -> Labelled:
    """Waves of ten directions, with random frequency and phase; pixels run from -1 to 1."""
    labels = rng.integers(NUM_CLASSES["gratings"], size=count)
    angle = np.pi * labels / NUM_CLASSES["gratings"]
    frequency = rng.uniform(*CYCLES_PER_PIXEL, count)
    phase = rng.uniform(0, 2 * np.pi, count)
    rows, columns = np.mgrid[:IMAGE_PIXELS, :IMAGE_PIXELS]
    along = (
        np.cos(angle)[:, None, None] * columns + np.sin(angle)[:, None, None] * rows
    )  # (n, 8, 8), in pixels
    waves = np.sin(2 * np.pi * frequency[:, None, None] * along + phase[:, None, None])
    return waves[:, None], labels


def _clusters(count: int, rng: np.random.Generator) -> Labelled:
    """Two Gaussian clusters for each class in twenty dimensions, each of deviation 1."""
    from sklearn.datasets import make_classification

    inputs, labels = make_classification(
        count,
        NUM_FEATURES,
        n_informative=10,
        n_redundant=5,
        n_classes=NUM_CLASSES["clusters"],
        n_clusters_per_class=2,
        class_sep=3.0,
        random_state=int(rng.integers(2**31)),
    )
    return (inputs - inputs.mean(0)) / inputs.std(0), labels


_SOURCES: dict[str, Callable[[int, np.random.Generator], Labelled]] = {
    "digits": _digits,
    "gratings": _gratings,
    "clusters": _clusters,
}
