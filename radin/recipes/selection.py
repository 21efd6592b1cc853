"""The recipes that choose among candidate soups: radin, greedy, uniform, best single, random, ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from radin.ranking.bank import LogitBank
from radin.ranking.candidates import distinct, exhaustive, from_subsets, monte_carlo
from radin.ranking.rank import rank
from radin.recipes.ledger import Ledger, Trial

# Without candidates of the caller's, all subsets are ranked up to this many ingredients (8,191 rows),
# and as many Monte Carlo subsets beyond.
ALL_SUBSETS_UP_TO = 13

DEFAULT_CANDIDATES = 2**ALL_SUBSETS_UP_TO - 1


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
    return _best(ledger.spend_many(candidates[ranked]))


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
    return _best(ledger.spend_many(candidates[drawn]))


def _ensemble(bank: LogitBank, ledger: Ledger, order: Order) -> Trial:
    """A reference, not a soup: the logits of all N ingredients averaged. Each later image costs N forward passes."""
    ledger.notes.append(f"a reference, not a soup: {bank.num_models} forward passes for each image")
    return ledger.look(torch.full((bank.num_models,), 1 / bank.num_models))


# These work with any `evaluate`, so they can be compared on a soup bench, where a call is a look-up.
RECIPES: dict[str, Recipe] = {
    "radin": _radin,
    "greedy": _greedy,
    "uniform": _uniform,
    "best_single": _best_single,
    "random": _random,
    "ensemble": _ensemble,
}

RANKED = ("radin",)  # those that believe the fast estimate
