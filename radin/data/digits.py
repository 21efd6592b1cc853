"""The embedded handwritten digits of scikit-learn: training, validation, test and shifted parts."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from radin.data.splits import ArraySplit
from radin.errors import DataError

# How many of the 1,797 scans each share gets, and the standard deviation of its Gaussian noise
# (pixels run from -1 to 1). Without the noise and with all labels every ingredient is near 99%,
# and all recipes look alike: few labels and noisy scans leave room for differences.
_SHARES = {
    "pretrain": (300, 0.3),
    "train": (150, 0.6),
    "val": (500, 0.6),
    "test": (847, 0.6),
}

# The same 847 test scans, each time with another kind of damage.
_SHIFTS = ("test-rotated", "test-blurred", "test-noisy")

NUM_TEST_DRAWS = 10  # "test-draw-1" and on: the test scans again, each time under fresh noise

DIGITS_PARTS = (*_SHARES, *_SHIFTS, *(f"test-draw-{k + 1}" for k in range(NUM_TEST_DRAWS)))


@cache
def digits_split(part: str) -> ArraySplit:
    """One part of the digits, with images (n, 1, 8, 8).

    Args:
        part: one of `DIGITS_PARTS`.

    Raises:
        DataError: there is no such part.
    """
    if part not in DIGITS_PARTS:
        raise DataError(f"digits has no part {part!r}; it has {', '.join(DIGITS_PARTS)}.")
    from scipy import ndimage
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    scans = scans.reshape(-1, 8, 8) / 8 - 1
    order = np.random.default_rng(0).permutation(len(scans))
    share = part.split("-")[0]
    share_index = list(_SHARES).index(share)
    start = sum(count for count, _ in list(_SHARES.values())[:share_index])
    count, noise = _SHARES[share]
    indices = order[start : start + count]
    images = scans[indices]
    if part == "test-rotated":
        images = ndimage.rotate(images, 20, axes=(1, 2), reshape=False, order=1, mode="nearest")
    if part == "test-blurred":
        images = ndimage.gaussian_filter(images, (0, 0.7, 0.7), mode="nearest")
    if part == "test-noisy":
        noise = 0.8
    # One noise stream for each share: a shifted part has the noise of the test part and one change.
    draw = int(part.rsplit("-", 1)[1]) if part.startswith("test-draw-") else 0
    rng = np.random.default_rng([1, share_index, draw])
    images = images + noise * rng.standard_normal(images.shape)
    tensor = torch.from_numpy(images).float().unsqueeze(1)
    class_names = [str(digit) for digit in range(10)]
    return ArraySplit("digits", part, tensor, torch.from_numpy(labels[indices]).long(), class_names)
