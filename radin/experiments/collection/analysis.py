"""What the collection says: effects with 95% intervals over zoos, and verdicts.

The zoos of one design are a sample of it, and the designs are a sample of what people do. So there
are two answers to "what is the effect?". The mean over *these* designs has an interval from the
zoos alone. The effect in *another* design has an interval that also holds how much the designs
differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from radin.errors import DataError, ParameterError
from radin.experiments.collection.measure import SHIPPED_DESIGN
from radin.experiments.collection.plan import (
    BOOTSTRAP_SEED,
    MARGIN_POINTS,
    MARGIN_SPEARMAN,
    NUM_RESAMPLES,
    PRIMARY,
    SPEARMAN_TITLE,
    Contrast,
)
from radin.experiments.intervals import Interval, in_words

if TYPE_CHECKING:
    import pandas as pd

HERE = "mean of these designs"
ELSEWHERE = "another design"
COLUMNS = ("effect", "low", "high", "zoos", "share", "equal share")


def zoo_effects(table: pd.DataFrame, contrast: Contrast, *, part: str = "test") -> pd.DataFrame:
    """The effect in each zoo: the first recipe minus the second, in points.

    Args:
        table: of recipes, as `radin.load_collection` gives it.
        contrast: two recipes and a budget.
        part: "test", "val" or "shifted".

    Returns:
        One row for each zoo of a planned design: "zoo", "design" and "effect".

    Raises:
        DataError: a zoo lacks one of the recipes at this budget.
    """
    rows = table[(table.budget == contrast.budget) & (table.design != SHIPPED_DESIGN)]
    wide = rows.pivot(index=["design", "zoo"], columns="recipe", values=part)
    missing = {contrast.first, contrast.second} - set(wide.columns)
    if missing or wide.empty:
        raise DataError(
            f"The table has no recipe {', '.join(sorted(missing))} at budget {contrast.budget}."
        )
    effect = wide[contrast.first] - wide[contrast.second]
    return effect.rename("effect").reset_index()


def spearman_effects(facts: pd.DataFrame) -> pd.DataFrame:
    """In each zoo, the rank correlation of ensembles with soups minus that of members' means."""
    rows = facts[facts.design != SHIPPED_DESIGN]
    return rows.assign(effect=rows.spearman - rows.spearman_members)[["zoo", "design", "effect"]]


def summarise(effects: pd.DataFrame) -> pd.DataFrame:
    """The effect in each design, on average over these designs, and in another design.

    Args:
        effects: "zoo", "design" and "effect", as `zoo_effects` gives them.

    Returns:
        A row for each design, then `HERE` and `ELSEWHERE`. The columns are "effect", "low" and
        "high", a 95% interval over zoos; "zoos"; "share", of the zoos whose effect is above 0, in
        percent; and "equal share", of those where it is 0.
    """
    import pandas as pd

    groups = {str(name): rows.effect.to_numpy() for name, rows in effects.groupby("design")}
    every = effects.effect.to_numpy()
    rows = {name: _row(mean_interval(values), values) for name, values in groups.items()}
    rows[HERE] = _row(bootstrap_interval(list(groups.values())), every)
    rows[ELSEWHERE] = _row(random_effects(list(groups.values())).interval, every)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))


def _row(interval: Interval, values: np.ndarray) -> tuple[float, ...]:
    above = 100 * float((values > 0).mean())
    return (*interval, len(values), above, 100 * float((values == 0).mean()))


