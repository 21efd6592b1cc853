"""What the published results of Model soups show: greedy's order, ties, gaps and correlations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from radin.experiments.intervals import standard_error
from radin.experiments.model_soups.results import TEST_SETS, PublishedResults

if TYPE_CHECKING:
    from pandas import DataFrame

VALIDATION = "ImageNet2p"
SHIFTED_SETS = tuple(TEST_SETS)[2:]

# Greedy on these very checkpoints, as a rerun of the authors' program logged it: how many of the
# 26,000 validation images were right before, and how many at each of the 71 tests. Source:
# github.com/leovewc/model-soups, result.md, commit bea33ef. The authors publish only the outcome,
# which is the same to the image: 21,834.
_CORRECT_BEFORE = 21_595
_CORRECT_AT_TESTS = """
    21743 21724 21696 21719 21672 21737 21706 21685 21711 21768 21753 21723
    21756 21710 21717 21793 21834 21784 21768 21799 21824 21821 21769 21766
    21696 21818 21790 21768 21772 21763 21799 21779 21823 21722 21780 21768
    21812 21759 21772 21784 21757 21758 21793 21775 21748 21809 21764 21803
    21787 21757 21745 21821 21780 21761 21742 21674 21783 21427 21819 21747
    21748 21783 21741 21766 21756 21743 21749 21749 21749 21729 21748
"""
GREEDY_SOUP = ("model_43", "model_44", "model_32", "model_47", "model_50")


def greedy_order(ingredients: DataFrame) -> list[str]:
    """The ingredients as greedy tries them: the best on validation first, which is its start.

    Of ingredients with equal accuracy the first published comes first, as in `radin.craft`. The
    authors' program takes the later one first.
    """
    return list(ingredients.sort_values(VALIDATION, ascending=False, kind="stable").index)


def neighbours(ingredients: DataFrame) -> DataFrame:
    """How far each ingredient in greedy's order is below the one before.

    Returns:
        A row for each test 1 .. 71 of greedy, with the columns ingredient, accuracy, gap (to the
        one before, in points) and standard_error (of the accuracy alone).
    """
    import pandas as pd

    order = greedy_order(ingredients)
    accuracy = ingredients.loc[order, VALIDATION].to_numpy()
    columns = {
        "ingredient": order[1:],
        "accuracy": accuracy[1:],
        "gap": accuracy[:-1] - accuracy[1:],
        "standard_error": standard_error(accuracy[1:], TEST_SETS[VALIDATION]),
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(1, len(order), name="test"))


def ties(ingredients: DataFrame) -> list[list[str]]:
    """Groups of ingredients with the same accuracy on every test set, most likely one model."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for name, *accuracies in ingredients.itertuples():
        groups.setdefault(tuple(accuracies), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def rank_correlations(ingredients: DataFrame) -> DataFrame:
    """Spearman's correlation between the accuracies on each two test sets: (7, 7)."""
    return ingredients.rank().corr()


def summary(results: PublishedResults) -> DataFrame:
    """The initialisation, the best ingredient by validation, the soups and the ensemble.

    Returns:
        A row for each of them and a column for each test set. The last column, shifts, is the mean
        of the five shifted test sets, each with the same weight.
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
    return table.assign(shifts=table[list(SHIFTED_SETS)].mean(axis=1))


def greedy_log() -> DataFrame:
    """Greedy's 71 evaluations on validation, as a rerun of the authors' program logged them.

    Returns:
        A row for each test 1 .. 71, with the columns accuracy and best_before (both in percent),
        accepted, and soup_size (after the test).
    """
    import pandas as pd

    correct = np.array(_CORRECT_AT_TESTS.split(), dtype=int)
    before = np.maximum.accumulate([_CORRECT_BEFORE, *correct])[:-1]
    accepted = correct > before
    num_images = TEST_SETS[VALIDATION]
    columns = {
        "accuracy": 100 * correct / num_images,
        "best_before": 100 * before / num_images,
        "accepted": accepted,
        "soup_size": 1 + accepted.cumsum(),
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(1, len(correct) + 1, name="test"))
