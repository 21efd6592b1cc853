"""Recipes replayed on a soup bench at every budget at once: one call instead of one `craft` for each budget.

Each function answers with rows of the bench, one for each budget 1 .. B: the soup that the recipe
would return. Choices see validation only; what the soups are worth on test is `bench.soups("test")[rows]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from radin.errors import ParameterError, check_integer
from radin.experiments.bench.bench import SoupBench
from radin.ranking.candidates import monte_carlo

Rows = np.ndarray


def radin(
    bench: SoupBench,
    budget: int,
    prior: float = 0.0,
    scores: np.ndarray | None = None,
    among: Rows | None = None,
) -> Rows:
    """RADIN: evaluate the soups with the best scores first, return the best evaluated by validation: (budget,).

    Args:
        prior: lambda, in percentage points.
        scores: (2^N - 1,), the larger the better; the fast estimates when not given.
        among: rows of the candidates; all when not given. With fewer candidates than budget the last answer stays.
    """
    budget = check_integer("budget", budget, minimum=1)
    tried = order(bench, prior, scores)
    if among is not None:
        tried = tried[np.isin(tried, among)]
    return _best_so_far(bench, tried[:budget], budget)


def order(bench: SoupBench, prior: float = 0.0, scores: np.ndarray | None = None) -> Rows:
    """All rows in the order in which RADIN evaluates them: (2^N - 1,). As in `radin.rank`, more ingredients come first
    among equals, then the lower bitmask."""
    sizes = bench.sizes.numpy()
    base = bench.ensembles("val").numpy() if scores is None else np.asarray(scores)
    if base.shape != sizes.shape:
        raise ParameterError(
            f"scores must have one number for each of {len(sizes)} soups, not shape {base.shape}."
        )
    merit = (base + prior * sizes / bench.num_models).round(9)
    return np.lexsort((np.arange(len(sizes)), -sizes, -merit))


def random(bench: SoupBench, budget: int, seed: int = 0) -> Rows:
    """Evaluate soups drawn blindly, without repeats; return the best by validation: (budget,)."""
    budget = check_integer("budget", budget, minimum=1)
    return _best_so_far(
        bench, np.random.default_rng(seed).permutation(2**bench.num_models - 1)[:budget], budget
    )


def greedy(bench: SoupBench, budget: int) -> Rows:
    """The greedy soup (Wortsman et al. 2022, recipe 1) stopped after 1 .. budget evaluations: (budget,)."""
    budget = check_integer("budget", budget, minimum=1)
    val = _val(bench)
    singles = bench.val.accuracies().numpy().round(9)  # off the bank, as `craft` knows them: free
    order = np.argsort(-singles, kind="stable")
    kept, reached, answers = 1 << int(order[0]), singles[order[0]], []
    for k in order[1 : budget + 1]:
        tried = kept | 1 << int(k)
        if val[tried - 1] >= reached:
            kept, reached = tried, val[tried - 1]
        answers.append(kept - 1)
    return _held(answers or [kept - 1], budget)


def best_single(bench: SoupBench) -> int:
    """The row of the best ingredient by validation."""
    return int(2 ** int(bench.val.accuracies().argmax()) - 1)


def uniform(bench: SoupBench) -> int:
    """The row of the soup of all ingredients."""
    return int(2**bench.num_models - 2)


def oracle(bench: SoupBench) -> int:
    """The row of the best soup on test."""
    return int(bench.soups("test").argmax())


def monte_carlo_rows(bench: SoupBench, num_candidates: int, seed: int) -> Rows:
    """Rows of Monte Carlo candidates, repeats among them: (num_candidates,)."""
    drawn = monte_carlo(bench.num_models, num_candidates, seed).numpy() > 0
    return drawn @ (1 << np.arange(bench.num_models)) - 1


def member_means(bench: SoupBench, part: str = "val") -> np.ndarray:
    """The free rival of the fast estimate: the mean accuracy of each subset's members in percent, (2^N - 1,)."""
    members = bench.candidates.numpy() > 0
    return members @ bench.bank(part).accuracies().numpy() / members.sum(1)


def over_sub_zoos(
    bench: SoupBench, size: int, recipes: Mapping[str, Callable[[SoupBench], int]]
) -> dict[str, Rows]:
    """What each recipe returns on every choice of `size` ingredients: one zoo is one sample, these are more.

    Args:
        recipes: name to a function from the smaller zoo's bench to a row of it.

    Returns: for each name one row of the whole `bench` for each sub-zoo, in the order of `combinations`.
    """
    found: dict[str, list[int]] = {name: [] for name in recipes}
    for members in combinations(range(bench.num_models), check_integer("size", size, minimum=1)):
        smaller, rows = bench.sub(members), bench.rows_of(members)
        for name, recipe in recipes.items():
            found[name].append(int(rows[recipe(smaller)]))
    return {name: np.array(rows) for name, rows in found.items()}


def _val(bench: SoupBench) -> np.ndarray:
    return bench.soups("val").numpy().round(9)  # 100 * (h / n) and 100 * h / n are one accuracy


def _best_so_far(bench: SoupBench, tried: Sequence[int] | Rows, budget: int) -> Rows:
    tried = np.asarray(tried)
    val = _val(bench)[tried]
    # The first of equals is the better ranked: a later one must be strictly better.
    record = np.maximum.accumulate(val)
    first = np.concatenate([[True], val[1:] > record[:-1]])
    return _held(tried[np.maximum.accumulate(np.where(first, np.arange(len(tried)), 0))], budget)


def _held(rows: Sequence[int] | Rows, budget: int) -> Rows:
    """As many answers as budgets: a recipe that has stopped keeps its last."""
    rows = np.asarray(rows)
    return np.concatenate([rows, np.full(max(0, budget - len(rows)), rows[-1])])[:budget]
