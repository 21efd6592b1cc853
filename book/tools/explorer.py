"""The budget explorer: what the page needs so that it can replay every recipe without a kernel.

`write_explorer(stage)` adds to the staged pages the benches as integers, the charts
(`explorer_charts`), the scripts that draw them, and `book/explorer.md`, which pages include. The
recipes' rules for the page are in `book/_static/explorer/explorer.js`. A reader without scripts
sees the figure and the table made here.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import vl_convert

from controls import choice, scripts, slider
from explorer_charts import EDGE, FIGURE_ALT, curve_chart, plane_chart, still_figure
from explorer_replay import (
    ALL_DRAWS,
    CANDIDATES,
    LABELS,
    MAX_BUDGET,
    NUM_SEEDS,
    RECIPES,
    START,
    drawn_rows,
    load,
    returned,
    tasks,
)
from radin.experiments.bench import replay
from radin.experiments.plots.style import set_style
from radin.ranking.named_metrics import NLL
from radin.recipes.rules import random_order


def write_explorer(stage: Path) -> None:
    """Write the explorer's data, charts, scripts, figure and page fragment below the stage."""
    static = stage / "book" / "_static" / "explorer"
    figures = stage / "book" / "figures"
    for folder in (static, figures):
        folder.mkdir(parents=True, exist_ok=True)
    data = {
        "zoos": {name: zoo_data(name) for name in CANDIDATES},
        "candidates": CANDIDATES,
        "labels": LABELS,
        "limit": MAX_BUDGET,
        "edge": EDGE,
        "charts": {"plane": plane_chart(), "curve": curve_chart()},
    }
    text = json.dumps(data, separators=(",", ":"))
    (static / "data.js").write_text(f"window.radinExplorerData = {text};\n", "utf-8")
    # The bundle declares its names at top level; the function around them hides them from others.
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub is older than it
    (static / "vega.js").write_text(f"(function () {{\n{bundle}\n}})();\n", "utf-8")
    with matplotlib.rc_context():  # the style of this figure alone
        set_style()
        still_figure().savefig(figures / "explorer.png", dpi=110, metadata={"Software": None})
    (stage / "book" / "explorer.md").write_text(fragment(), "utf-8")


def zoo_data(name: str) -> dict[str, Any]:
    """A shipped bench as numbers of right answers, and the draws of the seeds (see explorer.js)."""
    bench = load(name)
    draws = [drawn_rows(name, bench.num_soups, seed).tolist() for seed in range(NUM_SEEDS)]
    by_likelihood = replay.order(bench, scores=-bench.ensembles("val", NLL).numpy())

    def hits(accuracies: Any, part: str) -> list[int]:
        return (accuracies * bench.bank(part).num_images / 100).round().int().tolist()

    return {
        "N": bench.num_models,
        "val": bench.val.num_images,
        "test": bench.test.num_images,
        "fast": hits(bench.ensembles("val"), "val"),
        "nll_place": np.argsort(by_likelihood).tolist(),
        "soup_val": hits(bench.soups("val"), "val"),
        "soup_test": hits(bench.soups("test"), "test"),
        "draws": draws,
        "random": [
            {M: random_order(M, seed=seed)[:MAX_BUDGET].tolist() for M in CANDIDATES[name]}
            for seed in range(NUM_SEEDS)
        ],
    }


# ---------------------------------------------------------------- without scripts


