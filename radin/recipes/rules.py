"""The rules of the recipes: what is looked at, in which order, and what is returned.

`radin.recipes.selection` follows them with a ledger, and `radin.experiments.bench.replay` with a
table of all soups. The order of RADIN's candidates is `radin.ranking.rank.sort_keys`.
`book/_static/explorer/explorer.js` holds the same rules for the page; a test compares the two.

A choice is the index of one look among those made so far. Index 0 is the first look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

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


def random_order(num_candidates: int, *, seed: int) -> np.ndarray:
    """The indices of all candidates in the order in which random evaluates them: (M,)."""
    return np.random.default_rng(seed).permutation(num_candidates)


def greedy_choices(
    singles: Tensor | np.ndarray,
    *,
    look: Callable[[Members], float],
    evaluate: Callable[[Members], float],
    metric: Metric = ACCURACY,
) -> Iterator[int]:
    """What greedy returns after 0, 1, 2, ... evaluations.

    The best ingredient comes first and is free. Each other one is tried in order of accuracy, and
    kept when it does no harm. An evaluation is made only when its choice is asked for.

    Args:
        singles: (N,) validation accuracy of each ingredient in percent, or another metric.
        look: gives the value of one ingredient, which the bank holds.
        evaluate: gives the value of a soup, which costs one evaluation.
        metric: what the values are.

    Returns: the index of the look that is kept; 0 is the best ingredient.

    Source: Wortsman et al. 2022, recipe 1.
    """
    best_first = np.argsort(-comparable(singles, metric), kind="stable").tolist()
    kept = best_first[:1]
    reached = comparable(look(kept), metric)
    choice = 0
    yield choice
    for index, k in enumerate(best_first[1:], start=1):
        tried = [*kept, k]
        value = comparable(evaluate(tried), metric)
        if value >= reached:
            kept = tried
            reached = value
            choice = index
        yield choice
