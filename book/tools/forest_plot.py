"""The forest plot of the collection: what the page needs so that a reader can filter it.

`write_forest_plot(stage)` adds to the staged pages each planned contrast by design, a figure of the
first one, and `book/forest_plot.md`, which a chapter includes. The drawing and the mean of the
chosen designs are in `book/_static/forest_plot/forest_plot.js`. A reader without scripts, or with
paper, sees the figure and the table made here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.pyplot as plt

import radin
from controls import scripts
from radin.experiments.collection.analysis import (
    ELSEWHERE,
    HERE,
    spearman_effects,
    standard_error,
    summarise,
    zoo_effects,
)
from radin.experiments.collection.plan import PRIMARY, SPEARMAN_TITLE
from radin.experiments.intervals import write_interval
from radin.experiments.plots.collection import forest
from radin.experiments.plots.style import set_style

if TYPE_CHECKING:
    import pandas as pd

POINTS = "points"
FIGURE_ALT = (
    "Forest plot. Down, the designs; across, the difference between two recipes with its interval "
    "over zoos. At most designs the bar crosses zero; at the designs with high rates it lies far "
    "to the left."
)


def write_forest_plot(stage: Path) -> None:
    """Write the data, the still figure and the page fragment below the stage."""
    static = stage / "book" / "_static" / "forest_plot"
    figures = stage / "book" / "figures"
    for folder in (static, figures):
        folder.mkdir(parents=True, exist_ok=True)
    effects = contrast_effects()
    contrasts = [
        contrast_data(title, each, "rank correlation" if title == SPEARMAN_TITLE else POINTS)
        for title, each in effects.items()
    ]
    text = json.dumps({"contrasts": contrasts}, separators=(",", ":"))
    (static / "data.js").write_text(f"window.radinForestPlotData = {text};\n", "utf-8")
    with matplotlib.rc_context():  # the style of this figure alone
        set_style()
        title, first = next(iter(effects.items()))
        summary = summarise(first).drop(index=ELSEWHERE)
        figure = forest(summary, f"{title}, on test ({POINTS})")
        figure.savefig(figures / "forest_plot.png", dpi=110, metadata={"Software": None})
        plt.close(figure)
    (stage / "book" / "forest_plot.md").write_text(fragment(contrasts), "utf-8")


def contrast_effects() -> dict[str, pd.DataFrame]:
    """The effect in each zoo, for every planned contrast by its title."""
    recipes = radin.load_collection()
    found = {contrast.title: zoo_effects(recipes, contrast) for contrast in PRIMARY}
    found[SPEARMAN_TITLE] = spearman_effects(radin.load_collection("facts"))
    return found


def contrast_data(title: str, effects: pd.DataFrame, unit: str) -> dict[str, Any]:
    """One contrast as the page reads it (see forest_plot.js)."""
    summary = summarise(effects).drop(index=[HERE, ELSEWHERE])
    errors = effects.groupby("design").effect.agg(lambda values: standard_error(values.to_numpy()))
    rows = [
        {
            "design": str(row.Index),
            "zoos": int(row.zoos),
            "effect": round(row.effect, 5),
            "error": round(float(errors[row.Index]), 5),
            "low": round(row.low, 5),
            "high": round(row.high, 5),
        }
        for row in summary.itertuples()
    ]
    return {"title": title, "unit": unit, "rows": rows}


def fragment(contrasts: list[dict[str, Any]]) -> str:
    """The Markdown that a page includes: figure and table, and the live plot."""
    return f"""\
:::::{{div}} forest-static

::::{{figure}} /book/figures/forest_plot.png
:alt: {FIGURE_ALT}
:width: 100%

The first contrast by design, and the mean of these designs. Where scripts are allowed, controls
replace this figure.
::::

{still_table(contrasts[0])}

:::::

```{{raw}} html
{live_html(contrasts)}
```
"""


def still_table(contrast: dict[str, Any]) -> str:
    """The first contrast as a table, in Markdown."""
    lines = ["| design | zoos | effect (95% interval) |", "| --- | ---: | ---: |"]
    lines += [
        f"| {row['design']} | {row['zoos']} "
        f"| {write_interval((row['effect'], row['low'], row['high']))} |"
        for row in contrast["rows"]
    ]
    return "\n".join(lines)


def live_html(contrasts: list[dict[str, Any]]) -> str:
    """The controls, the box of the drawing and the table; hidden until the scripts are loaded."""
    options = "".join(
        f'<option value="{at}">{contrast["title"]}</option>'
        for at, contrast in enumerate(contrasts)
    )
    boxes = "\n".join(
        f'<label><input type="checkbox" name="design" value="{row["design"]}" checked> '
        f"{row['design']}</label>"
        for row in contrasts[0]["rows"]
    )
    return f"""\
<div class="radin-forest">
<section class="forest-live" aria-label="Forest plot by design" hidden>
<div class="forest-contrast"><label for="forest-contrast">contrast</label>
<select id="forest-contrast" name="contrast">{options}</select></div>
<fieldset class="forest-designs"><legend>designs</legend>
<button type="button" value="all">all</button> <button type="button" value="none">none</button>
{boxes}
</fieldset>
<p class="forest-summary" role="status"></p>
<div class="forest-drawing"></div>
<div class="forest-table" tabindex="0" role="region" aria-label="The effect in each design">
<table><caption>The chosen designs: zoos, mean effect over them, and its 95% interval</caption>
<thead><tr><th scope="col">design</th><th scope="col">zoos</th><th scope="col">effect</th>
<th scope="col">95% interval</th></tr></thead><tbody></tbody></table></div>
</section>
</div>
{scripts("drawing/drawing.js", "forest_plot/data.js", "forest_plot/forest_plot.js")}"""
