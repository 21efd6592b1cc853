"""Accuracies and differences side by side: the figures with which the chapters compare recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor


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
    for row, (middle, low, high) in enumerate(rows.values()):
        color = "#009E73" if low > 0 else "#D55E00" if high < 0 else "#767676"
        axes.plot([low, high], [row, row], color=color, linewidth=2.4, solid_capstyle="butt")
        axes.plot(middle, row, "o", color=color, markersize=7)
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def outcomes(differences: Mapping[str, Tensor], label: str) -> Figure:
    """Digits chapter: the differences over many zoos, a row of dots and a mean for each comparison.

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
