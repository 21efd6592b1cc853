"""radin/experiments/plots/moving.py: what the page gets, and the figure that stands in for it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from radin.experiments.plots import moving
from radin.experiments.plots.moving import (
    CHOSEN,
    LOOKS,
    MovingPicture,
    apart_picture,
    path_picture,
)

DISTANCES = [0.0, 0.5, 1.0, 1.5]
AMOUNTS = [-0.5, 0.0, 0.5, 1.0, 1.5]
KINDS = {"first": "The first is broken.", "second": "The second is broken."}


def numbers(keys: tuple[str, ...], count: int, seed: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    return {key: rng.uniform(0.1, 0.9, count).tolist() for key in keys}


@pytest.fixture
def gap() -> MovingPicture:
    keys = ("soup", "ensemble", "first order", "gap", "gap from the start", "gap from the soup")
    found = numbers((*keys, "soup accuracy", "ensemble accuracy"), len(DISTANCES), 0)
    found["gap from the start"][-1] = 50
    return apart_picture(DISTANCES, found)


@pytest.fixture
def path() -> MovingPicture:
    keys = ("soup", "ensemble", "soup accuracy", "ensemble accuracy")
    groups = {
        name: numbers(keys, len(AMOUNTS), seed) for seed, name in enumerate(("healthy", *KINDS))
    }
    groups["second"]["soup"][-1] = math.nan
    groups["second"]["soup"][0] = 40
    return path_picture(AMOUNTS, groups, KINDS, chosen="second")


@pytest.fixture(params=["gap", "path"])
def picture(request) -> MovingPicture:
    found: MovingPicture = request.getfixturevalue(request.param)
    return found


def test_the_page_gets_every_number(picture):
    data = json.loads(json.dumps(picture.data(), allow_nan=False))
    for group, lines in picture.groups.items():
        for key, values in lines.items():
            for told, value in zip(data["groups"][group][key], values, strict=True):
                if math.isnan(value):
                    assert told is None
                else:
                    assert told == pytest.approx(value, rel=1e-5)


def test_every_key_of_a_picture_has_numbers_a_name_and_a_format(picture):
    for panel in picture.panels:
        group = picture.groups[picture.chosen if panel.group == CHOSEN else panel.group]
        assert {line.key for line in panel.lines} <= set(group)
        assert set(panel.pair) <= {line.key for line in panel.lines}
        assert {line.look for line in panel.lines} <= set(LOOKS)
    for group in picture.groups.values():
        assert set(picture.rows) == set(picture.formats) == set(group)
        assert {len(values) for values in group.values()} == {len(picture.values)}
    assert picture.start in picture.values


def test_it_is_handed_on_as_json(picture, monkeypatch):
    kept = {}
    monkeypatch.setattr(moving, "glue", kept.__setitem__)
    picture.hand_on()
    (key,) = kept
    assert key == f"moving {picture.name}"
    assert json.loads(kept[key]) == json.loads(json.dumps(picture.data()))


def test_the_still_figure_has_every_line_of_every_panel(picture):
    figure = picture.still()
    assert len(figure.axes) == len(picture.panels)
    for axes, panel in zip(figure.axes, picture.panels, strict=True):
        group = picture.groups[picture.chosen if panel.group == CHOSEN else panel.group]
        for line, drawn in zip(panel.lines, axes.lines, strict=False):
            assert np.array_equal(drawn.get_ydata(), group[line.key], equal_nan=True)
            assert list(drawn.get_xdata()) == list(picture.values)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == sorted({line.label for p in picture.panels for line in p.lines})


def test_a_panel_fits_what_is_not_loose_and_inside_the_frame(gap, path):
    low, high = gap.still().axes[1].get_ylim()
    inside = [gap.groups[""][key] for key in ("gap", "gap from the soup", "no gap")]
    assert low < np.min(inside) < np.max(inside) < high < 2
    for axes in path.still().axes[:2]:
        assert axes.get_ylim()[1] < 2  # 40 is beyond the ingredients


def test_panels_with_one_axis_have_one_range(path):
    axes = path.still().axes
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert axes[2].get_ylim() == axes[3].get_ylim()
    assert axes[0].get_title() == "healthy: loss (nats)"
    assert axes[3].get_title() == "second: accuracy (%)"