def mean_interval(values: np.ndarray) -> Interval:
    """The mean over zoos with a 95% interval of Student's t; NaN ends with fewer than two zoos."""
    from scipy.stats import t

    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(t.ppf(0.975, len(values) - 1)) * standard_error(values)
    return mean, mean - half, mean + half


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean of at least two values, as of a sample of zoos."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def bootstrap_interval(
    groups: Sequence[np.ndarray], *, resamples: int = NUM_RESAMPLES, seed: int = BOOTSTRAP_SEED
) -> Interval:
    """The mean of the designs' means, with a 95% interval of resampled zoos.

    Each design keeps its number of zoos, and each design counts the same.

    Args:
        groups: the effects in the zoos of each design.
        resamples: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for values in groups:
        drawn = rng.integers(len(values), size=(resamples, len(values)))
        means += values[drawn].mean(1) / len(groups)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([values.mean() for values in groups])), float(low), float(high)


@dataclass(frozen=True)
class RandomEffects:
    """A mean over designs that are a sample of all designs.

    Attributes:
        interval: (mean, low, high), 95%.
        between: standard deviation of the designs' true effects, in the effect's unit.
    """

    interval: Interval
    between: float


def random_effects(groups: Sequence[np.ndarray]) -> RandomEffects:
    """The mean effect over designs that differ.

    Args:
        groups: the effects in the zoos of each design, two or more zoos each.

    Raises:
        ParameterError: fewer designs or zoos.

    Source: DerSimonian and Laird 1986; the interval is that of Hartung and Knapp 2001, because the
    designs are few.
    """
    if len(groups) < 2 or min(map(len, groups)) < 2:
        raise ParameterError("Random effects need two designs of two zoos or more.")
    from scipy.stats import t

    means = np.array([values.mean() for values in groups])
    # A design whose zoos all agree would otherwise have an infinite weight.
    pooled = float(np.mean([values.var(ddof=1) for values in groups]))
    floor = max(1e-3 * pooled, 1e-12)
    variances = np.array([max(values.var(ddof=1), floor) / len(values) for values in groups])
    between = _between_variance(means, variances)
    weights = 1 / (variances + between)
    weights /= weights.sum()
    mean = float(weights @ means)
    freedom = len(means) - 1
    error = math.sqrt(float(weights @ (means - mean) ** 2) / freedom)
    half = float(t.ppf(0.975, freedom)) * error
    return RandomEffects((mean, mean - half, mean + half), math.sqrt(between))


def unweighted_interval(effects: pd.DataFrame) -> Interval:
    """The effect in another design, each of these counting the same: Student's t over their means.

    It was not planned. `random_effects` weighs a design by its precision, so designs whose zoos
    differ much count little; where their effects are also the largest, as at wild rates, the two
    disagree, and neither alone should be quoted.

    Args:
        effects: as `zoo_effects` gives them.
    """
    return mean_interval(effects.groupby("design").effect.mean().to_numpy())


def _between_variance(means: np.ndarray, variances: np.ndarray) -> float:
    weights = 1 / variances
    middle = weights @ means / weights.sum()
    excess = weights @ (means - middle) ** 2 - (len(means) - 1)
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    return float(max(0.0, excess / scale))


def verdict(low: float, high: float, *, margin: float = MARGIN_POINTS) -> str:
    """What an interval says of "the effect is above zero".

    Args:
        low, high: of the 95% interval.
        margin: effects within it are called equal.

    Returns:
        "holds" or "turned round" where the interval leaves out zero, with ", within the margin"
        where all of it is small; "equal" where it holds zero and lies within the margin; else
        "open".
    """
    small = low > -margin and high < margin
    word = in_words((math.nan, low, high), "holds", "turned round", "equal" if small else "open")
    return f"{word}, within the margin" if small and word != "equal" else word


def ledger(
    table: pd.DataFrame, facts: pd.DataFrame, contrasts: Sequence[Contrast] = PRIMARY
) -> pd.DataFrame:
    """The planned contrasts with their verdicts.

    Args:
        table: of recipes.
        facts: of zoos.
        contrasts: to report; the planned difference of rank correlations comes last.

    Returns:
        Indexed by "contrast" and "design": the columns of `summarise` and "verdict".
    """
    import pandas as pd

    parts = {each.title: summarise(zoo_effects(table, each)) for each in contrasts}
    parts[SPEARMAN_TITLE] = summarise(spearman_effects(facts))
    for title, part in parts.items():
        margin = MARGIN_SPEARMAN if title == SPEARMAN_TITLE else MARGIN_POINTS
        part["verdict"] = [
            verdict(low, high, margin=margin) for low, high in zip(part.low, part.high, strict=True)
        ]
    return pd.concat(parts, names=["contrast", "design"])


def moderators(
    effects: pd.DataFrame,
    facts: pd.DataFrame,
    names: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = BOOTSTRAP_SEED,
) -> pd.DataFrame:
    """What decides the effect: a linear regression on facts about the zoos.

    Args:
        effects: as `zoo_effects` gives them.
        facts: of zoos.
        names: columns of `facts`. Each is divided by its standard deviation over the zoos.
        resamples: draws of zoos, within their designs, for the intervals.
        seed: of the draws.

    Returns:
        A row for each name: "change", of the effect for one standard deviation of the fact with the
        other facts held, and its 95% interval "low" and "high"; and "alone", the rank correlation.

    Raises:
        ParameterError: a fact is the same in all zoos.
    """
    import pandas as pd
    from scipy.stats import spearmanr

    joined = effects.merge(facts[["zoo", *names]], on="zoo", validate="one_to_one").dropna()
    values = joined[list(names)].to_numpy(float)
    spreads = values.std(0)
    if not (spreads > 0).all():
        raise ParameterError(f"A fact is the same in all zoos: {list(names)}.")
    design = np.column_stack([np.ones(len(values)), (values - values.mean(0)) / spreads])
    y = joined.effect.to_numpy(float)
    rng = np.random.default_rng(seed)
    groups = list(joined.groupby("design").indices.values())
    draws = []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        draws.append(np.linalg.lstsq(design[rows], y[rows])[0][1:])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    found: Mapping[str, np.ndarray] = {
        "change": np.linalg.lstsq(design, y)[0][1:],
        "low": low,
        "high": high,
        "alone": np.array([spearmanr(values[:, k], y).statistic for k in range(len(names))]),
    }
    return pd.DataFrame(found, index=pd.Index(names, name="fact"))
