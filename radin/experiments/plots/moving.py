"""Moving pictures: line charts that a reader of the book moves with a slider, and their stand-ins.

A notebook makes a `MovingPicture` from what it computed, shows `still()` as an ordinary figure and
hands the rest to the build of the book with `hand_on`. There `book/tools/moving_pictures.py` writes
the data beside the page, and `book/_static/moving/moving.js` draws them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radin.experiments.notebook import glue
from radin.experiments.plots.style import RECIPE_STYLES

MOVING_PREFIX = "moving "  # begins the names under which `hand_on` keeps pictures
CHOSEN = "*"  # instead of the name of a group: the one that the reader chooses
NUM_DIGITS = 6  # significant ones of a number in the data

# What a line shows, in colour and dash. book/_static/book.css has the same looks.
LOOKS: dict[str, dict[str, Any]] = {
    "soup": {"color": RECIPE_STYLES["radin"]["color"], "linewidth": 2.4},
    "ensemble": {"color": RECIPE_STYLES["ensemble"]["color"], "linewidth": 2.4, "linestyle": "--"},
    "gap": {"color": "#AA4499", "linewidth": 2.8},
    "first": {"color": "#767676", "linewidth": 1.8, "linestyle": (0, (1, 1.5))},
    "second": {"color": "#009E73", "linewidth": 1.8, "linestyle": "-."},
    "second-here": {"color": "#222222", "linewidth": 1.8, "linestyle": (0, (6, 2))},
}


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
        key: of its values in the group of the panel.
        label: for the legend.
        look: one of `LOOKS`.
        loose: whether it may leave the panel; the others set its range.
    """

    key: str
    label: str
    look: str
    loose: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart. Panels with the same axis have the same range.

    Attributes:
        group: whose values it shows, or `CHOSEN`.
        axis: the quantity and its unit.
        lines: what is drawn.
        pair: the keys of two lines whose distance is marked at the slider, or ().
    """

    group: str
    axis: str
    lines: tuple[Line, ...]
    pair: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MovingPicture:
    """Everything that the page needs to draw a moving picture, and to say it in words.

    Attributes:
        name: for files and identifiers; the figure in the notebook is called fig-moving-NAME.
        title: what the picture is, for screen readers.
        slider: label of the slider.
        values: where it may stand, in equal steps.
        start: where it stands at first.
        spec: a format of its value, such as ".1f".
        xlabel: below the panels.
        marks: values at which a thin line stands.
        frame: the first and last value that count for the range of a panel.
        groups: group to key to a number for each value; NaN where there is none.
        choice: label of a list with which the reader chooses a group, or "".
        options: the groups to choose from, each with a sentence.
        chosen: the first one chosen.
        panels: from left to right, two in a row.
        columns_on_a_phone: how many of them stand in a row there.
        words: a sentence with names in braces: {at}, {chosen}, {KEY} or {GROUP/KEY}.
        rows: key to its name in the table.
        formats: key to the format of its numbers, such as "+.3f".
    """

    name: str
    title: str
    slider: str
    values: Sequence[float]
    start: float
    spec: str
    xlabel: str
    marks: Sequence[float]
    frame: tuple[float, float]
    groups: Mapping[str, Mapping[str, Sequence[float]]]
    panels: Sequence[Panel]
    words: str
    rows: Mapping[str, str]
    formats: Mapping[str, str]
    choice: str = ""
    options: Mapping[str, str] | None = None
    chosen: str = ""
    columns_on_a_phone: int = 1

    def data(self) -> dict[str, Any]:
        """The picture as JSON has it: short numbers, None where there is none."""
        groups = {
            group: {key: [_short(value) for value in values] for key, values in lines.items()}
            for group, lines in self.groups.items()
        }
        return {**asdict(self), "groups": groups, "options": dict(self.options or {})}

    def hand_on(self) -> None:
        """Keep the picture in the executed notebook, where the build of the book finds it."""
        glue(f"{MOVING_PREFIX}{self.name}", json.dumps(self.data(), allow_nan=False))

    def still(self) -> Figure:
        """The picture as it is at first: for paper, and for readers without scripts."""
        rows = math.ceil(len(self.panels) / 2)
        figure, grid = plt.subplots(rows, 2, figsize=(8.4, 1.1 + 2.5 * rows), squeeze=False)
        for axes, panel in zip(grid.flat, self.panels, strict=True):
            self._draw(axes, panel)
        lines = {
            line.label: handle
            for axes, panel in zip(grid.flat, self.panels, strict=True)
            for line, handle in zip(panel.lines, axes.lines, strict=False)
        }
        for axes in grid[-1]:
            axes.set_xlabel(self.xlabel, fontsize=10)
        figure.tight_layout()
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0)}
        figure.legend(lines.values(), lines, ncol=2, frameon=False, fontsize=10, **below)
        return figure

    def _draw(self, axes: Axes, panel: Panel) -> None:
        name = self.chosen if panel.group == CHOSEN else panel.group
        group = self.groups[name]
        for line in panel.lines:
            axes.plot(self.values, group[line.key], label=line.label, **LOOKS[line.look])
        low, high = self._range(panel.axis)
        room = 0.06 * (high - low)
        axes.set(ylim=(low - room, high + room), xlim=(self.values[0], self.values[-1]))
        axes.set_title(f"{name}: {panel.axis}" if name else panel.axis, fontsize=11)
        for mark in self.marks:
            axes.axvline(mark, color="#888888", linewidth=0.8, zorder=0)

    def _range(self, axis: str) -> tuple[float, float]:
        """The smallest and the largest number of all panels with this axis."""
        first, last = self.frame
        found = [
            number
            for panel in self.panels
            if panel.axis == axis
            for line in panel.lines
            if not line.loose
            for value, number in zip(
                self.values,
                self.groups[self.chosen if panel.group == CHOSEN else panel.group][line.key],
                strict=True,
            )
            if first <= value <= last and math.isfinite(number)
        ]
        return min(found), max(found)


def _short(value: float) -> float | None:
    return float(f"{value:.{NUM_DIGITS}g}") if math.isfinite(value) else None


def apart_picture(scales: Sequence[float], found: Mapping[str, Sequence[float]]) -> MovingPicture:
    """Soup and ensemble as the ingredients move apart, and what first and second order say.

    Args:
        scales: the values of t, in equal steps; one of them is 1.
        found: what `radin.experiments.moving.apart` returns.
    """
    first = "first order: the same for both"
    return MovingPicture(
        name="gap",
        title="Soup and ensemble as the ingredients move apart",
        slider="distance t from the start",
        values=scales,
        start=1,
        spec=".2f",
        xlabel="t (0: the start, 1: the ingredients)",
        marks=(1,),
        frame=(scales[0], scales[-1]),
        groups={"": {**found, "no gap": [0.0] * len(scales)}},
        panels=(
            Panel(
                "",
                "loss (nats)",
                (
                    Line("soup", "soup", "soup"),
                    Line("ensemble", "ensemble", "ensemble"),
                    Line("first order", first, "first", loose=True),
                ),
                pair=("soup", "ensemble"),
            ),
            Panel(
                "",
                "gap in loss (nats)",
                (
                    Line("gap", "gap: soup minus ensemble", "gap"),
                    Line("no gap", first, "first"),
                    Line("gap from the start", "second order, at the start", "second", loose=True),
                    Line("gap from the soup", "second order, at each soup", "second-here"),
                ),
            ),
        ),
        words="At t = {at} the soup has a loss of {soup} nats and the ensemble {ensemble}: the gap "
        "is {gap}. First order says that there is none. Second order says {gap from the start} "
        "when it is taken at the start, and {gap from the soup} when it is taken at this soup.",
        rows={
            "soup": "loss of the soup",
            "ensemble": "loss of the ensemble",
            "first order": "first order, for both losses",
            "gap": "gap: soup minus ensemble",
            "no gap": "gap, first order",
            "gap from the start": "gap, second order at the start",
            "gap from the soup": "gap, second order at this soup",
            "soup accuracy": "accuracy of the soup (%)",
            "ensemble accuracy": "accuracy of the ensemble (%)",
        },
        formats={
            "soup": ".3f",
            "ensemble": ".3f",
            "first order": ".3f",
            "gap": "+.3f",
            "no gap": ".0f",
            "gap from the start": "+.3f",
            "gap from the soup": "+.3f",
            "soup accuracy": ".1f",
            "ensemble accuracy": ".1f",
        },
    )


def path_picture(
    amounts: Sequence[float],
    found: Mapping[str, Mapping[str, Sequence[float]]],
    kinds: Mapping[str, str],
    *,
    chosen: str,
    healthy: str = "healthy",
) -> MovingPicture:
    """Loss and accuracy on the line through two ingredients, in a healthy and in a broken zoo.

    Args:
        amounts: shares of the second ingredient, in equal steps; 0, a half and 1 are among them.
        found: zoo to what `radin.experiments.moving.between` returns.
        kinds: the broken zoos, each with a sentence.
        chosen: the one that is shown at first.
        healthy: the zoo that always stands beside it.
    """
    losses = (Line("soup", "soup", "soup"), Line("ensemble", "ensemble", "ensemble"))
    accuracies = (
        Line("soup accuracy", "soup", "soup"),
        Line("ensemble accuracy", "ensemble", "ensemble"),
    )
    return MovingPicture(
        name="path",
        title="Loss and accuracy between two ingredients",
        slider="share α of the second ingredient",
        values=amounts,
        start=0.5,
        spec=".2f",
        xlabel="α (0: the first ingredient, 1: the second)",
        marks=(0, 1),
        frame=(0, 1),
        groups=found,
        panels=tuple(
            Panel(zoo, axis, lines, pair=tuple(line.key for line in lines))
            for axis, lines in (("loss (nats)", losses), ("accuracy (%)", accuracies))
            for zoo in (healthy, CHOSEN)
        ),
        words="At α = {at} the soup of the healthy zoo has a loss of {healthy/soup} nats and an "
        "accuracy of {healthy/soup accuracy}%, its ensemble {healthy/ensemble} and "
        "{healthy/ensemble accuracy}%. In the zoo “{chosen}” the soup has {*/soup} and "
        "{*/soup accuracy}%, the ensemble {*/ensemble} and {*/ensemble accuracy}%.",
        rows={
            "soup": "loss of the soup (nats)",
            "ensemble": "loss of the ensemble (nats)",
            "soup accuracy": "accuracy of the soup (%)",
            "ensemble accuracy": "accuracy of the ensemble (%)",
        },
        formats={
            "soup": ".3f",
            "ensemble": ".3f",
            "soup accuracy": ".1f",
            "ensemble accuracy": ".1f",
        },
        choice="broken zoo",
        options=kinds,
        chosen=chosen,
        columns_on_a_phone=2,
    )
