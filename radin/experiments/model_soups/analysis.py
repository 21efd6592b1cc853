"""What the published Model Soups results say: greedy order, ties, neighbours and rank correlations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from radin.experiments.intervals import standard_error
from radin.experiments.model_soups.results import TEST_SETS, Published

if TYPE_CHECKING:
    from pandas import DataFrame


VALIDATION, SHIFTS = "ImageNet2p", tuple(TEST_SETS)[2:]

# Greedy on these very checkpoints, as a rerun of the authors' program logged it: how many of the 26,000 validation
# images were right before, and how many at each of the 71 tests; then the ingredients that were accepted. Reported in
# github.com/leovewc/model-soups, result.md, commit bea33ef. The authors publish the outcome alone, which is the same to
# the image: 21,834.
_LOGGED_BEFORE = 21_595

_LOGGED = (
    *(
        21743,
        21724,
        21696,
        21719,
        21672,
        21737,
        21706,
        21685,
        21711,
        21768,
        21753,
        21723,
        21756,
        21710,
        21717,
        21793,
    ),
    *(
        21834,
        21784,
        21768,
        21799,
        21824,
        21821,
        21769,
        21766,
        21696,
        21818,
        21790,
        21768,
        21772,
        21763,
        21799,
        21779,
    ),
    *(
        21823,
        21722,
        21780,
        21768,
        21812,
        21759,
        21772,
        21784,
        21757,
        21758,
        21793,
        21775,
        21748,
        21809,
        21764,
        21803,
    ),
    *(
        21787,
        21757,
        21745,
        21821,
        21780,
        21761,
        21742,
        21674,
        21783,
        21427,
        21819,
        21747,
        21748,
        21783,
        21741,
        21766,
    ),
    *(21756, 21743, 21749, 21749, 21749, 21729, 21748),
)

GREEDY_SOUP = ("model_43", "model_44", "model_32", "model_47", "model_50")


def greedy_order(ingredients: DataFrame) -> list[str]:
    """The ingredients as greedy tries them: by accuracy on validation, the best first, which is its start.

    Of equal ones the first published comes first, as in `radin.craft`; the authors' program takes the later one first.
    """
    return list(ingredients.sort_values(VALIDATION, ascending=False, kind="stable").index)


def neighbours(ingredients: DataFrame) -> DataFrame:
    """Of each ingredient in greedy's order but the first: the points by which it is below the one before.

    Returns: a row for each test 1 .. 71 of greedy, with columns ingredient, accuracy, less and standard_error, which is
    that of the accuracy alone.
    """
    import pandas as pd

    order = greedy_order(ingredients)
    accuracy = ingredients.loc[order, VALIDATION].to_numpy()
    columns = {
        "ingredient": order[1:],
        "accuracy": accuracy[1:],
        "less": accuracy[:-1] - accuracy[1:],
        "standard_error": standard_error(accuracy[1:], TEST_SETS[VALIDATION]),
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(1, len(order), name="test"))


def ties(ingredients: DataFrame) -> list[list[str]]:
    """Groups of ingredients that have the same accuracy on every test set: most likely the same model."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for name, *accuracies in ingredients.itertuples():
        groups.setdefault(tuple(accuracies), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def rank_correlations(ingredients: DataFrame) -> DataFrame:
    """Spearman's correlation between the accuracies on each two test sets, (7, 7): does one order serve them all?"""
    return ingredients.rank().corr()


def summary(results: Published) -> DataFrame:
    """The initialisation, the best single ingredient by validation, the soups and the ensemble on every test set.

    The last column is the mean of the five shifted test sets, each counting the same.
    """
    import pandas as pd

    best = greedy_order(results.ingredients)[0]
    rows = {
        "initialisation": results.ingredients.iloc[0],
        f"best single ({best})": results.ingredients.loc[best],
        "uniform soup": results.soups.loc["uniform"],
        "greedy soup": results.soups.loc["greedy"],
        "uniform ensemble": results.soups.loc["ensemble"],
    }
    table = pd.DataFrame(rows).T
    return table.assign(shifts=table[list(SHIFTS)].mean(axis=1))


def greedy_log() -> DataFrame:
    """What greedy's 71 evaluations on validation gave, as reported by a rerun: see the note beside the numbers.

    Returns: a row for each test 1 .. 71, with columns accuracy, best_before (both in percent), accepted, and soup_size
    after it.
    """
    import pandas as pd

    before = np.maximum.accumulate([_LOGGED_BEFORE, *_LOGGED])[:-1]
    accepted = np.asarray(_LOGGED) > before
    columns = {
        "accuracy": 100 * np.asarray(_LOGGED) / TEST_SETS[VALIDATION],
        "best_before": 100 * before / TEST_SETS[VALIDATION],
        "accepted": accepted,
        "soup_size": 1 + accepted.cumsum(),
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(1, len(_LOGGED) + 1, name="test"))
