"""The moving pictures of the theory chapters: numbers, words, labels at load, keyboard, phone."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

import moving_pictures
from browser import DESK, PHONE, serve_folder
from kept_runs import GLUED
from radin.data.load import load_split
from radin.experiments.moving import apart, between
from radin.experiments.networks import DigitsNet, Mlp
from radin.experiments.plots.moving import LOOKS, MovingPicture, apart_picture, path_picture

BOOK = Path(__file__).resolve().parents[2] / "book"
PAGES = {"gap": "notebooks/12_taylor_autograd.html", "path": "notebooks/13_when_it_breaks.html"}
NAMES = tuple(PAGES)
MOST_BYTES = 100_000
KINDS = {"turned": "Its second ingredient is another network.", "norm": "It has batch norm."}
VIEWPORTS = pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
TEXTS = """() => [...document.querySelectorAll(".moving-drawing text")].map(text => {
    const box = text.getBoundingClientRect();
    const room = text.closest("svg").getBoundingClientRect();
    return {text: text.textContent, size: parseFloat(getComputedStyle(text).fontSize),
        x: [box.left, box.right], y: [box.top, box.bottom],
        inside: box.left >= room.left && box.right <= room.right
            && box.top >= room.top && box.bottom <= room.bottom};
})"""


# ---------------------------------------------------------------- pictures of small networks


def states(model: torch.nn.Module, count: int, noise: float) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            key: tensor + noise * torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point()
            else tensor
            for key, tensor in model.state_dict().items()
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def pictures() -> dict[str, MovingPicture]:
    torch.manual_seed(0)
    val = load_split("digits", "val")
    images, labels = val.images[:30], val.labels[:30]
    distances = [round(0.25 * k, 2) for k in range(9)]
    amounts = [round(0.1 * k - 0.2, 1) for k in range(15)]
    model = Mlp(64, 10, width=12).eval()
    start, *others = states(model, 3, 0.2)
    deltas = [{key: other[key] - start[key] for key in start} for other in others]
    moved = apart(model, start, deltas, [0.6, 0.4], images, labels=labels, scales=distances)
    lines = {
        "healthy": between(model, start, others[0], images, labels=labels, amounts=amounts),
        "turned": between(model, start, others[1], images, labels=labels, amounts=amounts),
    }
    norm = DigitsNet(4, norm="batch").eval()
    first, second = states(norm, 2, 0.1)
    first["body.1.running_var"].fill_(1)
    second["body.1.running_var"].fill_(0.1)  # at 1.2 it is negative
    lines["norm"] = between(norm, first, second, images, labels=labels, amounts=amounts)
    return {
        "gap": apart_picture(distances, moved),
        "path": path_picture(amounts, lines, KINDS, chosen="turned"),
    }


@pytest.fixture(scope="module")
def written(pictures, tmp_path_factory) -> Path:
    """A staged book with what an executed notebook handed on, and a page for each picture."""
    folder = tmp_path_factory.mktemp("moving")
    shutil.copytree(BOOK / "_static", folder / "_static")
    handed = {f"moving {name}": json.dumps(picture.data()) for name, picture in pictures.items()}
    write_notebook(folder / "a.ipynb", {"budget": 4, **handed})
    assert moving_pictures.save_moving_pictures(folder / "a.ipynb", folder) == list(NAMES)
    for name, picture in pictures.items():
        picture.still().savefig(folder / f"{name}.png", dpi=110)
        live = re.search(
            r"```\{raw\} html\n(.*?)\n```", (folder / f"moving_{name}.md").read_text("utf-8"), re.S
        )
        assert live
        (folder / f"{name}.html").write_text(
            '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>moving</title>'
            '<link rel="stylesheet" href="_static/book.css"><link rel="icon" href="data:,"></head>'
            '<body><main class="bd-article"><h1>moving</h1>'
            f'<figure id="fig-moving-{name}"><a class="whole" href="{name}.png">'
            f'<img src="{name}.png" alt="What stands in for it."></a>'
            "<figcaption>The caption.</figcaption></figure>"
            + live[1].replace("../_static", "_static")
            + "</main></body></html>",
            "utf-8",
        )
    return folder


def write_notebook(path: Path, glued: dict[str, Any]) -> None:
    outputs = [
        nbformat.v4.new_output(
            "display_data",
            data={GLUED: repr(value)},
            metadata={"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}},
        )
        for name, value in glued.items()
    ]
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=outputs)]), path
    )


@pytest.fixture(scope="module")
def address(written) -> Iterator[str]:
    with serve_folder(written) as found:
        yield found


@pytest.fixture
def open_picture(visit, address):
    """A function that opens the page of one picture, and checks in the end that nothing failed."""
    readers = []

    def open_(name: str, viewport: dict[str, int] = DESK, **context: Any) -> Any:
        readers.append(visit(address, viewport=viewport, **context))
        readers[-1].read(f"{name}.html")
        return readers[-1]

    yield open_
    assert [trouble for reader in readers for trouble in reader.troubles] == []


# ---------------------------------------------------------------- what a page must show


def read_data(folder: Path, name: str) -> dict[str, Any]:
    """The data of a picture as the page loads them, by the keys of the picture."""
    text = (folder / "_static" / "moving" / f"{name}.js").read_text("utf-8")
    found: dict[str, Any] = json.loads(text.split(f'"{name}": ', 1)[1].rsplit("}", 1)[0])
    return found


def as_text(value: float | None, spec: str) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:{spec}}".replace("-", "−")


def expected_table(data: dict[str, Any], at: int, chosen: str) -> dict[str, list[str]]:
    groups = list(dict.fromkeys(panel["group"] for panel in data["panels"]))
    return {
        key: [
            label,
            *(
                as_text(data["groups"][chosen if g == "*" else g][key][at], data["formats"][key])
                for g in groups
            ),
        ]
        for key, label in data["rows"].items()
    }


def table(reader: Any) -> dict[str, list[str]]:
    rows = reader.tab.evaluate(
        "() => [...document.querySelectorAll('.moving-table tbody tr')]"
        ".map(r => [r.dataset.key, ...[...r.cells].map(c => c.textContent)])"
    )
    return {key: texts for key, *texts in rows}


def expected_titles(data: dict[str, Any], chosen: str, phone: bool) -> list[str]:
    titles = []
    for k, panel in enumerate(data["panels"]):
        name = chosen if panel["group"] == "*" else panel["group"]
        if phone and name and data["columns_on_a_phone"] == 2:
            titles += [name] if k % 2 else [panel["axis"], name]
        else:
            titles.append(f"{name}: {panel['axis']}" if name else panel["axis"])
    return titles


def check_drawing(reader: Any, data: dict[str, Any], viewport: dict[str, int]) -> None:
    """All words are drawn, inside the drawing, large enough, and none upon another."""
    drawn = reader.tab.evaluate(TEXTS)
    words = [text["text"] for text in drawn if not re.fullmatch(r"−?\d+(\.\d+)?", text["text"])]
    titles = expected_titles(data, data["chosen"], viewport == PHONE)
    assert words == [*titles, data["xlabel"]]
    assert len(drawn) - len(words) >= 5 * len(data["panels"]) - 8
    for k, text in enumerate(drawn):
        assert text["inside"], text
        assert text["size"] >= 10, text
        for other in drawn[:k]:
            apart_in = [
                text[axis][0] >= other[axis][1] - 1 or text[axis][1] <= other[axis][0] + 1
                for axis in "xy"
            ]
            assert any(apart_in), (text, other)
    legend = reader.tab.locator(".moving-legend li").all_text_contents()
    labels = dict.fromkeys(line["label"] for panel in data["panels"] for line in panel["lines"])
    looks = {line["look"] for panel in data["panels"] for line in panel["lines"]}
    assert legend == [*labels, *([] if "gap" in looks else ["gap"])]


# ---------------------------------------------------------------- tests


@VIEWPORTS
@pytest.mark.parametrize("name", NAMES)
def test_labels_are_whole_when_the_page_loads(open_picture, written, name, viewport):
    reader = open_picture(name, viewport)
    check_drawing(reader, read_data(written, name), viewport)


def test_a_label_outside_the_drawing_would_be_found(open_picture, written):
    reader = open_picture("gap")
    reader.tab.locator(".moving-drawing svg").evaluate("s => s.setAttribute('viewBox', '60 0 9 9')")
    with pytest.raises(AssertionError):
        check_drawing(reader, read_data(written, "gap"), DESK)


@VIEWPORTS
@pytest.mark.parametrize("name", NAMES)
def test_it_is_drawn_as_wide_as_its_box_at_load_and_after(open_picture, name, viewport):
    reader = open_picture(name, viewport)
    for size in (viewport, DESK, PHONE):
        reader.tab.set_viewport_size(size)
        reader.tab.wait_for_function(
            "() => { const box = document.querySelector('.moving-drawing');"
            "return Math.abs(box.querySelector('svg').getBoundingClientRect().width"
            " - box.clientWidth) < 1 }"
        )
        assert reader.tab.evaluate("document.documentElement.scrollWidth") <= size["width"]


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_where_the_still_figure_is(open_picture, written, pictures, name):
    reader = open_picture(name)
    data, picture = read_data(written, name), pictures[name]
    at = picture.values.index(picture.start)
    assert table(reader) == expected_table(data, at, picture.chosen)
    assert reader.tab.locator("output").inner_text() == format(picture.start, picture.spec)
    assert not reader.tab.locator("img").is_visible()
    assert reader.tab.locator("figcaption").is_visible()


def test_the_keyboard_moves_the_slider_and_the_numbers(open_picture, written, pictures):
    reader = open_picture("gap")
    data, picture = read_data(written, "gap"), pictures["gap"]
    slider = reader.tab.get_by_label(picture.slider)
    slider.focus()
    before = table(reader)
    start = picture.values.index(picture.start)
    for presses, key in ((1, "ArrowRight"), (3, "ArrowLeft"), (1, "Home"), (1, "End")):
        for _ in range(presses):
            reader.tab.keyboard.press(key)
        at = {"Home": 0, "End": len(picture.values) - 1}.get(
            key, start + (1 if key == "ArrowRight" else -2)
        )
        value = picture.values[at]
        shown = table(reader)
        assert shown == expected_table(data, at, "")
        assert shown != before
        assert slider.get_attribute("aria-valuetext") == f"{value:.2f}"
        words = reader.tab.locator(".moving-words").inner_text()
        assert words.startswith(f"At t = {value:.2f} the soup has a loss of {shown['soup'][1]} ")
        assert f"the gap is {shown['gap'][1]}." in words
        assert f"{shown['gap from the soup'][1]} when it is taken at this soup" in words
    assert "{" not in words


def test_the_keyboard_chooses_the_broken_zoo(open_picture, written, pictures):
    reader = open_picture("path")
    data, picture = read_data(written, "path"), pictures["path"]
    slider = reader.tab.get_by_label(picture.slider)
    slider.focus()
    reader.tab.keyboard.press("End")
    reader.tab.keyboard.press("Tab")
    assert reader.tab.evaluate("document.activeElement.name") == "group"
    reader.tab.keyboard.press("ArrowDown")
    assert reader.tab.get_by_label("broken zoo").input_value() == "norm"
    at = len(picture.values) - 1
    shown = table(reader)
    assert shown == expected_table(data, at, "norm")
    assert shown["soup"][2] == "–"  # no number: its running variance is negative
    assert reader.tab.locator(".moving-about").inner_text() == KINDS["norm"]
    assert "In the zoo “norm” the soup has –" in reader.tab.locator(".moving-words").inner_text()
    titles = reader.tab.locator(".moving-title").all_text_contents()
    assert titles == expected_titles(data, "norm", phone=False)
    way = reader.tab.locator('[data-panel="1"] path[data-key="soup"]').get_attribute("d")
    numbers = [value for value in data["groups"]["norm"]["soup"] if value is not None]
    assert len(re.findall(r"[ML]", way)) == len(numbers) < len(picture.values)


@pytest.mark.parametrize("name", NAMES)
def test_lines_and_dots_stand_where_the_axes_say(open_picture, written, name):
    """The texts of the marks give the scale of each panel; lines and dots lie on it."""
    reader = open_picture(name)
    data = read_data(written, name)
    at = data["values"].index(data["start"])
    for k, panel in enumerate(data["panels"]):
        group = data["groups"][data["chosen"] if panel["group"] == "*" else panel["group"]]
        box = reader.tab.locator(f'[data-panel="{k}"]')
        marks = box.locator('text[text-anchor="end"]').evaluate_all(
            "all => all.map(t => [t.textContent, Number(t.getAttribute('y'))])"
        )
        heights = box.locator(".moving-grid").evaluate_all(
            "all => all.map(l => Number(l.getAttribute('y1')))"
        )
        values = [float(text.replace("−", "-")) for text, _ in marks]
        scale, zero = np.polyfit(values, heights, 1)
        assert scale < 0
        assert np.allclose(scale * np.array(values) + zero, heights, atol=0.01)
        assert np.allclose(np.diff([y for _, y in marks]), np.diff(heights), atol=0.01)
        for line in panel["lines"]:
            way = box.locator(f'path[data-key="{line["key"]}"]').get_attribute("d")
            points = np.array([point.split(",") for point in re.split("[ML]", way)[1:]], float)
            numbers = np.array(group[line["key"]])
            assert np.allclose(points[:, 1], scale * numbers + zero, atol=0.1)
            across = np.polyfit(data["values"], points[:, 0], 1)
            assert np.allclose(np.polyval(across, data["values"]), points[:, 0], atol=0.1)
            dots = box.locator(f'circle[data-key="{line["key"]}"]')
            if min(values) <= numbers[at] <= max(values):
                assert float(dots.get_attribute("cy")) == pytest.approx(points[at, 1], abs=0.1)
                assert float(dots.get_attribute("cx")) == pytest.approx(points[at, 0], abs=0.1)
            else:
                assert dots.count() == 0
            if not line["loose"]:
                first, last = data["frame"]
                inside = [
                    number
                    for value, number in zip(data["values"], numbers, strict=True)
                    if first <= value <= last
                ]
                assert min(values) - 1e-9 <= min(inside) <= max(inside) <= max(values) + 1e-9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_picture, name, scheme):
    """The names of colours are those of the theme, here set by hand."""
    reader = open_picture(name, PHONE)
    if scheme == "dark":
        reader.tab.evaluate(
            "() => { const root = document.documentElement; root.dataset.theme = 'dark';"
            "root.style.cssText = '--pst-color-text-base: #ced6dd; --pst-color-border: #48566b;"
            "background: #121212; color: #ced6dd' }"
        )
    reader.load_axe()
    assert reader.axe_findings([], None) == []


def test_every_look_has_its_colour_by_day_and_by_night():
    style = (BOOK / "_static" / "book.css").read_text("utf-8")
    for look in LOOKS:
        colours = re.findall(rf"--moving-{look}: (#[0-9a-f]{{6}})", style)
        assert len(colours) == 2, look
        for colour, ground in zip(colours, ("#ffffff", "#121212"), strict=True):
            assert contrast(colour, ground) >= 3, (look, ground)
        assert f".moving-{look} {{ --moving-look: var(--moving-{look});" in style


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG defines it."""
    light = []
    for colour in (one, other):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        light.append(float(np.dot(linear, [0.2126, 0.7152, 0.0722])))
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_without_scripts_and_on_paper_the_figure_is_there(visit, written, name):
    reader = visit(f"{written.as_uri()}/", viewport=DESK, java_script_enabled=False)
    reader.tab.goto(f"{reader.home}{name}.html")
    assert reader.tab.locator("figure img").is_visible()
    assert not reader.tab.locator(".moving-live").is_visible()
    paper = visit(f"{written.as_uri()}/", viewport=DESK)
    paper.read(f"{name}.html")
    assert paper.tab.locator(".moving-live").is_visible()
    paper.tab.emulate_media(media="print")
    assert paper.tab.locator("figure img").is_visible()
    assert not paper.tab.locator(".moving-live").is_visible()
    assert not paper.troubles


