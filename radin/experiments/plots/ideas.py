"""Drawings of ideas for the first page of a chapter; the first line of each names its chapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from radin.experiments.plots.drawing import (
    ENSEMBLE,
    GOOD,
    INK,
    PALE,
    SOUP,
    arrow,
    box,
    canvas,
    dot,
    label,
)

MAX_LOOKUPS_DRAWN = 6


def two_stages() -> Figure:
    """Digits chapter: one pass, a ranking without a pass, and B evaluations."""
    figure, axes = canvas()
    zoo = box(axes, 0.75, 1.5, "N ingre-\ndients")
    bank = box(axes, 2.45, 1.5, "logit\nbank", ENSEMBLE)
    evaluate = box(axes, 5.95, 2.2, "average,\nevaluate", SOUP)
    best = box(axes, 5.95, 0.6, "best soup", SOUP)
    arrow(axes, zoo, bank)
    label(axes, 1.65, 1.98, "one pass")
    for rank in range(8):
        height = 2.45 - 0.3 * rank
        chosen = rank < 3
        dot(axes, 4.15, height, SOUP if chosen else INK, hollow=not chosen)
        if chosen:
            arrow(axes, (4.3, height), evaluate, SOUP)
    arrow(axes, bank, (4.0, 1.5), ENSEMBLE)
    label(axes, 3.35, 1.78, "stage 1", ENSEMBLE)
    label(axes, 3.35, 1.22, "no pass", ENSEMBLE)
    label(axes, 4.15, 2.8, "candidates")
    label(axes, 5.95, 2.8, "stage 2", SOUP)
    label(axes, 5.05, 1.55, "B passes", SOUP)
    arrow(axes, evaluate, best, SOUP)
    return figure


def rival_or_not() -> Figure:
    """Chapter on stage 1: why a class that is behind in every ingredient can be left out."""
    figure, axes = canvas()
    zero = 1.25
    arrow(axes, (0.6, zero), (6.8, zero), head=False)
    label(axes, 0.45, zero, "0")
    _margins(axes, (2.5, 1.7, 2.2), zero, INK, "behind everywhere:\ndrop it")
    _margins(axes, (1.7, 0.6, 1.0), zero, SOUP, "ahead somewhere:\na rival, keep it")
    for x, name in zip((*_MARGIN_X, _MEAN_X), ("ingredient 1", "2", "3", "mean"), strict=True):
        label(axes, x, 0.2, name)
    label(axes, 0.15, 2.8, "margin of the label", align="left")
    return figure


_MARGIN_X = (1.2, 2.2, 3.2)  # of the three ingredients
_MEAN_X = 4.4


def _margins(axes: Axes, heights: tuple[float, ...], zero: float, color: str, verdict: str) -> None:
    """The margins of the label over one class in three ingredients, and their mean."""
    mean = sum(heights) / len(heights)
    axes.plot(_MARGIN_X, heights, color=color, linewidth=2)
    for x, height in zip(_MARGIN_X, heights, strict=True):
        dot(axes, x, height, color, hollow=height < zero)
    axes.plot(
        (_MARGIN_X[-1], _MEAN_X), (heights[-1], mean), color=color, linewidth=1.5, linestyle=":"
    )
    axes.plot(_MEAN_X, mean, "D", color=color, markersize=11)
    label(axes, _MEAN_X + 0.35, mean + (0.1 if mean > zero else -0.2), verdict, color, align="left")


def table_of_soups(budget: int = 4) -> Figure:
    """CIFAR-10 chapter: in a soup bench every soup is evaluated, so an evaluation is a look-up.

    Of a large budget only the first few look-ups are drawn.
    """
    figure, axes = canvas()
    rows, columns = 6, 12
    recipe = box(axes, 0.75, 1.5, "recipe", SOUP)
    drawn = range(min(budget, MAX_LOOKUPS_DRAWN))
    asked = {(1 + (3 * k) % (rows - 1), 1 + (5 * k) % (columns - 1)) for k in drawn}
    oracle = (0, columns - 3)
    for row in range(rows):
        for column in range(columns):
            cell = (row, column)
            color = SOUP if cell in asked else GOOD if cell == oracle else PALE[INK]
            corner = (2.6 + 0.34 * column, 2.2 - 0.36 * row)
            axes.add_patch(
                Rectangle(corner, 0.28, 0.28, facecolor=color, edgecolor=INK, linewidth=0.8)
            )
    for row, column in sorted(asked):
        arrow(axes, recipe, (2.58 + 0.34 * column, 2.34 - 0.36 * row), SOUP)
    label(axes, 0.75, 0.8, f"B = {budget}\nlook-ups", SOUP)
    label(axes, 2.6, 2.75, "all soups", align="left")
    label(axes, 2.74 + 0.34 * oracle[1], 2.75, "oracle", GOOD)
    return figure


def left_out(domains: Sequence[str]) -> Figure:
    """Chapter on domain shift: train and validate on all domains but the last, and test on that."""
    figure, axes = canvas()
    *seen, unseen = domains
    soup = box(axes, 3.6, 1.5, "soup", SOUP, size=14)
    for k, name in enumerate(seen):
        arrow(axes, box(axes, 1.0, 2.4 - 0.9 * k, name, ENSEMBLE), soup, ENSEMBLE)
    arrow(axes, soup, box(axes, 6.0, 1.5, unseen), dashed=True)
    label(axes, 2.75, 2.45, "train, validate", ENSEMBLE)
    label(axes, 4.9, 1.8, "test only")
    label(axes, 5.2, 0.5, "then leave out\nthe next one")
    return figure


def forward_passes(spent: Mapping[str, Sequence[tuple[int, str]]]) -> Figure:
    """ImageNet chapter: each recipe's forward passes over the validation images, as bars to scale.

    Args:
        spent: recipe to the pieces of its bar, each a number of passes and a colour.
    """
    figure, axes = canvas()
    longest = max(sum(passes for passes, _ in pieces) for pieces in spent.values())
    for k, (name, pieces) in enumerate(spent.items()):
        height = 2.75 - k * 2.7 / len(spent)
        left = 0.2
        label(axes, left, height, name, size=15, align="left")
        for passes, color in pieces:
            width = 6.6 * passes / longest
            corner = (left, height - 0.5)
            axes.add_patch(
                Rectangle(corner, width, 0.3, facecolor=color, edgecolor="white", linewidth=1)
            )
            left += width
    return figure


def stages_and_questions(here: Collection[int]) -> Figure:
    """Pages of ten questions: about which stage each is, those of this page in colour."""
    figure, axes = canvas()
    stages = {
        "zoo": (0.6, (9,)),
        "logit\nbank": (1.75, (4, 7)),
        "candidates": (3.2, (2, 6)),
        "fast\nestimates": (4.85, (1, 3, 10)),
        "$B$ soups\nrun": (6.3, (5, 8)),
    }
    boxes = [box(axes, x, 2.1, stage) for stage, (x, _) in stages.items()]
    for one, next_one in pairwise(boxes):
        arrow(axes, one, next_one)
    for x, questions in stages.values():
        for place, number in enumerate(questions):
            shift = 0.42 * (place - (len(questions) - 1) / 2)
            color = SOUP if number in here else INK
            label(axes, x + shift, 1.05, str(number), color, size=15)
    label(axes, 3.5, 0.45, "questions about each stage")
    return figure


def metric_last() -> Figure:
    """Chapter on metrics: outputs are averaged, and the metric is computed of the average."""
    figure, axes = canvas()
    mean = box(axes, 3.1, 1.75, "averaged\noutputs", ENSEMBLE)
    metric = box(axes, 5.0, 1.75, "metric", SOUP)
    number = box(axes, 6.45, 1.75, "one\nnumber", SOUP)
    labels = box(axes, 5.0, 0.6, "labels")
    for k in range(3):
        arrow(axes, box(axes, 0.9, 2.55 - 0.8 * k, f"outputs {k + 1}", ENSEMBLE), mean, ENSEMBLE)
    arrow(axes, mean, metric, ENSEMBLE)
    arrow(axes, labels, metric)
    arrow(axes, metric, number, SOUP)
    label(axes, 3.1, 2.75, "all images at once", ENSEMBLE)
    label(axes, 1.75, 0.25, "not: the mean of three metrics")
    return figure


def one_start(ways: Sequence[str]) -> Figure:
    """Chapter on sentences: one start, ingredients trained in different ways, and one average."""
    figure, axes = canvas()
    start = box(axes, 0.85, 1.5, "one start", ENSEMBLE, size=14)
    soup = box(axes, 6.2, 1.5, "one\naverage", SOUP, size=14)
    spacing = 2.3 / max(1, len(ways) - 1)
    for k, way in enumerate(ways):
        trained = box(axes, 3.55, 2.65 - k * spacing, way)
        arrow(axes, start, trained, ENSEMBLE)
        arrow(axes, trained, soup, SOUP)
    return figure
