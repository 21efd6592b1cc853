"""What the comparison at equal passes says: curves, contrasts, worst zoos and targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from radin.errors import DataError
from radin.experiments.collection.analysis import (
    bootstrap_interval,
    unweighted_interval,
    verdict,
    zoo_effects,
)
from radin.experiments.collection.measure import SHIPPED_DESIGN
from radin.experiments.collection.passes import (
    COVERAGE_PERCENT,
    MAX_LOST_POINTS,
    MIN_SAME_PERCENT,
)
from radin.experiments.collection.plan import Contrast
from radin.experiments.intervals import Interval

if TYPE_CHECKING:
    import pandas as pd

MIN_ROUNDS_TO_DRAW = 4  # fewer zoos of a design are too few to draw from
REFERENCE = "best_single"  # what gains are counted from
BOUND = "oracle"  # what regrets are counted from


def is_wild(designs: pd.Series) -> pd.Series:
    """Whether these designs have high rates."""
    return designs.str.contains("wild")


def design_interval(effects: pd.DataFrame) -> Interval:
    """The mean effect, each design counting the same, with its 95% interval.

    Zoos are drawn within their designs. With fewer than `MIN_ROUNDS_TO_DRAW` zoos in a design it is
    Student's t over the designs' means.

    Args:
        effects: "zoo", "design" and "effect", as `zoo_effects` gives them.
    """
    groups = [rows.effect.to_numpy() for _, rows in effects.groupby("design")]
    if min(map(len, groups)) < MIN_ROUNDS_TO_DRAW:
        return unweighted_interval(effects)
    return bootstrap_interval(groups)


def contrast_table(table: pd.DataFrame, contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """Contrasts with their intervals and verdicts.

    Args:
        table: "passes" of `radin.load_collection`, or another with its columns.
        contrasts: to report.

    Returns:
        Indexed by the title: "effect", "low" and "high" in points of test accuracy for these
        designs, and their "verdict"; "low elsewhere", "high elsewhere" and "elsewhere", the verdict
        for another design, each of these counting the same; "zoos"; "share", of those whose effect
        is above 0, in percent.
    """
    import pandas as pd

    rows = {}
    for contrast in contrasts:
        effects = zoo_effects(table, contrast)
        effect, low, high = design_interval(effects)
        _, low_elsewhere, high_elsewhere = unweighted_interval(effects)
        rows[contrast.title] = {
            "effect": effect,
            "low": low,
            "high": high,
            "verdict": verdict(low, high),
            "low elsewhere": low_elsewhere,
            "high elsewhere": high_elsewhere,
            "elsewhere": verdict(low_elsewhere, high_elsewhere),
            "zoos": len(effects),
            "share": 100 * float((effects.effect > 0).mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def gain_curves(
    table: pd.DataFrame, recipes: Sequence[str], *, budgets: Sequence[int], wild: bool | None = None
) -> pd.DataFrame:
    """Test accuracy above that of the best single ingredient, by recipe and passes.

    Args:
        table: as in `contrast_table`.
        recipes: their names.
        budgets: numbers of passes.
        wild: the designs with high rates, or all others; all designs when not given.

    Returns:
        Indexed by "recipe" and "budget": "gain" in points, the mean over these designs, "low" and
        "high", its 95% interval, and "zoos".
    """
    import pandas as pd

    some = table if wild is None else table[is_wild(table.design) == wild]
    found = {}
    for name in recipes:
        for budget in budgets:
            effects = zoo_effects(some, Contrast("", name, REFERENCE, budget))
            found[name, budget] = (*design_interval(effects), len(effects))
    index = pd.MultiIndex.from_tuples(found, names=["recipe", "budget"])
    return pd.DataFrame(list(found.values()), index=index, columns=["gain", "low", "high", "zoos"])


def worst_zoos(table: pd.DataFrame, recipes: Sequence[str], budget: int) -> pd.DataFrame:
    """The zoo with the largest regret of each recipe.

    Args:
        table: as in `contrast_table`.
        recipes: their names.
        budget: in passes.

    Returns:
        Indexed by recipe: "regret" in points from the best subset on test, the "zoo", and "mean",
        the mean regret, each design counting the same.
    """
    import pandas as pd

    rows = {}
    for name in recipes:
        regrets = zoo_effects(table, Contrast("", BOUND, name, budget))
        worst = regrets.loc[regrets.effect.idxmax()]
        mean = regrets.groupby("design").effect.mean().mean()
        rows[name] = {"regret": worst.effect, "zoo": worst.zoo, "mean": mean}
    return pd.DataFrame.from_dict(rows, orient="index")


def target_table(partial: pd.DataFrame) -> pd.DataFrame:
    """What was asked of soups on a share of the images, and what was measured.

    Args:
        partial: that table of `radin.load_collection`.

    Returns:
        Indexed by "recipe" and "target" ("same", "lost", "covered"): "value", "low" and "high", the
        mean over the designs and its 95% interval, "asked", in words, and whether it was "met".

    Raises:
        DataError: the table has no zoos of a planned design.
    """
    import pandas as pd

    planned = partial[partial.design != SHIPPED_DESIGN]
    if planned.empty:
        raise DataError("The table has no zoos of a planned design.")
    least, most = COVERAGE_PERCENT
    asked = {
        "same": f"at least {MIN_SAME_PERCENT:g}%",
        "lost": f"below {MAX_LOST_POINTS:g} points",
        "covered": f"{least:g}% to {most:g}%",
    }
    found = {}
    for recipe, rows in planned.groupby("recipe"):
        for name, words in asked.items():
            effects = rows[["zoo", "design"]].assign(effect=rows[name]).dropna()
            value, low, high = design_interval(effects)
            if name != "lost":
                high = min(high, 100.0)  # Student's t knows no percent
            met = {
                "same": value >= MIN_SAME_PERCENT,
                "lost": value < MAX_LOST_POINTS,
                "covered": least <= value <= most,
            }[name]
            found[recipe, name] = (value, low, high, words, bool(met))
    index = pd.MultiIndex.from_tuples(found, names=["recipe", "target"])
    columns = ["value", "low", "high", "asked", "met"]
    return pd.DataFrame(list(found.values()), index=index, columns=columns)
