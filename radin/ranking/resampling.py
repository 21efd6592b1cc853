"""How much a difference of two networks' metrics would change with other images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from radin.errors import ParameterError, check_integer, check_seed
from radin.ranking.metrics import Metric

NUM_RESAMPLES = 1000
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

    def difference(drawn: np.ndarray) -> float:
        images = torch.from_numpy(np.ascontiguousarray(drawn))
        some = labels[images]
        return metric(outputs_a[images], some) - metric(outputs_b[images], some)

    found = bootstrap(
        (np.arange(n),),
        difference,
        n_resamples=resamples,
        batch=max(1, _MAX_RESAMPLED // n),
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(check_seed(seed)),
    )
    low, high = found.confidence_interval
    value = metric(outputs_a, labels) - metric(outputs_b, labels)
    return Difference(value, float(low), float(high), float(found.standard_error))
