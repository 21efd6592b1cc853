"""The budget explorer: what the page needs so that it can replay every recipe without a kernel.

`write_explorer(stage)` adds to the staged pages the benches as integers, the charts (made with
Altair), the scripts that draw them, and `book/explorer.md`, which pages include. The recipes' rules
for the page are in `book/_static/explorer/explorer.js`. A reader without scripts sees the figure
and the table made here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt
import matplotlib
import numpy as np
import vl_convert
from matplotlib.figure import Figure

import radin
from radin.experiments.bench import replay
from radin.experiments.plots.style import RECIPE_STYLES, set_style
from radin.recipes.rules import random_order

CANDIDATES = {
    "cifar10": (10, 20, 50, 100, 200, 500, 1023),
    "cifar10-wild": (10, 20, 40, 60, 80, 100, 127),
}
NUM_SEEDS = 10
MAX_BUDGET = 30
RECIPES = ("radin", "greedy", "random", "uniform", "best_single")
# What the page shows before a control is moved, and what it shows without scripts.
START: dict[str, Any] = {"zoo": "cifar10", "budget": 4, "prior": 1.0, "candidates": 200, "seed": 0}
LAYERS = {  # state of a subset: colour, size, shape, in the order in which they are drawn
    "not drawn": ("#767676", 8, "circle"),
    "candidate": ("#56B4E9", 24, "circle"),
    "evaluated": ("#E69F00", 90, "square"),
    "oracle": ("#009E73", 200, "diamond"),
    "returned by radin": ("#D55E00", 200, "triangle-up"),
}
TEXT = "#222222"  # the page replaces it by its own colour of text, by day and by night
TRUTH = "accuracy of the soup (%)"  # the page adds on which part
FIGURE_ALT = (
    "Two charts. Left, dots for the soups of all subsets: across, the fast estimate; up, the "
    "accuracy on validation. The evaluated ones lie at the right edge, and the highest of them is "
    "returned. Right, lines for each recipe: across, the budget; up, test accuracy, with the "
    "oracle as a level above them."
)


def write_explorer(stage: Path) -> None:
    """Write the explorer's data, charts, scripts, figure and page fragment below the stage."""
    static = stage / "book" / "_static" / "explorer"
    figures = stage / "book" / "figures"
    for folder in (static, figures):
        folder.mkdir(parents=True, exist_ok=True)
    data = {
        "zoos": {name: zoo_data(name) for name in CANDIDATES},
        "candidates": CANDIDATES,
        "limit": MAX_BUDGET,
        "charts": {"plane": plane_chart(), "curve": curve_chart()},
    }
    text = json.dumps(data, separators=(",", ":"))
    (static / "data.js").write_text(f"window.radinExplorerData = {text};\n", "utf-8")
    # The bundle declares its names at top level; the function around them hides them from others.
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub is older than it
    (static / "vega.js").write_text(f"(function () {{\n{bundle}\n}})();\n", "utf-8")
    soups = start_soups()
    with matplotlib.rc_context():  # the style of this figure alone
        set_style()
        still_figure(soups).savefig(figures / "explorer.png", dpi=110, metadata={"Software": None})
    (stage / "book" / "explorer.md").write_text(fragment(soups), "utf-8")


def zoo_data(name: str) -> dict[str, Any]:
    """A shipped bench as numbers of right answers, and the draws of the seeds (see explorer.js)."""
    bench = radin.SoupBench.load(name)
    num_soups = 2**bench.num_models - 1
    draws = [replay.monte_carlo_rows(bench, num_soups, seed).tolist() for seed in range(NUM_SEEDS)]

    def hits(accuracies: Any, part: str) -> list[int]:
        return (accuracies * bench.bank(part).num_images / 100).round().int().tolist()

    return {
        "N": bench.num_models,
        "val": bench.val.num_images,
        "test": bench.test.num_images,
        "fast": hits(bench.ensembles("val"), "val"),
        "soup_val": hits(bench.soups("val"), "val"),
        "soup_test": hits(bench.soups("test"), "test"),
        "draws": draws,
        "random": [
            {M: random_order(M, seed=seed)[:MAX_BUDGET].tolist() for M in CANDIDATES[name]}
            for seed in range(NUM_SEEDS)
        ],
    }


# ---------------------------------------------------------------- charts


