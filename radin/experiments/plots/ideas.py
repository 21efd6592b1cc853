"""Drawings of ideas: a few boxes, arrows and words, large enough for a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Annotation, Text

from radin.experiments.plots.paper import _arrow, _box
from radin.experiments.plots.style import RECIPE_STYLES

INK = "#444444"
# The colours of the recipes, darkened where words in them could not be read on white.
SOUP = "#BF5300"
ENSEMBLE = "#1F78A8"
GREEDY = RECIPE_STYLES["greedy"]["color"]
GOOD = "#00785A"
PALE = {INK: "#F2F2F2", SOUP: "#FCEBDD", ENSEMBLE: "#E6F3FA", GREEDY: "#E3EEF6", GOOD: "#E2F3EC"}
SIZE = 12.0  # points; at 10 and below, a phone's reader would have to zoom

Place = tuple[float, float]


def canvas(width: float = 7.0, height: float = 3.0) -> tuple[Figure, Axes]:
    """An empty drawing whose coordinates are inches: x from 0 to width, y from 0 (bottom) to height."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, text: str, color: str = INK, size: float = SIZE) -> Text:
    """Words in a rounded box around (x, y); what it returns is an end for `arrow`."""
    style = {
        "boxstyle": "round,pad=0.4",
        "facecolor": PALE.get(color, "white"),
        "edgecolor": color,
        "linewidth": 1.6,
    }
    return axes.text(
        x, y, text, ha="center", va="center", fontsize=size, color="#222222", bbox=style
    )


def words(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    color: str = INK,
    size: float = SIZE,
    side: str = "center",
) -> Text:
    """Words without a box; `side` is the side of (x, y) they are aligned to: "left", "center" or "right"."""
    return axes.text(x, y, text, ha=side, va="center", fontsize=size, color=color)


