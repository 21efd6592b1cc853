"""Is the difference between two models more than chance? Paired, on the same images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from radin.errors import ParameterError, check_integer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_Z95 = 1.959963984540054  # 97.5% quantile of the normal distribution


def paired_interval(correct_a: Tensor, correct_b: Tensor) -> tuple[float, float, float]:
    """Accuracy of a minus accuracy of b on the same images, with a 95% interval, in percentage points.

    With one answer for each image this is the adjusted Wald interval of Bonett and Price (2012): only
    images on which the two disagree widen it, and it does not collapse to a point when they never do.
    With several answers for each image (one for each draw of the noise, say) the images are the sample:
    their mean differences give a normal interval, so that answers to one image do not count as new images.

    Args:
        correct_a, correct_b: (n,) or (n, draws) boolean, whether each model is right.

    Returns: (difference, low, high).

    Raises ParameterError when the two are not boolean of one such shape, with at least 2 images for draws.
    """
    same = correct_a.dtype == correct_b.dtype == torch.bool and correct_a.shape == correct_b.shape
    if (
        not same
        or correct_a.ndim not in (1, 2)
        or len(correct_a) < correct_a.ndim
        or 0 in correct_a.shape
    ):
        raise ParameterError(
            "paired_interval needs two boolean tensors of one shape, (images,) or (images, draws): right or wrong."
        )
    n = len(correct_a)
    if correct_a.ndim == 2:
        return mean_interval(100 * (correct_a.double() - correct_b.double()).mean(1))
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = _Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return 100 * (only_a - only_b) / n, 100 * max(-1.0, p - q - half), 100 * min(1.0, p - q + half)


def accuracy_interval(correct: Tensor) -> tuple[float, float, float]:
    """Accuracy on images (n,), boolean, in percent, with Wilson's 95% interval: (accuracy, low, high).

    It treats the images as drawn at random and stays inside 0 to 100, also when all or none are right.

    Raises ParameterError when there are no images, or the answers are not boolean.
    """
    if correct.dtype != torch.bool or correct.ndim != 1 or not len(correct):
        raise ParameterError("accuracy_interval needs one boolean for each image: right or wrong.")
    n, p = len(correct), correct.double().mean().item()
    scale = 1 + _Z95**2 / n
    middle = (p + _Z95**2 / (2 * n)) / scale
    half = _Z95 / scale * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n * n))
    # Its ends meet 0 and 1 exactly there; what rounding leaves beside them is cut off.
    low, high = min(max(0.0, middle - half), p), max(min(1.0, middle + half), p)
    return 100 * p, 100 * low, 100 * high


def mean_interval(values: Tensor) -> tuple[float, float, float]:
    """The mean of one number for each image (n,), with a normal 95% interval: (mean, low, high)."""
    middle = values.mean().item()
    half = _Z95 * values.std().item() / math.sqrt(len(values))
    return middle, middle - half, middle + half


def _student(freedom: int) -> float:
    """97.5% quantile of Student's t: few groups know their own spread poorly."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def jackknife_interval(
    statistic: Callable[..., float], num_images: Sequence[int], groups: int = 20, seed: int = 0
) -> tuple[float, float, float]:
    """A 95% interval for a number that is computed from images, by leaving out one group of them at a time.

    Drawing images *with* replacement would add noise of its own and pull a rank correlation down; this
    does not. The groups are equal shares of each part, drawn once (delete-a-group jackknife, Shao and Tu 1995).

    Args:
        statistic: takes one boolean mask for each part, the images to use.
        num_images: of each part.

    Returns: (value on all images, low, high).

    Raises ParameterError when a part has fewer images than groups.
    """
    if groups < 2 or min(num_images) < groups:
        raise ParameterError(
            f"{groups} groups need at least as many images in each part; the parts have {num_images}."
        )
    rng = np.random.default_rng(seed)
    group_of = [rng.permutation(np.arange(n) % groups) for n in num_images]
    without = np.array(
        [statistic(*(part != group for part in group_of)) for group in range(groups)]
    )
    value = float(statistic(*(np.ones(n, bool) for n in num_images)))
    error = math.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum())
    half = _student(groups - 1) * error
    return value, value - half, value + half


def standard_error(accuracy: ArrayLike, num_images: int) -> Any:
    """The standard error, in points, of accuracies in percent that were measured on so many images.

    It says how far another draw of as many images would move one accuracy. Two models that are shown the same images
    err together, so the error of their difference depends on which images each has right, which is not published.
    """
    share = np.asarray(accuracy, dtype=float) / 100
    check_integer("num_images", num_images, minimum=1)
    if not ((share >= 0) & (share <= 1)).all():
        raise ParameterError("accuracies must lie between 0 and 100 percent.")
    return 100 * np.sqrt(share * (1 - share) / num_images)
