"""radin/experiments/bench/comparison.py: recipes side by side, with intervals."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

import radin
from radin.errors import ParameterError
from radin.experiments.bench import replay
from radin.experiments.intervals import paired_interval

PHOTO, SKETCH = (radin.SoupBench.load(f"pacs-{domain}") for domain in ("photo", "sketch"))


def everything(bank, ledger):
    return [1 / bank.num_models] * bank.num_models


def test_one_bench_has_an_interval_over_images():
    table = radin.compare(PHOTO, {"mine": everything, "best_single": "best_single"}, [1, 3])
    assert table.recipe.tolist() == ["radin", "mine", "best_single"] * 2
    assert table.budget.tolist() == [1] * 3 + [3] * 3
    assert set(table["interval over"]) == {"images"}
    rows = [replay.radin(PHOTO, 3)[-1], replay.uniform(PHOTO)]
    right = PHOTO.right("test", [int(row) for row in rows])
    mine = table.iloc[4]
    assert tuple(mine[["minus radin", "low", "high"]]) == paired_interval(right[1], right[0])
    assert mine["test (%)"] == PHOTO.soups("test")[rows[1]].item()
    assert mine["val (%)"] == PHOTO.soups("val")[rows[1]].item()
    assert mine["regret"] == PHOTO.regret(PHOTO.candidates[rows[1]])
    assert mine["evaluations"] == 1
    assert table.iloc[3][["minus radin", "low", "high"]].isna().all()
    assert table.iloc[3].verdict == ""


def test_sub_zoos_are_one_sample_of_images():
    table = radin.compare(PHOTO, {"mine": everything}, 1, against="best_single", sub_zoos=3)
    subsets = list(combinations(range(PHOTO.num_models), 3))
    soups, singles = [], []
    for members in subsets:
        soups.append(PHOTO.row_of(members))
        singles.append(PHOTO.row_of([max(members, key=lambda k: PHOTO.val.accuracies()[k])]))
    right = PHOTO.right("test", soups).T, PHOTO.right("test", singles).T
    mine = table.iloc[1]
    assert mine.zoos == len(subsets)
    assert tuple(mine[["minus best_single", "low", "high"]]) == paired_interval(*right)
    lead = PHOTO.soups("test")[soups] - PHOTO.soups("test")[singles]
    assert mine["ahead (%)"] == pytest.approx(100 * (lead > 0).double().mean().item())
    assert mine["behind (%)"] == pytest.approx(100 * (lead < 0).double().mean().item())


def test_several_benches_have_an_interval_over_zoos():
    table = radin.compare([PHOTO, "pacs-sketch"], [everything], 2, against="greedy")
    leads = np.array(
        [
            bench.soups("test")[replay.uniform(bench)].item()
            - bench.soups("test")[int(replay.greedy(bench, 2)[-1])].item()
            for bench in (PHOTO, SKETCH)
        ]
    )
    half = stats.t.ppf(0.975, 1) * leads.std(ddof=1) / 2**0.5
    mine = table.set_index("recipe").loc["everything"]
    assert mine["minus greedy"] == pytest.approx(leads.mean())
    assert (mine.low, mine.high) == pytest.approx((leads.mean() - half, leads.mean() + half))
    assert mine["interval over"] == "zoos"


def test_each_bench_counts_the_same():
    smaller = SKETCH.subset([0, 1, 2])
    table = radin.compare({"a": PHOTO, "b": smaller}, ["uniform"], 1, sub_zoos=3)
    means = [
        radin.compare(bench, ["uniform"], 1, sub_zoos=3).iloc[1]["test (%)"]
        for bench in (PHOTO, smaller)
    ]
    assert table.iloc[1]["test (%)"] == pytest.approx(sum(means) / 2)
    assert table.iloc[1]["minus radin"] == pytest.approx(
        table.iloc[1]["test (%)"] - table.iloc[0]["test (%)"]
    )


def test_options_of_craft():
    options = {"recipe": "radin", "prior": 100.0}
    table = radin.compare(PHOTO, {"radin, prior 100": options}, 1).set_index("recipe")
    assert table.loc["radin, prior 100", "ingredients"] == PHOTO.num_models
    assert table.loc["radin", "ingredients"] < PHOTO.num_models


def test_each_zoo_has_its_own_seed():
    first = radin.compare(PHOTO, {"random": "random"}, 1, against="best_single", sub_zoos=2)
    again = radin.compare(PHOTO, {"random": "random"}, 1, against="best_single", sub_zoos=2)
    assert first.equals(again)
    other = radin.compare(PHOTO, {"random": "random"}, 1, against="best_single", sub_zoos=2, seed=9)
    assert not first.equals(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], ["greedy"]), "needs a bench"),
        ((PHOTO, ["greeedy"]), "Unknown recipe 'greeedy'"),
        ((PHOTO, [everything, everything]), "have one name"),
        ((PHOTO, ["greedy"], 0), "budget"),
    ],
)
def test_what_is_impossible_is_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        radin.compare(*arguments)
    with pytest.raises(ParameterError, match="at most"):
        radin.compare(PHOTO, ["greedy"], sub_zoos=PHOTO.num_models + 1)
