"""Recipes: from a logit bank and a budget of evaluations to one soup.

A recipe sees the bank and a ledger, nothing else. Whether an evaluation averages real checkpoints or
looks a row up in a soup bench is not its business, unless it stands among the live recipes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from radin.checkpoints.zoo import Zoo
from radin.errors import ParameterError, check_seed, check_integer
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights
from radin.ranking.rank import check_prior
from radin.recipes.learned import LIVE_RECIPES
from radin.recipes.ledger import Evaluate, Ledger, Trial
from radin.recipes.selection import RANKED, RECIPES, Order
from radin.recipes.trust import of_trials, trust
from radin.recipes.trust_report import Trust


@dataclass(frozen=True)
class Soup:
    """What a recipe returns.

    Attributes:
        recipe: its name.
        weights: (N,) mixing weights of the chosen soup.
        accuracy: its validation accuracy in percent (for "ensemble", the ensemble's).
        trials: what was looked at, in order.
        evaluations: how many evaluations were spent; the entry fee is not among them.
        forward_equivalents: evaluations plus what was spent on training, in the same unit: one forward
            pass over the validation split.
        budget: how many were allowed.
        note: what the user should know, such as a budget larger than the recipe can use; else empty.
        bank, evaluate: what it was crafted from; a copy that is pickled goes without them.
    """

    recipe: str
    weights: Tensor
    accuracy: float
    trials: list[Trial]
    evaluations: int
    forward_equivalents: float
    budget: int
    note: str = ""
    bank: LogitBank | None = field(default=None, repr=False, compare=False)
    evaluate: Evaluate | None = field(default=None, repr=False, compare=False)

    @cached_property
    def trust(self) -> Trust | None:
        """How far the fast estimate could be believed here: `radin.trust` of the bank, of the zoo where `evaluate` has
        one (its checkpoints are then read once more), and of the trials. None for a recipe that ranks nothing by it,
        and for a pickled soup that was not asked before. Once known, printing the soup repeats its advice.
        """
        if self.bank is None or self.recipe not in RANKED:
            return None
        zoo = getattr(self.evaluate, "zoo", None)
        refreshed = getattr(self.evaluate, "refresh", None) is not None
        return trust(
            self.bank,
            zoo if isinstance(zoo, Zoo) else None,
            trials=self.trials,
            refreshed=refreshed,
        )

    @property
    def members(self) -> list[int]:
        """Indices of the ingredients with a positive weight."""
        return (self.weights > 0).nonzero().flatten().tolist()

    def __str__(self) -> str:
        training = self.forward_equivalents - self.evaluations
        text = (
            f"{self.recipe}: validation accuracy {self.accuracy:.2f}%, {len(self.members)} of {len(self.weights)} "
            f"ingredients, {self.evaluations} of {self.budget} evaluations spent"
            + (f" and {training:.2f} more on training" if training else "")
        )
        text = f"{text} ({self.note})" if self.note else text
        # What the evaluated soups say is at hand; all else, which reads every checkpoint, waits for `trust`.
        known = self.__dict__.get("trust") or self._trials_alone()
        if known is not None and known.verdict == "no":
            text += "\ndo not trust the fast estimate here (print soup.trust for all checks):"
            text += "".join(f"\n- {advice}" for advice in known.advice)
        return text

    def _trials_alone(self) -> Trust | None:
        if self.bank is None or self.recipe not in RANKED:
            return None
        return Trust(tuple(of_trials(self.bank, self.trials)))

    def __getstate__(self) -> dict[str, Any]:
        # A bank may be gigabytes, and an evaluator holds files and functions that no other process can open.
        return {**self.__dict__, "bank": None, "evaluate": None}


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
            "learned" needs `radin.evaluator(zoo, split)`, the others take any function.
        budget: B, at least 1; more than the recipe can use is used up to what exists, and `Soup.note` says so.
        recipe: "radin", "greedy", "uniform", "best_single", "random", "learned", or "ensemble" (a reference).
        candidates: (M, N) mixing weights for "radin" and "random"; by default all subsets of up to 13
            ingredients, and 8,191 Monte Carlo subsets of more.
        prior: lambda, for "radin": the bonus of the full zoo in percentage points.
        seed: of every random choice.

    Raises:
        ParameterError: an impossible budget, recipe, prior or candidate, or no networks for "learned", before
            anything is evaluated.

    Source: RADIN, algorithm of stages 1 and 2; Wortsman et al. 2022 for greedy, uniform and learned.
    """
    budget, prior = check_integer("budget", budget, minimum=1), check_prior(prior)
    seed = check_seed(seed)
    recipes = RECIPES | LIVE_RECIPES
    if recipe not in recipes:
        raise ParameterError(f"Unknown recipe {recipe!r}; choose one of {', '.join(recipes)}.")
    if candidates is not None:
        candidates = torch.as_tensor(candidates)
        check_weights(candidates, bank.num_models, rows=True)
    ledger = Ledger(bank, evaluate, budget)
    chosen = recipes[recipe](bank, ledger, Order(candidates, prior, seed))
    notes = list(ledger.notes)
    if ledger.left > 0:
        cost, unit = (
            float(ledger.forward_equivalents),
            "forward-equivalents" if ledger.charged else "evaluations",
        )
        used = f"can use only {cost:.3g} {unit} here" if cost else "needs no evaluation"
        notes.append(f"this recipe {used}, {ledger.left} of the budget are left")
    return Soup(
        recipe=recipe,
        weights=chosen.weights,
        accuracy=chosen.accuracy,
        trials=ledger.trials,
        evaluations=ledger.spent,
        forward_equivalents=float(ledger.forward_equivalents),
        budget=budget,
        note="; ".join(notes),
        bank=bank,
        evaluate=evaluate,
    )
