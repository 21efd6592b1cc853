"""Recipes: from a logit bank and a budget of evaluations to one soup.

A recipe sees the bank and a ledger, nothing else. Whether an evaluation averages real checkpoints or
looks a row up in a soup bench is not its business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from radin.bank import LogitBank
from radin.candidates import distinct, exhaustive, from_subsets, monte_carlo
from radin.errors import BudgetError, ParameterError, check_seed, check_whole
from radin.rank import check_prior, fast_estimate, rank
from radin.soup import check_weights

Evaluate = Callable[[Tensor], float]

# Without candidates of the caller's, all subsets are ranked up to this many ingredients (8,191 rows),
# and as many Monte Carlo subsets beyond.
ALL_SUBSETS_UP_TO = 13
DEFAULT_CANDIDATES = 2**ALL_SUBSETS_UP_TO - 1


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


@dataclass(frozen=True)
class Soup:
    """What a recipe returns.

    Attributes:
        recipe: its name.
        weights: (N,) mixing weights of the chosen soup.
        accuracy: its validation accuracy in percent (for "ensemble", the ensemble's).
        trials: what was looked at, in order.
        evaluations: how many evaluations were spent; the entry fee is not among them.
        budget: how many were allowed.
        note: what the user should know, such as a budget larger than the recipe can use; else empty.
    """

    recipe: str
    weights: Tensor
    accuracy: float
    trials: list[Trial]
    evaluations: int
    budget: int
    note: str = ""

    @property
    def members(self) -> list[int]:
        """Indices of the ingredients with a positive weight."""
        return (self.weights > 0).nonzero().flatten().tolist()

    def __str__(self) -> str:
        text = (
            f"{self.recipe}: validation accuracy {self.accuracy:.2f}%, {len(self.members)} of {len(self.weights)} "
            f"ingredients, {self.evaluations} of {self.budget} evaluations spent"
        )
        return f"{text} ({self.note})" if self.note else text


@dataclass
class Ledger:
    """The only way for a recipe to an evaluation; it cannot be overspent.

    `look` takes an accuracy off the bank and is free, `spend` evaluates a soup and costs one.
    """

    bank: LogitBank
    evaluate: Evaluate
    budget: int
    trials: list[Trial] = field(default_factory=list)

    @property
    def spent(self) -> int:
        return sum(trial.evaluated for trial in self.trials)

    @property
    def left(self) -> int:
        return self.budget - self.spent

    def spend(self, weights: Tensor) -> Trial:
        """Evaluate one soup. BudgetError when nothing is left, ParameterError for a result that is no accuracy."""
        if self.left < 1:
            raise BudgetError(f"The budget of {self.budget} evaluations is spent; raise the budget or stop earlier.")
        answer = self.evaluate(weights.clone())  # a copy: an evaluator may write into its argument
        try:
            measured = float(answer)
        except (TypeError, ValueError):
            measured = math.nan
        if not 0 <= measured <= 100:  # NaN fails this too
            raise ParameterError(
                f"evaluate(weights) must return an accuracy in percent, 0 to 100; it returned {answer!r}."
            )
        return self._record(weights, measured, evaluated=True)

    def look(self, weights: Tensor) -> Trial:
        """The ensemble's accuracy off the bank, free. For one ingredient alone it is the soup's own accuracy."""
        return self._record(weights, None, evaluated=False)

    def _record(self, weights: Tensor, measured: float | None, evaluated: bool) -> Trial:
        estimate = fast_estimate(self.bank, weights.unsqueeze(0)).item()
        trial = Trial(weights.clone(), estimate, estimate if measured is None else measured, evaluated)
        self.trials.append(trial)
        return trial


@dataclass(frozen=True)
class Order:
    """What the user asked a recipe for, beside the bank and the budget."""

    candidates: Tensor | None
    prior: float
    seed: int

    def candidates_for(self, bank: LogitBank) -> Tensor:
        """The user's candidates, else all subsets of a small zoo, else Monte Carlo."""
        if self.candidates is not None:
            return self.candidates
        if bank.num_models <= ALL_SUBSETS_UP_TO:
            return exhaustive(bank.num_models)
        return monte_carlo(bank.num_models, DEFAULT_CANDIDATES, self.seed)


Recipe = Callable[[LogitBank, Ledger, Order], Trial]


def _merit(trial: Trial) -> float:
    """The accuracy to compare by: 100 * (h / n) and 100 * h / n are one accuracy, whoever evaluates."""
    return round(trial.accuracy, 9)


def _best(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=_merit)  # max keeps the first of equals: the better ranked


def _radin(bank: LogitBank, ledger: Ledger, order: Order) -> Trial:
    """RADIN: rank all candidates by fast estimate plus prior, evaluate the first B, return the best by validation."""
    candidates = order.candidates_for(bank)
    ranked = rank(bank, candidates, order.prior, top=ledger.left).order
    return _best([ledger.spend(weights) for weights in candidates[ranked]])


def _greedy(bank: LogitBank, ledger: Ledger, order: Order) -> Trial:
    """Greedy soup (Wortsman et al. 2022, recipe 1): best ingredient first, keep an addition that does no harm."""
    by_accuracy = bank.accuracies().argsort(descending=True, stable=True).tolist()
    members = torch.zeros(bank.num_models)
    members[by_accuracy[0]] = 1
    current = ledger.look(members)  # one ingredient's accuracy is in the bank: free
    for k in by_accuracy[1:]:
        if ledger.left < 1:
            break
        members[k] = 1
        trial = ledger.spend(from_subsets(members.unsqueeze(0))[0])
        if _merit(trial) >= _merit(current):
            current = trial
        else:
            members[k] = 0
    return current


def _uniform(bank: LogitBank, ledger: Ledger, order: Order) -> Trial:
    """Uniform soup (Wortsman et al. 2022): average all N; one evaluation tells how good it is."""
    return ledger.spend(torch.full((bank.num_models,), 1 / bank.num_models))


def _best_single(bank: LogitBank, ledger: Ledger, order: Order) -> Trial:
    """The best ingredient by validation; free, it is in the bank."""
    return ledger.look(torch.eye(bank.num_models)[int(bank.accuracies().argmax())])


def _random(bank: LogitBank, ledger: Ledger, order: Order) -> Trial:
    """Evaluate B different candidates drawn at random: what RADIN would be without stage 1."""
    candidates = distinct(order.candidates_for(bank))
    drawn = np.random.default_rng(order.seed).permutation(len(candidates))[: ledger.left]
    return _best([ledger.spend(weights) for weights in candidates[drawn]])


def _ensemble(bank: LogitBank, ledger: Ledger, order: Order) -> Trial:
    """A reference, not a soup: the logits of all N ingredients averaged. Each later image costs N forward passes."""
    return ledger.look(torch.full((bank.num_models,), 1 / bank.num_models))


RECIPES: dict[str, Recipe] = {
    "radin": _radin,
    "greedy": _greedy,
    "uniform": _uniform,
    "best_single": _best_single,
    "random": _random,
    "ensemble": _ensemble,
}


def craft(
    bank: LogitBank,
    evaluate: Evaluate,
    budget: int,
    recipe: str = "radin",
    candidates: Tensor | None = None,
    prior: float = 0.0,
    seed: int = 0,
) -> Soup:
    """Spend a budget of evaluations on one recipe and return its soup.

    Args:
        bank: the validation logit bank, N ingredients.
        evaluate: mixing weights (N,) to validation accuracy in percent; called at most `budget` times.
        budget: B, at least 1; more than the recipe can use is used up to what exists, and `Soup.note` says so.
        recipe: "radin", "greedy", "uniform", "best_single", "random", or "ensemble" (a reference).
        candidates: (M, N) mixing weights for "radin" and "random"; by default all subsets of up to 13
            ingredients, and 8,191 Monte Carlo subsets of more.
        prior: lambda, for "radin": the bonus of the full zoo in percentage points.
        seed: of every random choice.

    Raises:
        ParameterError: an impossible budget, recipe, prior or candidate, before anything is evaluated.

    Source: RADIN, algorithm of stages 1 and 2; Wortsman et al. 2022 for greedy and uniform.
    """
    budget, prior = check_whole("budget", budget, least=1), check_prior(prior)
    seed = check_seed(seed)
    if recipe not in RECIPES:
        raise ParameterError(f"Unknown recipe {recipe!r}; choose one of {', '.join(RECIPES)}.")
    if candidates is not None:
        candidates = torch.as_tensor(candidates)
        check_weights(candidates, bank.num_models, rows=True)
    ledger = Ledger(bank, evaluate, budget)
    chosen = RECIPES[recipe](bank, ledger, Order(candidates, prior, seed))
    notes = []
    if recipe == "ensemble":
        notes.append(f"a reference, not a soup: {bank.num_models} forward passes for each image")
    if ledger.left > 0:
        used = f"can use only {ledger.spent} evaluations here" if ledger.spent else "needs no evaluation"
        notes.append(f"this recipe {used}, {ledger.left} of the budget are left")
    return Soup(recipe, chosen.weights, chosen.accuracy, ledger.trials, ledger.spent, budget, "; ".join(notes))