def still_table() -> str:
    """The table at the first settings, in Markdown."""
    bench = load(START["zoo"])
    top = bench.oracle[1]
    lines = [
        "| recipe | validation (%) | test (%) | lowest to highest | regret |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for recipe in RECIPES:
        test = returned(recipe)
        reach = "" if test.low == test.high else f"{test.low:.2f} to {test.high:.2f}"
        lines.append(
            f"| {LABELS[recipe]} | {returned(recipe, 'val')} | {test} | {reach} "
            f"| {top - test.mean:.2f} |"
        )
    return "\n".join(lines)


def fragment() -> str:
    """The Markdown that pages include: figure and table, and the live explorer."""
    bench = load(START["zoo"])
    what = f"{bench.num_models} ingredients, {bench.num_soups:,} soups"
    settings = (
        f"budget {START['budget']}, lambda {START['prior']:g}: the mean over {NUM_SEEDS} draws of "
        f"{START['candidates']} Monte Carlo candidates"
    )
    return f"""\
:::::{{div}} explorer-static

::::{{figure}} /book/figures/explorer.png
:alt: {FIGURE_ALT}
:width: 100%

The shipped CIFAR-10 {{term}}`soup bench` ({what}) at {settings}. Where scripts are allowed,
controls replace this figure.
::::

{still_table()}

:::::

```{{raw}} html
{live_html()}
```
"""


# ---------------------------------------------------------------- controls and boxes


def live_html() -> str:
    """The tasks, the controls, the boxes of charts and table; hidden until the scripts run."""
    boxes = "\n".join(
        f'<label class="explorer-box"><input type="checkbox" name="recipe" value="{name}"'
        f"{' checked' if name in START['recipes'] else ''}> {label}</label>"
        for name, label in LABELS.items()
    )
    seeds = {ALL_DRAWS: f"all {NUM_SEEDS}: mean and spread"}
    seeds |= {str(seed): str(seed) for seed in range(NUM_SEEDS)}
    truths = {
        "val": "validation, which radin sees",
        "test": "test, which nobody may see",
    }
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("recipe", "soup of", "spent", "val", "test", "regret")
    )
    return f"""\
<div class="radin-explorer">
<section class="explorer-live" aria-label="Budget explorer" hidden>
<p>Three questions. Each sets the controls; look at the charts before you unfold the answer.</p>
{tasks_html()}
<div class="explorer-controls">
{sliders_html()}
{choice("explorer", "seed", "draw of candidates", seeds)}
{choice("explorer", "zoo", "zoo", {name: name for name in CANDIDATES})}
{choice("explorer", "truth", "accuracy of the soup on", truths)}
</div>
<fieldset class="explorer-recipes"><legend>recipes</legend>
{boxes}
</fieldset>
<p class="explorer-summary" role="status"></p>
<div class="explorer-charts">
<div class="explorer-plane"></div><p class="explorer-outside"></p>
<div class="explorer-curve"></div>
</div>
<div class="explorer-table" tabindex="0" role="region" aria-label="What each recipe returns">
<table><caption>What each recipe returns at this budget: its ingredients, the evaluations spent,
accuracy on validation and on test (%), and regret (points)</caption>
<thead><tr>{heads}</tr></thead><tbody></tbody></table></div>
<p>The same in Python:</p>
<pre class="explorer-code" tabindex="0"><code></code></pre>
</section>
</div>
{scripts("explorer/vega.js", "explorer/data.js", "explorer/explorer.js")}"""


def tasks_html() -> str:
    """Each task as a fold that sets the controls, with its answer as a fold inside."""
    return "\n".join(
        f'<details class="explorer-task" name="explorer-task" '
        f'data-settings="{html.escape(json.dumps(task_controls(task.settings)))}">\n'
        f"<summary>{task.title}</summary>\n<p>{task.ask}</p>\n"
        f"<details><summary>Answer</summary>\n<div>{task.tell}</div></details></details>"
        for task in tasks()
    )


def task_controls(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as values of the page's controls: that of the candidates is a position."""
    place = CANDIDATES[settings["zoo"]].index(settings["candidates"])
    return settings | {"candidates": place, "truth": "val"}


def sliders_html() -> str:
    choices = CANDIDATES[START["zoo"]]
    return "\n".join(
        slider("explorer", name, label, low=low, high=high, step=step, value=value)
        for name, label, low, high, step, value in (
            ("budget", "budget B", 1, MAX_BUDGET, 1, START["budget"]),
            ("prior", "prior λ (points)", 0, 5, 0.1, START["prior"]),
            (
                "candidates",
                "Monte Carlo candidates",
                0,
                len(choices) - 1,
                1,
                choices.index(START["candidates"]),
            ),
        )
    )
