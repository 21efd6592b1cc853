"""The embedded handwritten digits of scikit-learn: train, validation, test, and three shifted test sets."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from radin.data.splits import ArraySplit
from radin.errors import DataError

# How the 1,797 scans are divided, once and for all, and how much Gaussian noise each share gets
# (pixels run from -1 to 1). Without the noise and with all labels every ingredient sits near 99%,
# and no recipe can be told from another: few labels and noisy scans leave something to win.
_DIGITS_SHARES = {
    "pretrain": (300, 0.3),
    "train": (150, 0.6),
    "val": (500, 0.6),
    "test": (847, 0.6),
}

_DIGITS_SHIFTS = (
    "test-rotated",
    "test-blurred",
    "test-noisy",
)  # the same 847 test scans, made worse in another way

DIGITS_DRAWS = 10  # "test-draw-1" and on: the test scans again, each time under fresh noise

DIGITS_PARTS = (
    *_DIGITS_SHARES,
    *_DIGITS_SHIFTS,
    *(f"test-draw-{k + 1}" for k in range(DIGITS_DRAWS)),
)


@cache
def _digits(part: str) -> ArraySplit:
    if part not in DIGITS_PARTS:
        raise DataError(f"digits has no part {part!r}; it has {', '.join(DIGITS_PARTS)}.")
    from scipy import ndimage
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    scans = scans.reshape(-1, 8, 8) / 8 - 1
    order = np.random.default_rng(0).permutation(len(scans))
    base = part.split("-")[0]
    position = list(_DIGITS_SHARES).index(base)
    start = sum(count for count, _ in list(_DIGITS_SHARES.values())[:position])
    count, noise = _DIGITS_SHARES[base]
    chosen = order[start : start + count]
    images = scans[chosen]
    if part == "test-rotated":
        images = ndimage.rotate(images, 20, axes=(1, 2), reshape=False, order=1, mode="nearest")
    if part == "test-blurred":
        images = ndimage.gaussian_filter(images, (0, 0.7, 0.7), mode="nearest")
    if part == "test-noisy":
        noise = 0.8
    # One noise stream per share, so that a shifted part is the test part with the same noise and one change.
    draw = int(part.rsplit("-", 1)[1]) if part.startswith("test-draw-") else 0
    images = images + noise * np.random.default_rng([1, position, draw]).standard_normal(
        images.shape
    )
    tensor = torch.from_numpy(images).float().unsqueeze(1)  # (n, 1, 8, 8)
    return ArraySplit(
        "digits", part, tensor, torch.from_numpy(labels[chosen]).long(), [str(d) for d in range(10)]
    )
