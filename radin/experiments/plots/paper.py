"""The figures of the paper, drawn anew from results. The first line of each names its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from torch import Tensor

from radin.errors import ParameterError
from radin.experiments.plots.drawing import ENSEMBLE, SOUP, arrow, box
from radin.experiments.plots.style import RECIPE_STYLES


def soup_and_ensemble(num_models: int = 3) -> Figure:
    """RADIN, figure 1: an ensemble averages the logits, a soup averages the weights."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    heights = np.linspace(0.82, 0.18, num_models).tolist()
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.axis("off")
    left.set_title(f"ensemble: {num_models} forward passes an image")
    _draw_ensemble(left, heights)
    right.set_title("soup: one forward pass an image")
    _draw_soup(right, heights)
    figure.tight_layout()
    return figure


def _draw_ensemble(axes: Axes, heights: Sequence[float]) -> None:
    image = box(axes, 0.1, 0.5, "image", size=11)
    mean = box(axes, 0.88, 0.5, "mean of\nlogits", ENSEMBLE, size=11)
    for number, height in enumerate(heights, start=1):
        model = box(axes, 0.47, height, rf"model $\theta_{number}$", size=11)
        arrow(axes, image, model)
        arrow(axes, model, mean)


def _draw_soup(axes: Axes, heights: Sequence[float]) -> None:
    mean = box(axes, 0.36, 0.62, "mean of\nweights", SOUP, size=11)
    image = box(axes, 0.36, 0.18, "image", size=11)
    for number, height in enumerate(heights, start=1):
        arrow(axes, box(axes, 0.06, height, rf"$\theta_{number}$", size=11), mean)
    soup = box(axes, 0.68, 0.41, r"model $\bar\theta$", size=11)
    arrow(axes, mean, soup)
    arrow(axes, image, soup)
    arrow(axes, soup, box(axes, 0.94, 0.41, "logits", size=11))


def estimate_against_truth(
    estimates: Tensor,
    truth: Tensor,
    sizes: Tensor,
    *,
    num_models: int,
    truth_label: str = "accuracy of the soup on test (%)",
) -> Figure:
    """RADIN, figure 2: the fast estimate of each soup against its true accuracy.

    Colour and clock hand show the number of ingredients. The hand points up for one ingredient and
    goes once round the clock to N.

    Args:
        estimates: (M,) in percent.
        truth: (M,) in percent.
        sizes: (M,) numbers of ingredients, 1 to N.
        num_models: N.
        truth_label: of the vertical axis.
    """
    figure, axes = plt.subplots(figsize=(6.6, 4.6))
    palette = plt.get_cmap("viridis")
    hand = Path([(0.0, 0.0), (0.0, 1.0)])
    for size in sorted({int(s) for s in sizes}):
        chosen = sizes == size
        x = estimates[chosen]
        y = truth[chosen]
        color = palette(0.92 * (size - 1) / max(num_models - 1, 1))
        turn = Affine2D().rotate_deg(-360 * (size - 1) / num_models)
        marker = MarkerStyle(hand, transform=turn)
        axes.scatter(x, y, s=14, color=color, edgecolor="none", alpha=0.9)
        axes.scatter(x, y, s=150, marker=marker, color=color, linewidth=1.3)
    _mark_diagonal(
        axes,
        min(estimates.min(), truth.min()).item(),
        max(estimates.max(), truth.max()).item(),
    )
    axes.set(xlabel="fast estimate: accuracy of the ensemble on validation (%)", ylabel=truth_label)
    bar = figure.colorbar(plt.cm.ScalarMappable(plt.Normalize(1, num_models), palette), ax=axes)
    bar.set_label("ingredients in the soup")
    bar.ax.yaxis.set_major_locator(plt.MaxNLocator(integer=True))
    figure.tight_layout()
    return figure


def _mark_diagonal(axes: Axes, low: float, high: float) -> None:
    axes.plot([low, high], [low, high], color="#999999", linewidth=1, linestyle="--", zorder=0)
    axes.annotate(
        "equal",
        (high, high),
        color="#666666",
        ha="right",
        va="bottom",
        fontsize=9,
        xytext=(-6, -2),
        textcoords="offset points",
    )


