"""radin/experiments/plots/ideas.py and drawing.py: text that can be read and does not overlap."""

from __future__ import annotations

import matplotlib as mpl
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from radin.experiments.plots import drawing, ideas
from radin.experiments.zoos.plans import PARADIGMS

DRAWINGS = {
    "two_stages": ideas.two_stages,
    "rival_or_not": ideas.rival_or_not,
    "table_of_soups": ideas.table_of_soups,
    "table_of_soups, large": lambda: ideas.table_of_soups(500),
    "table_of_soups, one": lambda: ideas.table_of_soups(1),
    "left_out": lambda: ideas.left_out(["art painting", "cartoon", "photo", "sketch"]),
    "stages_and_questions": lambda: ideas.stages_and_questions({1, 10}),
    "metric_last": ideas.metric_last,
    "one_start": lambda: ideas.one_start(PARADIGMS),
    "one_start, one way": lambda: ideas.one_start(["plain"]),
    "forward_passes": lambda: ideas.forward_passes(
        {"greedy": [(17, drawing.GREEDY), (54, "#BBBBBB")], "radin": [(4, "red")]}
    ),
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.axes[0].texts if text.get_text()]


def extents(text: Text) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a text, with its box if it has one, in pixels."""
    outline = text.get_bbox_patch()
    return (outline or text).get_window_extent().extents


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_text_can_be_read_on_a_phone(draw):
    figure = draw()
    figure.canvas.draw()
    assert tuple(figure.get_size_inches()) == (7, 3)
    width, height = figure.canvas.get_width_height()
    found = texts(figure)
    assert len(found) >= 2
    assert sum(len(text.get_text().split()) for text in found) <= 24, "few words"
    for text in found:
        assert text.get_fontsize() >= 10
        left, bottom, right, top = extents(text)
        assert min(left, bottom) >= 0, text
        assert right <= width, text
        assert top <= height, text
        light, dark = sorted((luminance("white"), luminance(text.get_color())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, text


def luminance(color: str) -> float:
    """Relative luminance, as the contrast of two colours is defined by."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_texts_do_not_overlap(draw):
    figure = draw()
    figure.canvas.draw()
    found = texts(figure)
    for k, text in enumerate(found):
        for other in found[k + 1 :]:
            assert not overlap(extents(text), extents(other)), (text, other)


def test_a_canvas_is_measured_in_inches():
    figure, axes = drawing.canvas(4, 2)
    figure.canvas.draw()
    assert tuple(figure.get_size_inches()) == (4, 2)
    corner = axes.transData.transform((4, 2)) / figure.dpi
    assert corner.tolist() == pytest.approx([4, 2])
    assert not axes.axison


def test_an_arrow_ends_at_the_outline_of_its_box():
    figure, axes = drawing.canvas()
    start, end = drawing.box(axes, 1, 1.5, "one"), drawing.box(axes, 6, 1.5, "another")
    arrow = drawing.arrow(axes, start, end)
    bare = drawing.arrow(axes, (1, 0.5), (6, 0.5))
    figure.canvas.draw()
    left, _, right, _ = arrow.arrow_patch.get_window_extent().extents
    gap_before, gap_after = left - extents(start)[2], extents(end)[0] - right
    assert 0 <= gap_before < 10
    assert 0 <= gap_after < 10
    width = bare.arrow_patch.get_window_extent().width
    assert width == pytest.approx(5 * figure.dpi, abs=5)


def test_a_line_has_no_tip_and_may_be_dashed():
    _, axes = drawing.canvas()
    line = drawing.arrow(axes, (0, 0), (1, 1), head=False, dashed=True)
    assert isinstance(line, Annotation)
    assert type(line.arrow_patch.get_arrowstyle()).__name__ == "Curve"
    assert line.arrow_patch.get_linestyle() == "--"


@pytest.mark.parametrize(("budget", "drawn"), [(1, 1), (4, 4), (6, 6), (500, 6)])
def test_the_table_shows_each_look_up_and_one_oracle(budget, drawn):
    (axes,) = ideas.table_of_soups(budget).axes
    colors = [patch.get_facecolor()[:3] for patch in axes.patches if isinstance(patch, Rectangle)]
    assert colors.count(to_rgb(drawing.SOUP)) == drawn
    assert colors.count(to_rgb(drawing.GOOD)) == 1
    assert sum(isinstance(text, Annotation) for text in axes.texts) == drawn
    assert f"B = {budget}\nlook-ups" in [text.get_text() for text in axes.texts]


def test_bars_are_to_scale():
    spent = {"a": [(72, "black")], "b": [(17, "blue"), (54, "grey")], "c": [(4, "red")]}
    (axes,) = ideas.forward_passes(spent).axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    unit = bars[0].get_width() / 72
    assert [bar.get_width() / unit for bar in bars] == pytest.approx([72, 17, 54, 4])
    assert bars[2].get_x() == pytest.approx(bars[1].get_x() + bars[1].get_width()), (
        "pieces of a bar touch"
    )
    assert len({bar.get_y() for bar in bars}) == 3


def test_the_last_domain_is_the_one_left_out():
    (axes,) = ideas.left_out(["a", "b", "unseen"]).axes
    boxes = {text.get_text(): text for text in axes.texts if text.get_bbox_patch() is not None}
    assert set(boxes) == {"a", "b", "unseen", "soup"}
    soup = boxes["soup"].get_position()[0]
    assert boxes["a"].get_position()[0] < soup < boxes["unseen"].get_position()[0]


def test_each_way_of_training_leads_from_the_start_to_the_average():
    (axes,) = ideas.one_start(["a", "b", "c"]).axes
    boxes = [text.get_text() for text in axes.texts if text.get_bbox_patch() is not None]
    assert boxes == ["one start", "one\naverage", "a", "b", "c"]
    assert sum(isinstance(text, Annotation) for text in axes.texts) == 2 * 3
