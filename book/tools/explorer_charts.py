"""The explorer's two charts: for the page by Altair, and as a still figure by matplotlib."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
from matplotlib.figure import Figure

from explorer_replay import (
    FIXED,
    LABELS,
    MAX_BUDGET,
    NUM_SEEDS,
    RECIPES,
    START,
    answers,
    drawn_rows,
    load,
)
from radin.experiments.bench import replay
from radin.experiments.plots.style import RECIPE_STYLES

LAYERS = {  # state of a subset: colour, size, shape, in the order in which they are drawn
    "not drawn": ("#767676", 8, "circle"),
    "candidate": ("#56B4E9", 24, "circle"),
    "evaluated": ("#E69F00", 90, "square"),
    "oracle": ("#009E73", 200, "diamond"),
    "returned by radin": ("#D55E00", 200, "triangle-up"),
}
STYLES: dict[str, dict[str, Any]] = RECIPE_STYLES | {
    "radin_nll": {"color": RECIPE_STYLES["radin"]["color"], "linestyle": "--"},
}
DASHES = {  # of the lines on the page
    "radin_nll": [5, 2],
    "uniform": [6, 3],
    "best_single": [8, 3, 2, 3],
    "oracle": [1, 3],
}
TEXT = "#222222"  # the page replaces it by its own colour of text, by day and by night
TRUTH = "accuracy of the soup (%)"  # the page adds on which part
EDGE = 0.025  # the share of the candidates that may lie beyond each edge of the upper chart
FIGURE_ALT = (
    "Two charts. Left, dots for the soups of all subsets: across, the fast estimate; up, the "
    "accuracy on validation. The evaluated ones lie at the right edge, and the highest of them are "
    "returned. Right, lines for each recipe: across, the budget; up, the mean test accuracy over "
    "the draws, with a band from the lowest to the highest, and the oracle as a level above them."
)


# ---------------------------------------------------------------- on the page


def plane_chart() -> dict[str, Any]:
    """Fast estimate against accuracy: every subset is a dot, whose style shows its state."""
    names = list(LAYERS)
    colour = alt.Color(
        "state:N",
        scale=alt.Scale(domain=names, range=[style[0] for style in LAYERS.values()]),
        legend=_legend("datum.label"),
    )
    shape = alt.Shape(
        "state:N",
        scale=alt.Scale(domain=names, range=[style[2] for style in LAYERS.values()]),
        legend=_legend("datum.label"),
    )
    base = alt.Chart(alt.NamedData("soups"), title="candidates and evaluations").encode(
        x=alt.X(
            "fast:Q",
            title="fast estimate: accuracy of the ensemble (%)",
            scale=alt.Scale(zero=False),
            axis=alt.Axis(tickCount=6, labelOverlap=True),
        ),
        y=alt.Y("truth:Q", title=TRUTH, scale=alt.Scale(zero=False)),
        color=colour,
        shape=shape,
        tooltip=[
            alt.Tooltip("ingredients:N"),
            alt.Tooltip("state:N"),
            alt.Tooltip("turn:N", title="evaluated"),
            alt.Tooltip("fast:Q", title="fast estimate (%)", format=".2f"),
            alt.Tooltip("truth:Q", title="accuracy (%)", format=".2f"),
        ],
    )
    # One layer for each state, so that the important ones are drawn last, and large.
    layers = [
        base.transform_filter(alt.datum.state == name).mark_point(
            filled=True,
            size=size,
            opacity=0.6 if size < 50 else 1,
            stroke="white" if size > 50 else None,
            aria=False,
        )
        for name, (_, size, _) in LAYERS.items()
    ]
    return _finished(
        alt.layer(*layers),
        "Every soup by its fast estimate and its accuracy; the table below gives the numbers.",
    )


def curve_chart() -> dict[str, Any]:
    """Test accuracy of what each recipe returns against the budget; a line at the chosen one.

    Over several draws of candidates the line is the mean, and a band holds all of them.
    """
    names = [*RECIPES, "oracle"]
    domain = [LABELS.get(name, name) for name in names]
    # The prior stands beside the name wherever it is not the default.
    label = "datum.label == 'radin' && prior > 0 ? 'radin λ=' + format(prior, '.1f') : datum.label"
    colour = alt.Color(
        "recipe:N",
        scale=alt.Scale(domain=domain, range=[STYLES[name]["color"] for name in names]),
        legend=_legend(label, "stroke"),
    )
    dash = alt.StrokeDash(
        "recipe:N",
        scale=alt.Scale(domain=domain, range=[DASHES.get(name, [1, 0]) for name in names]),
        legend=_legend(label, "stroke"),
    )
    base = alt.Chart(alt.NamedData("lines"), title="accuracy against budget").encode(
        x=alt.X("budget:Q", title="budget (evaluations)", axis=alt.Axis(tickMinStep=1)),
        color=colour,
    )
    # The padding leaves room for the words under the lowest line.
    up: dict[str, Any] = {
        "title": "test accuracy (%)",
        "scale": alt.Scale(zero=False, padding=14, nice=False),
    }
    bands = base.mark_area(opacity=0.12, interpolate="step-after", aria=False, tooltip=None)
    bands = bands.encode(y=alt.Y("low:Q", **up), y2="high:Q")
    lines = base.mark_line(strokeWidth=2.5, interpolate="step-after", aria=False)
    lines = lines.encode(
        y=alt.Y("test:Q", **up),
        strokeDash=dash,
        tooltip=[
            "recipe:N",
            "budget:Q",
            "ingredients:N",
            alt.Tooltip("test:Q", title="test (%)", format=".2f"),
            alt.Tooltip("low:Q", title="lowest (%)", format=".2f"),
            alt.Tooltip("high:Q", title="highest (%)", format=".2f"),
        ],
    )
    now = alt.Chart(alt.NamedData("now")).encode(x="budget:Q")
    rule = now.mark_rule(color="#767676", aria=False)
    label_of_rule = now.mark_text(
        align="left", dx=4, dy=-8, text="your budget", color=TEXT, fontSize=12, aria=False
    ).encode(y=alt.value("height"))
    chart = alt.layer(bands, rule, lines, label_of_rule)
    return _finished(
        chart.add_params(alt.param("prior", value=START["prior"])),
        "Test accuracy of each recipe's soup at every budget.",
        height=360,
    )


def _legend(label: str, symbol: str | alt.UndefinedType = alt.Undefined) -> alt.Legend:
    return alt.Legend(
        title=None,
        symbolType=symbol,
        orient="bottom",
        columns=2,
        symbolOpacity=1,
        symbolSize=90,
        labelFontSize=12,
        labelExpr=label,
    )


def _finished(chart: Any, description: str, *, height: int = 320) -> dict[str, Any]:
    chart = chart.properties(height=height, description=description)
    spec: dict[str, Any] = chart.configure_axis(labelFontSize=12, titleFontSize=12).to_dict()
    # The charts are first drawn without data, when their labels need no room; without `resize`
    # they would keep that layout until the window changes its size.
    spec["autosize"] = {"type": "fit", "contains": "padding", "resize": True}
    return spec


# ---------------------------------------------------------------- without scripts


def still_figure() -> Figure:
    """The two charts at the first settings, for readers without scripts."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    plane, curve = figure.subplots(1, 2)
    draw_plane(plane)
    draw_curve(curve)
    return figure


