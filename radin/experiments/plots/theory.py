"""Figures of the theory chapters: orders, gaps, what carries a ranking, mixing ratios on a triangle, paths."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from radin.experiments.plots.paper import fitted_slope
from radin.experiments.plots.style import RECIPE_STYLES
from radin.recipes.trust_report import Trust

_SOUP, _ENSEMBLE = RECIPE_STYLES["radin"]["color"], RECIPE_STYLES["ensemble"]["color"]


def orders(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]],
    ylabel: str,
    fit_below: float | None = None,
) -> Figure:
    """Differences against the scale of the steps on log-log axes, a panel for each network.

    Args:
        panels: title to (scales, {name: values}).
        fit_below: slopes are fitted to scales up to this, and written into the legend; all when not given.
    """
    figure, grid = plt.subplots(
        1, len(panels), figsize=(3.1 * len(panels), 4.1), squeeze=False, sharey=True
    )
    for axes, (title, (scales, lines)) in zip(grid[0], panels.items(), strict=True):
        near = [k for k, scale in enumerate(scales) if fit_below is None or scale <= fit_below]
        for (name, values), color, marker in zip(
            lines.items(), sns.color_palette("colorblind"), "osD^v", strict=False
        ):
            slope = fitted_slope([scales[k] for k in near], [values[k] for k in near])
            axes.loglog(
                scales,
                values,
                marker=marker,
                markersize=4,
                color=color,
                label=f"{name}: slope {slope:.2f}",
            )
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
    """Predicted against true gap of every soup, a row for each zoo and a column for each way to predict it.

    Args:
        panels: zoo to (true (M,), {way: predicted (M,)}).
        sizes: zoo to the number of ingredients of each soup, (M,), shown as colour.
        label: what a gap is, with its unit.
    """
    ways = list(next(iter(panels.values()))[1])
    figure, grid = plt.subplots(
        len(panels), len(ways), figsize=(4.1 * len(ways), 3.7 * len(panels)), squeeze=False
    )
    for row, (zoo, (truth, predictions)) in zip(grid, panels.items(), strict=True):
        for axes, way in zip(row, ways, strict=True):
            axes.scatter(
                predictions[way],
                truth,
                c=sizes[zoo],
                s=9,
                cmap="viridis",
                edgecolor="none",
                alpha=0.8,
            )
            ends = [
                min(truth.min(), predictions[way].min()).item(),
                max(truth.max(), predictions[way].max()).item(),
            ]
            axes.plot(ends, ends, "--", color="#888888", linewidth=1, zorder=0)
            axes.set(title=f"{zoo}: {way}", xlabel=f"predicted {label}", ylabel=f"true {label}")
            axes.locator_params(nbins=5)
    figure.tight_layout()
    return figure


def heatmap(values: Any, label: str) -> Figure:
    """A table of correlations as colours with the numbers in them; rows and columns as in the data frame."""
    figure, axes = plt.subplots(
        figsize=(2.9 + 0.82 * values.shape[1], 1.2 + 0.46 * values.shape[0])
    )
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


def checks(reports: Mapping[str, Trust]) -> Figure:
    """What `radin.trust` measured, a row for each check and a column for each zoo: passed, failed, or for information.

    Args:
        reports: zoo to its report; a check that a report does not have stays empty.
    """
    longest_first = sorted(reports.values(), key=lambda report: -len(report.checks))
    names = list(dict.fromkeys(check.name for report in longest_first for check in report.checks))
    figure, axes = plt.subplots(figsize=(4.0 + 0.74 * len(reports), 0.9 + 0.42 * len(names)))
    colors = {None: "#eeeeee", True: "#bfe3d5", False: "#f4b183"}
    for column, report in enumerate(reports.values()):
        for check in report.checks:
            row = names.index(check.name)
            color = colors[check.passed if check.limited else None]
            axes.add_patch(
                Rectangle(
                    (column - 0.48, row - 0.46), 0.96, 0.92, facecolor=color, edgecolor="none"
                )
            )
            axes.text(column, row, f"{check.value:.2f}", ha="center", va="center", fontsize=9.5)
    axes.set(xlim=(-0.5, len(reports) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.set_xticks(range(len(reports)), list(reports), rotation=35, ha="left")
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 48) for name in names], fontsize=9)
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=color)
        for color in (colors[True], colors[False], colors[None])
    ]
    axes.legend(
        handles,
        ["passed", "failed", "for information"],
        loc="upper center",
        bbox_to_anchor=(0.3, -0.01),
        ncol=3,
        frameon=False,
    )
    figure.tight_layout()
    return figure


def triangle_grid(steps: int) -> Tensor:
    """Mixing weights of three ingredients on a regular grid over their simplex: (M, 3), `steps` a side."""
    rows = [(a, b, steps - a - b) for a in range(steps + 1) for b in range(steps + 1 - a)]
    return torch.tensor(rows, dtype=torch.float64) / steps


def triangles(
    weights: Tensor, panels: Mapping[str, Tensor], names: Sequence[str], label: str
) -> Figure:
    """A loss for all mixing ratios of three ingredients, drawn as a triangle, a panel for each quantity.

    Panels of one sign share their colours, and a star marks the lowest value; a quantity with both signs gets colours
    that part at zero, and a star where it is largest.

    Args:
        weights: (M, 3) mixing weights.
        panels: title to (M,).
        names: of the corners.
    """
    corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
    x, y = (weights.numpy() @ corners).T
    figure, grid = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.6), squeeze=False)
    levels = [v for v in panels.values() if v.min() >= 0]
    low, high = (min(v.min() for v in levels), max(v.max() for v in levels)) if levels else (0, 1)
    for axes, (title, values) in zip(grid[0], panels.items(), strict=True):
        if values.min() >= 0:
            style: dict[str, Any] = {"cmap": "viridis_r", "vmin": low, "vmax": high}
        else:
            reach = values.abs().max().clamp_min(1e-12).item()
            style = {"cmap": "vlag", "norm": TwoSlopeNorm(0, -reach, reach)}
        picture = axes.tripcolor(x, y, values.numpy(), shading="gouraud", **style)
        if values.max() > values.min():
            axes.tricontour(
                x, y, values.numpy(), levels=6, colors="#222222", linewidths=0.5, alpha=0.6
            )
        best = int(values.abs().argmax()) if values.min() < 0 else int(values.argmin())
        axes.plot(x[best], y[best], "*", color="#D55E00", markersize=14, markeredgecolor="white")
        for (cx, cy), name in zip(corners, names, strict=True):
            axes.annotate(name, (cx, cy), ha="center", va="bottom" if cy else "top", fontsize=9)
        axes.set(title=title, xlim=(-0.12, 1.12), ylim=(-0.14, 1.0), aspect="equal")
        axes.axis("off")
        bar = figure.colorbar(
            picture, ax=axes, orientation="horizontal", fraction=0.05, pad=0.02, label=label
        )
        bar.locator = plt.MaxNLocator(4)
    figure.tight_layout()
    return figure


def paths(
    amounts: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    ylabel: str,
    columns: int = 4,
) -> Figure:
    """A quantity on the straight line between two ingredients, a panel for each zoo.

    Args:
        amounts: shares of the second ingredient, 0 to 1.
        panels: zoo to {"soup": values, "ensemble": values}.
    """
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.4 * columns, 2.4 * rows), sharex=True, squeeze=False
    )
    styles = {
        "soup": {"color": _SOUP, "linewidth": 2.2},
        "ensemble": {"color": _ENSEMBLE, "linestyle": "--"},
    }
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
        for name, values in lines.items():
            axes.plot(
                amounts,
                values,
                label=name,
                **styles.get(name, {"color": "#009E73", "linestyle": ":"}),
            )
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
    place = (
        {"loc": "center"}
        if len(panels) < grid.size
        else {"loc": "upper left", "bbox_to_anchor": (1.02, 1)}
    )
    grid.flat[-1].legend(handles, labels, frameon=False, fontsize=11, **place)
    figure.tight_layout()
    return figure
