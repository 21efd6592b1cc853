"""A metric: how outputs and labels become one number, and which numbers are better.

A metric looks at all images at once. Some have a shape that makes the estimates of many candidates
fast: a mean over images, or counts for each class. `radin.ranking.named_metrics` holds those that
have a name.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from radin.errors import ParameterError

_NOISE_BITS = 40  # a number without unit is compared by so many binary digits, twelve decimal ones
_RANGE_TOLERANCE = 1e-9  # the rounding of a mean at the end of the range

Compute = Callable[[Tensor, Tensor], Any]  # outputs (n, C) and labels (n,) or (n, D) to a number
PerImage = Callable[[Tensor, Tensor], Tensor]  # outputs (M, n, C) and labels to (M, n) double


@dataclass(frozen=True)
class ClassCounts:
    """How some ensembles classify the images of one class, and which others they take for it.

    Attributes:
        index, num_classes: which class it is, and how many there are.
        support: how many images have it as their label: one number, or (M,) for as many samples
            of the images.
        hits: (M,) double, how many of these each ensemble gives to the class.
        false_alarms: (M,) double, how many images of other classes it gives to the class.
    """

    index: int
    num_classes: int
    support: int | Tensor
    hits: Tensor
    false_alarms: Tensor


ClassTerms = Callable[[ClassCounts], tuple[Any, Any]]  # (M,) or numbers: above and below the line


@dataclass(frozen=True)
class Metric:
    """A metric: how outputs and labels become one number, and which numbers are better.

    Attributes:
        name: for tables and messages.
        compute: outputs (n, C), which are averaged logits in double precision, and labels (n,) or
            targets (n,) or (n, D), all on the CPU, to a finite number.
        higher_is_better: whether larger numbers are better.
        unit: "%" for percentages, "nats", or nothing.
        minimum, maximum: the range of its numbers.
        labels: what it compares outputs with: "classes" (whole numbers), "numbers" (targets of
            regression), or "any".
        trivial_classes: with so many classes or fewer, every model has the best value.
        per_image: for a metric that is a mean over images, the values of many ensembles there.
        class_terms: for a metric that is made of counts for each class: the terms that a class adds
            above and below the line. The metric is the quotient of the two sums, in percent.
        needs_false_alarms: whether `class_terms` reads them.

    >>> import radin, torch
    >>> from sklearn.metrics import cohen_kappa_score
    >>> def kappa(outputs, labels):
    ...     return cohen_kappa_score(labels, outputs.argmax(1))
    >>> metric = radin.Metric("kappa", kappa, higher_is_better=True)
    >>> bank = radin.synthetic_bank(num_models=3, num_images=50, num_classes=4, seed=0)
    >>> radin.fast_estimate(bank, radin.exhaustive(3), metric=metric).shape
    torch.Size([7])
    """

    name: str
    compute: Compute
    higher_is_better: bool
    unit: str = ""
    minimum: float = -math.inf
    maximum: float = math.inf
    labels: str = "any"
    trivial_classes: int = 0
    per_image: PerImage | None = field(default=None, repr=False, compare=False)
    class_terms: ClassTerms | None = field(default=None, repr=False, compare=False)
    needs_false_alarms: bool = field(default=False, repr=False, compare=False)

    def __str__(self) -> str:
        return self.name

    @property
    def is_percentage(self) -> bool:
        """Whether its numbers are percentages, so that differences are points."""
        return self.unit == "%"

    def __call__(self, outputs: Tensor, labels: Tensor) -> float:
        """The metric of one network or ensemble.

        Args:
            outputs: (n, C).
            labels: (n,), or targets (n,) or (n, D).

        Raises:
            ParameterError: labels of the wrong kind, or a result that is no finite number.
        """
        self.check_labels(labels, num_outputs=outputs.shape[-1])
        with warnings.catch_warnings():  # scikit-learn warns of classes that no image has
            warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
            answer = self.compute(outputs.detach().cpu().double(), labels.cpu())
        return self.check_value(answer, source="its function must return")

    def check_value(self, answer: object, *, source: str) -> float:
        """A number that the metric can have.

        Args:
            answer: what a function returned.
            source: who must give it, such as "its function must return", for the error message.

        Raises:
            ParameterError: it is no finite number, or outside the metric's range.
        """
        try:
            value = math.nan if isinstance(answer, str) else float(answer)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            value = math.nan
        within = self.minimum - _RANGE_TOLERANCE <= value <= self.maximum + _RANGE_TOLERANCE
        if not (math.isfinite(value) and within):  # NaN fails both
            article = "an" if self.name == "nll" or self.name[0] in "aeiou" else "a"
            raise ParameterError(
                f"{source} {article} {self.name} {self._describe_range()}, not {answer!r}."
            )
        return value

    def _describe_range(self) -> str:
        unit = "percent" if self.is_percentage else self.unit
        in_unit = f"in {unit}, " if unit else ""
        if self.minimum > -math.inf and self.maximum < math.inf:
            return f"{in_unit}{self.minimum:g} to {self.maximum:g}"
        at_least = f" of at least {self.minimum:g}" if self.minimum > -math.inf else ""
        return f"{in_unit}a finite number{at_least}, also for a soup that is broken"

    def check_labels(self, labels: Tensor, *, num_outputs: int) -> None:
        """Check that a bank's or split's labels are what the metric compares outputs with.

        Raises:
            ParameterError: they are not.
        """
        are_numbers = labels.is_floating_point()
        if self.labels == "classes" and are_numbers:
            raise ParameterError(
                f"{self.name} needs classes as labels, and these are numbers, as in regression. "
                "Choose mean_squared_error or a function as the metric; or, if the numbers are "
                "classes, convert them: labels.long()."
            )
        if num_outputs <= self.trivial_classes:
            warnings.warn(
                f"{self.name} of {num_outputs} classes is {self.text_with_unit(self.maximum)} for "
                "every model, so it compares none.",
                stacklevel=3,
            )
        if self.labels != "numbers":
            return
        if not are_numbers:
            raise ParameterError(
                f"{self.name} is for regression, and these labels are classes (whole numbers); "
                "give targets in floating point, or choose another metric."
            )
        width = labels.shape[1] if labels.ndim == 2 else 1
        if width != num_outputs:
            raise ParameterError(
                f"{self.name} compares each output with its target; there are {num_outputs} "
                f"outputs and {width} targets for each image."
            )

    def gain(self, value: float, other: float) -> float:
        """How much better one value is than another; negative if it is worse."""
        return value - other if self.higher_is_better else other - value

    def comparable(self, values: Any) -> np.ndarray:
        """Values such that the larger is the better and equal ones are equal.

        Numbers that differ by the rounding of their computation only become one number: 1e-9 of a
        point for percentages, 1e-12 of the largest number for others.
        """
        numbers = np.asarray(values, dtype=np.float64)
        numbers = _without_noise(numbers) if not self.is_percentage else np.round(numbers, 9)
        return numbers if self.higher_is_better else -numbers

    def text(self, value: float) -> str:
        """A value for a table: two decimals of a percentage, six digits of other numbers."""
        return f"{value:.2f}" if self.is_percentage else f"{value:.6g}"

    def text_with_unit(self, value: float) -> str:
        """A value for a sentence."""
        separator = " " if self.unit and not self.is_percentage else ""
        return f"{self.text(value)}{separator}{self.unit}"

    @property
    def unit_of_differences(self) -> str:
        """What differences are measured in: " in points", " in nats", or nothing."""
        unit = "points" if self.is_percentage else self.unit
        return f" in {unit}" if unit else ""


def _without_noise(numbers: np.ndarray) -> np.ndarray:
    largest = float(np.abs(numbers).max(initial=0.0))
    _, exponent = math.frexp(largest)
    step = math.ldexp(1.0, max(exponent - _NOISE_BITS, -1000))  # a power of two: dividing is exact
    return np.rint(numbers / step) * step
