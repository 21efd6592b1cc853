"""Recipes: from a logit bank and a budget of evaluations to one soup.

A recipe sees the bank and a ledger, nothing else. It does not know whether an evaluation averages
real checkpoints or looks a row up in a soup bench. Only the live recipes need the networks.

>>> import radin
>>> list(radin.RECIPES)
['radin', 'safe', 'greedy', 'top_k', 'uniform', 'best_single', 'random', 'ensemble']
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from radin.errors import ParameterError, check_integer, check_seed, check_word
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import ACCURACY, MetricLike, find_metric
from radin.ranking.rank import check_prior
from radin.recipes.functions import RecipeFunction, as_recipe, name_of
from radin.recipes.learned import LIVE_RECIPES, STARTS, check_holdout
from radin.recipes.ledger import Evaluate, Ledger, Trial, accuracy_of
from radin.recipes.mixture import GRANULARITIES
from radin.recipes.race import IMAGE_RECIPES
from radin.recipes.rules import GreedyRules, RaceRules
from radin.recipes.selection import JUDGED, RECIPES, Recipe, RecipeOptions
from radin.recipes.trust import checks_of_trials
from radin.recipes.trust_report import Trust

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Soup:
    """What a recipe returns.

    Attributes:
        recipe: its name.
        weights: (N,) mixing weights of the chosen soup.
        value: its validation accuracy in percent, or another metric (for "ensemble", the
            ensemble's). Where it is an accuracy, `accuracy` is the same number.
        tensor_weights: (N,) mixing weights of each tensor by its name, where "learned" gave parts
            of the network their own; None for all others. `weights` are then the mean over the
            parts, and `radin.soup.average.average_by_tensor(zoo, tensor_weights)` is the soup.
        trials: what was looked at, in order.
        evaluations: how many evaluations were spent; the entry fee is not among them. Where a soup
            is run on a share of the images, they can be more than the budget.
        forward_equivalents: what the evaluations cost plus what was spent on training, in one unit:
            one forward pass over the validation split.
        budget: how many were allowed.
        note: what the user should know, such as a budget larger than the recipe can use; else
            empty.
        trust: a short report: how far the fast estimate can be believed, by the trials alone. None
            for a recipe whose soups do not come in the order of the bank.
            `radin.trust(bank, zoo, trials=soup)` makes all checks.
        metric: what the value is: the metric that soups were ranked and chosen by.

    >>> import radin
    >>> bench = radin.SoupBench.load("cifar10")
    >>> soup = radin.craft(bench.val, bench.evaluator(), budget=2, recipe="greedy")
    >>> soup.evaluations, len(soup.members) <= 3
    (2, True)
    """

    recipe: str
    weights: Tensor
    value: float
    trials: list[Trial]
    evaluations: int
    forward_equivalents: float
    budget: int
    note: str = ""
    trust: Trust | None = None
    metric: Metric = ACCURACY
    tensor_weights: Mapping[str, Tensor] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """That the evaluations took: averaging, reading and running soups."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def accuracy(self) -> float:
        """The value, if it is an accuracy in percent.

        Raises ParameterError for another metric.
        """
        return accuracy_of(self.value, self.metric)

    @property
    def members(self) -> list[int]:
        """Indices of the ingredients with a positive weight."""
        return (self.weights > 0).nonzero().flatten().tolist()

    def to_frame(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """The trials as a pandas table, to plot or keep: one row for each, numbered from 1.

        Args:
            names: of the ingredients, such as `bank.names`; "0", "1", ... when not given.

        Returns:
            The columns are "ingredients", how many the soup has; "estimate" and "value", as in
            `Trial`; "evaluated"; "standard_error"; "passes", what it cost; "chosen", whether it is
            the soup; then a column of mixing weights for each ingredient.

        Raises:
            ParameterError: not one name for each ingredient.

        >>> import radin
        >>> bench = radin.SoupBench.load("cifar10")
        >>> soup = radin.craft(bench.val, bench.evaluator(), budget=2)
        >>> soup.to_frame()[["estimate", "value", "chosen"]].round(2).reset_index()
           trial  estimate  value  chosen
        0      1     83.48  82.88    True
        1      2     83.46  82.58   False
        """
        import pandas as pd

        columns = [str(k) for k in range(len(self.weights))] if names is None else list(names)
        if len(columns) != len(self.weights) or len(set(columns)) < len(columns):
            raise ParameterError(
                f"names must be different names of the {len(self.weights)} ingredients, "
                f"not {columns}."
            )
        rows = [
            {
                "ingredients": int((trial.weights > 0).sum()),
                "estimate": trial.estimate,
                "value": trial.value,
                "evaluated": trial.evaluated,
                "standard_error": trial.standard_error,
                "passes": float(trial.cost),
                "chosen": number == self.choice,
            }
            | dict(zip(columns, trial.weights.tolist(), strict=True))
            for number, trial in enumerate(self.trials)
        ]
        return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="trial"))

    @property
    def choice(self) -> int:
        """The index of the chosen trial, the first one with the soup's weights and value."""
        return next(
            number
            for number, trial in enumerate(self.trials)
            if trial.value == self.value and torch.equal(trial.weights, self.weights)
        )

    @property
    def spent(self) -> str:
        """How many evaluations were spent, how many passes where they cost less, and training."""
        cost = sum((trial.cost for trial in self.trials), Fraction(0))
        if cost == self.evaluations:
            text = f"{self.evaluations} of {self.budget} evaluations spent"
        else:
            text = (
                f"{self.evaluations} soups evaluated in {float(cost):.2f} of {self.budget} forward "
                "passes"
            )
        training = self.forward_equivalents - float(cost)
        return f"{text} and {training:.2f} more on training" if training else text

    def __str__(self) -> str:
        text = (
            f"{self.recipe}: validation {self.metric} {self.metric.text_with_unit(self.value)}, "
            f"{len(self.members)} of {len(self.weights)} ingredients, {self.spent}"
        )
        if self.note:
            text += f" ({self.note})"
        if self.trust is not None and self.trust.verdict == "no":
            text += (
                "\ndo not trust the fast estimate here "
                "(print radin.trust(bank, zoo, trials=soup) for all checks):"
            )
            text += "".join(f"\n- {advice}" for advice in self.trust.advice)
        return text


