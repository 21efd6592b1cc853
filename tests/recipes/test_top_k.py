"""The recipe top_k: what it looks at and returns, and the same in a replay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import radin
from radin.experiments.bench import replay
from radin.recipes.rules import top_k_choices

VALUES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=7)


@given(VALUES)
def test_the_choices_are_those_of_a_loop(values):
    found = [0]
    for k in range(1, len(values)):
        soups = values[1 : k + 1]
        best = 1 + soups.index(max(soups))
        found.append(best if values[best] >= values[0] else 0)
    assert top_k_choices(values) == found


@pytest.mark.parametrize("name", ["cifar10-wild", "pacs-sketch"])
def test_craft_and_replay_agree_at_each_budget(name):
    bench = radin.SoupBench.load(name)
    order = np.argsort(-bench.val.accuracies().numpy(), kind="stable")
    for budget, row in enumerate(replay.top_k(bench, bench.num_models + 1), start=1):
        soup = radin.craft(bench.val, bench.evaluator(), budget, "top_k")
        assert bench.row(soup.weights) == row
        assert soup.evaluations == min(budget, bench.num_models - 1)
        assert soup.value == max(trial.value for trial in soup.trials)
        for k, trial in enumerate(soup.trials, start=1):
            assert sorted(order[:k]) == trial.weights.nonzero().flatten().tolist()


def test_a_zoo_of_one():
    bench = radin.SoupBench.load("pacs-sketch").subset([2])
    assert radin.craft(bench.val, bench.evaluator(), 3, "top_k").members == [0]
    assert replay.top_k(bench, 3).tolist() == [0, 0, 0]
