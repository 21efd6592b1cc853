"""Two questions to the collection: what greedy pays for, and how much validation a budget needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from radin.errors import DataError
from radin.experiments.collection.analysis import mean_interval, summarise, zoo_effects
from radin.experiments.collection.plan import BUDGETS, GREEDY_CONVENTIONS, Contrast

if TYPE_CHECKING:
    import pandas as pd


def headline(table: pd.DataFrame, *, budgets: Sequence[int] = BUDGETS) -> pd.DataFrame:
    """RADIN minus greedy under each convention of greedy.

    Args:
        table: of recipes, as `radin.load_collection` gives it.
        budgets: of both.

    Returns:
        Indexed by "convention" (a key of `radin.experiments.collection.plan.GREEDY_CONVENTIONS`),
        "budget" and "design": the columns of `radin.experiments.collection.analysis.summarise`.
    """
    import pandas as pd

    parts = {
        (name, budget): summarise(zoo_effects(table, Contrast("", "radin", name, budget)))
        for name in GREEDY_CONVENTIONS
        for budget in budgets
    }
    return pd.concat(parts, names=["convention", "budget", "design"])


def regret_curves(
    table: pd.DataFrame, *, recipe: str = "radin", designs: Sequence[str] | None = None
) -> pd.DataFrame:
    """Regret on test against the budget, for each number of validation images.

    Regret counts from the best soup on test. All zoos that have so many validation images take
    part, so compare budgets at one number rather than numbers at one budget, or name `designs` that
    have all of the numbers.

    Args:
        table: "validation_sizes" of `radin.load_collection`.
        recipe: "radin", "radin_nll" or "random".
        designs: only these; all when not given.

    Returns:
        Indexed by "num_val" and "budget": "regret" in points, "low" and "high", a 95% interval over
        zoos, "optimism", the soup's validation accuracy minus its test accuracy in points, and
        "zoos".

    Raises:
        DataError: the table has no such rows.
    """
    import pandas as pd

    rows = table[table.recipe == recipe]
    if designs is not None:
        rows = rows[rows.design.isin(designs)]
    if rows.empty:
        raise DataError(f"The table has no rows of {recipe} in the designs {designs}.")
    found = {}
    for key, group in rows.groupby(["num_val", "budget"]):
        regret, low, high = mean_interval(group.regret.to_numpy())
        optimism = float((group.val - group.test).mean())
        found[key] = (regret, low, high, optimism, len(group))
    columns = ["regret", "low", "high", "optimism", "zoos"]
    index = pd.MultiIndex.from_tuples(found, names=["num_val", "budget"])
    return pd.DataFrame(list(found.values()), index=index, columns=columns)
