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
from radin.ranking.rank import fast_estimate

Evaluate = Callable[[Tensor], float]


@dataclass(frozen=True)
class Trial:
    """One soup that a recipe looked at.

    Attributes:
        weights: (N,) mixing weights.
        estimate: fast estimate in percent, read off the bank.
        accuracy: validation accuracy in percent. It comes from an evaluation of the soup, or off
            the bank when not `evaluated`.
        evaluated: whether it cost an evaluation.

    >>> import radin
    >>> bench = radin.SoupBench.load("cifar10")
    >>> trial = radin.craft(bench.val, bench.evaluator(), budget=1).trials[0]
    >>> print(f"{trial.estimate:.2f} {trial.accuracy:.2f} {trial.evaluated}")
    83.48 82.88 True
    """

    weights: Tensor
    estimate: float
    accuracy: float
    evaluated: bool = True


@dataclass
class _Look:
    """A trial before its estimate is read; `accuracy` is None where it was not evaluated."""

    weights: Tensor
    estimate: float | None
    accuracy: float | None


@dataclass
class Ledger:
    """The only way for a recipe to an evaluation; it cannot be overspent.

    `look` takes an accuracy off the bank and is free. `spend` evaluates a soup and costs one.
    `charge` books other work for what it costs. What the user should know goes to `notes`.
    """

    bank: LogitBank
    evaluate: Evaluate
    budget: int
    charged: Fraction = Fraction(0)
    notes: list[str] = field(default_factory=list)
    _looks: list[_Look] = field(default_factory=list, repr=False)

    @property
    def trials(self) -> list[Trial]:
        """All looks so far, in order; the bank is read once for the estimates that are missing."""
        missing = [look for look in self._looks if look.estimate is None]
        if missing:
            weights = torch.stack([look.weights for look in missing])
            estimates = fast_estimate(self.bank, weights).tolist()
            for look, estimate in zip(missing, estimates, strict=True):
                look.estimate = estimate
        return [_trial(look) for look in self._looks]

    @property
    def spent(self) -> int:
        """Evaluations so far."""
        return sum(look.accuracy is not None for look in self._looks)

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

        Returns: its validation accuracy in percent.

        Raises:
            BudgetError: nothing is left.
            ParameterError: the result is no accuracy.
        """
        if self.left < 1:
            raise BudgetError(
                f"The budget of {self.budget} evaluations is spent; "
                "raise the budget or stop earlier."
            )
        answer = self.evaluate(weights.clone())  # a copy: an evaluator may write into its argument
        return self._book(weights, estimate, _check_accuracy(answer))

    def spend_many(self, rows: Tensor, *, estimates: Sequence[float] | None = None) -> list[float]:
        """Evaluate several soups, in one pass over the images where `evaluate` is live.

        Args:
            rows: (M, N) mixing weights.
            estimates: their M fast estimates where they are available; else the bank gives them
                later, all in one read.

        Returns: their validation accuracies in percent.

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
        accuracies = [_check_accuracy(answer) for answer in answers]
        return [
            self._book(weights, estimate, accuracy)
            for weights, estimate, accuracy in zip(rows, given, accuracies, strict=True)
        ]

    def look(self, weights: Tensor, *, estimate: float | None = None) -> float:
        """The accuracy of an ensemble off the bank, free.

        For one ingredient alone it is the soup's own accuracy.

        Args:
            weights: (N,) mixing weights.
            estimate: the fast estimate where it is available; else the bank is read.

        Returns: the accuracy in percent.
        """
        if estimate is None:
            estimate = fast_estimate(self.bank, weights.unsqueeze(0)).item()
        self._book(weights, estimate, None)
        return estimate

    def _book(self, weights: Tensor, estimate: float | None, accuracy: float | None) -> float:
        self._looks.append(_Look(weights.clone(), estimate, accuracy))
        return math.nan if accuracy is None else accuracy


def _trial(look: _Look) -> Trial:
    assert look.estimate is not None
    evaluated = look.accuracy is not None
    accuracy = look.estimate if look.accuracy is None else look.accuracy
    return Trial(look.weights, look.estimate, accuracy, evaluated)


def _check_accuracy(answer: object) -> float:
    """What an evaluation returned as an accuracy; ParameterError when it is none."""
    try:
        accuracy = float(answer)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        accuracy = math.nan
    if not 0 <= accuracy <= 100:  # NaN fails this too
        raise ParameterError(
            "evaluate(weights) must return an accuracy in percent, 0 to 100; "
            f"it returned {answer!r}."
        )
    return accuracy
