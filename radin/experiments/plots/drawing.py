"""The parts of a drawing: boxes, labels, arrows and dots, large enough to read on a phone."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text

from radin.experiments.plots.style import RECIPE_STYLES

INK = "#444444"
# The colours of the recipes, darkened where text in them could not be read on white.
SOUP = "#BF5300"
ENSEMBLE = "#1F78A8"
GREEDY = RECIPE_STYLES["greedy"]["color"]
GOOD = "#00785A"
PALE = {INK: "#F2F2F2", SOUP: "#FCEBDD", ENSEMBLE: "#E6F3FA", GREEDY: "#E3EEF6", GOOD: "#E2F3EC"}
FONT_POINTS = 12.0  # at 10 and below, the reader would have to zoom on a phone

Point = tuple[float, float]


def canvas(width: float = 7.0, height: float = 3.0) -> tuple[Figure, Axes]:
    """An empty drawing whose coordinates are inches: (0, 0) is the lower left corner."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(
    axes: Axes, x: float, y: float, text: str, color: str = INK, *, size: float = FONT_POINTS
) -> Text:
    """Text in a rounded box around (x, y).

    Args:
        size: of the font in points.

    Returns:
        The box, which can be an end of an `arrow`.
    """
    style = {
        "boxstyle": "round,pad=0.4",
        "facecolor": PALE.get(color, "white"),
        "edgecolor": color,
        "linewidth": 1.6,
    }
    return axes.text(
        x, y, text, ha="center", va="center", fontsize=size, color="#222222", bbox=style
    )


def label(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    color: str = INK,
    *,
    size: float = FONT_POINTS,
    align: str = "center",
) -> Text:
    """Text without a box.

    Args:
        size: of the font in points.
        align: which side of the text is at (x, y): "left", "center" or "right".
    """
    return axes.text(x, y, text, ha=align, va="center", fontsize=size, color=color)


def arrow(
    axes: Axes,
    start: Text | Point,
    end: Text | Point,
    color: str = INK,
    *,
    bend: float = 0.0,
    dashed: bool = False,
    head: bool = True,
) -> Annotation:
    """An arrow between two boxes or points. At a box it begins or ends at the outline.

    Draw the boxes first.

    Args:
        bend: 0 is straight, 0.3 is clearly curved, and a negative number bends to the other side.
        head: whether it has a tip. Without one it is a plain line.
    """
    properties = {
        "arrowstyle": "-|>" if head else "-",
        "color": color,
        "linewidth": 1.5,
        "linestyle": "--" if dashed else "-",
        "mutation_scale": 14,
        "shrinkA": 3 if isinstance(start, Text) else 0,
        "shrinkB": 3 if isinstance(end, Text) else 0,
        "connectionstyle": f"arc3,rad={bend}",
        "patchA": _outline(start),
        "patchB": _outline(end),
    }
    return axes.annotate("", xy=_point(end), xytext=_point(start), arrowprops=properties)


def dot(
    axes: Axes,
    x: float,
    y: float,
    color: str = INK,
    *,
    size: float = 11.0,
    hollow: bool = False,
) -> None:
    """A dot: one model, one soup or one candidate."""
    face = "white" if hollow else color
    axes.plot(
        x, y, "o", markersize=size, color=color, markerfacecolor=face, markeredgewidth=1.8, zorder=4
    )


def _point(end: Text | Point) -> Point:
    return end.get_position() if isinstance(end, Text) else end


def _outline(end: Text | Point) -> Patch | None:
    return end.get_bbox_patch() if isinstance(end, Text) else None