def craft(
    bank: LogitBank,
    evaluate: Evaluate,
    budget: int,
    recipe: str | RecipeFunction = "radin",
    *,
    candidates: Tensor | None = None,
    prior: float = 0.0,
    seed: int = 0,
    greedy_rules: GreedyRules | None = None,
    race_rules: RaceRules | None = None,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    threshold: float = 0.0,
    free_singles: bool = False,
    granularity: str = "ingredient",
    start: str = "uniform",
    holdout: float = 0.0,
) -> Soup:
    """Spend a budget of evaluations on one recipe and return its soup.

    Args:
        bank: the validation logit bank, N ingredients.
        evaluate: mixing weights (N,) to validation accuracy in percent, or to another metric;
            called at most `budget` times. One that runs a share of the images
            (`radin.evaluator(zoo, split, bank=bank, share=0.3)`) is called more often: what it runs
            is counted in passes over the images. "learned" needs `radin.evaluator(zoo, split)`,
            "race" needs that or the evaluator of a bench, the others take any function.
        budget: B, at least 1. More than the recipe can use is used up to what exists, and
            `Soup.note` says so.
        recipe: "radin", "safe", "greedy", "top_k", "uniform", "best_single", "random", "race",
            "learned", or "ensemble" (a reference). Or a function of your own, from the bank and a
            ledger to mixing weights (N,): see `radin.recipes.functions`.
        candidates: (M, N) mixing weights for "radin", "safe", "random" and "race"; by default
            all subsets of up to 13 ingredients, and 8,191 Monte Carlo subsets of more.
        prior: lambda, for "radin": the bonus of the full zoo in percentage points. It must be 0 for
            a metric that is no percentage.
        seed: of every random choice.
        greedy_rules: conventions of "greedy" (`radin.recipes.rules.GreedyRules`): what it pays for,
            where it starts, and which additions it keeps.
        race_rules: how many soups "race" begins with, on how many images, and when it drops one
            (`radin.recipes.rules.RaceRules`).
        metric: what soups are ranked and chosen by: a name, a `Metric`, or a function of averaged
            logits (n, C) and labels, as in `radin.fast_estimate`. `evaluate` must return the same.
            By default the metric of `radin.evaluator(zoo, split, metric=...)`, else "accuracy".
        higher_is_better: whether larger numbers of a function are better.
        threshold: for "safe": by how many standard errors of the paired difference a soup must lead
            the choice before it.
        free_singles: for "radin": take the value of a candidate that is one ingredient off the
            bank, where the entry fee has put it, and evaluate B other soups. By default it costs an
            evaluation, as every candidate does in the paper; the book and the tables of
            `radin.load_collection` count so. Leave it if `evaluate` measures batch norm again: the
            bank's ingredients are as they are.
        granularity: for "learned": what has a mixing weight of its own for each ingredient: the
            "ingredient" as a whole, each "block" of layers or each "tensor"; see
            `radin.recipes.learned.learn`.
        start: for "learned": the soup to start from, "uniform" or "convex", the mixing weights of
            `radin.convex`.
        holdout: for "learned": the share of the images that are not learned from, and say when to
            stop; 0 for none.

    Raises:
        ParameterError: an impossible budget, recipe, prior, threshold, metric, candidate or option
            of "learned", an evaluator of another metric, or no networks for "learned". It is raised
            before anything is evaluated.

    Source: RADIN, algorithm of stages 1 and 2; Wortsman et al. 2022 for greedy, uniform and
    learned.

    >>> import radin
    >>> bench = radin.SoupBench.load("cifar10")
    >>> soup = radin.craft(bench.val, bench.evaluator(), budget=4)
    >>> print(soup)
    radin: validation accuracy 82.88%, 5 of 10 ingredients, 4 of 4 evaluations spent
    """
    budget = check_integer("budget", budget, minimum=1)
    chosen = _metric_of(evaluate, metric, higher_is_better)
    chosen.check_labels(bank.labels, num_outputs=bank.num_outputs)
    prior = check_prior(prior, chosen)
    seed = check_seed(seed)
    threshold = check_threshold(threshold)
    run = find_recipe(recipe)
    if candidates is not None:
        candidates = torch.as_tensor(candidates)
        check_weights(candidates, bank.num_models, rows=True)
    ledger = Ledger(bank, evaluate, budget, metric=chosen)
    options = RecipeOptions(
        candidates=candidates,
        prior=prior,
        seed=seed,
        greedy_rules=greedy_rules or GreedyRules(),
        race_rules=race_rules or RaceRules(),
        threshold=threshold,
        free_singles=_check_free_singles(free_singles, recipe),
        granularity=check_word("granularity", granularity, GRANULARITIES),
        start=check_word("start", start, STARTS),
        holdout=check_holdout(holdout),
    )
    choice = run(bank, ledger, options)
    trials = ledger.trials
    if ledger.share_note:
        ledger.notes.append(ledger.share_note)
    return Soup(
        recipe=recipe if isinstance(recipe, str) else name_of(recipe),
        weights=trials[choice].weights,
        value=trials[choice].value,
        trials=trials,
        evaluations=ledger.spent,
        forward_equivalents=float(ledger.forward_equivalents),
        budget=budget,
        note="; ".join([*ledger.notes, *_unused_budget(ledger)]),
        trust=Trust(tuple(checks_of_trials(bank, trials))) if recipe in JUDGED else None,
        metric=chosen,
        tensor_weights=trials[choice].tensor_weights,
    )