def test_a_notebook_without_pictures_writes_nothing(tmp_path):
    write_notebook(tmp_path / "a.ipynb", {"budget": 4, "name": "moving"})
    assert moving_pictures.save_moving_pictures(tmp_path / "a.ipynb", tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"]


# ---------------------------------------------------------------- in the book


@VIEWPORTS
@pytest.mark.parametrize("name", NAMES)
def test_labels_are_whole_when_a_page_of_the_book_loads(visit, server, book, name, viewport):
    reader = visit(server, viewport=viewport)
    reader.read(PAGES[name])
    check_drawing(reader, read_data(book, name), viewport)
    assert reader.tab.locator(f"#fig-moving-{name} .moving-live").is_visible()
    assert not reader.tab.locator(f"#fig-moving-{name} img").is_visible()
    assert not reader.troubles


@pytest.mark.parametrize("name", NAMES)
def test_a_page_of_the_book_moves_without_a_server(visit, book, name):
    reader = visit(f"{book.as_uri()}/", viewport=DESK)
    reader.read(PAGES[name])
    data = read_data(book, name)
    reader.tab.get_by_label(data["slider"]).press("ArrowRight")
    at = data["values"].index(data["start"]) + 1
    assert table(reader) == expected_table(data, at, data["chosen"])
    assert not reader.troubles


@pytest.mark.parametrize("name", NAMES)
def test_a_page_of_the_book_loads_little_and_nothing_from_elsewhere(book, name):
    page = book / PAGES[name]
    html = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    scripts = [str(script["src"]) for script in html.select("article script[src]")]
    assert len(scripts) == 3
    assert all(page.parent.joinpath(script).resolve().is_file() for script in scripts)
    assert (book / "_static" / "moving" / f"{name}.js").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_a_page_of_the_book_has_its_figure_without_scripts(visit, server, name):
    reader = visit(server, viewport=DESK, java_script_enabled=False)
    reader.tab.goto(server + PAGES[name])
    assert reader.tab.locator(f"#fig-moving-{name} img").is_visible()
    assert not reader.tab.locator(".moving-live").is_visible()
