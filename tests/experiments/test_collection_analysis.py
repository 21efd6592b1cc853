"""radin/experiments/collection/analysis.py: effects over zoos, on tables with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radin.errors import DataError, ParameterError
from radin.experiments.collection.analysis import (
    ELSEWHERE,
    HERE,
    bootstrap_interval,
    ledger,
    mean_interval,
    moderators,
    random_effects,
    spearman_effects,
    summarise,
    unweighted_interval,
    verdict,
    zoo_effects,
)
from radin.experiments.collection.plan import GREEDY_CONVENTIONS, SPEARMAN_TITLE, Contrast
from radin.experiments.collection.readings import headline, regret_change, regret_curves

FIRST = Contrast("first − second, B = 1", "radin", "greedy", 1)


def recipe_table(effects: dict[str, list[float]]) -> pd.DataFrame:
    """A table in which RADIN is better than greedy by these points, in the zoos of each design."""
    rows = [
        {"zoo": f"{design}-{k:03d}", "design": design, "recipe": recipe, "budget": budget}
        | {"val": 0.0, "test": 80.0 + (points if recipe == "radin" else 0) + budget}
        for design, values in effects.items()
        for k, points in enumerate(values)
        for recipe in ("radin", "greedy")
        for budget in (1, 2)
    ]
    return pd.DataFrame(rows)


def test_effects_are_differences_in_one_zoo_at_one_budget():
    table = recipe_table({"a": [1.0, -0.5], "b": [0.0, 0.25], "shipped": [9.0]})
    found = zoo_effects(table, FIRST)
    assert found.effect.tolist() == [1.0, -0.5, 0.0, 0.25]
    assert found.design.tolist() == ["a", "a", "b", "b"]
    assert zoo_effects(table, FIRST, part="val").effect.tolist() == [0.0] * 4
    with pytest.raises(DataError, match="no recipe sideways at budget 1"):
        zoo_effects(table, Contrast("", "radin", "sideways", 1))


def test_the_summary_counts_zoos_and_weighs_designs_alike():
    table = recipe_table({"a": [1.0, 3.0], "b": [0.0, -1.0, -2.0, 0.0]})
    found = summarise(zoo_effects(table, FIRST))
    assert found.index.tolist() == ["a", "b", HERE, ELSEWHERE]
    assert found.effect.tolist()[:3] == pytest.approx([2.0, -0.75, (2.0 - 0.75) / 2])
    assert found.zoos.tolist() == [2, 4, 6, 6]
    assert found.share.tolist() == pytest.approx([100, 0, 100 / 3, 100 / 3])
    assert found["equal share"].tolist() == pytest.approx([0, 50, 100 / 3, 100 / 3])
    assert (found.low <= found.effect).all()
    assert (found.effect <= found.high).all()


def test_a_mean_has_the_interval_of_student():
    # 12.706 is the 97.5% quantile of t with one degree of freedom; 1, 3 has a standard error of 1.
    assert mean_interval(np.array([1.0, 3.0])) == pytest.approx((2.0, 2 - 12.706, 2 + 12.706), 1e-4)
    mean, low, high = mean_interval(np.array([1.5]))
    assert mean == 1.5
    assert np.isnan(low)
    assert np.isnan(high)


def test_the_bootstrap_agrees_with_the_standard_error():
    rng = np.random.default_rng(0)
    groups = [rng.normal(k, 1, 200) for k in range(4)]
    value, low, high = bootstrap_interval(groups)
    error = np.sqrt(sum(group.var(ddof=1) / len(group) for group in groups)) / len(groups)
    assert value == pytest.approx(np.mean([group.mean() for group in groups]))
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert (value, low, high) == bootstrap_interval(groups)


def test_random_effects_by_hand():
    # Two designs with means 0 and 4 and standard errors 1: with equal weights Q is 8, the excess 7
    # and the scale 1, so the variance between designs is 7.
    groups = [np.array([-1.0, 1.0]), np.array([3.0, 5.0])]
    found = random_effects(groups)
    assert found.between == pytest.approx(np.sqrt(7))
    # The error of Hartung and Knapp is sqrt((4 + 4) / 2 / 1) = 2; t with one degree is 12.706.
    assert found.interval == pytest.approx((2, 2 - 25.412, 2 + 25.412), 1e-4)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(-10, 10))
def test_random_effects_move_with_the_effects(means, shift):
    groups = [np.array([mean - 0.5, mean, mean + 0.5]) for mean in means]
    before = random_effects(groups)
    after = random_effects([values + shift for values in groups])
    assert after.between == pytest.approx(before.between, abs=1e-6)
    assert np.array(after.interval) == pytest.approx(np.array(before.interval) + shift, abs=1e-6)
    assert min(means) - 1e-9 <= before.interval[0] <= max(means) + 1e-9


def test_random_effects_cover_the_mean_over_designs():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        groups = [rng.normal(rng.normal(0.3, 1), 1, 12) for _ in range(8)]
        _, low, high = random_effects(groups).interval
        hits += low <= 0.3 <= high
    assert 180 <= hits <= 200


@pytest.mark.parametrize("groups", [[np.ones(3)], [np.ones(3), np.ones(1)]])
def test_random_effects_need_designs_and_zoos(groups):
    with pytest.raises(ParameterError, match="two designs of two zoos"):
        random_effects(groups)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.9, "holds"),
        (0.01, 0.2, "holds, within the margin"),
        (-3.0, -1.0, "turned round"),
        (-0.2, -0.1, "turned round, within the margin"),
        (-0.2, 0.2, "equal"),
        (-0.2, 0.4, "open"),
        (float("nan"), float("nan"), "open"),
    ],
)
def test_verdicts(low, high, words):
    assert verdict(low, high, margin=0.25) == words


def fact_table(design: str, spearman: list[float]) -> pd.DataFrame:
    zoos = [f"{design}-{k:03d}" for k in range(len(spearman))]
    return pd.DataFrame(
        {"zoo": zoos, "design": design, "spearman": spearman, "spearman_members": 0.5}
    )


def test_the_ledger_has_each_contrast_in_each_design():
    table = recipe_table({"a": [1.0, 1.1, 0.9], "b": [-2.0, -2.1, -1.9]})
    facts = pd.concat([fact_table("a", [0.6, 0.7, 0.65]), fact_table("b", [0.5, 0.5, 0.5])])
    assert spearman_effects(facts).effect.tolist() == pytest.approx([0.1, 0.2, 0.15, 0, 0, 0])
    found = ledger(table, facts, [FIRST]).verdict
    assert found[FIRST.title, "a"] == "holds"
    assert found[FIRST.title, "b"] == "turned round"
    assert found[FIRST.title, ELSEWHERE] == "open"
    assert found[SPEARMAN_TITLE, "b"] == "equal"


def test_what_decides_an_effect():
    rng = np.random.default_rng(2)
    count = 60
    facts = pd.DataFrame({"zoo": [f"z{k}" for k in range(count)]})
    facts["gap"] = 5 * rng.standard_normal(count)
    facts["spread"] = rng.standard_normal(count)
    noise = 0.1 * rng.standard_normal(count)
    effects = pd.DataFrame(
        {"zoo": facts.zoo, "design": ["a", "b"] * 30, "effect": 0.4 * facts.gap + noise}
    )
    found = moderators(effects, facts, ["gap", "spread"], resamples=200)
    assert found.change["gap"] == pytest.approx(0.4 * facts.gap.std(ddof=0), abs=0.1)
    assert found.low["gap"] < found.change["gap"] < found.high["gap"]
    assert found.low["spread"] < 0.1
    assert abs(found.change["spread"]) < 0.1
    assert found.alone["gap"] > 0.9
    with pytest.raises(ParameterError, match="the same in all zoos"):
        moderators(effects, facts.assign(spread=1.0), ["gap", "spread"])


def test_the_headline_has_each_convention():
    zoos = [(design, k) for design in "ab" for k in range(3)]
    rows = [
        {"zoo": f"{design}-{k}", "design": design, "recipe": recipe, "budget": 1}
        | {"test": 80.0 - 2 * number + 0.1 * k}
        for design, k in zoos
        for number, recipe in enumerate(["radin", *GREEDY_CONVENTIONS])
    ]
    found = headline(pd.DataFrame(rows), budgets=[1]).effect
    for number, name in enumerate(GREEDY_CONVENTIONS, start=1):
        assert found[name, 1, HERE] == pytest.approx(2 * number)


def test_regret_is_averaged_over_zoos():
    rows = [
        {"zoo": f"a-{k}", "design": design, "recipe": "radin", "budget": budget, "num_val": num_val}
        | {"val": 90.0, "test": 80.0 + k, "regret": budget + k / num_val}
        for design, zoos in (("a", (0, 1)), ("b", (2, 3)))
        for k in zoos
        for budget in (1, 2)
        for num_val in (1, 2)
    ]
    found = regret_curves(pd.DataFrame(rows))
    assert found.regret[1, 2] == pytest.approx(2 + 1.5)
    assert found.optimism[1, 2] == pytest.approx(10 - 1.5)
    assert found.zoos.tolist() == [4, 4, 4, 4]
    some = regret_curves(pd.DataFrame(rows), designs=["b"])
    assert some.regret[2, 1] == pytest.approx(1 + 2.5 / 2)
    assert (some.low < some.regret).all()
    with pytest.raises(DataError, match="no rows of random"):
        regret_curves(pd.DataFrame(rows), recipe="random")


def test_designs_can_count_the_same():
    table = recipe_table({"a": [1.0, 1.0, 1.0, 1.0], "b": [0.0, 6.0]})
    # The designs' means are 1 and 3, as in the test of Student's interval.
    wanted = pytest.approx((2.0, 2 - 12.706, 2 + 12.706), 1e-4)
    assert unweighted_interval(zoo_effects(table, FIRST)) == wanted


def test_the_change_of_regret_is_paired():
    rows = [
        {"zoo": zoo, "recipe": "radin", "num_val": num_val, "budget": budget}
        | {"regret": level + (step if budget == 32 else 0.0)}
        for num_val in (50, 100)
        for zoo, level, step in (("a", 5.0, -1.0), ("b", 0.5, 0.5), ("c", 2.0, 0.0))
        for budget in (1, 4, 32)
    ]
    found = regret_change(pd.DataFrame(rows))
    assert found.index.tolist() == [50, 100]
    assert found.change.tolist() == pytest.approx([-0.5 / 3] * 2)
    assert found.worse.tolist() == pytest.approx([100 / 3] * 2)
    assert found.zoos.tolist() == [3, 3]
    with pytest.raises(DataError, match="at the budgets 1 and 64"):
        regret_change(pd.DataFrame(rows), second=64)
