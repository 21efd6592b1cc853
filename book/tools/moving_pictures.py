"""The moving pictures of a notebook: what the page needs so that a reader can move them.

An executed notebook keeps each `radin.experiments.plots.moving.MovingPicture` as JSON.
`save_moving_pictures` writes the data below `_static/moving`, and for each picture a fragment
moving_NAME.md with its controls, which the notebook includes. The drawing is in
`book/_static/moving/moving.js`. A reader without scripts, or with paper, sees the notebook's
ordinary figure.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import nbformat

from controls import choice, scripts, slider
from kept_runs import glued
from radin.experiments.plots.moving import MOVING_PREFIX


def save_moving_pictures(notebook: Path, book: Path) -> list[str]:
    """Write what an executed notebook handed on below the staged folder `book`; the names."""
    names = []
    for key, text in glued(nbformat.read(notebook, as_version=4)).items():
        if key.startswith(MOVING_PREFIX):
            picture = json.loads(text)
            write_moving_picture(picture, book)
            names.append(picture["name"])
    return names


def write_moving_picture(picture: dict[str, Any], book: Path) -> None:
    """Write the data of one picture, and the fragment of its page."""
    name = picture["name"]
    static = book / "_static" / "moving"
    static.mkdir(parents=True, exist_ok=True)
    text = json.dumps(picture, separators=(",", ":"))
    (static / f"{name}.js").write_text(
        f"window.radinMovingData = {{ ...window.radinMovingData, {json.dumps(name)}: {text} }};\n",
        "utf-8",
    )
    fragment = f"```{{raw}} html\n{live_html(picture)}\n```\n"
    (book / f"moving_{name}.md").write_text(fragment, "utf-8")


def live_html(picture: dict[str, Any]) -> str:
    """The controls, the boxes of drawing and table; hidden until the scripts are loaded."""
    name = picture["name"]
    values = picture["values"]
    controls = slider(
        "moving",
        "at",
        picture["slider"],
        low=values[0],
        high=values[-1],
        step=round(values[1] - values[0], 6),
        value=picture["start"],
    )
    about = ""
    if picture["choice"]:
        options = {each: each for each in picture["options"]}
        controls += choice("moving", "group", picture["choice"], options, value=picture["chosen"])
        about = '<p class="moving-about"></p>\n'
    title = html.escape(picture["title"])
    return f"""\
<div class="radin-moving" data-picture="{name}">
<section class="moving-live" aria-label="{title}" hidden>
<div class="moving-controls">
{controls}
</div>
{about}<ul class="moving-legend"></ul>
<div class="moving-drawing"></div>
<p class="moving-words" role="status"></p>
<div class="moving-table" tabindex="0" role="region" aria-label="The numbers of the picture">
<table><caption>The numbers where the slider stands</caption>
<thead><tr></tr></thead><tbody></tbody></table></div>
</section>
</div>
{scripts("drawing/drawing.js", f"moving/{name}.js", "moving/moving.js")}"""
