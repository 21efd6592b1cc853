"""radin/experiments/plots/night.py: the dark version of a figure."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from radin.experiments.plots import night, style


def luminance(color: object) -> float:
    """Of a colour as the contrast of WCAG takes it."""
    shares = np.array(night.to_rgba(color)[:3])
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(color: object) -> float:
    """With the background of the page in the dark."""
    levels = sorted([luminance(color), luminance(night.BACKGROUND)])
    return (levels[1] + 0.05) / (levels[0] + 0.05)


def test_white_is_the_page_and_black_is_its_text():
    assert night.night_color("white") == pytest.approx(night.BACKGROUND)
    assert night.night_color("black") == pytest.approx(night.TEXT)
    assert night.night_color("none") == "none"
    assert night.night_color((0, 0, 0, 0.3))[3] == 0.3


@pytest.mark.parametrize("name", style.RECIPE_STYLES)
def test_every_recipe_keeps_its_colour_and_can_be_seen(name):
    color = style.RECIPE_STYLES[name]["color"]
    dark = night.night_color(color)
    assert contrast(dark) > 3
    if name not in ("random", "oracle"):  # grey and black
        assert to_hex(dark) == color.lower()


def test_a_tint_becomes_dark_and_words_on_it_can_be_read():
    tint = night.night_color("#fbe5d8")
    assert contrast(tint) < 1.6
    assert contrast(night.night_color("#222222")) / contrast(tint) > 4.5


def drawn() -> Figure:
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1], color="#D55E00", label="line")
    axes.scatter([0, 1], [1, 0], c=["black", "white"], edgecolors="black")
    axes.fill_between([0, 1], 0.2, 0.3, color="grey", alpha=0.2)
    axes.text(0.5, 0.5, "words", bbox={"facecolor": "white"})
    axes.set(title="title", xlabel="across")
    axes.legend()
    return figure


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def by_day(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def test_the_figure_is_dark_and_stays_as_it_was():
    figure = drawn()
    before = by_day(figure)
    dark = night.night_png(figure)
    assert by_day(figure) == before
    assert pixels(before).mean() > 200
    assert pixels(dark).mean() < 60
    assert pixels(dark).shape == pixels(before).shape
    line = (pixels(dark) == [0xD5, 0x5E, 0x00]).all(-1).sum()
    assert line > 100
    assert dark == night.night_png(figure)
    plt.close(figure)


def test_the_cells_of_a_heat_map_and_the_numbers_on_them_stay():
    figure, axes = plt.subplots()
    sns.heatmap(np.array([[0.0, 1.0]]), annot=True, ax=axes, cmap="Greys")
    seen = []
    for text in axes.texts:
        text.set_color = seen.append  # what the dark version would call
    night.night_png(figure)
    assert len(axes.texts) == 2
    assert seen == []
    plt.close(figure)
