"""Accuracies and differences side by side: the figures with which the chapters compare recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from radin.experiments.intervals import in_words
from radin.experiments.plots.style import RECIPE_STYLES

# One marker for each recipe that returns a soup, where recipes are dots and not lines.
CHOICE_MARKERS = {
    "radin": "o",
    "greedy": "s",
    "uniform": "D",
    "best_single": "v",
    "oracle": "*",
}


def ingredients(names: Sequence[str], val: Tensor, test: Tensor) -> Figure:
    """Digits and CIFAR-10 chapters: the accuracy of each ingredient on validation and on test.

    Args:
        names: of the N ingredients.
        val: (N,) in percent. The best on validation comes first.
        test: (N,) in percent.
    """
    order = val.argsort(descending=True, stable=True)
    positions = range(len(names))
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    axes.plot(positions, val[order], "o", color="#0072B2", label="validation (decides)")
    hollow: dict[str, Any] = {"color": "#E69F00", "fillstyle": "none"}
    axes.plot(positions, test[order], "D", label="test (reported)", **hollow)
    axes.set_xticks(positions, [names[i].removeprefix("ingredient_") for i in order])
    axes.set(xlabel="ingredient", ylabel="accuracy (%)")
    axes.legend()
    figure.tight_layout()
    return figure


def intervals(rows: Mapping[str, tuple[float, float, float]], label: str) -> Figure:
    """Most chapters: differences with their 95% intervals, one row each.

    An interval right of zero favours the first of the two that the title names.

    Args:
        rows: title to (difference, low, high), as
            `radin.experiments.intervals.paired_interval` gives them.
        label: of the horizontal axis.
    """
    figure, axes = plt.subplots(figsize=(7.5, 1.0 + 0.42 * len(rows)))
    _draw_intervals(axes, rows)
    axes.set(xlabel=label)
    figure.tight_layout()
    return figure


def interval_panels(
    panels: Mapping[str, Mapping[str, tuple[float, float, float] | None]], label: str
) -> Figure:
    """ImageNet chapter: several comparisons on the same test sets, one panel each, side by side.

    Args:
        panels: title of a panel to its rows, the same in all; each row is a title and
            (difference, low, high), or None where it is not known: a dash is drawn.
        label: of the horizontal axes.
    """
    num_rows = max(map(len, panels.values()))
    size = (7.5, 1.5 + 0.34 * num_rows)
    figure, grid = plt.subplots(
        1, len(panels), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for axes, (title, rows) in zip(grid[0], panels.items(), strict=True):
        _draw_intervals(axes, rows)
        axes.set_title(title, fontsize=12)
    figure.supxlabel(label, fontsize=12)
    figure.tight_layout()
    return figure


def _draw_intervals(axes: Axes, rows: Mapping[str, tuple[float, float, float] | None]) -> None:
    for row, interval in enumerate(rows.values()):
        if interval is None:
            axes.text(0, row, "–", ha="center", va="center", color="#767676", fontsize=14)
            continue
        middle, low, high = interval
        color = in_words(interval, "#009E73", "#D55E00", "#767676")
        axes.plot([low, high], [row, row], color=color, linewidth=2.4, solid_capstyle="butt")
        axes.plot(middle, row, "o", color=color, markersize=7)
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)


def outcomes(differences: Mapping[str, Tensor], label: str) -> Figure:
    """Digits, many zoos, sentences: differences as rows of dots, each row with its mean.

    Args:
        differences: title to (number of zoos,) in percentage points.
        label: of the horizontal axis.
    """
    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.8 * len(differences)))
    rng = np.random.default_rng(0)  # sideways scatter only, so that equal dots stay visible
    dots: dict[str, Any] = {"s": 9, "alpha": 0.5, "color": "#0072B2", "edgecolor": "none"}
    for row, values in enumerate(differences.values()):
        axes.scatter(values, row + rng.uniform(-0.25, 0.25, len(values)), **dots)
        mean = torch.as_tensor(values).mean()
        axes.plot([mean, mean], [row - 0.36, row + 0.36], color="#D55E00", linewidth=3)
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set(xlabel=label, ylim=(len(differences) - 0.4, -0.6))
    figure.tight_layout()
    return figure


def soups_by_size(
    sizes: Tensor, accuracies: Tensor, chosen: Mapping[str, int], *, ensemble: float, label: str
) -> Figure:
    """ImageNet and sentences: every soup by its size, and what each recipe returns among them.

    Args:
        sizes: (R,) numbers of ingredients.
        accuracies: (R,) in percent.
        chosen: a key of `RECIPE_STYLES` to the row of the soup that the recipe returns. Recipes
            that return the same soup stand side by side.
        ensemble: accuracy of the ensemble of all in percent, drawn as a line.
        label: of the vertical axis.
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    rng = np.random.default_rng(0)  # sideways scatter only, so that equal dots stay visible
    dots: dict[str, Any] = {"s": 12, "alpha": 0.5, "color": "#999999", "edgecolor": "none"}
    axes.scatter(sizes.numpy() + rng.uniform(-0.2, 0.2, len(sizes)), accuracies, **dots)
    rows = list(chosen.values())
    for k, (recipe, row) in enumerate(chosen.items()):
        place = rows[:k].count(row) - (rows.count(row) - 1) / 2
        marker = {
            "color": RECIPE_STYLES[recipe]["color"],
            "marker": CHOICE_MARKERS[recipe],
            "markersize": 16 if recipe == "oracle" else 10,  # a star looks smaller
            "markeredgecolor": "white",
        }
        x, y = sizes[row].item() + 0.24 * place, accuracies[row].item()
        axes.plot(x, y, linestyle="", label=recipe.replace("_", " "), **marker)
    line = RECIPE_STYLES["ensemble"]
    axes.axhline(ensemble, label="ensemble of all", linewidth=1.8, **line)
    axes.set(xlabel="ingredients in the soup", ylabel=label)
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=3, frameon=False, fontsize=10)
    figure.tight_layout()
    return figure


def grouped_cosines(cosines: Tensor, groups: Sequence[str]) -> Figure:
    """Chapter on sentences: cosines of task vectors as a heat map, group beside group.

    Args:
        cosines: (N, N).
        groups: (N,) the group of each; those of one group stand side by side.
    """
    figure, axes = plt.subplots(figsize=(6.6, 5.2))
    apart = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
    # The diagonal is 1 by definition; were it in the scale, the others would look alike.
    shown = cosines.clone().fill_diagonal_(float("nan"))
    image = axes.imshow(
        shown.numpy(), cmap="viridis", vmin=apart.min().item(), vmax=apart.max().item()
    )
    middle = (apart.min() + apart.max()).item() / 2
    for (row, column), value in np.ndenumerate(shown.numpy()):
        if row != column:
            color = "white" if value < middle else "black"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=10
            )
    names = list(dict.fromkeys(groups))
    first = [groups.index(name) for name in names]
    centres = [
        start + (groups.count(name) - 1) / 2 for start, name in zip(first, names, strict=True)
    ]
    for start in first[1:]:
        axes.axhline(start - 0.5, color="white", linewidth=3)
        axes.axvline(start - 0.5, color="white", linewidth=3)
    axes.set_xticks(centres, names, rotation=30, ha="right")
    axes.set_yticks(centres, names)
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes).set_label("cosine of two task vectors")
    figure.tight_layout()
    return figure
