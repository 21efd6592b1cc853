"""Is the difference between two models more than chance? Paired, on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from radin.errors import ParameterError, check_integer
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import ACCURACY
from radin.ranking.resampling import NUM_RESAMPLES, bootstrap_difference

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Interval = tuple[float, float, float]  # value, low, high

_NORMAL_QUANTILE = 1.959963984540054  # at 97.5%


def paired_interval(correct_a: Tensor, correct_b: Tensor) -> Interval:
    """Accuracy of a minus accuracy of b on the same images, with a 95% interval.

    With one answer for each image this is an adjusted Wald interval. Only images on which the two
    disagree widen it, and it is never a single point. With several answers for each image (one for
    each draw of the noise, for example) the images are the sample. Their mean differences give a
    normal interval, so that answers to one image do not count as new images.

    Args:
        correct_a: (n,) or (n, draws) boolean, whether model a is right.
        correct_b: the same of model b.

    Returns:
        (difference, low, high) in percentage points.

    Raises:
        ParameterError: the two are not boolean of one such shape, or there are fewer than 2 images
            for draws.

    Source: Bonett and Price 2012.
    """
    same = correct_a.dtype == correct_b.dtype == torch.bool and correct_a.shape == correct_b.shape
    if (
        not same
        or correct_a.ndim not in (1, 2)
        or len(correct_a) < correct_a.ndim
        or 0 in correct_a.shape
    ):
        raise ParameterError(
            "paired_interval needs two boolean tensors of one shape, (images,) or (images, draws): "
            "right or wrong."
        )
    n = len(correct_a)
    if correct_a.ndim == 2:
        return mean_interval(100 * (correct_a.double() - correct_b.double()).mean(1))
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    p = (only_a + 1) / (n + 2)
    q = (only_b + 1) / (n + 2)
    half = _NORMAL_QUANTILE * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    low = max(-1.0, p - q - half)
    high = min(1.0, p - q + half)
    return 100 * (only_a - only_b) / n, 100 * low, 100 * high


def paired_metric_interval(
    metric: Metric,
    outputs_a: Tensor,
    outputs_b: Tensor,
    labels: Tensor,
    *,
    resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A metric of network a less that of b on the same images, with a 95% interval.

    Accuracy has the interval of `paired_interval`. Another metric that is a mean over images has a
    normal one, from the differences on single images. For any other metric images are drawn with
    replacement.

    Args:
        metric: any, such as `radin.ranking.named_metrics.METRICS["macro_f1"]`.
        outputs_a: (n, C) of network a.
        outputs_b: (n, C) of network b.
        labels: (n,), or targets (n,) or (n, D).
        resamples: how many samples to draw.
        seed: of the draws.

    Returns:
        (difference, low, high), in points for percentages, else in the metric's unit.

    Raises:
        ParameterError: the shapes differ, or labels that the metric cannot use.
    """
    metric.check_labels(labels, num_outputs=outputs_a.shape[-1])
    if outputs_a.shape != outputs_b.shape or len(outputs_a) != len(labels) or len(labels) < 2:
        raise ParameterError(
            "paired_metric_interval needs outputs of two networks for the same images, at least 2."
        )
    if metric == ACCURACY:
        return paired_interval(outputs_a.argmax(-1) == labels, outputs_b.argmax(-1) == labels)
    if metric.per_image is not None:
        a, b = (metric.per_image(x.double()[None], labels)[0] for x in (outputs_a, outputs_b))
        return mean_interval(a - b)
    found = bootstrap_difference(
        metric, outputs_a, outputs_b, labels, resamples=resamples, seed=seed
    )
    return found.value, found.low, found.high


def in_words(
    interval: Interval,
    above: str = "ahead",
    below: str = "behind",
    across: str = "no clear difference",
) -> str:
    """What the interval of a difference says.

    Args:
        interval: (value, low, high).
        above: the answer where all of it is above zero.
        below: where all of it is below zero.
        across: where it contains zero, also as an end.
    """
    _, low, high = interval
    if low > 0:
        return above
    return below if high < 0 else across


def claim_in_words(interval: Interval, *, margin: float | None = None) -> str:
    """What an interval says of a claim: "holds", "does not hold here" or "open".

    Args:
        interval: (value, low, high) of a difference that the claim calls positive.
        margin: for a claim that two things are equal: it holds where the whole interval is within
            the margin, and does not where the whole interval is outside it.
    """
    if margin is None:
        return in_words(interval, "holds", "does not hold here", "open")
    _, low, high = interval
    if -margin < low and high < margin:
        return "holds"
    return "does not hold here" if low > margin or high < -margin else "open"