def plane_chart() -> dict[str, Any]:
    """Fast estimate against accuracy: every subset is a dot, whose style shows its state."""
    names = list(LAYERS)
    colour = alt.Color(
        "state:N",
        scale=alt.Scale(domain=names, range=[style[0] for style in LAYERS.values()]),
        legend=_legend(),
    )
    shape = alt.Shape(
        "state:N",
        scale=alt.Scale(domain=names, range=[style[2] for style in LAYERS.values()]),
        legend=_legend(),
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
            alt.Tooltip("turn:Q", title="evaluation"),
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
    """Test accuracy of what each recipe returns against the budget; a line at the chosen one."""
    names = [*RECIPES, "oracle"]
    colours = [RECIPE_STYLES[name]["color"] for name in names]
    dashes = [[1, 0], [1, 0], [1, 0], [6, 3], [8, 3, 2, 3], [1, 3]]
    lines = (
        alt.Chart(alt.NamedData("lines"), title="accuracy against budget")
        .mark_line(strokeWidth=2.5, interpolate="step-after", aria=False)
        .encode(
            x=alt.X("budget:Q", title="budget (evaluations)", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("test:Q", title="test accuracy (%)", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "recipe:N", scale=alt.Scale(domain=names, range=colours), legend=_legend()
            ),
            strokeDash=alt.StrokeDash(
                "recipe:N", scale=alt.Scale(domain=names, range=dashes), legend=_legend()
            ),
            tooltip=[
                "recipe:N",
                "budget:Q",
                "ingredients:N",
                alt.Tooltip("test:Q", title="test (%)", format=".2f"),
            ],
        )
    )
    now = alt.Chart(alt.NamedData("now")).encode(x="budget:Q")
    rule = now.mark_rule(color="#767676", aria=False)
    label = now.mark_text(
        align="left", dx=4, dy=-8, text="your budget", color=TEXT, fontSize=12, aria=False
    )
    label = label.encode(y=alt.value("height"))
    return _finished(
        alt.layer(rule, lines, label), "Test accuracy of each recipe's soup at every budget."
    )


def _legend() -> alt.Legend:
    return alt.Legend(
        title=None,
        orient="bottom",
        columns=3,
        symbolOpacity=1,
        symbolSize=90,
        labelFontSize=12,
        labelExpr="replace(datum.label, '_', ' ')",
    )


def _finished(chart: Any, description: str) -> dict[str, Any]:
    chart = chart.properties(width="container", height=300, description=description)
    spec: dict[str, Any] = chart.configure_axis(labelFontSize=12, titleFontSize=12).to_dict()
    spec["autosize"] = {"type": "fit", "contains": "padding"}
    return spec


# ---------------------------------------------------------------- without scripts


def start_candidates(bench: radin.SoupBench) -> Any:
    return radin.monte_carlo(bench.num_models, START["candidates"], START["seed"])


def start_soups(
    budget: int = START["budget"], recipes: tuple[str, ...] = RECIPES
) -> dict[str, radin.Soup]:
    """What recipes return at the settings that the page starts from."""
    bench = radin.SoupBench.load(START["zoo"])
    settings = {
        "candidates": start_candidates(bench),
        "prior": START["prior"],
        "seed": START["seed"],
    }
    return {
        recipe: radin.craft(bench.val, bench.evaluator("val"), budget, recipe, **settings)
        for recipe in recipes
    }


def still_figure(soups: dict[str, radin.Soup]) -> Figure:
    """The two charts at the first settings, for readers without scripts."""
    bench = radin.SoupBench.load(START["zoo"])
    fast = bench.ensembles("val")
    val = bench.soups("val")
    test = bench.soups("test")
    drawn = [bench.row(weights) for weights in start_candidates(bench)]
    figure = Figure(figsize=(10, 4), layout="constrained")
    plane, curve = figure.subplots(1, 2)
    groups = {
        "not drawn": list(range(len(val))),
        "candidate": drawn,
        "evaluated": [bench.row(trial.weights) for trial in soups["radin"].trials],
        "oracle": [replay.oracle(bench)],
        "returned by radin": [bench.row(soups["radin"].weights)],
    }
    markers = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^"}
    for name, rows in groups.items():
        colour, size, shape = LAYERS[name]
        plane.scatter(
            fast[rows], val[rows], s=size / 2, c=colour, marker=markers[shape], label=name
        )
    plane.set(xlabel="fast estimate (%)", ylabel="accuracy of the soup on validation (%)")
    plane.legend(fontsize=8)
    budgets = range(1, MAX_BUDGET + 1)
    curves: dict[str, Any] = {
        "radin": replay.radin(bench, MAX_BUDGET, START["prior"], among=np.array(drawn)),
        "greedy": replay.greedy(bench, MAX_BUDGET),
        "random": [bench.row(start_soups(B, ("random",))["random"].weights) for B in budgets],
        "uniform": np.full(MAX_BUDGET, replay.uniform(bench)),
        "best_single": np.full(MAX_BUDGET, replay.best_single(bench)),
    }
    for recipe, rows in curves.items():
        style = {key: value for key, value in RECIPE_STYLES[recipe].items() if key != "marker"}
        curve.step(budgets, test[list(rows)], where="post", label=recipe.replace("_", " "), **style)
    curve.axhline(bench.oracle[1], label="oracle", **RECIPE_STYLES["oracle"])
    curve.set(xlabel="budget (evaluations)", ylabel="test accuracy (%)")
    curve.legend(fontsize=8, ncols=2)
    return figure


def still_table(soups: dict[str, radin.Soup]) -> str:
    """The table at the first settings, in Markdown."""
    bench = radin.SoupBench.load(START["zoo"])
    lines = [
        "| recipe | ingredients | evaluations | validation (%) | test (%) | regret |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for recipe, soup in soups.items():
        row = bench.row(soup.weights)
        regret = bench.regret(soup.weights)
        lines.append(
            f"| {recipe.replace('_', ' ')} | {' '.join(map(str, soup.members))} "
            f"| {soup.evaluations} | "
            f"{bench.soups('val')[row]:.2f} | {bench.soups('test')[row]:.2f} | {regret:.2f} |"
        )
    return "\n".join(lines)


def fragment(soups: dict[str, radin.Soup]) -> str:
    """The Markdown that pages include: figure and table, and the live explorer."""
    bench = radin.SoupBench.load(START["zoo"])
    what = f"{bench.num_models} ingredients, {2**bench.num_models - 1:,} soups"
    settings = (
        f"budget {START['budget']}, lambda {START['prior']:g}, {START['candidates']} Monte Carlo "
        f"candidates, seed {START['seed']}"
    )
    return f"""\
:::::{{div}} explorer-static

::::{{figure}} /book/figures/explorer.png
:alt: {FIGURE_ALT}
:width: 100%

The shipped CIFAR-10 {{term}}`soup bench` ({what}) at {settings}. Where scripts are allowed,
controls replace this figure.
::::

{still_table(soups)}

:::::

```{{raw}} html
{live_html()}
```
"""


def live_html() -> str:
    """The controls, the boxes of the charts and the table; hidden until the scripts are loaded."""
    first = CANDIDATES[START["zoo"]].index(START["candidates"])
    sliders = "\n".join(
        f'<div class="explorer-control"><label for="explorer-{name}">{label} '
        f'<output for="explorer-{name}"></output></label>'
        f'<input type="range" id="explorer-{name}" name="{name}" '
        f'min="{low}" max="{high}" step="{step}" value="{value}"></div>'
        for name, label, low, high, step, value in (
            ("budget", "budget B", 1, MAX_BUDGET, 1, START["budget"]),
            ("prior", "prior λ (points)", 0, 5, 0.1, START["prior"]),
            (
                "candidates",
                "Monte Carlo candidates",
                0,
                len(CANDIDATES[START["zoo"]]) - 1,
                1,
                first,
            ),
            ("seed", "seed", 0, NUM_SEEDS - 1, 1, START["seed"]),
        )
    )
    boxes = "\n".join(
        f'<label class="explorer-box"><input type="checkbox" name="recipe" value="{name}" checked> '
        f"{name.replace('_', ' ')}</label>"
        for name in RECIPES
    )
    options = "".join(f'<option value="{name}">{name}</option>' for name in CANDIDATES)
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("recipe", "soup of", "spent", "val", "test", "regret")
    )
    return f"""\
<div class="radin-explorer">
<section class="explorer-live" aria-label="Budget explorer" hidden>
<div class="explorer-controls">
{sliders}
<div class="explorer-control"><label for="explorer-zoo">zoo</label>
<select id="explorer-zoo" name="zoo">{options}</select></div>
<div class="explorer-control"><label for="explorer-truth">accuracy of the soup on</label>
<select id="explorer-truth" name="truth"><option value="val">validation, which radin sees</option>
<option value="test">test, which nobody may see</option></select></div>
</div>
<fieldset class="explorer-recipes"><legend>recipes</legend>
{boxes}
</fieldset>
<p class="explorer-summary" role="status"></p>
<div class="explorer-charts">
<div class="explorer-plane"></div><div class="explorer-curve"></div>
</div>
<div class="explorer-table" tabindex="0" role="region" aria-label="What each recipe returns">
<table><caption>What each recipe returns at this budget: its ingredients, the evaluations spent,
accuracy on validation and on test (%), and regret (points)</caption>
<thead><tr>{heads}</tr></thead><tbody></tbody></table></div>
<p>The same in Python:</p>
<pre class="explorer-code" tabindex="0"><code></code></pre>
</section>
</div>
<script defer src="../_static/explorer/vega.js"></script>
<script defer src="../_static/explorer/data.js"></script>
<script defer src="../_static/explorer/explorer.js"></script>"""
