"""Is the difference between two models more than chance? Paired, on the same images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from radin.errors import ParameterError

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
    if not same or correct_a.ndim not in (1, 2) or len(correct_a) < correct_a.ndim or 0 in correct_a.shape:
        raise ParameterError(
            "paired_interval needs two boolean tensors of one shape, (images,) or (images, draws): right or wrong."
        )
    n = len(correct_a)
    if correct_a.ndim == 2:
        differences = (correct_a.double() - correct_b.double()).mean(1)
        middle = differences.mean().item()
        half = _Z95 * differences.std().item() / math.sqrt(n)
        return 100 * middle, 100 * (middle - half), 100 * (middle + half)
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = _Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return 100 * (only_a - only_b) / n, 100 * max(-1.0, p - q - half), 100 * min(1.0, p - q + half)
