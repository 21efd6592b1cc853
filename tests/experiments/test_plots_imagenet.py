"""radin/experiments/plots/imagenet.py: published numbers are drawn, missing ones named."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from radin.experiments.model_soups.analysis import SHIFTED_SETS, greedy_log
from radin.experiments.model_soups.results import TEST_SETS, PublishedResults, load_results
from radin.experiments.plots import imagenet

N = 9


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def results() -> PublishedResults:
    rng = np.random.default_rng(0)
    names = [f"model_{k}" for k in range(N)]

    def table(rows: list[str]) -> pd.DataFrame:
        return pd.DataFrame(rng.uniform(40, 90, (len(rows), len(TEST_SETS))), rows, list(TEST_SETS))

    rates = pd.DataFrame(
        {"lr": [np.nan, *10 ** rng.uniform(-6, -4, N - 1)], "epochs": [np.nan, *range(4, N + 3)]},
        names,
    )
    return PublishedResults(table(names), table(["uniform", "greedy", "ensemble"]), rates)


def points(axes: plt.Axes) -> np.ndarray:
    return np.concatenate(
        [np.asarray(dots.get_offsets()) for dots in axes.collections if len(dots.get_offsets())]
    )


def texts(figure: plt.Figure) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_against_shifts_has_every_network_once(results):
    (axes,) = imagenet.against_shifts(results).axes
    everything = pd.concat([results.ingredients, results.soups])
    best = results.ingredients.sort_values("ImageNet2p").iloc[-1]  # drawn again on top of its dot
    expected = [
        *zip(everything["ImageNet"], everything[list(SHIFTED_SETS)].mean(axis=1), strict=True)
    ]
    expected.append((best["ImageNet"], best[list(SHIFTED_SETS)].mean()))
    np.testing.assert_allclose(sorted(map(tuple, points(axes))), sorted(expected))


def test_greedy_tests_shows_every_test_and_where_the_last_one_counted():
    figure = imagenet.greedy_tests(greedy_log(), load_results())
    _, below = figure.axes
    drawn = points(below)[-71:]
    np.testing.assert_allclose(sorted(drawn[:, 0]), range(1, 72))
    np.testing.assert_allclose(drawn[drawn[:, 0].argsort(), 1], greedy_log()["accuracy"])
    assert "54 evaluations for nothing" in texts(figure)
    assert [line.get_xdata()[0] for line in below.get_lines() if line.get_linestyle() == "--"] == [
        17.5
    ]


def test_greedy_tests_draws_the_ingredients_in_greedys_order(results):
    log = greedy_log().iloc[: N - 1]
    above = imagenet.greedy_tests(log, results).axes[0]
    drawn = np.concatenate([np.column_stack(bars.lines[0].get_data()) for bars in above.containers])
    order = results.ingredients["ImageNet2p"].sort_values(ascending=False)
    np.testing.assert_allclose(drawn[drawn[:, 0].argsort(), 1], order)
    assert "7 evaluations for nothing" in texts(above.figure)


def test_against_rate_leaves_out_the_initialisation(results):
    left, right = imagenet.against_rate(results).axes[:2]
    for axes, values in (
        (left, results.ingredients["ImageNet"]),
        (right, results.ingredients[list(SHIFTED_SETS)].mean(axis=1)),
    ):
        np.testing.assert_allclose(points(axes)[:, 1], values.iloc[1:])
        assert axes.get_lines()[0].get_ydata()[0] == values.iloc[0]


@pytest.mark.parametrize(
    "tried", [{}, {"radin": [(50.0, 60.0), (40.0, 40.0)], "greedy": [(50.0, 60.0)]}]
)
def test_trials_shows_every_evaluation_and_the_diagonal(tried):
    (axes,) = imagenet.trials(tried, [30.0, 30.0], "ImageNet").axes
    expected = [(30, 30), (30, 30), *(pair for pairs in tried.values() for pair in pairs)]
    np.testing.assert_allclose(points(axes), expected)
    assert axes.get_title() == "ImageNet"
    low, high = axes.get_xlim()
    assert (low, high) == axes.get_ylim()
    assert low < 30 < high
