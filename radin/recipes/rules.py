"""The rules of the recipes: what is looked at, in which order, and what is returned.

`radin.recipes.selection` follows them with a ledger, and `radin.experiments.bench.replay` with a
table of all soups. The order of RADIN's candidates is `radin.ranking.rank.sort_keys`.
`book/_static/explorer/explorer.js` holds the same rules for the page; a test compares the two.

A choice is the index of one look among those made so far. Index 0 is the first look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from radin.errors import ParameterError
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import ACCURACY

Members = list[int]  # the indices of a subset's ingredients


def comparable(values: Any, metric: Metric = ACCURACY) -> np.ndarray:
    """Values rounded to compare them, the larger the better.

    100 * (h / n) and 100 * h / n are one accuracy.
    """
    return metric.comparable(values)


def best_so_far(
    values: Sequence[float] | np.ndarray | Tensor, *, metric: Metric = ACCURACY
) -> np.ndarray:
    """What radin and random return after 1, 2, ... looks: the best, and of equals the first.

    The first of equals is the better ranked one.

    Args:
        values: (B,) validation accuracies in percent, in the order of the looks; or values of
            another metric.
        metric: what the values are.

    Returns: (B,) int64, for each budget the index of the chosen look.
    """
    rounded = comparable(values, metric)
    record = np.maximum.accumulate(rounded)
    is_better = np.concatenate([[True], rounded[1:] > record[:-1]])
    return np.maximum.accumulate(np.where(is_better, np.arange(len(rounded)), 0))


def free_prefix(is_single: np.ndarray, num_evaluations: int) -> int:
    """How many ranked candidates RADIN looks at where single ingredients are free.

    It goes through the ranking and stops at the first soup that is not paid for.

    Args:
        is_single: (M,) boolean, in the order of the ranking: whether a candidate is one ingredient.
        num_evaluations: that the budget pays.
    """
    unpaid = np.flatnonzero(~np.asarray(is_single))[num_evaluations:]
    return int(unpaid[0]) if len(unpaid) else len(is_single)


def random_order(num_candidates: int, *, seed: int) -> np.ndarray:
    """The indices of all candidates in the order in which random evaluates them: (M,)."""
    return np.random.default_rng(seed).permutation(num_candidates)


@dataclass(frozen=True, kw_only=True)
class GreedyRules:
    """What greedy pays for, where it starts, and which additions it keeps.

    The texts on budgets leave these three open, and the size of the headline depends on them. The
    defaults are Wortsman et al.'s order with the ingredients' accuracies for free, because the
    entry fee has paid for them.

    Attributes:
        order: of the ingredients; greedy starts from the first: "best_first", "worst_first" or
            "as_listed".
        paid: which passes of single ingredients the budget pays: "none", that of the "start", or
            "all", in the order of the list.
        keep: "equal" keeps an addition that does no harm, "better" only one that helps, as the code
            of Wortsman et al. does.

    Raises:
        ParameterError: another word.

    >>> import radin
    >>> from radin.recipes.rules import GreedyRules
    >>> bench = radin.SoupBench.load("cifar10")
    >>> rules = GreedyRules(paid="start")
    >>> radin.craft(bench.val, bench.evaluator(), 1, "greedy", greedy_rules=rules).members
    [2]
    """

    order: str = "best_first"
    paid: str = "none"
    keep: str = "equal"

    def __post_init__(self) -> None:
        for name, words in GREEDY_WORDS.items():
            if getattr(self, name) not in words:
                raise ParameterError(
                    f"{name} of greedy must be one of {', '.join(words)}, "
                    f"not {getattr(self, name)!r}."
                )

    @property
    def free_choices(self) -> int:
        """How many choices greedy makes before its first evaluation: 1 or 0."""
        return int(self.paid == "none")

    def sort(self, values: np.ndarray) -> list[int]:
        """The indices of the ingredients in the order in which greedy goes through them.

        Args:
            values: (N,) as `comparable` gives them. Of equals the first listed comes first.
        """
        if self.order == "as_listed":
            return list(range(len(values)))
        sign = -1 if self.order == "best_first" else 1
        return np.argsort(sign * values, kind="stable").tolist()


GREEDY_WORDS = {
    "order": ("best_first", "worst_first", "as_listed"),
    "paid": ("none", "start", "all"),
    "keep": ("equal", "better"),
}


def greedy_choices(
    singles: Tensor | np.ndarray,
    *,
    look: Callable[[Members], float],
    evaluate: Callable[[Members], float],
    metric: Metric = ACCURACY,
    rules: GreedyRules | None = None,
) -> Iterator[int]:
    """What greedy returns after 0, 1, 2, ... evaluations.

    By default the best ingredient comes first and is free. Each other one is tried in order of
    accuracy, and kept when it does no harm. An evaluation is made only when its choice is asked
    for.

    Args:
        singles: (N,) validation accuracy of each ingredient in percent, or another metric.
        look: gives the value of one ingredient, which the bank holds.
        evaluate: gives the value of a soup, which costs one evaluation.
        metric: what the values are.
        rules: other conventions. Where ingredients are paid for, the first choice is the one after
            1 evaluation. While all of them are paid for, it is the best so far.

    Returns: the index of the look that is kept; 0 is the first one.

    Source: Wortsman et al. 2022, recipe 1.
    """
    rules = rules or GreedyRules()
    order = rules.sort(comparable(singles, metric))
    kept = order[:1]
    if rules.paid == "all":
        values = []
        for k in range(len(order) - 1):
            values.append(evaluate([k]))
            yield int(best_so_far(values, metric=metric)[-1])
        values.append(evaluate([len(order) - 1]))
        choice = order[0]
        looks = len(order)
        reached = comparable(values[choice], metric)
    else:
        choice = 0
        looks = 1
        reached = comparable((look if rules.paid == "none" else evaluate)(kept), metric)
    yield choice
    for index, k in enumerate(order[1:], start=looks):
        tried = [*kept, k]
        value = comparable(evaluate(tried), metric)
        if value > reached or (value == reached and rules.keep == "equal"):
            kept = tried
            reached = value
            choice = index
        yield choice


@dataclass(frozen=True, kw_only=True)
class RaceRules:
    """How many soups race, on how many images, and when one is dropped.

    Attributes:
        share: of the images in the first round, above 0 and at most 1.
        growth: by how much the share grows from round to round, above 1.
        threshold: a soup is dropped when the leader is better by more than so many standard errors
            of the paired difference; infinite to drop none before all images are run.
        candidates_per_pass: how many soups start for each forward pass of the budget.

    Raises:
        ParameterError: a number out of range.

    >>> from radin.recipes.rules import RaceRules
    >>> list(RaceRules(share=0.25).shares()), RaceRules().num_soups(4)
    ([0.25, 0.5, 1.0], 10)
    """

    share: float = 0.1
    growth: float = 2.0
    threshold: float = 2.0
    candidates_per_pass: float = 3.0

    def __post_init__(self) -> None:
        bounds = {
            "share": 0 < self.share <= 1,
            "growth": 1 < self.growth < math.inf,
            "threshold": self.threshold >= 0,
            "candidates_per_pass": 1 <= self.candidates_per_pass < math.inf,
        }
        words = {
            "share": "above 0 and at most 1",
            "growth": "above 1 and finite",
            "threshold": "of at least 0",
            "candidates_per_pass": "of at least 1 and finite",
        }
        for name, is_possible in bounds.items():
            if not is_possible:  # NaN fails each of them
                raise ParameterError(
                    f"{name} of a race must be a number {words[name]}, not {getattr(self, name)!r}."
                )

    def shares(self) -> Iterator[float]:
        """The share of the images in each round, up to 1."""
        share = self.share
        while share < 1:
            yield share
            share *= self.growth
        yield 1.0

    def num_soups(self, budget: int) -> int:
        """How many soups race: the first takes one pass, the others share what is left."""
        return 1 + math.floor(self.candidates_per_pass * (budget - 1))


def safe_choices(
    values: Sequence[float],
    noise: Callable[[int, int], float],
    *,
    threshold: float = 0.0,
    metric: Metric = ACCURACY,
) -> list[int]:
    """What safe returns after 0, 1, 2, ... evaluations.

    The best ingredient comes first and is free. A soup takes the place of the choice so far when it
    is better by more than `threshold` standard errors of the paired difference.

    Args:
        values: validation accuracies in percent, or another metric: of the best ingredient, then of
            the soups in the order of their evaluations.
        noise: gives the standard error of the difference between two of these looks. It is asked
            only where it decides.
        threshold: in standard errors; 0 keeps the best by validation, and of equals the first.
        metric: what the values are.

    Returns: for each number of evaluations the index of the look that is chosen.
    """
    rounded = comparable(values, metric)
    choice = 0
    choices = [0]
    for k in range(1, len(values)):
        lead = metric.gain(values[k], values[choice])
        is_better = bool(rounded[k] > rounded[choice])
        if is_better and (threshold == 0 or lead > threshold * noise(k, choice)):
            choice = k
        choices.append(choice)
    return choices


def top_k_members(singles: Tensor | np.ndarray, *, metric: Metric = ACCURACY) -> list[Members]:
    """The k best ingredients for k = 1, 2, ..., N: what top_k looks at, in order.

    Args:
        singles: (N,) validation accuracy of each ingredient in percent, or another metric.
        metric: what the values are.
    """
    order = np.argsort(-comparable(singles, metric), kind="stable").tolist()
    return [order[:k] for k in range(1, len(order) + 1)]


def top_k_choices(values: Sequence[float], *, metric: Metric = ACCURACY) -> list[int]:
    """What top_k returns after 0, 1, 2, ... evaluations.

    The best ingredient comes first and is free. Of the soups the best counts, and of equals the
    smaller one. The ingredient is returned only where it is better than that soup.

    Args:
        values: validation accuracies in percent, or another metric: of the best ingredient, then of
            the soups of the 2, 3, ... best.
        metric: what the values are.

    Returns: for each number of evaluations the index of the look that is chosen.
    """
    if len(values) < 2:
        return [0]
    rounded = comparable(values, metric)
    best = 1 + best_so_far(values[1:], metric=metric)
    return [0, *np.where(rounded[best] >= rounded[0], best, 0).tolist()]
