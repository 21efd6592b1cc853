"""The paper's figures in our own drawing, each from results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from torch import Tensor

from radin.errors import ParameterError
from radin.experiments.plots.style import RECIPE_STYLES


def _box(axes: Axes, x: float, y: float, text: str, color: str = "#555555") -> None:
    style = {
        "boxstyle": "round,pad=0.45",
        "facecolor": "white",
        "edgecolor": color,
        "linewidth": 1.6,
    }
    axes.text(x, y, text, ha="center", va="center", fontsize=11, bbox=style)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, color="#555555", linewidth=1
        )
    )


def ingredients(names: Sequence[str], val: Tensor, test: Tensor) -> Figure:
    """Accuracy of each ingredient on both parts, best on validation first. val, test: (N,) in percent."""
    order = val.argsort(descending=True, stable=True)
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    axes.plot(range(len(names)), val[order], "o", color="#0072B2", label="validation (decides)")
    axes.plot(
        range(len(names)),
        test[order],
        "D",
        color="#E69F00",
        fillstyle="none",
        label="test (reported)",
    )
    axes.set_xticks(range(len(names)), [names[i].removeprefix("ingredient_") for i in order])
    axes.set(xlabel="ingredient", ylabel="accuracy (%)")
    axes.legend()
    figure.tight_layout()
    return figure


def estimate_against_truth(
    estimates: Tensor,
    truth: Tensor,
    sizes: Tensor,
    num_models: int,
    truth_label: str = "accuracy of the soup on test (%)",
) -> Figure:
    """Fast estimate against the soup's true accuracy; colour and clock hand show the number of ingredients.

    After RADIN, figure 2. The hand points up for one ingredient and goes once round the clock to N.

    Args:
        estimates, truth: (M,) in percent.
        sizes: (M,) numbers of ingredients, 1 to N.
    """
    figure, axes = plt.subplots(figsize=(6.6, 4.6))
    palette = plt.get_cmap("viridis")
    hand = Path([(0.0, 0.0), (0.0, 1.0)])
    for size in sorted({int(s) for s in sizes}):
        chosen = sizes == size
        share = (size - 1) / max(num_models - 1, 1)
        turn = Affine2D().rotate_deg(-360 * (size - 1) / num_models)
        color = palette(0.92 * share)
        axes.scatter(
            estimates[chosen], truth[chosen], s=14, color=color, edgecolor="none", alpha=0.9
        )
        axes.scatter(
            estimates[chosen],
            truth[chosen],
            s=150,
            marker=MarkerStyle(hand, transform=turn),
            color=color,
            linewidth=1.3,
        )
    low, high = min(estimates.min(), truth.min()).item(), max(estimates.max(), truth.max()).item()
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
    axes.set(xlabel="fast estimate: accuracy of the ensemble on validation (%)", ylabel=truth_label)
    bar = figure.colorbar(plt.cm.ScalarMappable(plt.Normalize(1, num_models), palette), ax=axes)
    bar.set_label("ingredients in the soup")
    bar.ax.yaxis.set_major_locator(plt.MaxNLocator(integer=True))
    figure.tight_layout()
    return figure


def ranks(
    order: Tensor,
    truth: Tensor,
    budget: int,
    chosen: int,
    truth_label: str = "true accuracy of the soup (%)",
) -> Figure:
    """True accuracy of every candidate against its rank by stage 1; the first B are evaluated. After RADIN, figure 3.

    Args:
        order: (M,) candidates, best first, as `rank` gives them.
        truth: (M,) true accuracy of each candidate in percent, in the candidates' own order.
        chosen: index of the candidate that stage 2 returned.
    """
    if budget < 1:
        raise ParameterError(f"budget must be at least 1, not {budget}.")
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    position = np.arange(1, len(order) + 1)
    ranked = truth[order]
    axes.scatter(
        position,
        ranked,
        s=10,
        color="#999999",
        alpha=0.6,
        label="candidates, by rank",
        edgecolor="none",
    )
    axes.scatter(
        position[:budget],
        ranked[:budget],
        s=45,
        color="#0072B2",
        label=f"evaluated in stage 2 (B = {budget})",
        zorder=3,
    )
    winner = int((order == chosen).nonzero())
    axes.scatter(
        position[winner],
        ranked[winner],
        s=190,
        marker="*",
        color="#D55E00",
        label="returned",
        zorder=4,
    )
    axes.axhline(
        truth.max().item(),
        color="#222222",
        linewidth=1,
        linestyle=":",
        label="best of all candidates",
    )
    axes.set(xlabel="rank by fast estimate (1 = most promising)", ylabel=truth_label, xscale="log")
    axes.legend(loc="lower left")
    figure.tight_layout()
    return figure


def accuracy_against_budget(
    budgets: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    marked: int | None = None,
    label: str = "test accuracy (%)",
) -> Figure:
    """Accuracy reached at each budget, one line for each recipe. After RADIN, figure 4.

    Args:
        budgets: numbers of evaluations.
        curves: recipe (a suffix after a space is allowed: "radin λ=1") to accuracy at each budget.
        levels: recipe to an accuracy that no budget changes, drawn as a horizontal line.
        bands: recipe to (low, high) at each budget, drawn as a shade.
        marked: a budget to mark with a vertical line.
    """
    figure, axes = plt.subplots(figsize=(7.5, 5.2))
    drawn = set()
    for name, values in curves.items():
        recipe = name.split()[0]
        style = dict(RECIPE_STYLES[recipe])
        if recipe in drawn:  # the same recipe with another setting: same colour, dashed
            style |= {"linestyle": "--", "markerfacecolor": "white"}
        drawn.add(recipe)
        axes.plot(
            budgets, values, label=name.replace("_", " "), markersize=5, linewidth=1.8, **style
        )
    for name, (low, high) in (bands or {}).items():
        axes.fill_between(
            budgets,
            low,
            high,
            color=RECIPE_STYLES[name.split()[0]]["color"],
            alpha=0.15,
            linewidth=0,
        )
    for name, value in levels.items():
        axes.axhline(
            value,
            label=name.replace("_", " "),
            linewidth=1.6,
            **{k: v for k, v in RECIPE_STYLES[name].items() if k != "marker"},
        )
    if marked is not None:
        axes.axvline(marked, color="#bbbbbb", linewidth=6, alpha=0.4, zorder=0)
        axes.annotate(
            f"B = {marked}",
            (marked, 0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=10,
            color="#555555",
        )
    axes.set(xlabel="budget B (evaluations)", ylabel=label)
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=4, frameon=False, fontsize=10)
    figure.tight_layout()
    return figure


def by_size(
    test: Tensor, sizes: Tensor, threshold: int, label: str = "test accuracy of the soup (%)"
) -> Figure:
    """Distribution of the soups' accuracy, those of many ingredients against those of few. After RADIN, figure 5.

    Args:
        test: (M,) in percent.
        sizes: (M,) numbers of ingredients.
        threshold: soups of more ingredients than this are "many".
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


