"""radin/experiments/bench/summary.py: two tables of a bench, against the numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import spearmanr

from radin import SoupBench, craft
from radin.errors import BankError
from radin.experiments.bench.summary import (
    planned_contrasts,
    recipe_table,
    task_cosines,
    zoo_facts,
)
from radin.experiments.intervals import paired_interval


@pytest.fixture(scope="module")
def bench() -> SoupBench:
    return SoupBench.load("cifar10-wild")


def test_each_row_is_what_the_recipe_returns(bench):
    table = recipe_table(bench)
    single = bench.row(craft(bench.val, bench.evaluator(), 1, "best_single").weights)
    for name, recipe, budget in (
        ("greedy, B = 4", "greedy", 4),
        ("radin, B = 1", "radin", 1),
        ("radin, B = 4", "radin", 4),
        ("uniform", "uniform", 1),
    ):
        soup = craft(bench.val, bench.evaluator(), budget, recipe, candidates=bench.candidates)
        row = bench.row(soup.weights)
        entry = table.loc[name]
        assert entry["test (%)"] == bench.soups("test")[row].item()
        assert entry["val (%)"] == bench.soups("val")[row].item()
        assert entry["ingredients"] == len(soup.members)
        expected = paired_interval(*bench.right("test", [row, single]))
        assert (entry["minus best single"], entry["low"], entry["high"]) == expected
    assert table.loc["oracle", "regret"] == 0
    assert math.isnan(table.loc["ensemble of all", "regret"])
    assert math.isnan(table.loc["best single", "low"])


def test_facts_are_those_of_the_tables(bench):
    facts = zoo_facts(bench)
    several = [row for row in range(bench.num_soups) if bench.sizes[row] > 1]
    gaps = [(bench.soups("test")[row] - bench.ensembles("test")[row]).item() for row in several]
    assert facts["gap"] == pytest.approx(sum(gaps) / len(gaps))
    expected = spearmanr(
        [bench.ensembles("val")[row] for row in several],
        [bench.soups("test")[row] for row in several],
    ).statistic
    assert facts["spearman"] == pytest.approx(expected)
    assert "cosine" not in facts  # this manifest does not know the weights


def test_facts_of_weights_come_from_the_manifest(bench):
    known = SoupBench(
        bench.val,
        bench.test,
        bench._tables["soups"],
        manifest={
            "task_vectors": [[4.0, 1.0], [1.0, 1.0]],
            "distances": [0.1, 0.3],
            "seconds": {"ingredients": [1.0, 2.0], "soups": 4.0},
        },
    )
    facts = zoo_facts(known)
    assert facts["cosine"] == pytest.approx(0.5)
    assert facts["distance"] == pytest.approx(20)
    assert facts["seconds"] == 7.0
    assert facts["best_single"] == torch.as_tensor(bench.test.accuracies()).max().item()


def test_planned_contrasts_are_those_of_the_recipes(bench):
    contrasts = planned_contrasts(bench)
    assert list(contrasts) == [
        f"RADIN − {rival}, B = {budget}" for budget in (1, 4) for rival in ("best single", "greedy")
    ]
    evaluate = bench.evaluator("val")
    rows = [
        bench.row(craft(bench.val, evaluate, recipe=recipe, budget=4).weights)
        for recipe in ("radin", "greedy")
    ]
    assert contrasts["RADIN − greedy, B = 4"] == paired_interval(*bench.right("test", rows))


def test_cosines_are_those_of_the_ingredients_that_are_left(bench):
    gram = [[4.0, 1.0, 0.0], [1.0, 1.0, 0.6], [0.0, 0.6, 9.0]]
    three = bench.subset([0, 1, 2])
    three.manifest |= {"task_vectors": gram, "distances": [0.1, 0.2, 0.3]}
    two = three.subset([2, 1])
    assert two.manifest["distances"] == [0.3, 0.2]
    assert task_cosines(two)[0].tolist() == pytest.approx([1, 0.2])
    assert task_cosines(three)[0].tolist() == pytest.approx([1, 0.5, 0])
    with pytest.raises(BankError, match="task vectors"):
        task_cosines(bench)
