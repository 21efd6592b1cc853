"""How much a difference of two networks' metrics would change with other images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from radin.errors import ParameterError, check_integer, check_seed
from radin.ranking.bank import LogitBank
from radin.ranking.estimates import ensemble_outputs
from radin.ranking.metrics import ClassCounts, Metric
from radin.ranking.named_metrics import ACCURACY

NUM_RESAMPLES = 1000
_NOISE_RESAMPLES = 200  # for a standard error, not for quantiles
OfSamples = Callable[[Tensor], Tensor]
_MAX_RESAMPLED = 2**22  # indices of images, held in memory at once


class Difference(NamedTuple):
    """The metric of one network less that of another, and what the images leave uncertain.

    Attributes:
        value: the difference on all images.
        low, high: its 95% interval.
        standard_error: the typical change of the difference with another sample of images.
    """

    value: float
    low: float
    high: float
    standard_error: float


def bootstrap_difference(
    metric: Metric,
    outputs_a: Tensor,
    outputs_b: Tensor,
    labels: Tensor,
    *,
    resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The metric of network a less that of b on the same images, with a 95% percentile interval.

    Images are drawn with replacement, the same for both networks. This works for any metric, also
    for one that is no mean over images.

    Args:
        metric: any.
        outputs_a: (n, C) of network a.
        outputs_b: (n, C) of network b.
        labels: (n,), or targets (n,) or (n, D).
        resamples: how many samples of n images to draw.
        seed: of the draws.

    Raises:
        ParameterError: the shapes differ, there are fewer than 2 images or resamples, or the metric
            is no finite number on a sample.

    Source: Efron 1979; the draws and the quantiles are `scipy.stats.bootstrap`.

    >>> import radin
    >>> from radin.ranking.named_metrics import METRICS
    >>> from radin.ranking.resampling import bootstrap_difference
    >>> bank = radin.synthetic_bank(num_models=2, num_images=50, num_classes=4, seed=0)
    >>> one, other = bank.logits
    >>> found = bootstrap_difference(METRICS["macro_f1"], one, other, bank.labels, resamples=100)
    >>> found.low <= found.value <= found.high
    True
    """
    from scipy.stats import bootstrap

    resamples = check_integer("resamples", resamples, minimum=2)
    n = len(labels)
    if outputs_a.shape != outputs_b.shape or len(outputs_a) != n or n < 2:
        raise ParameterError(
            "bootstrap_difference needs outputs of two networks for the same images, at least 2; "
            f"the shapes are {tuple(outputs_a.shape)}, {tuple(outputs_b.shape)} and "
            f"{tuple(labels.shape)}."
        )

    of_samples = [_values_of_samples(metric, x, labels) for x in (outputs_a, outputs_b)]

    def difference(drawn: np.ndarray, axis: int) -> np.ndarray:
        images = torch.from_numpy(np.ascontiguousarray(np.atleast_2d(drawn)))
        values = of_samples[0](images) - of_samples[1](images)
        return values.numpy() if drawn.ndim > 1 else values[0].numpy()

    found = bootstrap(
        (np.arange(n),),
        difference,
        n_resamples=resamples,
        batch=max(1, _MAX_RESAMPLED // n),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(check_seed(seed)),
    )
    low, high = found.confidence_interval
    value = metric(outputs_a, labels) - metric(outputs_b, labels)
    return Difference(value, float(low), float(high), float(found.standard_error))


def _values_of_samples(metric: Metric, outputs: Tensor, labels: Tensor) -> OfSamples:
    """A function from images (M, n), drawn with replacement, to the metric of each sample: (M,)."""
    if metric.per_image is not None:
        metric.check_labels(labels, num_outputs=outputs.shape[-1])
        values = metric.per_image(outputs.double()[None], labels)[0]
        return lambda images: values[images].mean(1)
    if metric.class_terms is not None:
        metric.check_labels(labels, num_outputs=outputs.shape[-1])
        answers, num_classes = outputs.argmax(-1), outputs.shape[-1]
        return lambda images: _by_counting(metric, answers[images], labels[images], num_classes)

    def one_by_one(images: Tensor) -> Tensor:
        values = [metric(outputs[some], labels[some]) for some in images]
        return torch.tensor(values, dtype=torch.float64)

    return one_by_one


def _by_counting(metric: Metric, answers: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """A metric of counts for each class, for several samples of images: (M,).

    Args:
        answers: (M, n) classes that the network gives.
        labels: (M, n).
    """
    assert metric.class_terms is not None
    right = answers == labels
    sample = torch.arange(len(labels)).unsqueeze(1) * num_classes

    def count(classes: Tensor, which: Tensor) -> Tensor:
        """How many of the images have each class, in each sample: (C, M)."""
        found = torch.bincount((sample + classes)[which], minlength=len(labels) * num_classes)
        return found.view(-1, num_classes).T.double()

    hits, false_alarms = count(labels, right), count(answers, ~right)
    support = count(labels, torch.ones_like(right))
    above, below = torch.zeros(2, len(labels), dtype=torch.float64)
    for c in range(num_classes):
        more_above, more_below = metric.class_terms(
            ClassCounts(
                index=c,
                num_classes=num_classes,
                support=support[c],
                hits=hits[c],
                false_alarms=false_alarms[c],
            )
        )
        above += more_above
        below += more_below
    if not (below > 0).all():
        raise ParameterError(f"{metric.name} has no image to count in a sample of the images.")
    return above * 100 / below


def noise_of_difference(bank: LogitBank, a: Tensor, b: Tensor, metric: Metric) -> float:
    """How much two soups may differ by chance: the standard error of their paired difference.

    Their ensembles stand for them. For accuracy every image counts on which the two answer
    differently.

    Args:
        bank: logits (N, n, C).
        a, b: (N,) mixing weights.
        metric: in whose unit the error is.

    Returns: infinity for a metric other than accuracy on a single image.
    """
    first, second = (ensemble_outputs(bank, weights.double()) for weights in (a, b))
    if metric == ACCURACY:
        differ = (first.argmax(-1) != second.argmax(-1)).double().mean().item()
        return 100 * math.sqrt(max(differ, 1 / bank.num_images) / bank.num_images)
    if bank.num_images < 2:
        return math.inf
    if metric.per_image is not None:
        x, y = (metric.per_image(outputs[None], bank.labels)[0] for outputs in (first, second))
        return (x - y).std().item() / math.sqrt(bank.num_images)
    return bootstrap_difference(
        metric, first.cpu(), second.cpu(), bank.labels.cpu(), resamples=_NOISE_RESAMPLES
    ).standard_error