def intervals(rows: Mapping[str, tuple[float, float, float]], label: str) -> Figure:
    """Differences with their 95% intervals, one row each; what lies right of zero favours the first named.

    Args:
        rows: title to (difference, low, high), as `radin.experiments.intervals.paired_interval` gives them.
    """
    figure, axes = plt.subplots(figsize=(7.5, 1.0 + 0.42 * len(rows)))
    for place, (middle, low, high) in enumerate(rows.values()):
        color = "#009E73" if low > 0 else "#D55E00" if high < 0 else "#767676"
        axes.plot([low, high], [place, place], color=color, linewidth=2.4, solid_capstyle="butt")
        axes.plot(middle, place, "o", color=color, markersize=7)
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def slopes(
    scales: Sequence[float], errors: Mapping[str, Sequence[float]], xlabel: str, ylabel: str
) -> Figure:
    """Errors against a scale on log-log axes, with the slope fitted to each line written beside it."""
    figure, axes = plt.subplots(figsize=(6.8, 4.6))
    markers = iter("osD^v")
    for (name, values), color in zip(errors.items(), sns.color_palette("colorblind"), strict=False):
        axes.loglog(
            scales,
            values,
            marker=next(markers),
            color=color,
            label=f"{name}: slope {fitted_slope(scales, values):.2f}",
        )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend()
    figure.tight_layout()
    return figure


def fitted_slope(scales: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through (log scale, log value)."""
    return float(np.polyfit(np.log(np.asarray(scales)), np.log(np.asarray(values)), 1)[0])


def outcomes(differences: Mapping[str, Tensor], label: str) -> Figure:
    """One row of dots for each comparison, with its mean: differences in percentage points over many zoos."""
    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.8 * len(differences)))
    rng = np.random.default_rng(0)  # sideways scatter only, so that equal dots stay visible
    for row, values in enumerate(differences.values()):
        axes.scatter(
            values,
            row + rng.uniform(-0.25, 0.25, len(values)),
            s=9,
            alpha=0.5,
            color="#0072B2",
            edgecolor="none",
        )
        axes.plot(
            [torch.as_tensor(values).mean()] * 2,
            [row - 0.36, row + 0.36],
            color="#D55E00",
            linewidth=3,
        )
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set(xlabel=label, ylim=(len(differences) - 0.4, -0.6))
    figure.tight_layout()
    return figure
