"""radin/experiments/collection/pass_analysis.py: on tables with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from radin.errors import DataError
from radin.experiments.collection.analysis import bootstrap_interval, mean_interval
from radin.experiments.collection.pass_analysis import (
    contrast_table,
    design_interval,
    gain_curves,
    target_table,
    worst_zoos,
)
from radin.experiments.collection.plan import Contrast
from radin.experiments.plots.passes import gain_per_pass

GAINS = {"a": [1.0, 2.0, 3.0, 2.0], "b": [0.0, 0.5, 1.0, 0.5], "c-wild": [-4.0, -5.0, -6.0, -9.0]}


def pass_table(gains: dict[str, list[float]]) -> pd.DataFrame:
    """Zoos whose best single has 80% on test, safe so many points more, and the best subset 90%."""
    tests = {"best_single": 80.0, "oracle": 90.0}
    rows = [
        {"zoo": f"{design}-{k:03d}", "design": design, "recipe": recipe, "budget": budget}
        | {"test": tests.get(recipe, 80 + gain * budget)}
        for design, values in gains.items()
        for k, gain in enumerate(values)
        for recipe in ("safe", "best_single", "oracle")
        for budget in (1, 2)
    ]
    shipped = {"zoo": "x", "design": "shipped", "budget": 1, "test": 50.0}
    return pd.DataFrame([*rows, *({"recipe": name} | shipped for name in ("safe", "best_single"))])


def effects_of(groups: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        (f"{name}-{k}", name, value)
        for name, some in groups.items()
        for k, value in enumerate(some)
    ]
    return pd.DataFrame(rows, columns=["zoo", "design", "effect"])


def test_few_rounds_have_the_interval_over_designs():
    few = {"a": [1.0], "b": [2.0], "c": [6.0]}
    assert design_interval(effects_of(few)) == mean_interval(np.array([1.0, 2.0, 6.0]))
    wanted = bootstrap_interval([np.array(values) for values in GAINS.values()])
    assert design_interval(effects_of(GAINS)) == wanted
    three = {name: values[:3] for name, values in GAINS.items()}
    means = np.array([np.mean(values) for values in three.values()])
    assert design_interval(effects_of(three)) == pytest.approx(mean_interval(means))


def test_contrasts_have_verdicts():
    table = pass_table({name: GAINS[name] for name in "ab"})
    row = contrast_table(table, [Contrast("t", "safe", "best_single", 1)]).loc["t"]
    assert row.effect == pytest.approx((2.0 + 0.5) / 2)
    assert row.low < row.effect < row.high
    assert (row.verdict, row.elsewhere) == ("holds", "open")  # two designs say little of a third
    assert (row.zoos, row["share"]) == (8, 87.5)


def test_gains_are_counted_from_the_best_single():
    curves = gain_curves(pass_table(GAINS), ["safe"], budgets=(1, 2), wild=False)
    assert curves.gain["safe", 1] == pytest.approx(1.25)
    assert curves.gain["safe", 2] == pytest.approx(2.5)
    assert curves.zoos["safe", 1] == 8
    wild = gain_curves(pass_table(GAINS), ["safe"], budgets=(1,), wild=True)
    assert wild.gain["safe", 1] == pytest.approx(-6)
    figure = gain_per_pass({"one": curves, "two": curves}, {"safe": "Safe"})
    assert len(figure.axes) == 2
    assert "Safe" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_worst_zoo_has_the_largest_regret():
    found = worst_zoos(pass_table(GAINS), ["safe", "best_single"], 1)
    assert found.regret["safe"] == pytest.approx(19)
    assert found.zoo["safe"] == "c-wild-003"
    assert found["mean"]["safe"] == pytest.approx(10 - (2.0 + 0.5 - 6.0) / 3)
    assert found.regret["best_single"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("name", "values", "met"),
    [
        ("same", [95.0, 96.0], True),
        ("same", [94.0, 95.0], False),
        ("lost", [0.0, 0.03], True),
        ("lost", [0.02, 0.02], False),
        ("covered", [93.0, 97.0], True),
        ("covered", [98.0, 98.0], False),
        ("covered", [92.0, np.nan], False),
    ],
)
def test_targets_are_met_or_missed_by_the_mean(name, values, met):
    good = {"same": 100.0, "lost": 0.0, "covered": 95.0}
    rows = [
        {"zoo": design, "design": design, "recipe": "safe", **good, name: value}
        for design, value in zip("ab", values, strict=True)
    ]
    rows.append({"zoo": "x", "design": "shipped", "recipe": "safe", **good, name: -1000.0})
    found = target_table(pd.DataFrame(rows))
    assert found.met["safe", name] == met
    assert found.drop(index=("safe", name)).met.all()
    with pytest.raises(DataError, match="no zoos of a planned design"):
        target_table(pd.DataFrame(rows[-1:]))
