"""radin/experiments/bench/replay.py: the same answers as `craft`, at every budget."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import tied_banks
from radin import LogitBank, SoupBench, craft, exhaustive, monte_carlo
from radin.errors import ParameterError
from radin.experiments.bench import replay
from radin.recipes.rules import GreedyRules


@st.composite
def benches(draw: st.DrawFn) -> SoupBench:
    """Benches with many ties: few images, logits that are integers, equal soups and singles."""
    bank = draw(tied_banks())
    rows = 2**bank.num_models - 1
    tables = {}
    for part in ("val", "test"):
        hits = torch.tensor(
            draw(st.lists(st.integers(0, bank.num_images), min_size=rows, max_size=rows))
        )
        accuracy = hits.double() * 100 / bank.num_images
        accuracy[[2**k - 1 for k in range(bank.num_models)]] = bank.accuracies().double()
        tables[part] = torch.stack([accuracy, torch.zeros(rows, dtype=torch.float64)], 1)
    return SoupBench(bank, bank, tables)


@given(benches(), st.integers(1, 12), st.sampled_from([0.0, 1.0, 30.0]))
def test_radin_is_what_craft_returns(bench, budget, prior):
    rows = replay.radin(bench, budget, prior)
    assert len(rows) == budget
    for allowed in {1, budget}:
        soup = craft(bench.val, bench.evaluator(), allowed, prior=prior)
        assert rows[allowed - 1] == bench.row(soup.weights)


@given(benches(), st.integers(1, 12), st.sampled_from([0.0, 1.0]))
def test_radin_with_free_singles_is_what_craft_returns(bench, budget, prior):
    rows = replay.radin(bench, budget, prior, free_singles=True)
    paid_for = replay.radin(bench, budget, prior)
    soups = bench.soups("val").round(decimals=9)
    for allowed in {1, budget}:
        soup = craft(bench.val, bench.evaluator(), allowed, prior=prior, free_singles=True)
        assert rows[allowed - 1] == bench.row(soup.weights)
        assert soup.evaluations <= allowed
        assert all(trial.evaluated == (trial.weights.max() < 1) for trial in soup.trials)
        # It looks at all that RADIN looks at, and may see more.
        assert soups[rows[allowed - 1]] >= soups[paid_for[allowed - 1]]


@given(benches(), st.integers(1, 12), st.integers(1, 20), st.integers(0, 5))
def test_free_singles_among_monte_carlo_candidates(bench, budget, num_candidates, seed):
    candidates = monte_carlo(bench.num_models, num_candidates, seed)
    among = np.array([bench.row(weights) for weights in candidates])
    soup = craft(bench.val, bench.evaluator(), budget, candidates=candidates, free_singles=True)
    rows = replay.radin(bench, budget, among=among, free_singles=True)
    assert rows[-1] == bench.row(soup.weights)


@given(benches(), st.integers(1, 12), st.integers(1, 20), st.integers(0, 5))
def test_radin_on_monte_carlo_candidates(bench, budget, num_candidates, seed):
    among = replay.monte_carlo_rows(bench, num_candidates, seed)
    candidates = monte_carlo(bench.num_models, num_candidates, seed)
    assert among.tolist() == [bench.row(weights) for weights in candidates]
    soup = craft(bench.val, bench.evaluator(), budget, candidates=candidates)
    assert replay.radin(bench, budget, among=among)[-1] == bench.row(soup.weights)


@given(benches(), st.integers(1, 12), st.integers(1, 20), st.integers(0, 5))
def test_safe_and_random_on_monte_carlo_candidates(bench, budget, num_candidates, seed):
    candidates = monte_carlo(bench.num_models, num_candidates, seed).unique(dim=0)
    among = np.array([bench.row(weights) for weights in candidates])
    for recipe, rows in {
        "safe": replay.safe(bench, budget, among=among),
        "random": replay.random(bench, budget, seed, among=among),
    }.items():
        options = {"candidates": candidates, "seed": seed}
        soup = craft(bench.val, bench.evaluator(), budget, recipe, **options)
        assert rows[-1] == bench.row(soup.weights), recipe


@given(benches(), st.integers(1, 12))
def test_greedy_is_what_craft_returns(bench, budget):
    rows = replay.greedy(bench, budget)
    assert len(rows) == budget
    for allowed in range(1, budget + 1):
        soup = craft(bench.val, bench.evaluator(), allowed, recipe="greedy")
        assert rows[allowed - 1] == bench.row(soup.weights)


@given(benches(), st.integers(1, 12), st.sampled_from(["none", "start", "all"]))
def test_greedy_by_other_rules_is_what_craft_returns(bench, budget, paid):
    rules = GreedyRules(order="worst_first", paid=paid, keep="better")
    rows = replay.greedy(bench, budget, rules=rules)
    for allowed in range(1, budget + 1):
        soup = craft(bench.val, bench.evaluator(), allowed, "greedy", greedy_rules=rules)
        assert soup.evaluations <= allowed
        assert rows[allowed - 1] == bench.row(soup.weights)


@given(benches())
def test_what_needs_no_budget(bench):
    assert replay.best_single(bench) == bench.row(
        craft(bench.val, bench.evaluator(), 1, "best_single").weights
    )
    assert replay.uniform(bench) == bench.row(
        craft(bench.val, bench.evaluator(), 1, "uniform").weights
    )
    assert replay.oracle(bench) == bench.row(bench.oracle[0])


@given(benches(), st.integers(1, 40), st.integers(0, 9))
def test_random_evaluates_different_soups(bench, budget, seed):
    rows = replay.random(bench, budget, seed)
    val = bench.soups("val").numpy()
    assert (np.diff(val[rows]) >= 0).all()  # more budget, no worse on validation
    if budget >= len(val):
        assert val[rows[-1]] == val.max()
    assert (rows == replay.random(bench, budget, seed)).all()


@given(benches(), st.integers(1, 12))
def test_any_score_can_rank(bench, budget):
    scores = np.arange(2**bench.num_models - 1)[::-1]  # the lowest bitmask first
    val = bench.soups("val").numpy().round(9)
    rows = replay.radin(bench, budget, scores=scores)
    for b in range(1, budget + 1):
        assert rows[b - 1] == val[:b].argmax()
    with pytest.raises(ParameterError, match="one number for each"):
        replay.radin(bench, budget, scores=scores[:-1] if len(scores) > 1 else np.zeros(2))


def test_the_mean_of_the_members():
    logits = torch.tensor(
        [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]
    )
    bank = LogitBank(logits, [0, 0])
    table = torch.zeros(7, 2)
    bench = SoupBench(bank, bank, {"val": table, "test": table})
    means = replay.member_means(bench)
    wanted = [bank.accuracies()[weights > 0].mean().item() for weights in exhaustive(3)]
    assert means.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("budget", [0, -1, 1.5])
def test_impossible_budgets(budget):
    bank = LogitBank(torch.eye(2).unsqueeze(0), [0, 0])
    bench = SoupBench(bank, bank, {part: torch.tensor([[50.0, 0.8]]) for part in ("val", "test")})
    for recipe in (replay.radin, replay.random, replay.greedy):
        with pytest.raises(ParameterError, match="budget must be a whole number of at least 1"):
            recipe(bench, budget)


@given(benches(), st.integers(1, 5))
def test_over_sub_zoos_is_a_loop_over_smaller_zoos(bench, size):
    recipes = {"radin": lambda sub: replay.radin(sub, 2)[-1], "uniform": replay.uniform}
    found = replay.over_sub_zoos(bench, size, recipes)
    zoos = list(combinations(range(bench.num_models), size))
    assert all(len(rows) == len(zoos) for rows in found.values())
    for z, members in enumerate(zoos):
        everyone = torch.zeros(bench.num_models)
        everyone[list(members)] = 1 / size
        assert found["uniform"][z] == bench.row(everyone)
        bank = LogitBank(bench.val.logits[list(members)], bench.val.labels)

        def evaluate(weights: torch.Tensor, members: tuple[int, ...] = members) -> float:
            whole = torch.zeros(bench.num_models)
            whole[list(members)] = weights
            return bench.evaluator()(whole)

        soup = craft(bank, evaluate, 2)
        whole = torch.zeros(bench.num_models)
        whole[list(members)] = soup.weights
        assert found["radin"][z] == bench.row(whole)
