"""The tree of checkpoints that `radin.families` finds."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from radin.errors import ParameterError
from radin.experiments.plots.style import RECIPE_STYLES
from radin.files import atomic_path, expand_path
from radin.recipes.families import CUT, OTHER_ARCHITECTURE, Families

INCHES_PER_FILE = 0.32
LINE_COLOR = RECIPE_STYLES["oracle"]["color"]
CUT_COLOR = RECIPE_STYLES["radin"]["color"]


def dendrogram(found: Families) -> Figure:
    """A tree of the files. Those that join left of the dashed line share a start.

    Raises:
        ParameterError: there is one file only.
    """
    from scipy.cluster.hierarchy import dendrogram as draw_tree

    if found.tree is None:
        raise ParameterError("A tree needs two files or more; there is one that can be read.")
    figure = Figure(figsize=(8, 1.6 + INCHES_PER_FILE * len(found.paths)), layout="constrained")
    axes = figure.subplots()
    number_of = {k: n for n, members in enumerate(found.families, start=1) for k in members}
    draw_tree(
        found.tree,
        orientation="right",
        labels=[f"{name}  ({number_of[k]})" for k, name in enumerate(found.names)],
        color_threshold=0,
        above_threshold_color=LINE_COLOR,
        leaf_font_size=11,
        ax=axes,
    )
    axes.axvline(CUT, color=CUT_COLOR, linestyle="--", linewidth=1.5)
    axes.set_xlim(right=0, left=OTHER_ARCHITECTURE * 1.05)
    axes.yaxis.tick_right()  # beside the leaves
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "1 − cosine of the weights (2: another architecture)\n"
        "left of the dashed line: no common start",
        fontsize=11,
    )
    axes.set_title("Checkpoints, with the numbers of their families", fontsize=12)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def save_dendrogram(found: Families, path: str | Path) -> Path:
    """Draw the tree into a file.

    Args:
        path: ends in .png, .svg or .pdf.

    Raises:
        ParameterError: another ending, or one file only.
        RadinError: the system refuses to write.
    """
    path = expand_path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise ParameterError(f"{path}: a figure is saved as .png, .svg or .pdf; change the ending.")
    figure = dendrogram(found)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)
    return path
