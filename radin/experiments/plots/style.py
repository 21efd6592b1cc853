"""One look for all figures: the colour, line and marker of each recipe."""

from __future__ import annotations

from typing import Any

import seaborn as sns

# One colour and one line style for each recipe, the same on every page. The colours are those of
# Okabe and Ito, which colour-blind readers can tell apart. The line styles serve print.
RECIPE_STYLES: dict[str, dict[str, Any]] = {
    "radin": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "safe": {"color": "#F0E442", "linestyle": "-", "marker": "v"},
    "greedy": {"color": "#0072B2", "linestyle": "-", "marker": "s"},
    "random": {"color": "#767676", "linestyle": "-", "marker": "^"},
    "uniform": {"color": "#009E73", "linestyle": "--"},
    "best_single": {"color": "#CC79A7", "linestyle": "-."},
    "ensemble": {"color": "#56B4E9", "linestyle": ":"},
    "learned": {"color": "#E69F00", "linestyle": "-", "marker": "D"},
    "oracle": {"color": "#222222", "linestyle": (0, (1, 3))},
}


def set_style() -> None:
    """Set the look of every figure of the book. A notebook calls it once, before its figures."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        rc={"figure.dpi": 110, "savefig.bbox": "tight", "figure.facecolor": "white"},
    )