def arrow(
    axes: Axes,
    start: Text | Place,
    end: Text | Place,
    color: str = INK,
    bend: float = 0.0,
    dashed: bool = False,
    head: bool = True,
) -> Annotation:
    """An arrow between two boxes or places; it begins and ends at a box's rim. Draw the boxes first.

    Args:
        bend: 0 is straight; 0.3 curves visibly, a negative number to the other side.
        head: whether it has a tip; without one it is a plain line.
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
        "patchA": _rim(start),
        "patchB": _rim(end),
    }
    return axes.annotate("", xy=_place(end), xytext=_place(start), arrowprops=properties)


def dot(
    axes: Axes, x: float, y: float, color: str = INK, size: float = 11.0, hollow: bool = False
) -> None:
    """A dot: one model, one soup, one candidate."""
    face = "white" if hollow else color
    axes.plot(
        x, y, "o", markersize=size, color=color, markerfacecolor=face, markeredgewidth=1.8, zorder=4
    )


def _place(end: Text | Place) -> Place:
    return end.get_position() if isinstance(end, Text) else end


def _rim(end: Text | Place) -> Patch | None:
    return end.get_bbox_patch() if isinstance(end, Text) else None


def two_stages() -> Figure:
    """RADIN on one page: one pass, a ranking that costs no pass, and B real evaluations. For the digits chapter."""
    figure, axes = canvas()
    zoo = box(axes, 0.75, 1.5, "N ingre-\ndients")
    bank = box(axes, 2.45, 1.5, "logit\nbank", ENSEMBLE)
    evaluate = box(axes, 5.95, 2.2, "average,\nevaluate", SOUP)
    best = box(axes, 5.95, 0.6, "best soup", SOUP)
    arrow(axes, zoo, bank)
    words(axes, 1.65, 1.98, "one pass")
    for rank in range(8):
        height, chosen = 2.45 - 0.3 * rank, rank < 3
        dot(axes, 4.15, height, SOUP if chosen else INK, hollow=not chosen)
        if chosen:
            arrow(axes, (4.3, height), evaluate, SOUP)
    arrow(axes, bank, (4.0, 1.5), ENSEMBLE)
    words(axes, 3.35, 1.78, "stage 1", ENSEMBLE)
    words(axes, 3.35, 1.22, "no pass", ENSEMBLE)
    words(axes, 4.15, 2.8, "candidates")
    words(axes, 5.95, 2.8, "stage 2", SOUP)
    words(axes, 5.05, 1.55, "B passes", SOUP)
    arrow(axes, evaluate, best, SOUP)
    return figure


def rival_or_not() -> Figure:
    """Why a class that is behind in every ingredient can be left out. For the chapter on stage 1."""
    figure, axes = canvas()
    places = (1.2, 2.2, 3.2)
    zero = 1.25
    arrow(axes, (0.6, zero), (6.8, zero), head=False)
    words(axes, 0.45, zero, "0")
    for heights, color, verdict in (
        ((2.5, 1.7, 2.2), INK, "behind everywhere:\ndrop it"),
        ((1.7, 0.6, 1.0), SOUP, "ahead somewhere:\na rival, keep it"),
    ):
        mean = sum(heights) / len(heights)
        axes.plot(places, heights, color=color, linewidth=2)
        for place, height in zip(places, heights, strict=True):
            dot(axes, place, height, color, hollow=height < zero)
        axes.plot((places[-1], 4.4), (heights[-1], mean), color=color, linewidth=1.5, linestyle=":")
        axes.plot(4.4, mean, "D", color=color, markersize=11)
        words(axes, 4.75, mean + (0.1 if mean > zero else -0.2), verdict, color, side="left")
    for place, name in zip((*places, 4.4), ("ingredient 1", "2", "3", "mean"), strict=True):
        words(axes, place, 0.2, name)
    words(axes, 0.15, 2.8, "margin of the label", side="left")
    return figure


def table_of_soups(budget: int = 4) -> Figure:
    """A soup bench: every soup evaluated beforehand, so that an evaluation is a look-up. For the CIFAR-10 chapter.

    Of a large budget only the first few look-ups are drawn.
    """
    figure, axes = canvas()
    rows, columns = 6, 12
    recipe = box(axes, 0.75, 1.5, "recipe", SOUP)
    asked = {(1 + (3 * k) % (rows - 1), 1 + (5 * k) % (columns - 1)) for k in range(min(budget, 6))}
    oracle = (0, columns - 3)
    for row in range(rows):
        for column in range(columns):
            color = (
                SOUP if (row, column) in asked else GOOD if (row, column) == oracle else PALE[INK]
            )
            corner = (2.6 + 0.34 * column, 2.2 - 0.36 * row)
            axes.add_patch(
                Rectangle(corner, 0.28, 0.28, facecolor=color, edgecolor=INK, linewidth=0.8)
            )
    for row, column in sorted(asked):
        arrow(axes, recipe, (2.58 + 0.34 * column, 2.34 - 0.36 * row), SOUP)
    words(axes, 0.75, 0.8, f"B = {budget}\nlook-ups", SOUP)
    words(axes, 2.6, 2.75, "all soups", side="left")
    words(axes, 2.74 + 0.34 * oracle[1], 2.75, "oracle", GOOD)
    return figure


def left_out(domains: Sequence[str]) -> Figure:
    """Train and validate on all domains but one, test on that one. For the chapter on domain shift."""
    figure, axes = canvas()
    *known, unknown = domains
    soup = box(axes, 3.6, 1.5, "soup", SOUP, size=14)
    for k, name in enumerate(known):
        arrow(axes, box(axes, 1.0, 2.4 - 0.9 * k, name, ENSEMBLE), soup, ENSEMBLE)
    arrow(axes, soup, box(axes, 6.0, 1.5, unknown), dashed=True)
    words(axes, 2.75, 2.45, "train, validate", ENSEMBLE)
    words(axes, 4.9, 1.8, "test only")
    words(axes, 5.2, 0.5, "then leave out\nthe next one")
    return figure


def evaluations(spent: Mapping[str, Sequence[tuple[int, str]]]) -> Figure:
    """Forward passes over the validation images, to scale: a bar for each recipe. For the ImageNet chapter.

    Args:
        spent: recipe to the pieces of its bar, each a number of passes and a colour.
    """
    figure, axes = canvas()
    longest = max(sum(passes for passes, _ in pieces) for pieces in spent.values())
    for k, (name, pieces) in enumerate(spent.items()):
        height, left = 2.75 - k * 2.7 / len(spent), 0.2
        words(axes, left, height, name, size=15, side="left")
        for passes, color in pieces:
            width = 6.6 * passes / longest
            corner = (left, height - 0.5)
            axes.add_patch(
                Rectangle(corner, width, 0.3, facecolor=color, edgecolor="white", linewidth=1)
            )
            left += width
    return figure


def soup_and_ensemble(num_models: int = 3) -> Figure:
    """The difference between an ensemble (average the logits) and a soup (average the weights).

    After RADIN, figure 1.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    heights = np.linspace(0.82, 0.18, num_models)
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.axis("off")
    left.set_title(f"ensemble: {num_models} forward passes an image")
    _box(left, 0.1, 0.5, "image")
    _box(left, 0.86, 0.5, "mean of\nlogits", "#56B4E9")
    for k, height in enumerate(heights):
        _box(left, 0.47, height, rf"model $\theta_{k + 1}$")
        _arrow(left, (0.18, 0.5), (0.35, height))
        _arrow(left, (0.59, height), (0.75, 0.5))
    right.set_title("soup: one forward pass an image")
    for k, height in enumerate(heights):
        _box(right, 0.1, height, rf"$\theta_{k + 1}$")
        _arrow(right, (0.17, height), (0.3, 0.62))
    _box(right, 0.43, 0.62, "mean of\nweights", "#D55E00")
    _box(right, 0.43, 0.18, "image")
    _arrow(right, (0.54, 0.62), (0.62, 0.45))
    _arrow(right, (0.5, 0.2), (0.62, 0.37))
    _box(right, 0.72, 0.41, r"model $\bar\theta$")
    _arrow(right, (0.82, 0.41), (0.88, 0.41))
    _box(right, 0.94, 0.41, "logits")
    figure.tight_layout()
    return figure