def find_recipe(recipe: str | RecipeFunction) -> Recipe:
    """The recipe of a name, or a function of the user's own as a recipe.

    Raises:
        ParameterError: no recipe has this name.
    """
    if not isinstance(recipe, str) and callable(recipe):
        return as_recipe(recipe)
    recipes = RECIPES | IMAGE_RECIPES | LIVE_RECIPES
    if recipe not in recipes:
        raise ParameterError(
            f"Unknown recipe {recipe!r}; choose one of {', '.join(recipes)}, or give a function "
            "from a bank and a ledger to mixing weights."
        )
    return recipes[recipe]


def _check_free_singles(free_singles: bool, recipe: str | RecipeFunction) -> bool:
    """ParameterError where it is no truth value, or where the recipe has no use for it."""
    if not isinstance(free_singles, bool):
        raise ParameterError(f"free_singles must be True or False, not {free_singles!r}.")
    if free_singles and recipe != "radin":
        raise ParameterError(
            f"free_singles is for the recipe radin, not for {recipe}; leave it out there."
        )
    return free_singles


def check_threshold(threshold: float) -> float:
    """The threshold of "safe" as a float.

    Raises:
        ParameterError: it is not a finite number of at least 0.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise ParameterError(f"threshold must be a number, not {threshold!r}.")
    if not 0 <= threshold < math.inf:  # NaN fails this too
        raise ParameterError(
            f"threshold must be a finite number of at least 0 (standard errors), not {threshold!r}."
        )
    return float(threshold)


def _metric_of(
    evaluate: Evaluate, metric: MetricLike | None, higher_is_better: bool | None
) -> Metric:
    """The metric to craft by: the asked one, which must be the evaluator's where it has one."""
    own = getattr(evaluate, "metric", None)
    if not isinstance(own, Metric):
        return find_metric("accuracy" if metric is None else metric, higher_is_better)
    chosen = find_metric(own if metric is None else metric, higher_is_better)
    if chosen != own:
        raise ParameterError(
            f"craft was asked for {chosen.name}, but evaluate measures {own.name}; make it with "
            f"metric={chosen.name!r}, or leave craft's metric out."
        )
    return chosen


def _unused_budget(ledger: Ledger) -> list[str]:
    if ledger.passes_left <= 0:
        return []
    is_whole = ledger.forward_equivalents == ledger.spent
    unit = "evaluation" if is_whole else "forward-equivalent"
    cost = f"{float(ledger.forward_equivalents):.3g}"
    used = f"can use only {cost} {unit}{'' if cost == '1' else 's'} here"
    if not ledger.forward_equivalents:
        used = "needs no evaluation"
    left = ledger.passes_left
    return [f"this recipe {used}, {left} of the budget {'is' if left == 1 else 'are'} left"]