def draw_plane(axes: Any) -> None:
    zoo = START["zoo"]
    bench = load(zoo)
    fast, val = bench.ensembles("val").numpy(), bench.soups("val").numpy()
    draws = [drawn_rows(zoo, START["candidates"], seed) for seed in range(NUM_SEEDS)]
    found = answers(zoo, START["prior"], START["candidates"])
    evaluated = [
        row
        for drawn in draws
        for row in [row for row in replay.order(bench, START["prior"]) if row in set(drawn)][
            : START["budget"]
        ]
    ]
    groups = {
        "not drawn": np.arange(bench.num_soups),
        "candidate": np.unique(draws),
        "evaluated": np.unique(evaluated),
        "oracle": np.array([replay.oracle(bench)]),
        "returned by radin": np.unique(found["radin"][:, START["budget"] - 1]),
    }
    markers = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^"}
    for name, rows in groups.items():
        colour, size, shape = LAYERS[name]
        axes.scatter(fast[rows], val[rows], s=size / 2, c=colour, marker=markers[shape], label=name)
    for values, set_limits in ((fast, axes.set_xlim), (val, axes.set_ylim)):
        low = np.quantile(values[groups["candidate"]], EDGE)
        important = values[np.concatenate([groups["oracle"], groups["evaluated"]])]
        set_limits(min(low, important.min()) - 0.1, values.max() + 0.1)
    axes.set(xlabel="fast estimate (%)", ylabel="accuracy of the soup on validation (%)")
    axes.legend(fontsize=9)


def draw_curve(axes: Any) -> None:
    bench = load(START["zoo"])
    budgets = np.arange(1, MAX_BUDGET + 1)
    found = answers(START["zoo"], START["prior"], START["candidates"])
    for recipe in START["recipes"]:
        rows = found[recipe]
        test = bench.soups("test").numpy()[rows]
        style = {key: value for key, value in STYLES[recipe].items() if key != "marker"}
        axes.step(budgets, test.mean(0), where="post", label=LABELS[recipe], **style)
        if recipe not in FIXED:
            band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
            axes.fill_between(budgets, test.min(0), test.max(0), step="post", **band)
    axes.axhline(bench.oracle[1], label="oracle", **STYLES["oracle"])
    axes.set(xlabel="budget (evaluations)", ylabel="test accuracy (%)")
    axes.legend(fontsize=9, ncols=2)
