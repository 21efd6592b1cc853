"""The forest plot of the collection of zoos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from radin.experiments.collection.analysis import ELSEWHERE, HERE
from radin.experiments.intervals import in_words

if TYPE_CHECKING:
    import pandas as pd

INCHES_PER_ROW = 0.36


def forest(summary: pd.DataFrame, label: str) -> Figure:
    """The effect in each design with its interval over zoos, and below a line the two means.

    An interval right of zero favours the first of the two recipes.

    Args:
        summary: as `radin.experiments.collection.analysis.summarise` gives it.
        label: of the horizontal axis.
    """
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + INCHES_PER_ROW * len(summary)))
    for row, (name, values) in enumerate(summary.iterrows()):
        interval = (values.effect, values.low, values.high)
        colour = in_words(interval, "#009E73", "#D55E00", "#767676")
        axes.plot([values.low, values.high], [row, row], color=colour, linewidth=2.4)
        marker = "D" if name in (HERE, ELSEWHERE) else "o"
        axes.plot(values.effect, row, marker, color=colour, markersize=7)
    means = sum(name in (HERE, ELSEWHERE) for name in summary.index)
    if 0 < means < len(summary):
        axes.axhline(len(summary) - means - 0.5, color="#999999", linewidth=0.8)
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(range(len(summary)), [_title(*item) for item in summary.zoos.items()])
    axes.set(xlabel=label, ylim=(len(summary) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def _title(name: object, zoos: float) -> str:
    return f"{name} ({zoos:.0f})"
