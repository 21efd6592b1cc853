"""Recipes: from a logit bank and a budget of evaluations to one soup.

A recipe sees the bank and a ledger, nothing else. It does not know whether an evaluation averages
real checkpoints or looks a row up in a soup bench. Only the live recipes need the networks.

>>> import radin
>>> list(radin.RECIPES)
['radin', 'safe', 'greedy', 'uniform', 'best_single', 'random', 'ensemble']
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from radin.errors import ParameterError, check_integer, check_seed
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import ACCURACY, MetricLike, find_metric
from radin.ranking.rank import check_prior
from radin.recipes.learned import LIVE_RECIPES
from radin.recipes.ledger import Evaluate, Ledger, Trial, accuracy_of
from radin.recipes.rules import GreedyRules
from radin.recipes.selection import RANKED, RECIPES, RecipeOptions
from radin.recipes.trust import checks_of_trials
from radin.recipes.trust_report import Trust


@dataclass(frozen=True)
class Soup:
    """What a recipe returns.

    Attributes:
        recipe: its name.
        weights: (N,) mixing weights of the chosen soup.
        value: its validation accuracy in percent, or another metric (for "ensemble", the
            ensemble's). Where it is an accuracy, `accuracy` is the same number.
        trials: what was looked at, in order.
        evaluations: how many evaluations were spent; the entry fee is not among them. Where a soup
            is run on a share of the images, they can be more than the budget.
        forward_equivalents: what the evaluations cost plus what was spent on training, in one unit:
            one forward pass over the validation split.
        budget: how many were allowed.
        note: what the user should know, such as a budget larger than the recipe can use; else
            empty.
        trust: a short report: how far the fast estimate can be believed, by the trials alone. None
            for a recipe that does not rank by it. `radin.trust(bank, zoo, trials=soup)` makes all
            checks.
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

    @property
    def spent(self) -> str:
        """How many evaluations were spent, and how many passes where they cost less than one."""
        cost = sum((trial.cost for trial in self.trials), Fraction(0))
        if cost == self.evaluations:
            return f"{self.evaluations} of {self.budget} evaluations spent"
        return (
            f"{self.evaluations} soups evaluated in {float(cost):.2f} of {self.budget} forward "
            "passes"
        )

    def __str__(self) -> str:
        cost = float(sum((trial.cost for trial in self.trials), Fraction(0)))
        training = self.forward_equivalents - cost
        text = (
            f"{self.recipe}: validation {self.metric} {self.metric.text_with_unit(self.value)}, "
            f"{len(self.members)} of {len(self.weights)} ingredients, {self.spent}"
        )
        if training:
            text += f" and {training:.2f} more on training"
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
    recipe: str = "radin",
    *,
    candidates: Tensor | None = None,
    prior: float = 0.0,
    seed: int = 0,
    greedy_rules: GreedyRules | None = None,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    threshold: float = 0.0,
) -> Soup:
    """Spend a budget of evaluations on one recipe and return its soup.

    Args:
        bank: the validation logit bank, N ingredients.
        evaluate: mixing weights (N,) to validation accuracy in percent, or to another metric;
            called at most `budget` times. One that runs a share of the images
            (`radin.evaluator(zoo, split, bank=bank, share=0.3)`) is called more often: what it runs
            is counted in passes over the images. "learned" needs `radin.evaluator(zoo, split)`, the
            others take any function.
        budget: B, at least 1. More than the recipe can use is used up to what exists, and
            `Soup.note` says so.
        recipe: "radin", "safe", "greedy", "uniform", "best_single", "random", "learned", or
            "ensemble" (a reference).
        candidates: (M, N) mixing weights for "radin", "safe" and "random"; by default all subsets
            of up to 13 ingredients, and 8,191 Monte Carlo subsets of more.
        prior: lambda, for "radin": the bonus of the full zoo in percentage points. It must be 0 for
            a metric that is no percentage.
        seed: of every random choice.
        greedy_rules: conventions of "greedy" (`radin.recipes.rules.GreedyRules`): what it pays for,
            where it starts, and which additions it keeps.
        metric: what soups are ranked and chosen by: a name, a `Metric`, or a function of averaged
            logits (n, C) and labels, as in `radin.fast_estimate`. `evaluate` must return the same.
            By default the metric of `radin.evaluator(zoo, split, metric=...)`, else "accuracy".
        higher_is_better: whether larger numbers of a function are better.
        threshold: for "safe": by how many standard errors of the paired difference a soup must lead
            the choice before it.

    Raises:
        ParameterError: an impossible budget, recipe, prior, threshold, metric or candidate, an
            evaluator of another metric, or no networks for "learned". It is raised before anything
            is evaluated.

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
    recipes = RECIPES | LIVE_RECIPES
    if recipe not in recipes:
        raise ParameterError(f"Unknown recipe {recipe!r}; choose one of {', '.join(recipes)}.")
    if candidates is not None:
        candidates = torch.as_tensor(candidates)
        check_weights(candidates, bank.num_models, rows=True)
    ledger = Ledger(bank, evaluate, budget, metric=chosen)
    options = RecipeOptions(
        candidates=candidates,
        prior=prior,
        seed=seed,
        greedy_rules=greedy_rules or GreedyRules(),
        threshold=threshold,
    )
    choice = recipes[recipe](bank, ledger, options)
    trials = ledger.trials
    if ledger.share_note:
        ledger.notes.append(ledger.share_note)
    return Soup(
        recipe=recipe,
        weights=trials[choice].weights,
        value=trials[choice].value,
        trials=trials,
        evaluations=ledger.spent,
        forward_equivalents=float(ledger.forward_equivalents),
        budget=budget,
        note="; ".join([*ledger.notes, *_unused_budget(ledger)]),
        trust=Trust(tuple(checks_of_trials(bank, trials))) if recipe in RANKED else None,
        metric=chosen,
    )


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
    cost = float(ledger.forward_equivalents)
    is_whole = ledger.forward_equivalents == ledger.spent
    unit = "evaluations" if is_whole else "forward-equivalents"
    used = f"can use only {cost:.3g} {unit} here" if cost else "needs no evaluation"
    return [f"this recipe {used}, {ledger.passes_left} of the budget are left"]
