"""radin/experiments/plots/theory.py: every figure shows what it was given, however little."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import pytest
import torch

from radin.recipes.trust_report import Check, Trust

mpl.use("agg")
import matplotlib.pyplot as plt

from radin.experiments.plots import theory

SCALES = [1e-3, 1e-2, 1e-1, 1.0]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(axes: plt.Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_orders_fits_the_slope_where_it_is_told_to():
    bent = [s**2 if s < 0.05 else s for s in SCALES]
    straight = [s**3 for s in SCALES]
    panels = {"one": (SCALES, {"bent": bent}), "two": (SCALES, {"straight": straight})}
    first, second = theory.orders(panels, "size", fit_below=1e-2).axes
    assert (first.get_title(), second.get_title()) == ("one", "two")
    assert texts(first) == ["bent: slope 2.00"]
    assert texts(second) == ["straight: slope 3.00"]
    (line,) = first.get_lines()
    assert line.get_ydata().tolist() == bent


def test_predicted_against_true_has_a_row_for_each_zoo():
    truth = torch.linspace(-1, 1, 5)
    panels = {
        "a": (truth, {"x": truth, "y": 2 * truth}),
        "b": (truth + 1, {"x": truth, "y": truth}),
    }
    figure = theory.predicted_against_true(panels, dict.fromkeys("ab", torch.arange(5)), "gap")
    assert [axes.get_title() for axes in figure.axes] == ["a: x", "a: y", "b: x", "b: y"]
    points = figure.axes[1].collections[0].get_offsets()
    torch.testing.assert_close(torch.tensor(points.tolist()), torch.stack([2 * truth, truth], 1))


def test_heatmap_writes_the_numbers():
    axes = theory.heatmap(pd.DataFrame({"zoo": {"a": 0.5, "b": -1.0}}), "correlation").axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.50", "-1.00"]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_triangle_grid_covers_the_simplex(steps):
    grid = theory.triangle_grid(steps)
    assert grid.shape == ((steps + 1) * (steps + 2) // 2, 3)
    assert len(torch.unique(grid, dim=0)) == len(grid)
    assert (grid >= 0).all()
    torch.testing.assert_close(grid.sum(1), torch.ones(len(grid), dtype=torch.float64))
    for corner in torch.eye(3, dtype=torch.float64):
        assert (grid == corner).all(1).any()


@pytest.mark.parametrize("flat", [False, True])
def test_triangles_star_the_lowest_loss_and_the_largest_difference(flat):
    grid = theory.triangle_grid(6)
    loss = torch.ones(len(grid)) if flat else 1 + grid[:, 0].float()
    difference = torch.zeros(len(grid)) if flat else grid[:, 1].float() - 0.5
    figure = theory.triangles(grid, {"soup": loss, "difference": difference}, list("abc"), "nats")
    stars = [
        line.get_xydata()[0]
        for axes in figure.axes
        for line in axes.get_lines()
        if line.get_marker() == "*"
    ]
    if flat:
        assert len(stars) == 2
        return
    corners = torch.tensor([[0, 0], [1, 0], [0.5, 3**0.5 / 2]], dtype=torch.float64)
    for star, chosen in zip(stars, (loss.argmin(), difference.abs().argmax()), strict=True):
        assert star.tolist() == pytest.approx((grid[chosen] @ corners).tolist())


def test_paths_shows_soup_and_ensemble():
    panels = {f"zoo {k}": {"soup": [1, 2, 1], "ensemble": [1, 1, 1]} for k in range(5)}
    figure = theory.paths([0, 0.5, 1], panels, "loss", columns=3)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == list(panels)
    assert texts(figure.axes[-1]) == ["soup", "ensemble"]
    assert [axes.get_xlabel() for axes in shown] == ["", "", *["share of the second"] * 3]


def test_checks_has_a_cell_for_each_check_that_was_made():
    short = Trust((Check("one", 1.0, maximum=2), Check("two", 3.0, maximum=2, advice="mend")))
    long = Trust((*short.checks, Check("three", 5.0)))
    axes = theory.checks({"a": short, "b": long}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two", "three"]
    assert [text.get_text() for text in axes.texts] == ["1.00", "3.00", "1.00", "3.00", "5.00"]
    colors = [patch.get_facecolor() for patch in axes.patches]
    assert len(set(colors)) == 3
    assert colors[:2] == colors[2:4]
