"""Recipes replayed on a soup bench at every budget at once.

One call takes the place of one `radin.craft` for each budget, and follows the same rules
(`radin.recipes.rules`). Each function answers with rows of the bench, one for each budget 1 .. B:
the soup that the recipe would return. Choices see validation only; the soups' test accuracies are
`bench.soups("test")[rows]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations, islice

import numpy as np

from radin.errors import ParameterError, check_integer
from radin.experiments.bench.bench import SoupBench
from radin.ranking.candidates import monte_carlo
from radin.ranking.named_metrics import ACCURACY, NLL
from radin.ranking.rank import sort_keys, with_prior
from radin.ranking.resampling import noise_of_difference
from radin.recipes.rules import (
    GreedyRules,
    Members,
    best_so_far,
    free_prefix,
    greedy_choices,
    random_order,
    safe_choices,
    top_k_choices,
    top_k_members,
)


def radin(
    bench: SoupBench,
    budget: int,
    prior: float = 0.0,
    *,
    scores: np.ndarray | None = None,
    among: np.ndarray | None = None,
    free_singles: bool = False,
) -> np.ndarray:
    """RADIN: evaluate the soups with the best scores first, return the best by validation.

    Args:
        bench: where evaluations are looked up.
        budget: B, at least 1.
        prior: lambda, in percentage points.
        scores: (R,), the larger the better; the fast estimates when not given.
        among: rows of the candidates; all when not given. With fewer candidates than budget the
            last answer stays.
        free_singles: whether a single ingredient costs no evaluation, as in `radin.craft`.

    Returns: (B,) rows.
    """
    budget = check_integer("budget", budget, minimum=1)
    ranked = _only(order(bench, prior, scores=scores), among)
    if free_singles:
        is_single = bench.sizes.numpy()[ranked] == 1
        looks = [free_prefix(is_single, spent) for spent in range(1, budget + 1)]
        choices = best_so_far(bench.soups("val").numpy()[ranked])
        return ranked[choices[np.array(looks) - 1]]
    return _best(bench, ranked[:budget], budget)


def safe(
    bench: SoupBench, budget: int, threshold: float = 0.0, *, among: np.ndarray | None = None
) -> np.ndarray:
    """Safe: the best ingredient, unless one of the first B soups is better: (B,) rows.

    Args:
        bench: where evaluations are looked up.
        budget: B, at least 1.
        threshold: by how many standard errors a soup must lead, as in `radin.craft`.
        among: rows of the candidates; all when not given.
    """
    budget = check_integer("budget", budget, minimum=1)
    rows = np.array([best_single(bench), *_only(safe_order(bench), among)[:budget]])
    single = bench.val.accuracies().max().item()
    values = [single, *bench.soups("val").numpy()[rows[1:]]]

    def noise(one: int, other: int) -> float:
        a, b = (bench.candidates[int(rows[k])] for k in (one, other))
        return noise_of_difference(bench.val, a, b, ACCURACY)

    choices = safe_choices(values, noise, threshold=threshold)
    # The first choice is made before any evaluation; a zoo of one ingredient has no other.
    return _extend(rows[choices[1:] or choices], budget)


def order(bench: SoupBench, prior: float = 0.0, *, scores: np.ndarray | None = None) -> np.ndarray:
    """All rows in the order in which RADIN evaluates them: (R,).

    Args:
        bench: whose soups are ranked.
        prior: lambda, in percentage points.
        scores: (R,), the larger the better; the fast estimates when not given.
    """
    sizes = bench.sizes.numpy()
    base = bench.ensembles("val").numpy() if scores is None else np.asarray(scores)
    if base.shape != sizes.shape:
        raise ParameterError(
            f"scores must have one number for each of {len(sizes)} soups, not shape {base.shape}."
        )
    total = with_prior(base, sizes, num_models=bench.num_models, prior=prior)
    return np.lexsort(sort_keys(total, sizes, [np.arange(len(sizes))]))


def safe_order(bench: SoupBench) -> np.ndarray:
    """The rows of all soups but single ingredients, in the order in which safe evaluates them."""
    losses = bench.ensembles("val", NLL).numpy()
    sizes = bench.sizes.numpy()
    ranked = np.lexsort(sort_keys(losses, sizes, [np.arange(len(sizes))], metric=NLL))
    return ranked[sizes[ranked] > 1]


def _only(rows: np.ndarray, among: np.ndarray | None) -> np.ndarray:
    """Those of some rows that are among the candidates; all of them without candidates."""
    return rows if among is None else rows[np.isin(rows, among)]


def random(
    bench: SoupBench, budget: int, seed: int = 0, *, among: np.ndarray | None = None
) -> np.ndarray:
    """Evaluate soups drawn at random, without repeats; return the best by validation: (B,) rows.

    Args:
        bench: where evaluations are looked up.
        budget: B, at least 1.
        seed: of the draw.
        among: rows of the candidates, none of them twice; all when not given.
    """
    budget = check_integer("budget", budget, minimum=1)
    rows = np.arange(bench.num_soups) if among is None else np.asarray(among)
    drawn = rows[random_order(len(rows), seed=seed)]
    return _best(bench, drawn[:budget], budget)


def greedy(bench: SoupBench, budget: int, *, rules: GreedyRules | None = None) -> np.ndarray:
    """The greedy soup stopped after 1 .. B evaluations: (B,) rows.

    Args:
        bench: where evaluations are looked up.
        budget: B, at least 1.
        rules: what greedy pays for, where it starts, and which additions it keeps.
    """
    budget = check_integer("budget", budget, minimum=1)
    rules = rules or GreedyRules()
    singles = bench.val.accuracies()
    soups = bench.soups("val").numpy()
    rows: list[int] = []

    def look(members: Members) -> float:
        rows.append(bench.row_of(members))
        return float(singles[members[0]])

    def evaluate(members: Members) -> float:
        rows.append(bench.row_of(members))
        return float(soups[rows[-1]])

    choices = greedy_choices(singles, look=look, evaluate=evaluate, rules=rules)
    found = list(islice(choices, budget + rules.free_choices))
    # A free choice is made before any evaluation; a zoo of one ingredient has no other.
    return _extend(np.array(rows)[found[rules.free_choices :] or found], budget)


def top_k(bench: SoupBench, budget: int) -> np.ndarray:
    """The best soup of the k best ingredients, k = 2, 3, ..., or the best one alone: (B,) rows."""
    budget = check_integer("budget", budget, minimum=1)
    singles = bench.val.accuracies()
    looks = top_k_members(singles)[: budget + 1]
    rows = np.array([bench.row_of(members) for members in looks])
    values = [singles.max().item(), *bench.soups("val").numpy()[rows[1:]]]
    choices = top_k_choices(values)
    # The first choice is made before any evaluation; a zoo of one ingredient has no other.
    return _extend(rows[choices[1:] or choices], budget)


def best_single(bench: SoupBench) -> int:
    """The row of the best ingredient by validation."""
    return bench.row_of([int(bench.val.accuracies().argmax())])


def uniform(bench: SoupBench) -> int:
    """The row of the soup of all ingredients."""
    return bench.row_of(range(bench.num_models))


def oracle(bench: SoupBench) -> int:
    """The row of the best soup on test."""
    return int(bench.soups("test").argmax())


def monte_carlo_rows(bench: SoupBench, num_candidates: int, seed: int) -> np.ndarray:
    """Rows of Monte Carlo candidates: (num_candidates,)."""
    drawn = monte_carlo(bench.num_models, num_candidates, seed=seed).numpy() > 0
    return np.array([bench.row_of(np.flatnonzero(members).tolist()) for members in drawn])


def member_means(bench: SoupBench, part: str = "val") -> np.ndarray:
    """The mean accuracy of each subset's members in percent: (R,).

    It costs nothing, as the fast estimate does, so the book compares the two.
    """
    members = bench.candidates.numpy() > 0
    return members @ bench.bank(part).accuracies().numpy() / members.sum(1)


def sub_zoos(
    bench: SoupBench, size: int, *, most: int | None = None, seed: int = 0
) -> list[tuple[SoupBench, np.ndarray]]:
    """The zoos that are choices of `size` ingredients of a bench.

    Args:
        bench: the bench of the whole zoo.
        size: how many ingredients a sub-zoo has.
        most: how many sub-zoos at most, a random sample of them; all when not given.
        seed: of the sample.

    Returns: for each sub-zoo its bench, and for each row of it the row of the whole `bench`, in the
    order of `combinations`.
    """
    size = check_integer("size", size, minimum=1)
    chosen = list(combinations(range(bench.num_models), size))
    if most is not None and len(chosen) > most:
        kept = np.random.default_rng(seed).permutation(len(chosen))[:most]
        chosen = [chosen[k] for k in sorted(kept)]
    return [(bench.subset(members), bench.rows_of_subset(members).numpy()) for members in chosen]


def over_sub_zoos(
    bench: SoupBench, size: int, recipes: Mapping[str, Callable[[SoupBench], int]]
) -> dict[str, np.ndarray]:
    """What each recipe returns on every choice of `size` ingredients.

    One zoo is one sample; its sub-zoos are more.

    Args:
        bench: the bench of the whole zoo.
        size: how many ingredients a sub-zoo has.
        recipes: name to a function from the smaller zoo's bench to a row of it.

    Returns: for each name one row of the whole `bench` for each sub-zoo, in the order of
    `combinations`.
    """
    found: dict[str, list[int]] = {name: [] for name in recipes}
    for smaller, rows in sub_zoos(bench, size):
        for name, recipe in recipes.items():
            found[name].append(int(rows[recipe(smaller)]))
    return {name: np.array(rows) for name, rows in found.items()}


def _best(bench: SoupBench, rows: np.ndarray, budget: int) -> np.ndarray:
    """The best row of the first 1 .. B by validation."""
    return _extend(rows[best_so_far(bench.soups("val").numpy()[rows])], budget)


def _extend(rows: np.ndarray, budget: int) -> np.ndarray:
    """As many answers as budgets: a recipe that has stopped keeps its last."""
    missing = max(0, budget - len(rows))
    return np.concatenate([rows, np.full(missing, rows[-1])])[:budget]