def write_interval(interval: Interval, form: str = "+.2f") -> str:
    """A value and its interval as text, with signs as in print and without a negative zero.

    Args:
        interval: (value, low, high).
        form: of each number.

    >>> from radin.experiments.intervals import write_interval
    >>> write_interval((0.2, -0.1, 0.5))
    '+0.20 (−0.10 to +0.50)'
    """
    value, low, high = (write_number(each, form) for each in interval)
    return f"{value} ({low} to {high})"


def write_number(value: float, form: str = "+.2f") -> str:
    """A number as text, with a sign as in print; what rounds to zero is not negative.

    >>> from radin.experiments.intervals import write_number
    >>> write_number(-0.5), write_number(-0.001)
    ('−0.50', '+0.00')
    """
    text = format(value, form)
    if float(text.replace(",", "")) == 0:
        return format(0.0, form)
    return f"−{text[1:]}" if text.startswith("-") else text


def accuracy_interval(correct: Tensor) -> Interval:
    """An accuracy with its 95% interval, as of images drawn at random.

    The interval stays inside 0 to 100, also when all or none are right.

    Args:
        correct: (n,) boolean, whether the model is right.

    Returns:
        (accuracy, low, high) in percent.

    Raises:
        ParameterError: there are no images, or the answers are not boolean.

    Source: Wilson 1927.
    """
    if correct.dtype != torch.bool or correct.ndim != 1 or not len(correct):
        raise ParameterError("accuracy_interval needs one boolean for each image: right or wrong.")
    n = len(correct)
    p = correct.double().mean().item()
    z = _NORMAL_QUANTILE
    scale = 1 + z**2 / n
    middle = (p + z**2 / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z**2 / (4 * n * n))
    # At 0 and 1 an end of the interval is p itself. Rounding may put it beside p, so it is cut.
    low = min(max(0.0, middle - half), p)
    high = max(min(1.0, middle + half), p)
    return 100 * p, 100 * low, 100 * high


def mean_interval(values: Tensor) -> Interval:
    """The mean of one number for each image (n,), with a normal 95% interval: (mean, low, high)."""
    middle = values.mean().item()
    half = _NORMAL_QUANTILE * values.std().item() / math.sqrt(len(values))
    return middle, middle - half, middle + half


def jackknife_interval(
    statistic: Callable[..., float],
    num_images: Sequence[int],
    *,
    groups: int = 20,
    seed: int = 0,
) -> Interval:
    """A 95% interval for a number that is computed from images, by leaving out one group at a time.

    The groups are equal shares of each part, drawn once. Drawing images with replacement instead
    would add noise of its own and lower a rank correlation.

    Args:
        statistic: takes one boolean mask for each part, the images to use.
        num_images: of each part.
        groups: how many.
        seed: of the groups.

    Returns:
        (value on all images, low, high).

    Raises:
        ParameterError: a part has fewer images than groups, or there are fewer than 2 groups.

    Source: the delete-a-group jackknife, Shao and Tu 1995.
    """
    if groups < 2 or min(num_images) < groups:
        raise ParameterError(
            f"{groups} groups need at least as many images in each part; the parts have "
            f"{num_images}."
        )
    rng = np.random.default_rng(seed)
    group_of = [rng.permutation(np.arange(n) % groups) for n in num_images]
    without = np.array(
        [statistic(*(part != group for part in group_of)) for group in range(groups)]
    )
    value = float(statistic(*(np.ones(n, bool) for n in num_images)))
    error = math.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum())
    half = _t_quantile(groups - 1) * error
    return value, value - half, value + half


def _t_quantile(degrees_of_freedom: int) -> float:
    """97.5% quantile of Student's t: with few groups the spread is known poorly."""
    from scipy.stats import t

    return float(t.ppf(0.975, degrees_of_freedom))


def standard_error(accuracy: ArrayLike, num_images: int) -> Any:
    """The standard error of accuracies that were measured on so many images.

    It is the typical change of one accuracy with another sample of as many images. Two models that
    see the same images make errors together, so the error of their difference is another one.

    Args:
        accuracy: one or many, in percent.
        num_images: each was measured on.

    Returns:
        In percentage points, in the shape of `accuracy`.

    Raises:
        ParameterError: an accuracy outside 0 to 100, or no images.
    """
    share = np.asarray(accuracy, dtype=float) / 100
    check_integer("num_images", num_images, minimum=1)
    if not ((share >= 0) & (share <= 1)).all():
        raise ParameterError("accuracies must be between 0 and 100 percent.")
    return 100 * np.sqrt(share * (1 - share) / num_images)
