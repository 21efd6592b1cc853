"""The metrics that have a name, and how a metric is found.

scikit-learn computes them. What stands beside each are the terms of one image or one class, which
`radin.fast_estimate` sums for many candidates at once; tests hold the two together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radin.errors import ParameterError, list_names
from radin.ranking.metrics import ClassCounts, Compute, Metric

NUM_CALIBRATION_BINS = 15  # of equal width, as Guo et al. 2017 have them


# Means over images ------------------------------------------------------------------------------


def nll_of(ensemble: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood (M, n) of logits (M, n, C) and labels (n,), in nats."""
    picked = ensemble.gather(-1, labels.expand(len(ensemble), -1).unsqueeze(-1)).squeeze(-1)
    return ensemble.logsumexp(-1) - picked


def _nll(outputs: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs, labels)


def _hits_in_percent(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(-1) == labels).double() * 100


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    from sklearn.metrics import accuracy_score

    return 100 * accuracy_score(labels, outputs.argmax(-1))


@dataclass(frozen=True)
class _TopK:
    """Whether the label is among the K largest logits; the lowest class wins a tie."""

    k: int

    def __call__(self, outputs: Tensor, labels: Tensor) -> float:
        from sklearn.metrics import top_k_accuracy_score

        # scikit-learn lets the highest class win a tie and wants a vector for two classes. So the
        # classes are numbered from the end, and one is added that is never chosen.
        never = outputs.min(-1, keepdim=True).values - 1
        backwards = torch.cat([outputs, never], -1).flip(-1)
        num_classes = outputs.shape[-1]
        return 100 * top_k_accuracy_score(
            num_classes - labels,
            backwards,
            k=min(self.k, num_classes),
            labels=np.arange(num_classes + 1),
        )

    def per_image(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(M, n) 100 where the label is among them, else 0."""
        num_classes = outputs.shape[-1]
        own = outputs.gather(-1, labels.expand(len(outputs), -1).unsqueeze(-1))
        lower = torch.arange(num_classes, device=outputs.device) < labels.unsqueeze(-1)
        num_ahead = ((outputs > own) | ((outputs == own) & lower)).sum(-1)
        return (num_ahead < self.k).double() * 100


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    targets = targets.unsqueeze(-1) if targets.ndim == 1 else targets
    return (outputs - targets).square().mean(-1)


def _mean_squared_error(outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(targets.reshape(outputs.shape), outputs))


# Counts for each class --------------------------------------------------------------------------


def _macro_f1(outputs: Tensor, labels: Tensor) -> float:
    from sklearn.metrics import f1_score

    return 100 * f1_score(labels, outputs.argmax(-1), average="macro", zero_division=0)


def _f1_terms(counts: ClassCounts) -> tuple[Tensor, Tensor]:
    total = counts.support + counts.hits + counts.false_alarms
    # A class that is neither a label nor an answer is left out of the mean, as in scikit-learn.
    return 2 * counts.hits / total.clamp(min=1), total > 0


def _mean_iou(outputs: Tensor, labels: Tensor) -> float:
    from sklearn.metrics import jaccard_score

    return 100 * jaccard_score(labels, outputs.argmax(-1), average="macro", zero_division=0)


def _iou_terms(counts: ClassCounts) -> tuple[Tensor, Tensor]:
    union = counts.support + counts.false_alarms
    return counts.hits / union.clamp(min=1), union > 0


def _balanced_accuracy(outputs: Tensor, labels: Tensor) -> float:
    from sklearn.metrics import balanced_accuracy_score

    return 100 * balanced_accuracy_score(labels, outputs.argmax(-1))


def _recall_terms(counts: ClassCounts) -> tuple[Tensor, Tensor]:
    support = torch.as_tensor(counts.support)
    return counts.hits / support.clamp(min=1), support > 0


def class_weighted_accuracy(class_weights: Sequence[float] | Tensor) -> Metric:
    """Accuracy in which each image counts as much as its class does.

    Args:
        class_weights: (C,) numbers of at least 0, not all 0.

    Raises:
        ParameterError: impossible weights. An estimate raises it where the bank has other classes.

    >>> import radin
    >>> from radin.ranking.named_metrics import class_weighted_accuracy
    >>> bank = radin.synthetic_bank(num_models=3, num_images=50, num_classes=4, seed=0)
    >>> metric = class_weighted_accuracy([1, 1, 1, 5])
    >>> ranking = radin.rank(bank, radin.exhaustive(3), metric=metric)
    """
    weighted = _ClassWeights(tuple(float(weight) for weight in class_weights))
    return _percentage("class_weighted_accuracy", weighted, class_terms=weighted.terms)


@dataclass(frozen=True)
class _ClassWeights:
    """Accuracy with a weight for each class."""

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        possible = all(0 <= weight < math.inf for weight in self.weights)
        if not possible or sum(self.weights) <= 0:
            raise ParameterError(
                "class_weights must be finite numbers of at least 0, not all 0; these are "
                f"{self.weights}."
            )

    def __call__(self, outputs: Tensor, labels: Tensor) -> float:
        from sklearn.metrics import accuracy_score

        self._check(outputs.shape[-1])
        of_images = torch.tensor(self.weights, dtype=torch.float64)[labels]
        return 100 * accuracy_score(labels, outputs.argmax(-1), sample_weight=of_images)

    def terms(self, counts: ClassCounts) -> tuple[Tensor, float | Tensor]:
        self._check(counts.num_classes)
        weight = self.weights[counts.index]
        return weight * counts.hits, weight * counts.support

    def _check(self, num_classes: int) -> None:
        if len(self.weights) != num_classes:
            raise ParameterError(
                f"class_weights has {len(self.weights)} numbers for {num_classes} classes; give "
                "one for each class."
            )


# Others -----------------------------------------------------------------------------------------


def _calibration_error(outputs: Tensor, labels: Tensor) -> float:
    """The expected calibration error of the largest probability.

    scikit-learn computes the curve, the mean confidence and the accuracy of each bin that is not
    empty. The error is the mean distance of the two, in which a bin counts as much as its images.

    Source: Guo et al. 2017.
    """
    from sklearn.calibration import calibration_curve

    confidence, answer = outputs.softmax(-1).max(-1)
    accuracy, mean_confidence = calibration_curve(
        (answer == labels).numpy(), confidence.numpy(), pos_label=1, n_bins=NUM_CALIBRATION_BINS
    )
    edges = np.linspace(0, 1, NUM_CALIBRATION_BINS + 1)
    sizes = np.bincount(np.searchsorted(edges[1:-1], confidence.numpy()))  # as the curve has them
    return 100 * np.average(np.abs(accuracy - mean_confidence), weights=sizes[sizes > 0])


def _percentage(
    name: str, compute: Compute, *, higher_is_better: bool = True, **shape: Any
) -> Metric:
    """A metric of classes from 0 to 100 percent."""
    return Metric(
        name,
        compute,
        higher_is_better,
        unit="%",
        minimum=0,
        maximum=100,
        labels="classes",
        **shape,
    )


ACCURACY = _percentage("accuracy", _accuracy, per_image=_hits_in_percent)
NLL = Metric(
    "nll",
    _nll,
    higher_is_better=False,
    unit="nats",
    minimum=0,
    labels="classes",
    per_image=nll_of,
)
MEAN_SQUARED_ERROR = Metric(
    "mean_squared_error",
    _mean_squared_error,
    higher_is_better=False,
    minimum=0,
    labels="numbers",
    per_image=_squared_error,
)
METRICS = {
    metric.name: metric
    for metric in (
        ACCURACY,
        NLL,
        _percentage("macro_f1", _macro_f1, class_terms=_f1_terms, needs_false_alarms=True),
        _percentage("balanced_accuracy", _balanced_accuracy, class_terms=_recall_terms),
        _percentage("mean_iou", _mean_iou, class_terms=_iou_terms, needs_false_alarms=True),
        _percentage("calibration_error", _calibration_error, higher_is_better=False),
        MEAN_SQUARED_ERROR,
    )
}
_TOP_K = re.compile(r"top([1-9][0-9]{0,5})_accuracy")
_OTHER_TOP_K = re.compile(r"(?:(?:acc(?:uracy)?|top)_?)+([1-9][0-9]{0,5})(?:_?acc(?:uracy)?)?")
_OTHER_NAMES = {  # what scikit-learn, torchmetrics and papers call them
    **dict.fromkeys(("acc", "top1", "accuracy_score", "micro_f1", "f1_micro"), "accuracy"),
    **dict.fromkeys(("f1", "f1_score", "macro_f1_score", "f1score"), "macro_f1"),
    **dict.fromkeys(("bacc", "uar", "macro_recall", "balanced_acc"), "balanced_accuracy"),
    **dict.fromkeys(("iou", "miou", "jaccard", "jaccard_index", "jaccard_score"), "mean_iou"),
    **dict.fromkeys(("ece", "expected_calibration_error"), "calibration_error"),
    **dict.fromkeys(("mse", "l2"), "mean_squared_error"),
    **dict.fromkeys(
        ("loss", "log_loss", "cross_entropy", "ce", "negative_log_likelihood", "neg_log_loss"),
        "nll",
    ),
}

MetricLike = str | Metric | Compute


def find_metric(
    metric: MetricLike, higher_is_better: bool | None = None, *, needs_direction: bool = True
) -> Metric:
    """A metric by its name, or of a function.

    Args:
        metric: one of `METRICS`, "top5_accuracy" with any number, a `Metric`, or a function of
            outputs (n, C) and labels.
        higher_is_better: which numbers of a function are better. It can also be an attribute of
            the function, as it is of the metrics of torchmetrics.
        needs_direction: whether numbers will be compared.

    Raises:
        ParameterError: an unknown name, a function without a direction, or a direction that is not
            the metric's own.

    >>> from radin.ranking.named_metrics import find_metric
    >>> find_metric("top5_accuracy").unit, find_metric("nll").higher_is_better
    ('%', False)
    """
    if higher_is_better is not None and not isinstance(higher_is_better, bool | np.bool_):
        raise ParameterError(f"higher_is_better must be True or False, not {higher_is_better!r}.")
    found = _named(metric) if isinstance(metric, str) else metric
    if isinstance(found, Metric):
        if higher_is_better not in (None, found.higher_is_better):
            raise ParameterError(
                f"higher_is_better={higher_is_better} was given for {found.name}, whose "
                f"{'larger' if found.higher_is_better else 'smaller'} numbers are better; leave it "
                "out."
            )
        return found
    if not callable(found):
        raise ParameterError(
            f"metric must be a name, a Metric or a function of outputs and labels, not {metric!r}."
        )
    name = str(getattr(found, "__name__", type(found).__name__))
    direction = higher_is_better
    if direction is None:
        direction = getattr(found, "higher_is_better", None)
    if direction is None and needs_direction:
        raise ParameterError(
            f"Are larger or smaller numbers of {name} better? Give higher_is_better=True or False."
        )
    return Metric(name, found, bool(direction))


def _named(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    if match := _TOP_K.fullmatch(name):
        top = _TopK(int(match[1]))
        return _percentage(name, top, per_image=top.per_image, trivial_classes=top.k)
    near = f"; did you mean {similar}?" if (similar := _similar(name)) else "."
    raise ParameterError(
        f"metric must be one of {list_names([*METRICS, 'top5_accuracy (any number)'], most=99)}, "
        f"or a function of outputs and labels, not {name!r}{near}"
    )


def _similar(name: str) -> str:
    """The metric that an unknown name most likely means; "" where there is none.

    Words count in any order, and in other programs' names of the same metric.
    """
    plain = name.lower().replace("-", "_").replace(" ", "_").replace("@", "_")
    if found := _OTHER_NAMES.get(plain):
        return found
    if match := _OTHER_TOP_K.fullmatch(plain):
        return f"top{match[1]}_accuracy"
    known = {"_".join(sorted(each.split("_"))): each for each in [*METRICS, "top5_accuracy"]}
    near = get_close_matches("_".join(sorted(plain.split("_"))), known, n=1)
    return known[near[0]] if near else ""
