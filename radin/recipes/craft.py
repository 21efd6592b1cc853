"""Recipes: from a logit bank and a budget of evaluations to one soup.

A recipe sees the bank and a ledger, nothing else. Whether an evaluation averages real checkpoints or
looks a row up in a soup bench is not its business, unless it stands among the live recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from radin.bank import LogitBank
from radin.candidates import distinct, exhaustive, from_subsets, monte_carlo
from radin.checks import Trust
from radin.errors import ParameterError, check_seed, check_whole
from radin.learned import BATCH_SIZE, learn, steps_within, training_cost
from radin.ledger import Evaluate, Ledger, Trial
from radin.rank import check_prior, rank
from radin.soup import check_weights
from radin.trust import of_trials, trust
from radin.zoo import Zoo

# Without candidates of the caller's, all subsets are ranked up to this many ingredients (8,191 rows),
# and as many Monte Carlo subsets beyond.
ALL_SUBSETS_UP_TO = 13
DEFAULT_CANDIDATES = 2**ALL_SUBSETS_UP_TO - 1


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
        return trust(self.bank, zoo if isinstance(zoo, Zoo) else None, trials=self.trials, refreshed=refreshed)

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


def _learned(bank: LogitBank, ledger: Ledger, order: Order) -> Trial:
    """Learned soup (Wortsman et al. 2022, appendix I): mixing weights by gradient, for all of the budget but one."""
    zoo, split = _live(bank, ledger)
    batch_size = min(BATCH_SIZE, getattr(ledger.evaluate, "batch_size", BATCH_SIZE))
    # The last evaluation tells how good the result is; with one ingredient there is nothing to learn.
    steps = steps_within(ledger.left - 1, bank.num_images, batch_size) if len(zoo) > 1 else 0
    if steps == 0:
        if len(zoo) > 1:
            least = math.ceil(training_cost(1, bank.num_images, batch_size)) + 1
            ledger.notes.append(
                f"too small a budget for one gradient step, so this is the uniform soup; {least} is enough"
            )
        return _uniform(bank, ledger, order)
    ledger.charge(training_cost(steps, bank.num_images, batch_size))
    device = getattr(ledger.evaluate, "device", "auto")
    found = learn(zoo, split, steps, batch_size=batch_size, seed=order.seed, device=device)
    return ledger.spend(found.weights)


def _live(bank: LogitBank, ledger: Ledger) -> tuple[Zoo, Dataset[Any]]:
    """The networks and images behind the evaluations."""
    zoo, split = getattr(ledger.evaluate, "zoo", None), getattr(ledger.evaluate, "split", None)
    if not isinstance(zoo, Zoo) or split is None:
        raise ParameterError(
            "This recipe needs real networks and images, not accuracies alone (a soup bench or a function of your "
            "own gives no more); pass evaluate=radin.evaluator(zoo, split)."
        )
    if (len(zoo), len(split)) != (bank.num_models, bank.num_images):
        raise ParameterError(
            f"The bank holds {bank.num_models} ingredients and {bank.num_images} images, but evaluate has {len(zoo)} "
            f"and {len(split)}; make both from one zoo and one split."
        )
    return zoo, split


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

# These look through `evaluate` at the networks and the images. They are kept apart because whoever loops over
# RECIPES, to draw a line for each, say, has a bench's look-up in hand as often as not.
LIVE_RECIPES: dict[str, Recipe] = {"learned": _learned}


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
    budget, prior = check_whole("budget", budget, least=1), check_prior(prior)
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
        cost, unit = float(ledger.forward_equivalents), "forward-equivalents" if ledger.charged else "evaluations"
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
