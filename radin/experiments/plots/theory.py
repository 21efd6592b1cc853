"""Figures of the theory chapters and of the chapters that use the theory."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from radin.experiments.plots.style import RECIPE_STYLES
from radin.recipes.trust_report import Trust

if TYPE_CHECKING:
    from pandas import DataFrame

_SOUP_COLOR = RECIPE_STYLES["radin"]["color"]
_ENSEMBLE_COLOR = RECIPE_STYLES["ensemble"]["color"]
_MARKERS = "osD^v"


def fitted_slope(scales: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through (log scale, log value)."""
    return float(np.polyfit(np.log(np.asarray(scales)), np.log(np.asarray(values)), 1)[0])


def slopes(
    scales: Sequence[float], errors: Mapping[str, Sequence[float]], xlabel: str, ylabel: str
) -> Figure:
    """Chapter of questions: errors against a scale on log-log axes, with the slope of each line."""
    figure, axes = plt.subplots(figsize=(6.8, 3.8))
    colors = sns.color_palette("colorblind")
    for (name, values), color, marker in zip(errors.items(), colors, _MARKERS, strict=False):
        title = f"{name}: slope {fitted_slope(scales, values):.2f}"
        axes.loglog(scales, values, marker=marker, color=color, label=title)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend()
    figure.tight_layout()
    return figure


def orders(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]],
    ylabel: str,
    *,
    fit_below: float | None = None,
) -> Figure:
    """Taylor chapter: differences against the scale of the steps, a panel for each network.

    Args:
        panels: title to (scales, {name: values}).
        ylabel: of the vertical axis.
        fit_below: only scales up to this one count for the slopes in the legend. All count when it
            is not given.
    """
    figure, grid = plt.subplots(
        1, len(panels), figsize=(3.1 * len(panels), 4.1), squeeze=False, sharey=True
    )
    colors = sns.color_palette("colorblind")
    for axes, (title, (scales, lines)) in zip(grid[0], panels.items(), strict=True):
        near = [k for k, scale in enumerate(scales) if fit_below is None or scale <= fit_below]
        for (name, values), color, marker in zip(lines.items(), colors, _MARKERS, strict=False):
            slope = fitted_slope([scales[k] for k in near], [values[k] for k in near])
            look: dict[str, Any] = {"marker": marker, "markersize": 4, "color": color}
            axes.loglog(scales, values, label=f"{name}: slope {slope:.2f}", **look)
        axes.set(title=title, xlabel="scale ε of the steps")
        axes.legend(
            fontsize=9,
            loc="upper center",
            bbox_to_anchor=(0.46, -0.2),
            frameon=False,
            handlelength=1.2,
        )
    grid[0][0].set_ylabel(ylabel)
    figure.tight_layout()
    return figure


def predicted_against_true(
    panels: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]],
    sizes: Mapping[str, Tensor],
    label: str,
) -> Figure:
    """Taylor chapter: the predicted against the true gap of every soup.

    There is a row for each zoo and a column for each way to predict the gap.

    Args:
        panels: zoo to (true (M,), {way: predicted (M,)}).
        sizes: zoo to the number of ingredients of each soup, (M,), shown as colour.
        label: what a gap is, with its unit.
    """
    ways = list(next(iter(panels.values()))[1])
    figure, grid = plt.subplots(
        len(panels), len(ways), figsize=(4.1 * len(ways), 3.7 * len(panels)), squeeze=False
    )
    dots: dict[str, Any] = {"s": 9, "cmap": "viridis", "edgecolor": "none", "alpha": 0.8}
    for row, (zoo, (truth, predictions)) in zip(grid, panels.items(), strict=True):
        for axes, way in zip(row, ways, strict=True):
            predicted = predictions[way]
            axes.scatter(predicted, truth, c=sizes[zoo], **dots)
            ends = [
                min(truth.min(), predicted.min()).item(),
                max(truth.max(), predicted.max()).item(),
            ]
            axes.plot(ends, ends, "--", color="#888888", linewidth=1, zorder=0)
            axes.set(title=f"{zoo}: {way}", xlabel=f"predicted {label}", ylabel=f"true {label}")
            axes.locator_params(nbins=5)
    figure.tight_layout()
    return figure


def heatmap(values: DataFrame, label: str) -> Figure:
    """Taylor chapter: a table of correlations as colours, with the numbers in them.

    Args:
        values: rows and columns as they are drawn.
        label: of the colour bar.
    """
    num_rows, num_columns = values.shape
    figure, axes = plt.subplots(figsize=(2.9 + 0.82 * num_columns, 1.2 + 0.46 * num_rows))
    sns.heatmap(
        values,
        vmin=-1,
        vmax=1,
        center=0,
        cmap="vlag_r",
        annot=True,
        fmt=".2f",
        ax=axes,
        cbar_kws={"label": label},
    )
    axes.set(xlabel="", ylabel="")
    axes.set_xticklabels(axes.get_xticklabels(), rotation=35, ha="right")
    figure.tight_layout()
    return figure


_CHECK_COLORS = {
    "passed": "#bfe3d5",
    "failed": "#f4b183",
    "for information": "#eeeeee",
}


