"""radin/experiments/plots/: a figure shows the numbers it was given."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radin import RECIPES
from radin.errors import ParameterError
from radin.experiments.collection.analysis import ELSEWHERE, HERE

mpl.use("agg")
from radin.experiments.plots import collection, comparison, paper, style, theory


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    paper.plt.close("all")


def points(axes: Axes) -> list[list[tuple[float, float]]]:
    return [
        [tuple(xy) for xy in np.asarray(dots.get_offsets()).round(6)] for dots in axes.collections
    ]


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def is_drawn(figure: Figure) -> bool:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba()).std() > 1


def test_every_recipe_has_a_style_of_its_own():
    assert {*RECIPES, "oracle"} <= set(style.RECIPE_STYLES)
    assert len({look["color"] for look in style.RECIPE_STYLES.values()}) == len(style.RECIPE_STYLES)


def test_soup_and_ensemble():
    for count in (2, 3, 5):
        figure = paper.soup_and_ensemble(count)
        left, right = figure.axes
        models = [text.get_text() for text in left.texts if text.get_text().startswith("model")]
        assert len(models) == count
        assert f"{count} forward passes" in left.get_title()
        assert "one forward pass" in right.get_title()
        assert is_drawn(figure)


def test_ingredients_come_best_first():
    val, test = torch.tensor([70.0, 90.0, 80.0]), torch.tensor([71.0, 85.0, 95.0])
    figure = comparison.ingredients(["ingredient_00", "ingredient_01", "other"], val, test)
    (axes,) = figure.axes
    first, second = (list(line.get_ydata()) for line in axes.lines)
    assert first == [90, 80, 70]
    assert second == [85, 95, 71]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["01", "other", "00"]
    assert is_drawn(figure)


def test_estimate_against_truth_shows_every_candidate():
    estimates, truth, sizes = (
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([3.0, 2.5, 4.0]),
        torch.tensor([1, 2, 1]),
    )
    figure = paper.estimate_against_truth(estimates, truth, sizes, num_models=2)
    shown = {point for group in points(figure.axes[0]) for point in group}
    assert shown == {(1.0, 3.0), (2.0, 2.5), (3.0, 4.0)}
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 4]
    assert is_drawn(figure)
    assert is_drawn(paper.estimate_against_truth(estimates[:1], truth[:1], sizes[:1], num_models=1))


def test_ranks():
    order, truth = torch.tensor([2, 0, 1]), torch.tensor([50.0, 60.0, 55.0])
    figure = paper.ranks(order, truth, budget=2, chosen=0)
    (axes,) = figure.axes
    candidates, evaluated, returned = points(axes)
    assert candidates == [(1, 55), (2, 50), (3, 60)]
    assert evaluated == [(1, 55), (2, 50)]
    assert returned == [(2, 50)]
    assert any("B = 2" in text for text in legend(axes))
    assert list(axes.lines[0].get_ydata()) == [60, 60]
    assert is_drawn(paper.ranks(order, truth, budget=99, chosen=1))
    with pytest.raises(ParameterError, match="budget"):
        paper.ranks(order, truth, budget=0, chosen=0)


def test_accuracy_against_budget():
    figure = paper.accuracy_against_budget(
        [1, 2, 4],
        {"radin λ=0": [1, 2, 3], "radin λ=1": [2, 3, 4], "greedy": [0, 1, 2]},
        {"best_single": 0.5, "oracle": 5},
        bands={"greedy": ([0, 0, 1], [1, 2, 3])},
        marked=2,
    )
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["radin λ=1"].get_ydata()) == [2, 3, 4]
    assert list(lines["greedy"].get_xdata()) == [1, 2, 4]
    assert lines["radin λ=0"].get_linestyle() != lines["radin λ=1"].get_linestyle()
    assert list(lines["best single"].get_ydata()) == [0.5, 0.5]
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.texts] == ["B = 2"]
    assert is_drawn(figure)


def test_slopes():
    scales = [1.0, 0.5, 0.25]
    assert theory.fitted_slope(scales, [3 * s**2 for s in scales]) == pytest.approx(2)
    figure = theory.slopes(
        scales, {"gap": [s**2 for s in scales], "line": scales}, "scale", "error"
    )
    assert legend(figure.axes[0]) == ["gap: slope 2.00", "line: slope 1.00"]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    assert is_drawn(figure)


def test_outcomes():
    figure = comparison.outcomes(
        {"radin - greedy": torch.tensor([1.0, 3.0]), "radin - random": torch.tensor([-2.0])},
        "points",
    )
    (axes,) = figure.axes
    assert [sorted(x for x, _ in group) for group in points(axes)] == [[1, 3], [-2]]
    assert [line.get_xdata()[0] for line in axes.lines[:2]] == [2, -2]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "radin - greedy",
        "radin - random",
    ]
    assert is_drawn(figure)


def test_style_is_set():
    with mpl.rc_context():
        style.set_style()
        assert mpl.rcParams["figure.facecolor"] == "white"


def test_soups_of_many_and_of_few():
    test, sizes = torch.tensor([70.0, 71.0, 74.0, 75.0, 76.0]), torch.tensor([1, 2, 3, 4, 4])
    (axes,) = paper.by_size(test, sizes, 2).axes
    assert legend(axes) == ["2 or fewer ingredients (2 soups)", "more than 2 ingredients (3 soups)"]
    assert [line.get_xdata()[0] for line in axes.lines] == [70.5, 75.0]
    assert sum(bar.get_height() for bar in axes.containers[1]) == pytest.approx(100)
    (axes,) = paper.by_size(test, sizes, 4).axes
    assert len(legend(axes)) == 1


def test_intervals_take_the_colour_of_their_verdict():
    figure = comparison.intervals(
        {"a - b": (1.0, 0.5, 1.5), "a - c": (0.1, -0.2, 0.4), "a - d": (-1.0, -2.0, -0.5)}, "points"
    )
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a - b", "a - c", "a - d"]
    bars = axes.lines[0:6:2]
    assert [list(bar.get_xdata()) for bar in bars] == [[0.5, 1.5], [-0.2, 0.4], [-2.0, -0.5]]
    assert len({bar.get_color() for bar in bars}) == 3
    assert is_drawn(figure)


def test_every_soup_is_drawn_by_its_size_and_each_recipe_at_its_soup():
    sizes, accuracies = torch.tensor([1, 1, 2]), torch.tensor([50.0, 60.0, 70.0])
    chosen = {"best_single": 1, "radin": 2, "greedy": 2}
    figure = comparison.soups_by_size(sizes, accuracies, chosen, ensemble=65.0, label="test (%)")
    (axes,) = figure.axes
    (dots,) = points(axes)
    assert [round(x) for x, _ in dots] == [1, 1, 2]
    assert [y for _, y in dots] == [50, 60, 70]
    assert legend(axes) == ["best single", "radin", "greedy", "ensemble of all"]
    single, radin, greedy = (line.get_xydata()[0].tolist() for line in axes.lines[:3])
    assert single == [1, 60]
    assert radin[1] == greedy[1] == 70
    assert radin[0] < 2 < greedy[0], "recipes with the same soup stand side by side"
    assert is_drawn(figure)


def test_cosines_are_shown_in_their_groups_without_the_diagonal():
    cosines = torch.tensor([[1, 0.5, 0.1], [0.5, 1, 0.2], [0.1, 0.2, 1]], dtype=torch.float64)
    figure = comparison.grouped_cosines(cosines, ["a", "a", "b"])
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == sorted(2 * ["0.50", "0.10", "0.20"])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]
    assert axes.get_xticks().tolist() == [0.5, 2]
    assert cosines.diagonal().tolist() == [1, 1, 1], "what was given stays as it was"
    assert is_drawn(figure)


def test_panels_of_intervals_share_their_rows_and_show_a_dash_for_what_is_not_known():
    panels = {
        "a − b": {"noise": (1.0, 0.5, 1.5), "blur": None},
        "c − d": {"noise": (-1.0, -2.0, -0.5), "blur": (0.1, -0.2, 0.4)},
    }
    figure = comparison.interval_panels(panels, "difference (points)")
    left, right = figure.axes
    assert [axes.get_title() for axes in figure.axes] == list(panels)
    assert [label.get_text() for label in left.get_yticklabels()] == ["noise", "blur"]
    assert [text.get_text() for text in left.texts] == ["–"]
    assert left.texts[0].get_position() == (0, 1)
    assert not right.texts
    assert list(right.lines[0].get_xdata()) == [-2.0, -0.5]
    assert is_drawn(figure)


def test_a_forest_has_a_row_for_each_design_and_both_means():
    columns = {"effect": [1.0, -1.0, 0.0, 0.1], "low": [0.5, -2.0, -0.2, -3.0]}
    columns |= {"high": [1.5, -0.5, 0.2, 3.0], "zoos": [12, 12, 24, 24]}
    names = ["digits-conv", "digits-conv-wild", HERE, ELSEWHERE]
    axes = collection.forest(pd.DataFrame(columns, index=names), "points").axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [f"{name} ({zoos})" for name, zoos in zip(names, columns["zoos"], strict=True)]
    lines = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    for low, high in zip(columns["low"], columns["high"], strict=True):
        assert (low, high) in lines
    dots = [line for line in axes.lines if line.get_marker() in ("o", "D")]
    assert [line.get_marker() for line in dots] == ["o", "o", "D", "D"]
    colours = [line.get_color() for line in dots]
    assert colours[0] != colours[1]
    assert colours[2] == colours[3]
