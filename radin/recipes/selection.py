"""The recipes that work with any evaluator, such as the look-up of a soup bench.

>>> import radin
>>> sorted(radin.RECIPES)
['best_single', 'ensemble', 'greedy', 'radin', 'random', 'safe', 'top_k', 'uniform']
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from radin.ranking.bank import LogitBank
from radin.ranking.candidates import distinct, exhaustive, from_subsets, monte_carlo
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import NLL
from radin.ranking.rank import rank, single_values
from radin.ranking.resampling import noise_of_difference
from radin.recipes.ledger import Ledger
from radin.recipes.rules import (
    GreedyRules,
    Members,
    RaceRules,
    best_so_far,
    free_prefix,
    greedy_choices,
    random_order,
    safe_choices,
    top_k_choices,
    top_k_members,
)

# When the caller gives no candidates, all subsets are ranked up to this many ingredients (8,191
# rows), and as many Monte Carlo subsets beyond.
MAX_MODELS_FOR_ALL_SUBSETS = 13
NUM_MONTE_CARLO_CANDIDATES = 2**MAX_MODELS_FOR_ALL_SUBSETS - 1


def default_candidates(num_models: int, *, seed: int) -> Tensor:
    """All subsets of a small zoo, else Monte Carlo subsets: (M, N) mixing weights."""
    if num_models <= MAX_MODELS_FOR_ALL_SUBSETS:
        return exhaustive(num_models)
    return monte_carlo(num_models, NUM_MONTE_CARLO_CANDIDATES, seed=seed)


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What the user asked a recipe for, apart from the bank and the budget; see `radin.craft`."""

    candidates: Tensor | None = None
    prior: float = 0.0
    seed: int = 0
    greedy_rules: GreedyRules = field(default_factory=GreedyRules)
    race_rules: RaceRules = field(default_factory=RaceRules)
    threshold: float = 0.0
    free_singles: bool = False
    granularity: str = "ingredient"
    start: str = "uniform"
    holdout: float = 0.0

    def candidates_for(self, bank: LogitBank) -> Tensor:
        """The user's candidates, else the default ones."""
        if self.candidates is not None:
            return self.candidates
        return default_candidates(bank.num_models, seed=self.seed)


# A recipe makes its looks through the ledger and returns the index of the trial that it chooses.
Recipe = Callable[[LogitBank, Ledger, RecipeOptions], int]


