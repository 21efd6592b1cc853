"""The ledger: how a recipe spends its budget, and cannot overspend it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from radin.errors import BudgetError, ParameterError
from radin.inference.evaluate import ImageEvaluator, LiveEvaluator
from radin.inference.partial import PartialEvaluations
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import ACCURACY
from radin.ranking.rank import fast_estimate
from radin.soup.average import average_by_tensor

Evaluate = Callable[[Tensor], float]


@dataclass(frozen=True)
class Trial:
    """One soup that a recipe looked at.

    Attributes:
        weights: (N,) mixing weights.
        estimate: fast estimate in percent, or in the metric's unit, read off the bank.
        value: validation accuracy in percent, or another metric. It comes from an evaluation of the
            soup, or off the bank when not `evaluated`.
        evaluated: whether it cost an evaluation.
        metric: what estimate and value are.
        standard_error: of the value, in its unit: how far a whole evaluation may be from it. It is
            0 unless the soup was run on a share of the images.
        cost: what it cost, in forward passes over the validation split.
        tensor_weights: (N,) mixing weights of each tensor by its name, where a soup was learned
            part by part; None for all others. `weights` are then the mean over the parts, and the
            estimate is that of the ensemble with these.
        seconds: that the evaluation took: averaging, reading and running. Soups that were evaluated
            in one pass over the images share its seconds. It is 0 for what the bank answers.

    >>> import radin
    >>> bench = radin.SoupBench.load("cifar10")
    >>> trial = radin.craft(bench.val, bench.evaluator(), budget=1).trials[0]
    >>> print(f"{trial.estimate:.2f} {trial.accuracy:.2f} {trial.evaluated}")
    83.48 82.88 True
    """

    weights: Tensor
    estimate: float
    value: float
    evaluated: bool = True
    metric: Metric = ACCURACY
    standard_error: float = 0.0
    cost: Fraction = Fraction(0)
    tensor_weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    seconds: float = field(default=0.0, repr=False, compare=False)

    @property
    def accuracy(self) -> float:
        """The value, if it is an accuracy in percent.

        Raises ParameterError for another metric.
        """
        return accuracy_of(self.value, self.metric)


def accuracy_of(value: float, metric: Metric) -> float:
    """The value of a trial or soup as an accuracy.

    Raises:
        ParameterError: it is another metric's.
    """
    if metric != ACCURACY:
        raise ParameterError(f"This was measured by {metric.name}, not accuracy; read .value.")
    return value


@dataclass
class _Look:
    """A trial before its estimate is read; `value` is None where it was not evaluated."""

    weights: Tensor
    estimate: float | None
    value: float | None
    standard_error: float = 0.0
    cost: Fraction = Fraction(0)
    tensor_weights: Mapping[str, Tensor] | None = None
    seconds: float = 0.0


@dataclass
class Ledger:
    """The only way for a recipe to an evaluation; it cannot be overspent.

    `look` takes a value off the bank and is free. `spend` evaluates a soup and costs one pass over
    the validation split, or the share of the images that the evaluator runs. `charge` books other
    work for what it costs. What the user should know goes to `notes`. `metric` is what bank and
    evaluations are read by.
    """

    bank: LogitBank
    evaluate: Evaluate
    budget: int
    charged: Fraction = Fraction(0)
    notes: list[str] = field(default_factory=list)
    _looks: list[_Look] = field(default_factory=list, repr=False)
    metric: Metric = ACCURACY

    def __setattr__(self, name: str, value: object) -> None:
        if name == "budget" and "budget" in vars(self):
            raise BudgetError(
                f"A recipe cannot change its budget of {self.budget} evaluations; "
                "give craft another one."
            )
        super().__setattr__(name, value)

    @property
    def trials(self) -> list[Trial]:
        """All looks so far, in order; the bank is read once for the estimates that are missing."""
        missing = [look for look in self._looks if look.estimate is None]
        if missing:
            weights = torch.stack([look.weights for look in missing])
            estimates = self._estimates(weights)
            for look, estimate in zip(missing, estimates, strict=True):
                look.estimate = estimate
        return [self._trial(look) for look in self._looks]

    @property
    def spent(self) -> int:
        """Evaluations so far."""
        return sum(look.value is not None for look in self._looks)

    @property
    def forward_equivalents(self) -> Fraction:
        """Evaluations so far and what was charged: what the budget limits.

        It is a fraction, so that thirds add up.
        """
        return sum((look.cost for look in self._looks), self.charged)

    @property
    def passes_left(self) -> int:
        """Whole forward passes over the validation split that can still be paid."""
        return math.floor(self.budget - self.forward_equivalents)

    @property
    def left(self) -> int:
        """Evaluations that can still be paid, as far as their cost is known.

        Where soups are run on a share of the images, these are more than the passes left. They get
        fewer if the share grows after the first soup.
        """
        partial = self._partial
        first, later = (Fraction(1), Fraction(1)) if partial is None else partial.next_costs
        rest = self.budget - self.forward_equivalents
        return 0 if rest < first else 1 + math.floor((rest - first) / later)

    @property
    def share_note(self) -> str:
        """Why soups are run on more images than was asked for; empty where they are not."""
        partial = self._partial
        grown = partial is not None and partial.share > partial.asked_share
        return partial.finding if partial is not None and grown else ""

    @property
    def _partial(self) -> PartialEvaluations | None:
        found = getattr(self.evaluate, "partial", None)
        return found if isinstance(found, PartialEvaluations) else None

    def charge(self, cost: Fraction | float) -> None:
        """Book work that is no evaluation, before it is done.

        Args:
            cost: in forward passes over the validation split.

        Raises:
            BudgetError: so much is not left.
            ParameterError: the cost is no number of at least 0.
        """
        if not 0 <= cost < math.inf:  # NaN fails this too
            raise ParameterError(f"cost must be a number of at least 0, not {cost!r}.")
        if self.forward_equivalents + Fraction(cost) > self.budget:
            raise BudgetError(
                f"Training that costs {float(cost):.2f} evaluations does not fit: "
                f"{float(self.forward_equivalents):.2f} of {self.budget} are spent."
            )
        self.charged += Fraction(cost)

    def spend(
        self,
        weights: Tensor | Sequence[float],
        *,
        estimate: float | None = None,
        tensor_weights: Mapping[str, Tensor] | None = None,
    ) -> float:
        """Evaluate one soup.

        Args:
            weights: (N,) mixing weights.
            estimate: the soup's fast estimate where it is available; else the bank gives it later.
            tensor_weights: (N,) mixing weights of each tensor by its name, for a soup whose parts
                have their own; `evaluate` must be live. `weights` are then their mean.

        Returns: its validation accuracy in percent, or another metric.

        Raises:
            BudgetError: nothing is left.
            ParameterError: these are no mixing weights, or the result is not a number that the
                metric can have.
        """
        if self.left < 1:
            raise BudgetError(
                f"The budget of {self.budget} evaluations is spent; "
                "raise the budget or stop earlier."
            )
        weights = self._mixing_weights(weights)
        began = time.perf_counter()
        if tensor_weights is None:
            answer = self.evaluate(weights.clone())  # a copy: an evaluator may write into it
        else:
            assert isinstance(self.evaluate, LiveEvaluator)
            answer = self.evaluate(average_by_tensor(self.evaluate.zoo, tensor_weights))
        values = self._book_evaluations([weights], [estimate], [answer], began=began)
        self._looks[-1].tensor_weights = tensor_weights
        return values[0]

    def spend_many(self, rows: Tensor, *, estimates: Sequence[float] | None = None) -> list[float]:
        """Evaluate several soups, in one pass over the images where `evaluate` is live.

        Args:
            rows: (M, N) mixing weights.
            estimates: their M fast estimates where they are available; else the bank gives them
                later, all in one read.

        Returns: their validation accuracies in percent, or another metric. They are fewer than M
            where the first evaluation made the others dearer: those that the budget still pays.

        Raises BudgetError when less than M is left.
        """
        given = [None] * len(rows) if estimates is None else list(estimates)
        if len(rows) > self.left:  # the one too many raises the error
            pairs = zip(rows, given, strict=True)
            return [self.spend(weights, estimate=estimate) for weights, estimate in pairs]
        values: list[float] = []
        while (first := len(values)) < len(rows) and self.left:
            part = slice(first, first + self._num_at_once)
            values += self._spend_at_once(rows[part], given[part])
        return values

    def num_affordable(self, num_images: int) -> int:
        """On how many soups so many images can still be run."""
        rest = self.budget - self.forward_equivalents
        return math.floor(rest * self.bank.num_images / num_images)

    def run_images(self, rows: Tensor, images: list[int] | None) -> Tensor:
        """Run soups on some of the images, which is charged before; `book` makes trials of them.

        Args:
            rows: (M, N) mixing weights.
            images: k indices; all for None.

        Returns: the metric's value of each soup on each of these images: (M, k) double.

        Raises:
            BudgetError: so much is not left.
            ParameterError: the evaluator gives no values of single images.
        """
        if not isinstance(self.evaluate, ImageEvaluator):
            raise ParameterError("This evaluator gives no values of single images.")
        num_images = self.bank.num_images
        count = num_images if images is None else len(images)
        self.charge(Fraction(len(rows) * count, num_images))
        return self.evaluate.image_values([row.clone() for row in rows], images, bank=self.bank)

    def book(
        self, weights: Tensor, value: float, *, cost: Fraction, standard_error: float = 0.0
    ) -> int:
        """Make a trial of a soup whose images were run; what they cost is charged already.

        Returns: the number of the trial.
        """
        checked = self.metric.check_value(self._within_range(value), source="an estimate must be")
        self.charged -= cost
        self._looks.append(_Look(weights.clone(), None, checked, standard_error, cost))
        return len(self._looks) - 1

    @property
    def _num_at_once(self) -> int:
        """How many soups can be evaluated in one pass over the images."""
        if not isinstance(self.evaluate, LiveEvaluator):
            return 1
        if self._partial is not None:
            first, later = self._partial.next_costs
            if first != later:  # what the others cost depends on the next one
                return 1
        return self.left

    def _spend_at_once(self, rows: Tensor, estimates: Sequence[float | None]) -> list[float]:
        if isinstance(self.evaluate, LiveEvaluator):
            began = time.perf_counter()
            answers: list[float] = self.evaluate.many([weights.clone() for weights in rows])
            return self._book_evaluations(rows, estimates, answers, began=began)
        return [self.spend(rows[0], estimate=estimates[0])]

    def _book_evaluations(
        self,
        rows: Sequence[Tensor] | Tensor,
        estimates: Sequence[float | None],
        answers: Sequence[object],
        *,
        began: float,
    ) -> list[float]:
        seconds = (time.perf_counter() - began) / len(rows)
        values = [self._check(answer) for answer in answers]
        partial = self._partial
        found = [None] * len(rows) if partial is None else partial.evaluations[-len(rows) :]
        for weights, estimate, value, record in zip(rows, estimates, values, found, strict=True):
            cost = Fraction(1) if record is None else record.cost
            error = 0.0 if record is None else record.standard_error
            look = _Look(weights.clone(), estimate, value, error, cost, seconds=seconds)
            self._looks.append(look)
        return values

    def look(self, weights: Tensor | Sequence[float], *, estimate: float | None = None) -> float:
        """The accuracy of an ensemble, or another metric, off the bank, free.

        For one ingredient alone it is the soup's own.

        Args:
            weights: (N,) mixing weights.
            estimate: the fast estimate where it is available; else the bank is read.

        Returns: the accuracy in percent, or another metric.
        """
        weights = self._mixing_weights(weights)
        if estimate is None:
            (estimate,) = self._estimates(weights.unsqueeze(0))
        self._looks.append(_Look(weights.clone(), estimate, None))
        return estimate

    def _mixing_weights(self, weights: Tensor | Sequence[float]) -> Tensor:
        """Checked mixing weights; a tensor of floats keeps its dtype, as evaluators know it."""
        checked = check_weights(weights, self.bank.num_models)
        is_float = isinstance(weights, Tensor) and weights.is_floating_point()
        return weights if isinstance(weights, Tensor) and is_float else checked

    def _estimates(self, rows: Tensor) -> list[float]:
        return fast_estimate(self.bank, rows, self.metric).tolist()

    def _check(self, answer: object) -> float:
        if self._partial is not None and isinstance(answer, float):
            # Without bias, an answer from some images can be a little outside the range.
            answer = self._within_range(answer)
        return self.metric.check_value(answer, source="evaluate(weights) must return")

    def _within_range(self, value: float) -> float:
        return min(max(value, self.metric.minimum), self.metric.maximum)

    def _trial(self, look: _Look) -> Trial:
        assert look.estimate is not None
        value = look.estimate if look.value is None else look.value
        return Trial(
            look.weights,
            look.estimate,
            value,
            look.value is not None,
            self.metric,
            standard_error=look.standard_error,
            cost=look.cost,
            tensor_weights=look.tensor_weights,
            seconds=look.seconds,
        )
