"""The ledger: how a recipe spends its budget, and cannot overspend it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from torch import Tensor

from radin.errors import BudgetError, ParameterError
from radin.ranking.bank import LogitBank
from radin.ranking.rank import fast_estimate

Evaluate = Callable[[Tensor], float]


@dataclass(frozen=True)
class Trial:
    """One soup that a recipe looked at.

    Attributes:
        weights: (N,) mixing weights.
        estimate: fast estimate in percent, off the bank.
        accuracy: validation accuracy in percent: of the soup, by an evaluation; off the bank when not `evaluated`.
        evaluated: whether it cost an evaluation.
    """

    weights: Tensor
    estimate: float
    accuracy: float
    evaluated: bool = True


@dataclass
class Ledger:
    """The only way for a recipe to an evaluation; it cannot be overspent.

    `look` takes an accuracy off the bank and is free, `spend` evaluates a soup and costs one, `charge`
    books other work for what it costs. What the user should know goes to `notes`.
    """

    bank: LogitBank
    evaluate: Evaluate
    budget: int
    trials: list[Trial] = field(default_factory=list)
    charged: Fraction = Fraction(0)
    notes: list[str] = field(default_factory=list)

    @property
    def spent(self) -> int:
        """Evaluations so far."""
        return sum(trial.evaluated for trial in self.trials)

    @property
    def forward_equivalents(self) -> Fraction:
        """Evaluations so far and what was charged: what the budget limits. A fraction, so that thirds add up."""
        return self.spent + self.charged

    @property
    def left(self) -> int:
        """Evaluations that can still be paid."""
        return math.floor(self.budget - self.forward_equivalents)

    def charge(self, cost: Fraction | float) -> None:
        """Book work that is no evaluation, before it is done.

        Args:
            cost: in forward passes over the validation split.

        Raises BudgetError when so much is not left, ParameterError for a cost that is no number of at least 0.
        """
        if not 0 <= cost < math.inf:  # NaN fails this too
            raise ParameterError(f"cost must be a number of at least 0, not {cost!r}.")
        if self.forward_equivalents + Fraction(cost) > self.budget:
            raise BudgetError(
                f"Training that costs {float(cost):.2f} evaluations does not fit: "
                f"{float(self.forward_equivalents):.2f} of {self.budget} are spent."
            )
        self.charged += Fraction(cost)

    def spend(self, weights: Tensor) -> Trial:
        """Evaluate one soup. BudgetError when nothing is left, ParameterError for a result that is no accuracy."""
        if self.left < 1:
            raise BudgetError(
                f"The budget of {self.budget} evaluations is spent; raise the budget or stop earlier."
            )
        answer = self.evaluate(weights.clone())  # a copy: an evaluator may write into its argument
        return self._record(weights, _checked(answer), evaluated=True)

    def spend_many(self, rows: Tensor) -> list[Trial]:
        """Evaluate several soups, rows (M, N): in one pass over the images where `evaluate` has a method `many`.

        Raises BudgetError when less than M is left.
        """
        many = getattr(self.evaluate, "many", None)
        if many is None or len(rows) > self.left:  # the one too many says so
            return [self.spend(weights) for weights in rows]
        answers = [_checked(answer) for answer in many([weights.clone() for weights in rows])]
        return [
            self._record(weights, answer, evaluated=True)
            for weights, answer in zip(rows, answers, strict=True)
        ]

    def look(self, weights: Tensor) -> Trial:
        """The ensemble's accuracy off the bank, free. For one ingredient alone it is the soup's own accuracy."""
        return self._record(weights, None, evaluated=False)

    def _record(self, weights: Tensor, measured: float | None, evaluated: bool) -> Trial:
        estimate = fast_estimate(self.bank, weights.unsqueeze(0)).item()
        trial = Trial(
            weights.clone(), estimate, estimate if measured is None else measured, evaluated
        )
        self.trials.append(trial)
        return trial


def _checked(answer: object) -> float:
    """What an evaluation returned as an accuracy; ParameterError when it is none."""
    try:
        measured = float(answer)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        measured = math.nan
    if not 0 <= measured <= 100:  # NaN fails this too
        raise ParameterError(
            f"evaluate(weights) must return an accuracy in percent, 0 to 100; it returned {answer!r}."
        )
    return measured