def checks(reports: Mapping[str, Trust]) -> Figure:
    """Chapter on failures: what `radin.trust` measured, a row for each check.

    There is a column for each zoo. The colour says whether the check passed or failed, or is for
    information only.

    Args:
        reports: zoo to its report. A check that a report does not have stays empty.
    """
    longest_first = sorted(reports.values(), key=lambda report: -len(report.checks))
    names = list(dict.fromkeys(check.name for report in longest_first for check in report.checks))
    figure, axes = plt.subplots(figsize=(4.0 + 0.74 * len(reports), 0.9 + 0.42 * len(names)))
    for column, report in enumerate(reports.values()):
        for check in report.checks:
            row = names.index(check.name)
            verdict = "passed" if check.passed else "failed"
            color = _CHECK_COLORS[verdict if check.limited else "for information"]
            corner = (column - 0.48, row - 0.46)
            axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor=color, edgecolor="none"))
            axes.text(column, row, f"{check.value:.2f}", ha="center", va="center", fontsize=9.5)
    axes.set(xlim=(-0.5, len(reports) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.set_xticks(range(len(reports)), list(reports), rotation=35, ha="left")
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 48) for name in names], fontsize=9)
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    patches = [Rectangle((0, 0), 1, 1, facecolor=color) for color in _CHECK_COLORS.values()]
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.3, -0.01)}
    axes.legend(patches, list(_CHECK_COLORS), ncol=3, frameon=False, **below)
    figure.tight_layout()
    return figure


def triangle_grid(steps: int) -> Tensor:
    """Mixing weights of three ingredients on a regular grid over their simplex.

    Args:
        steps: along each side of the triangle.

    Returns:
        (M, 3) mixing weights.
    """
    rows = [(a, b, steps - a - b) for a in range(steps + 1) for b in range(steps + 1 - a)]
    return torch.tensor(rows, dtype=torch.float64) / steps


_CORNERS = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])


def triangles(
    weights: Tensor, panels: Mapping[str, Tensor], names: Sequence[str], label: str
) -> Figure:
    """Taylor chapter: a quantity for all mixing ratios of three ingredients, as a triangle.

    There is a panel for each quantity. Quantities of one sign share their colours, and a star marks
    the lowest value. A quantity with both signs has colours that meet at zero, and the star marks
    the largest absolute value.

    Args:
        weights: (M, 3) mixing weights.
        panels: title to (M,).
        names: of the corners.
        label: of the colour bars.
    """
    x, y = (weights.numpy() @ _CORNERS).T
    figure, grid = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.6), squeeze=False)
    of_one_sign = [values for values in panels.values() if values.min() >= 0]
    limits: dict[str, Any] = {
        "vmin": min((values.min() for values in of_one_sign), default=0),
        "vmax": max((values.max() for values in of_one_sign), default=1),
    }
    for axes, (title, values) in zip(grid[0], panels.items(), strict=True):
        both_signs = bool(values.min() < 0)
        style: dict[str, Any] = {"cmap": "viridis_r", **limits}
        if both_signs:
            reach = values.abs().max().clamp_min(1e-12).item()
            style = {"cmap": "vlag", "norm": TwoSlopeNorm(0, -reach, reach)}
        picture = axes.tripcolor(x, y, values.numpy(), shading="gouraud", **style)
        if values.max() > values.min():
            lines: dict[str, Any] = {
                "levels": 6,
                "colors": "#222222",
                "linewidths": 0.5,
                "alpha": 0.6,
            }
            axes.tricontour(x, y, values.numpy(), **lines)
        best = int(values.abs().argmax() if both_signs else values.argmin())
        axes.plot(x[best], y[best], "*", color="#D55E00", markersize=14, markeredgecolor="white")
        _name_corners(axes, names)
        axes.set(title=title, xlim=(-0.12, 1.12), ylim=(-0.14, 1.0), aspect="equal")
        axes.axis("off")
        below: dict[str, Any] = {"orientation": "horizontal", "fraction": 0.05, "pad": 0.02}
        bar = figure.colorbar(picture, ax=axes, label=label, **below)
        bar.locator = plt.MaxNLocator(4)
    figure.tight_layout()
    return figure


def _name_corners(axes: Axes, names: Sequence[str]) -> None:
    for (x, y), name in zip(_CORNERS, names, strict=True):
        axes.annotate(name, (x, y), ha="center", va="bottom" if y else "top", fontsize=9)


def paths(
    amounts: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    ylabel: str,
    *,
    columns: int = 4,
) -> Figure:
    """Chapter on failures: a quantity on the straight line between two ingredients of each zoo.

    Args:
        amounts: shares of the second ingredient, 0 to 1.
        panels: zoo to {"soup": values, "ensemble": values}.
        ylabel: of the vertical axes.
        columns: of panels.
    """
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.4 * columns, 2.4 * rows), sharex=True, squeeze=False
    )
    styles: dict[str, Any] = {
        "soup": {"color": _SOUP_COLOR, "linewidth": 2.2},
        "ensemble": {"color": _ENSEMBLE_COLOR, "linestyle": "--"},
    }
    other = {"color": "#009E73", "linestyle": ":"}
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
        for name, values in lines.items():
            axes.plot(amounts, values, label=name, **styles.get(name, other))
        axes.set_title(title, fontsize=11)
    for k, axes in enumerate(grid.flat):
        if k >= len(panels):
            axes.axis("off")
        elif k + columns >= len(panels):  # nothing below it
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("share of the second")
    for row in grid:
        row[0].set_ylabel(ylabel)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    has_empty_panel = len(panels) < grid.size
    beside = {"loc": "upper left", "bbox_to_anchor": (1.02, 1)}
    where: dict[str, Any] = {"loc": "center"} if has_empty_panel else beside
    grid.flat[-1].legend(handles, labels, frameon=False, fontsize=11, **where)
    figure.tight_layout()
    return figure