def radin(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """RADIN: rank all candidates, evaluate the first B, return the best by validation.

    With `options.free_singles` a candidate that is one ingredient costs nothing, and B other soups
    are evaluated.
    """
    candidates = options.candidates_for(bank)
    if options.free_singles:
        return _radin_with_free_singles(bank, ledger, candidates, prior=options.prior)
    ranking = rank(bank, candidates, prior=options.prior, top=ledger.left, metric=ledger.metric)
    values = ledger.spend_many(
        candidates[ranking.order], estimates=ranking.estimates[ranking.order].tolist()
    )
    return int(best_so_far(values, metric=ledger.metric)[-1])


def _radin_with_free_singles(
    bank: LogitBank, ledger: Ledger, candidates: Tensor, *, prior: float
) -> int:
    """RADIN, where the bank answers for single ingredients."""
    is_single = (candidates > 0).sum(1) == 1
    top = min(ledger.left + int(is_single.sum()), len(candidates))
    ranking = rank(bank, candidates, prior=prior, top=top, metric=ledger.metric)
    ranked = ranking.order[: free_prefix(is_single[ranking.order].numpy(), ledger.left)]
    estimates = ranking.estimates[ranked].tolist()
    free = [place for place, k in enumerate(ranked) if is_single[k]]
    paid = [place for place, k in enumerate(ranked) if not is_single[k]]
    for place in free:
        ledger.look(candidates[ranked[place]], estimate=estimates[place])
    ledger.spend_many(candidates[ranked[paid]], estimates=[estimates[place] for place in paid])
    # Of equals the better ranked one is returned, whichever was looked at first.
    places = [*free, *paid][: len(ledger.trials)]
    in_order = sorted(range(len(places)), key=places.__getitem__)
    values = [ledger.trials[trial].value for trial in in_order]
    return in_order[int(best_so_far(values, metric=ledger.metric)[-1])]


def safe(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """Safe: the best ingredient, unless one of the first B soups is better by validation.

    The ingredient is free. Candidates are ranked by the negative log-likelihood of their ensembles
    (by the metric itself for targets), and no evaluation is spent on an ingredient alone.
    """
    singles = single_values(bank, ledger.metric)
    best = int(ledger.metric.comparable(singles).argmax())
    ledger.look(torch.eye(bank.num_models)[best], estimate=singles[best].item())
    candidates = options.candidates_for(bank)
    soups = candidates[(candidates > 0).sum(1) > 1]
    if len(soups) and ledger.left:
        by = ledger.metric if bank.has_targets else NLL
        ledger.spend_many(soups[rank(bank, soups, top=ledger.left, metric=by).order])
    trials = ledger.trials

    def noise(one: int, other: int) -> float:
        of_images = noise_of_difference(
            bank, trials[one].weights, trials[other].weights, ledger.metric
        )
        return math.hypot(of_images, trials[one].standard_error, trials[other].standard_error)

    values = [trial.value for trial in trials]
    choice = safe_choices(values, noise, threshold=options.threshold, metric=ledger.metric)[-1]
    if len(trials) > 1:
        ledger.notes.append(_why(values, noise, choice, ledger.metric))
    return choice


def _why(
    values: Sequence[float], noise: Callable[[int, int], float], choice: int, metric: Metric
) -> str:
    """Why safe chose a look, in a sentence; the first one is the best ingredient."""
    soup = choice or 1 + int(metric.comparable(values[1:]).argmax())
    lead = metric.gain(values[soup], values[0])
    unit = "points" if metric.is_percentage else metric.unit
    points = f"{metric.text(abs(lead))}{unit and f' {unit}'}"
    if lead <= 0:
        return f"kept the best single: the best soup is {points} behind it"
    errors = f"{lead / max(noise(soup, 0), 1e-300):.1f} standard errors"
    if choice == 0:
        return f"kept the best single: the soup's lead of {points} is {errors}"
    return f"the soup leads the best single by {points}, {errors}"


def greedy(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """Greedy soup: best ingredient first, keep an addition that does no harm.

    `options.greedy_rules` may say otherwise.

    Source: Wortsman et al. 2022, recipe 1.
    """
    singles = single_values(bank, ledger.metric)

    choices = greedy_choices(
        singles,
        look=lambda members: ledger.look(
            _equal_weights(members, bank), estimate=singles[members[0]].item()
        ),
        evaluate=lambda members: ledger.spend(_equal_weights(members, bank)),
        metric=ledger.metric,
        rules=options.greedy_rules,
    )
    choice = next(choices)  # free, unless ingredients are paid for
    while ledger.left and (after_one_more := next(choices, None)) is not None:
        choice = after_one_more
    return choice


def top_k(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """Top k: average the k best ingredients for k = 2, 3, ..., one evaluation each.

    The best soup is returned, or the best ingredient, which is free, where that one is better.
    """
    singles = single_values(bank, ledger.metric)
    single, *soups = top_k_members(singles, metric=ledger.metric)
    ledger.look(_equal_weights(single, bank), estimate=singles[single[0]].item())
    if soups := soups[: ledger.left]:
        ledger.spend_many(torch.stack([_equal_weights(members, bank) for members in soups]))
    return top_k_choices([trial.value for trial in ledger.trials], metric=ledger.metric)[-1]


def _equal_weights(members: Members, bank: LogitBank) -> Tensor:
    """The mixing weights of a subset: (N,)."""
    subset = torch.zeros(1, bank.num_models)
    subset[0, members] = 1
    return from_subsets(subset)[0]


def uniform(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """Uniform soup: average all N; one evaluation tells how good it is.

    Source: Wortsman et al. 2022.
    """
    ledger.spend(torch.full((bank.num_models,), 1 / bank.num_models))
    return 0


def best_single(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """The best ingredient by validation. It is free, because the bank holds its value."""
    singles = single_values(bank, ledger.metric)
    best = int(ledger.metric.comparable(singles).argmax())
    ledger.look(torch.eye(bank.num_models)[best], estimate=singles[best].item())
    return 0


def random(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """Evaluate B different candidates drawn at random: what RADIN would be without stage 1."""
    candidates = distinct(options.candidates_for(bank))
    drawn = random_order(len(candidates), seed=options.seed)[: ledger.left]
    return int(best_so_far(ledger.spend_many(candidates[drawn]), metric=ledger.metric)[-1])


def ensemble(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """A reference, not a soup: the logits of all N averaged, N forward passes for each image."""
    ledger.notes.append(f"a reference, not a soup: {bank.num_models} forward passes for each image")
    ledger.look(torch.full((bank.num_models,), 1 / bank.num_models))
    return 0


# These work with any `evaluate`, so they can be compared on a soup bench, where it is a look-up.
RECIPES: dict[str, Recipe] = {
    "radin": radin,
    "safe": safe,
    "greedy": greedy,
    "top_k": top_k,
    "uniform": uniform,
    "best_single": best_single,
    "random": random,
    "ensemble": ensemble,
}

RANKED = ("radin",)  # those that rank by the fast estimate
JUDGED = ("radin", "safe")  # those that trust the bank's order, which `radin.trust` judges
