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


def regret_change(
    table: pd.DataFrame, *, first: int = 1, second: int = 32, recipe: str = "radin"
) -> pd.DataFrame:
    """How much regret on test changes in a zoo when the budget grows, by number of images.

    Args:
        table: "validation_sizes" of `radin.load_collection`.
        first, second: the smaller and the larger budget.
        recipe: "radin", "radin_nll" or "random".

    Returns:
        Indexed by "num_val": "change" in points, which is negative where more evaluations help,
        "low" and "high", a 95% interval over zoos, "worse", the share of zoos in percent whose soup
        is worse with more evaluations, and "zoos".

    Raises:
        DataError: the table has no such rows.
    """
    import pandas as pd

    rows = table[(table.recipe == recipe) & table.budget.isin([first, second])]
    wide = rows.pivot(index=["num_val", "zoo"], columns="budget", values="regret")
    if not {first, second} <= set(wide.columns):
        raise DataError(f"The table has no rows of {recipe} at the budgets {first} and {second}.")
    found = {}
    for num_val, changes in (wide[second] - wide[first]).groupby("num_val"):
        values = changes.to_numpy()
        found[num_val] = (*mean_interval(values), 100 * float((values > 0).mean()), len(values))
    columns = ["change", "low", "high", "worse", "zoos"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns).rename_axis("num_val")
