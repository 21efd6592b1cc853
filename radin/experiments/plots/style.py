"""One look for all figures: the colour, line and marker of each recipe."""

from __future__ import annotations

import sys
from typing import Any

import seaborn as sns

from radin.experiments.plots.night import show_both
from radin.experiments.tables import show_as_texts

# One colour and one line style for each recipe, the same on every page. The colours are those of
# Okabe and Ito, which colour-blind readers can tell apart; their yellow is darkened, for it can
# hardly be seen on white. The line styles serve print.
RECIPE_STYLES: dict[str, dict[str, Any]] = {
    "radin": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "safe": {"color": "#8F7E00", "linestyle": "-", "marker": "v"},
    "top_k": {"color": "#AA4499", "linestyle": "-", "marker": "P"},
    "greedy": {"color": "#0072B2", "linestyle": "-", "marker": "s"},
    "random": {"color": "#767676", "linestyle": "-", "marker": "^"},
    "uniform": {"color": "#009E73", "linestyle": "--"},
    "best_single": {"color": "#CC79A7", "linestyle": "-."},
    "ensemble": {"color": "#56B4E9", "linestyle": ":"},
    "learned": {"color": "#E69F00", "linestyle": "-", "marker": "D"},
    "oracle": {"color": "#222222", "linestyle": (0, (1, 3))},
}


def set_style() -> None:
    """Set the look of every figure of the book. A notebook calls it once, before its figures.

    In a notebook each figure also gets its dark version (`radin.experiments.plots.night`), and
    tables show numbers as people write them (`radin.experiments.tables`).
    """
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        rc={"figure.dpi": 110, "savefig.bbox": "tight", "figure.facecolor": "white"},
    )
    if "IPython" in sys.modules and (ipython := sys.modules["IPython"].get_ipython()) is not None:
        show_both(ipython)
        show_as_texts(ipython)