def ranks(
    order: Tensor,
    truth: Tensor,
    *,
    budget: int,
    chosen: int,
    truth_label: str = "true accuracy of the soup (%)",
) -> Figure:
    """RADIN, figure 3: the true accuracy of every candidate against its rank by stage 1.

    Args:
        order: (M,) indices of the candidates, best first, as `radin.rank` gives them.
        truth: (M,) true accuracy of each candidate in percent, in the candidates' own order.
        budget: B. The first B candidates are marked as evaluated.
        chosen: index of the candidate that stage 2 returned.
        truth_label: of the vertical axis.

    Raises:
        ParameterError: the budget is below 1.
    """
    if budget < 1:
        raise ParameterError(f"budget must be at least 1, not {budget}.")
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    position = np.arange(1, len(order) + 1)
    ranked = truth[order]
    winner = int((order == chosen).nonzero())
    grey: dict[str, Any] = {"color": "#999999", "alpha": 0.6, "edgecolor": "none"}
    axes.scatter(position, ranked, s=10, label="candidates, by rank", **grey)
    axes.scatter(
        position[:budget],
        ranked[:budget],
        s=45,
        color="#0072B2",
        label=f"evaluated in stage 2 (B = {budget})",
        zorder=3,
    )
    star: dict[str, Any] = {"marker": "*", "color": "#D55E00", "zorder": 4}
    axes.scatter(position[winner], ranked[winner], s=190, label="returned", **star)
    best = truth.max().item()
    axes.axhline(best, color="#222222", linewidth=1, linestyle=":", label="best of all candidates")
    axes.set(xlabel="rank by fast estimate (1 = most promising)", ylabel=truth_label, xscale="log")
    axes.legend(loc="lower left")
    figure.tight_layout()
    return figure


def accuracy_against_budget(
    budgets: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    *,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    marked: int | None = None,
    label: str = "test accuracy (%)",
) -> Figure:
    """RADIN, figure 4: the accuracy reached at each budget, one line for each recipe.

    Args:
        budgets: numbers of evaluations.
        curves: recipe to its accuracy at each budget. A suffix after a space is allowed, as in
            "radin λ=1".
        levels: recipe to an accuracy that no budget changes, drawn as a horizontal line.
        bands: recipe to (low, high) at each budget, drawn as a shade.
        marked: a budget to mark with a vertical line.
        label: of the vertical axis.
    """
    figure, axes = plt.subplots(figsize=(7.5, 5.2))
    _draw_curves(axes, budgets, curves)
    for name, (low, high) in (bands or {}).items():
        color = RECIPE_STYLES[name.split()[0]]["color"]
        axes.fill_between(budgets, low, high, color=color, alpha=0.15, linewidth=0)
    for name, value in levels.items():
        line: dict[str, Any] = {
            key: look for key, look in RECIPE_STYLES[name].items() if key != "marker"
        }
        axes.axhline(value, label=name.replace("_", " "), linewidth=1.6, **line)
    if marked is not None:
        _mark_budget(axes, marked)
    axes.set(xlabel="budget B (evaluations)", ylabel=label)
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=4, frameon=False, fontsize=10)
    figure.tight_layout()
    return figure


def _draw_curves(axes: Axes, budgets: Sequence[int], curves: Mapping[str, Sequence[float]]) -> None:
    drawn = set()
    for name, values in curves.items():
        recipe = name.split()[0]
        style = dict(RECIPE_STYLES[recipe])
        if recipe in drawn:  # the same recipe with another setting: same colour, dashed
            style |= {"linestyle": "--", "markerfacecolor": "white"}
        drawn.add(recipe)
        title = name.replace("_", " ")
        axes.plot(budgets, values, label=title, markersize=5, linewidth=1.8, **style)


def _mark_budget(axes: Axes, budget: int) -> None:
    axes.axvline(budget, color="#bbbbbb", linewidth=6, alpha=0.4, zorder=0)
    axes.annotate(
        f"B = {budget}",
        (budget, 0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(6, 4),
        textcoords="offset points",
        fontsize=10,
        color="#555555",
    )


def by_size(
    test: Tensor,
    sizes: Tensor,
    threshold: int,
    *,
    label: str = "test accuracy of the soup (%)",
) -> Figure:
    """RADIN, figure 5: the accuracy of soups of many ingredients and of soups of few.

    Args:
        test: (M,) in percent.
        sizes: (M,) numbers of ingredients.
        threshold: soups of more ingredients than this are "many".
        label: of the horizontal axis.
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.8))
    edges = np.histogram_bin_edges(test, bins=40)
    many = sizes > threshold
    for chosen, name, color in (
        (~many, f"{threshold} or fewer", "#767676"),
        (many, f"more than {threshold}", "#0072B2"),
    ):
        if not chosen.any():
            continue
        values = test[chosen]
        share = np.full(len(values), 100 / len(values))
        title = f"{name} ingredients ({len(values):,} soups)"
        axes.hist(values, bins=edges.tolist(), weights=share, color=color, alpha=0.55, label=title)
        axes.axvline(values.mean().item(), color=color, linewidth=2.2)
    axes.set(xlabel=label, ylabel="share of these soups (%)")
    axes.legend(loc="upper left")
    figure.tight_layout()
    return figure
