"""The recipe safe: the best ingredient is never lost, and nothing is spent on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import random_bank
from radin import LogitBank, SoupBench, craft, exhaustive, fast_estimate
from radin.errors import ParameterError
from radin.experiments.bench import replay
from radin.experiments.bench.shipped import shipped_benches
from radin.ranking.named_metrics import ACCURACY, NLL
from radin.ranking.resampling import noise_of_difference
from radin.recipes.rules import safe_choices


def slow_safe(bank, table, budget: int, threshold: float) -> torch.Tensor:
    """The soup of safe by loops; the table gives the value of each bitmask."""
    rows = exhaustive(bank.num_models)
    singles = bank.accuracies().tolist()
    best = singles.index(max(singles))
    chosen, value = torch.eye(bank.num_models)[best], max(singles)
    losses = fast_estimate(bank, rows, "nll").tolist()
    mixes = [k for k in range(len(rows)) if (rows[k] > 0).sum() > 1]
    losses = NLL.comparable(fast_estimate(bank, rows, "nll"))
    mixes.sort(key=lambda k: (-losses[k], -int((rows[k] > 0).sum()), k))
    for k in mixes[:budget]:
        noise = noise_of_difference(bank, rows[k], chosen, ACCURACY)
        if round(table[k] - value, 9) > 0 and table[k] - value > threshold * noise:
            chosen, value = rows[k], table[k]
    return chosen


@given(
    num_models=st.integers(1, 4),
    seed=st.integers(0, 1000),
    budget=st.integers(1, 12),
    threshold=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)
@settings(max_examples=40, deadline=None)
def test_it_is_what_loops_choose(num_models, seed, budget, threshold):
    bank = random_bank(num_models, 30, seed=seed)
    rng = np.random.default_rng(seed)
    table = (100 * rng.integers(5, 20, 2**num_models - 1) / 30).tolist()
    seen = []

    def look_up(weights):
        members = (weights > 0).nonzero().flatten().tolist()
        seen.append(members)
        return table[sum(1 << k for k in members) - 1]

    soup = craft(bank, look_up, budget, "safe", threshold=threshold)
    assert torch.equal(soup.weights, slow_safe(bank, table, budget, threshold))
    assert all(len(members) > 1 for members in seen)  # nothing is spent on an ingredient alone
    assert soup.evaluations == len(seen) == min(budget, 2**num_models - 1 - num_models)
    assert soup.value >= bank.accuracies().max().item() - 1e-9
    assert not soup.trials[0].evaluated


@pytest.mark.parametrize("name", ["cifar10-wild", "pacs-photo", "pacs-sketch"])
@pytest.mark.parametrize("threshold", [0, 1])
def test_a_replay_is_craft_at_every_budget(name, threshold):
    bench = SoupBench.load(name)
    rows = replay.safe(bench, 9, threshold)
    for budget in (1, 2, 5, 9):
        soup = craft(bench.val, bench.evaluator(), budget, "safe", threshold=threshold)
        assert bench.row(soup.weights) == rows[budget - 1]


def test_a_replay_goes_on_where_no_soup_is_left():
    bench = SoupBench.load("pacs-photo").subset([0, 1])
    assert len(set(replay.safe(bench, 5).tolist())) == 1
    alone = bench.subset([1])
    assert replay.safe(alone, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", shipped_benches())
def test_it_is_never_worse_than_the_best_ingredient_on_validation(name):
    bench = SoupBench.load(name)
    for row in replay.safe(bench, 8):
        assert bench.soups("val")[row] >= bench.val.accuracies().max() - 1e-9


def answers(single_right: int, soup_right: int, *, differ: int = 10) -> tuple[LogitBank, float]:
    """Two ingredients on 100 images, the first right on some; and the soup's accuracy."""
    labels = torch.zeros(100, dtype=torch.int64)
    logits = torch.zeros(2, 100, 2)
    logits[0, :, 0] = torch.where(torch.arange(100) < single_right, 1.0, -1.0)
    logits[1] = -2 * logits[0]
    logits[1, differ:] = logits[0, differ:] / 2
    return LogitBank(logits, labels), float(soup_right)


@pytest.mark.parametrize(
    ("soup_right", "threshold", "members", "note"),
    [
        (60, 0, 1, "kept the best single: the best soup is 10.00 points behind it"),
        (70, 0, 1, "kept the best single: the best soup is 0.00 points behind it"),
        (72, 0, 2, r"the soup leads the best single by 2.00 points, 0.6 standard errors"),
        (72, 1, 1, r"kept the best single: the soup's lead of 2.00 points is 0.6 standard errors"),
        (80, 1, 2, r"the soup leads the best single by 10.00 points, 3.2 standard errors"),
    ],
)
def test_it_says_why(soup_right, threshold, members, note):
    bank, value = answers(70, soup_right)
    assert bank.accuracies().tolist() == [70, 60]
    soup = craft(bank, lambda weights: value, 1, "safe", threshold=threshold)
    assert len(soup.members) == members
    assert soup.note == note


def test_a_sample_of_images_adds_to_the_noise():
    bench = SoupBench.load("cifar10-wild")
    soup = craft(bench.val, bench.evaluator(share=0.3), 3, "safe")
    assert soup.trials[0].cost == 0
    assert soup.trials[1].cost == 1
    assert soup.evaluations > 3
    assert "the best single" in soup.note


def test_other_metrics_and_targets():
    bank = random_bank(3, 40)
    losses = iter([1.2, 0.9, 0.8, 1.0])
    soup = craft(bank, lambda weights: next(losses), 4, "safe", metric="nll")
    assert soup.value == min(0.8, *fast_estimate(bank, torch.eye(3), "nll").tolist())
    targets = LogitBank(torch.randn(3, 20, 1), torch.randn(20))
    errors = iter([9.0, 9.0])
    kept = craft(targets, lambda weights: next(errors), 2, "safe", metric="mean_squared_error")
    assert len(kept.members) == 1
    assert kept.note.startswith("kept the best single: the best soup is ")


def test_choices_ask_for_the_noise_only_where_it_decides():
    def never(one, other):
        raise AssertionError

    assert safe_choices([50, 40, 60, 60, 70], never) == [0, 0, 2, 2, 4]
    assert safe_choices([50, 40, 50], never, threshold=2) == [0, 0, 0]
    assert safe_choices([50, 60, 61], lambda one, other: 2, threshold=1) == [0, 1, 1]


@pytest.mark.parametrize("threshold", [-1, math.nan, math.inf, "two", True])
def test_impossible_thresholds(threshold):
    with pytest.raises(ParameterError, match="threshold must be a"):
        craft(random_bank(), lambda weights: 50.0, 1, "safe", threshold=threshold)
