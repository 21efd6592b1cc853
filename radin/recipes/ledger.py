"""The ledger: how a recipe spends its budget, and cannot overspend it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from radin.errors import BudgetError, ParameterError
from radin.inference.evaluate import LiveEvaluator
from radin.ranking.bank import LogitBank
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import ACCURACY
from radin.ranking.rank import fast_estimate

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


@dataclass
class Ledger:
    """The only way for a recipe to an evaluation; it cannot be overspent.

    `look` takes a value off the bank and is free. `spend` evaluates a soup and costs one.
    `charge` books other work for what it costs. What the user should know goes to `notes`.
    `metric` is what bank and evaluations are read by.
    """

    bank: LogitBank
    evaluate: Evaluate
    budget: int
    charged: Fraction = Fraction(0)
    notes: list[str] = field(default_factory=list)
    _looks: list[_Look] = field(default_factory=list, repr=False)
    metric: Metric = ACCURACY

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
        return self.spent + self.charged

    @property
    def left(self) -> int:
        """Evaluations that can still be paid."""
        return math.floor(self.budget - self.forward_equivalents)

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

    def spend(self, weights: Tensor, *, estimate: float | None = None) -> float:
        """Evaluate one soup.

        Args:
            weights: (N,) mixing weights.
            estimate: the soup's fast estimate where it is available; else the bank gives it later.

        Returns: its validation accuracy in percent, or another metric.

        Raises:
            BudgetError: nothing is left.
            ParameterError: the result is not a number that the metric can have.
        """
        if self.left < 1:
            raise BudgetError(
                f"The budget of {self.budget} evaluations is spent; "
                "raise the budget or stop earlier."
            )
        answer = self.evaluate(weights.clone())  # a copy: an evaluator may write into its argument
        return self._book(weights, estimate, self._check(answer))

    def spend_many(self, rows: Tensor, *, estimates: Sequence[float] | None = None) -> list[float]:
        """Evaluate several soups, in one pass over the images where `evaluate` is live.

        Args:
            rows: (M, N) mixing weights.
            estimates: their M fast estimates where they are available; else the bank gives them
                later, all in one read.

        Returns: their validation accuracies in percent, or another metric.

        Raises BudgetError when less than M is left.
        """
        given = [None] * len(rows) if estimates is None else list(estimates)
        if not isinstance(self.evaluate, LiveEvaluator) or len(rows) > self.left:
            # One by one; where they do not fit, the one too many raises the error.
            return [
                self.spend(weights, estimate=estimate)
                for weights, estimate in zip(rows, given, strict=True)
            ]
        answers = self.evaluate.many([weights.clone() for weights in rows])
        values = [self._check(answer) for answer in answers]
        return [
            self._book(weights, estimate, value)
            for weights, estimate, value in zip(rows, given, values, strict=True)
        ]

    def look(self, weights: Tensor, *, estimate: float | None = None) -> float:
        """The accuracy of an ensemble, or another metric, off the bank, free.

        For one ingredient alone it is the soup's own.

        Args:
            weights: (N,) mixing weights.
            estimate: the fast estimate where it is available; else the bank is read.

        Returns: the accuracy in percent, or another metric.
        """
        if estimate is None:
            (estimate,) = self._estimates(weights.unsqueeze(0))
        self._book(weights, estimate, None)
        return estimate

    def _estimates(self, rows: Tensor) -> list[float]:
        return fast_estimate(self.bank, rows, self.metric).tolist()

    def _check(self, answer: object) -> float:
        return self.metric.check_value(answer, source="evaluate(weights) must return")

    def _book(self, weights: Tensor, estimate: float | None, value: float | None) -> float:
        self._looks.append(_Look(weights.clone(), estimate, value))
        return math.nan if value is None else value

    def _trial(self, look: _Look) -> Trial:
        assert look.estimate is not None
        value = look.estimate if look.value is None else look.value
        return Trial(look.weights, look.estimate, value, look.value is not None, self.metric)
