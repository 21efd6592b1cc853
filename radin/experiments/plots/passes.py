"""The picture of what a number of forward passes can buy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from radin.experiments.plots.style import RECIPE_STYLES

if TYPE_CHECKING:
    import pandas as pd

# Those of a recipe's family share its colour.
PASS_STYLES: dict[str, dict[str, Any]] = RECIPE_STYLES | {
    "radin_prior1": {"color": "#D55E00", "linestyle": ":", "marker": "P"},
    "radin_share": {"color": "#D55E00", "linestyle": "--", "marker": "D"},
    "safe_share": {"color": "#8F7E00", "linestyle": "--", "marker": "D"},
    "race": {"color": "#56B4E9", "linestyle": "-", "marker": "X"},
    "convex": {"color": "#222222", "linestyle": "--", "marker": "*"},
    "learned_tensor": {"color": "#E69F00", "linestyle": "-", "marker": "h"},
}


def gain_per_pass(panels: Mapping[str, pd.DataFrame], labels: Mapping[str, str]) -> Figure:
    """Lines of the gain over the best single ingredient against the passes, with intervals.

    Args:
        panels: a title for each table of
            `radin.experiments.collection.pass_analysis.gain_curves`.
        labels: what the legend calls each recipe; these are drawn, in this order.
    """
    figure, all_axes = plt.subplots(1, len(panels), figsize=(10, 4.6), squeeze=False)
    for axes, (title, curves) in zip(all_axes[0], panels.items(), strict=True):
        for place, (name, label) in enumerate(labels.items()):
            line = curves.loc[name]
            shift = 1.02 ** (2 * place - len(labels))  # so that bars do not hide one another
            axes.errorbar(
                line.index.to_numpy() * shift,
                line.gain,
                yerr=[line.gain - line.low, line.high - line.gain],
                label=label,
                elinewidth=0.8,
                alpha=0.9,
                **PASS_STYLES[name],
            )
        axes.axhline(0, color="#222222", linewidth=1)
        axes.set_xscale("log", base=2)
        budgets = curves.index.get_level_values("budget").unique()
        axes.set_xticks(budgets, [str(budget) for budget in budgets])
        axes.set(title=title, xlabel="forward passes over validation")
    all_axes[0][0].set_ylabel("test accuracy above\nthe best single (points)")
    handles, names = all_axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncol=4, fontsize=10)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    return figure
