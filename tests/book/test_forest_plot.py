"""The forest plot that a reader filters: its numbers, by keyboard, on a phone, on paper."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forest_plot
import radin
from browser import DESK, PHONE, write_live_page
from radin.experiments.collection.analysis import mean_interval, zoo_effects
from radin.experiments.collection.plan import PRIMARY

BOOK = Path(__file__).resolve().parents[2] / "book"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A stage with what the script writes, and one page that holds nothing else."""
    stage = tmp_path_factory.mktemp("stage")
    forest_plot.write_forest_plot(stage)
    shutil.copytree(BOOK / "_static", stage / "book" / "_static", dirs_exist_ok=True)
    text = (stage / "book/forest_plot.md").read_text("utf-8")
    write_live_page(stage / "book", text, "forest-static")
    return stage / "book"


@pytest.fixture(scope="module")
def contrasts(written) -> list[dict[str, Any]]:
    text = (written / "_static/forest_plot/data.js").read_text("utf-8")
    found: list[dict[str, Any]] = json.loads(text.split("=", 1)[1].rstrip(";\n"))["contrasts"]
    return found


@pytest.fixture
def reader(visit, written):
    reader = visit(f"{written.as_uri()}/", viewport=DESK)
    reader.read("page.html")
    yield reader
    assert not reader.troubles


def table(reader: Any) -> dict[str, list[str]]:
    """The table of the page: a design to its zoos, effect and interval."""
    rows = reader.tab.evaluate(
        "() => [...document.querySelectorAll('.forest-table tbody tr')]"
        ".map(r => [r.dataset.design, ...[...r.cells].slice(1).map(c => c.textContent)])"
    )
    return {name: texts for name, *texts in rows}


def drawn(reader: Any) -> list[str]:
    found: list[str] = reader.tab.evaluate(
        "() => [...document.querySelectorAll('.forest-drawing g')].map(g => g.dataset.design)"
    )
    return found


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def test_the_data_are_those_of_the_collection(contrasts):
    recipes = radin.load_collection()
    assert [each["title"] for each in contrasts][: len(PRIMARY)] == [c.title for c in PRIMARY]
    assert len(contrasts) == len(PRIMARY) + 1
    for contrast, data in zip(PRIMARY, contrasts, strict=False):
        effects = zoo_effects(recipes, contrast)
        assert [row["design"] for row in data["rows"]] == sorted(effects.design.unique())
        for row in data["rows"]:
            values = effects.effect[effects.design == row["design"]].to_numpy()
            told = row["effect"], row["low"], row["high"]
            assert told == pytest.approx(mean_interval(values), abs=1e-5)
            assert row["error"] == pytest.approx(values.std(ddof=1) / len(values) ** 0.5, abs=1e-5)


def test_it_opens_with_all_designs_of_the_first_contrast(reader, contrasts):
    rows = contrasts[0]["rows"]
    shown = table(reader)
    assert list(shown) == drawn(reader) == [*(row["design"] for row in rows), "mean"]
    for row in rows:
        assert shown[row["design"]] == [
            str(row["zoos"]),
            signed(row["effect"]),
            f"{signed(row['low'])} to {signed(row['high'])}",
        ]
    assert not reader.tab.locator(".forest-static").is_visible()


def test_the_mean_of_the_chosen_designs(reader, contrasts):
    """Against NumPy: every contrast, with three designs chosen by hand."""
    reader.tab.get_by_role("button", name="none").click()
    assert "at least one" in reader.tab.locator(".forest-summary").inner_text()
    assert drawn(reader) == []
    chosen = ["digits-conv", "digits-mlp-wild", "gratings-conv"]
    for name in chosen:
        reader.tab.get_by_label(name, exact=True).press("Space")
    for at, contrast in enumerate(contrasts):
        reader.tab.get_by_label("contrast").select_option(str(at))
        rows = [row for row in contrast["rows"] if row["design"] in chosen]
        effect = np.mean([row["effect"] for row in rows])
        half = 1.959963984540054 * np.sqrt(sum(row["error"] ** 2 for row in rows)) / len(rows)
        shown = table(reader)
        assert list(shown) == drawn(reader) == [*chosen, "mean"]
        expected = f"{signed(effect - half)} to {signed(effect + half)}"
        assert shown["mean"] == ["48", signed(effect), expected]
        said = reader.tab.locator(".forest-summary").inner_text()
        assert said == f"Mean of 3 designs, in {contrast['unit']}: {signed(effect)} ({expected})."
    reader.tab.get_by_role("button", name="all").press("Enter")
    assert len(table(reader)) == 1 + len(contrasts[0]["rows"])


