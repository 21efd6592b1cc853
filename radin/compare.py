"""Is the difference between two models more than chance? Paired, on the same images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from radin.errors import ParameterError

_Z95 = 1.959963984540054  # 97.5% quantile of the normal distribution


def paired_interval(correct_a: Tensor, correct_b: Tensor) -> tuple[float, float, float]:
    """Accuracy of a minus accuracy of b on the same images, with a 95% interval, in percentage points.

    The interval is the adjusted Wald interval of Bonett and Price (2012): only images on which the two
    disagree widen it, and it does not collapse to a point when they never do.

    Args:
        correct_a, correct_b: (n,) boolean, whether each model is right on each image.

    Returns: (difference, low, high).

    Raises ParameterError when the two are not boolean of one length of at least 1.
    """
    if correct_a.dtype != torch.bool or correct_b.dtype != torch.bool or correct_a.shape != correct_b.shape:
        raise ParameterError("paired_interval needs two boolean tensors of one length: right or wrong, image by image.")
    n = len(correct_a)
    if n == 0:
        raise ParameterError("paired_interval needs at least one image.")
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = _Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return 100 * (only_a - only_b) / n, 100 * max(-1.0, p - q - half), 100 * min(1.0, p - q + half)