def test_dots_and_bars_stand_where_the_axis_says(reader, contrasts):
    """The positions of two dots give the scale; every other mark lies on it."""
    places = reader.tab.evaluate(
        "() => [...document.querySelectorAll('.forest-drawing g')].map(g => "
        "[...['x1', 'x2'].map(k => g.querySelector('line').getAttribute(k))].map(Number))"
    )
    rows = contrasts[0]["rows"]
    values = [(row["low"], row["high"]) for row in rows]
    scale, start = np.polyfit(np.ravel(values), np.ravel(places[:-1]), 1)
    assert scale > 0
    assert np.allclose(scale * np.array(values) + start, places[:-1], atol=0.5)
    zero = float(reader.tab.locator(".forest-zero").get_attribute("x1"))
    assert zero == pytest.approx(start, abs=0.5)
    styles = reader.tab.evaluate(
        "() => [...document.querySelectorAll('.forest-drawing g')]"
        ".map(g => g.getAttribute('class'))"
    )
    for row, style in zip(rows, styles, strict=False):
        side = "above" if row["low"] > 0 else "below" if row["high"] < 0 else "across"
        assert style == f"forest-{side}"


@pytest.mark.parametrize(("low", "high"), [(-8.0, 0.9), (-0.04, 0.05), (0, 3), (-120, 7)])
def test_ticks_hold_all_values(reader, low, high):
    marks = reader.tab.evaluate("([a, b]) => radinDrawing.ticks(a, b, 7)", [low, high])
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 3 <= len(marks) <= 10
    assert np.allclose(np.diff(marks), marks[1] - marks[0])
    assert any(abs(mark) < 1e-9 for mark in marks)


def test_a_phone_shows_it_whole(visit, written):
    reader = visit(f"{written.as_uri()}/", viewport=PHONE, has_touch=True, is_mobile=True)
    reader.read("page.html")
    width = PHONE["width"]
    assert reader.tab.evaluate("() => document.documentElement.scrollWidth") <= width
    for text in reader.tab.locator(".forest-drawing text").all():
        box = text.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert float(text.evaluate("e => getComputedStyle(e).fontSize").removesuffix("px")) >= 10
    assert not reader.troubles


def test_without_scripts_and_on_paper_the_stand_in_is_there(visit, written):
    reader = visit(f"{written.as_uri()}/", viewport=DESK, java_script_enabled=False)
    reader.tab.goto(f"{reader.home}page.html")
    assert reader.tab.locator(".forest-static").is_visible()
    assert not reader.tab.locator(".forest-live").is_visible()
    paper = visit(f"{written.as_uri()}/", viewport=DESK)
    paper.read("page.html")
    paper.tab.emulate_media(media="print")
    assert paper.tab.locator(".forest-static").is_visible()
    assert not paper.tab.locator(".forest-live").is_visible()


def test_the_stand_in_has_a_figure_with_words_and_a_table(written, contrasts):
    text = (written / "forest_plot.md").read_text("utf-8")
    assert (written / "figures" / "forest_plot.png").stat().st_size > 10_000
    assert ":alt: " in text
    for row in contrasts[0]["rows"]:
        assert f"| {row['design']} | {row['zoos']} | {signed(row['effect'])} (" in text


def test_the_same_collection_gives_the_same_files(written, tmp_path):
    forest_plot.write_forest_plot(tmp_path)
    for name in ("_static/forest_plot/data.js", "figures/forest_plot.png", "forest_plot.md"):
        assert (tmp_path / "book" / name).read_bytes() == (written / name).read_bytes()
