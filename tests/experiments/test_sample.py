"""Benches that hold some soups of a zoo: which ones, and that all else works as on a whole one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tiny_split, tiny_zoo
from radin import SoupBench, Zoo, compare, craft, evaluator, monte_carlo, predict
from radin.errors import BankError, OffGridError, ParameterError
from radin.experiments.bench import replay
from radin.experiments.bench.lookup import bitmask_of, weights_of
from radin.experiments.bench.sample import PRIORS, sample_subsets

N = 6
VAL = tiny_split(40, seed=1)
TEST = tiny_split(50, seed=2, part="test")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"), N)


def build_bench(zoo: Zoo, subsets: torch.Tensor | None = None, cache: object = False) -> SoupBench:
    return SoupBench.build(
        zoo, VAL, TEST, device="cpu", subsets=subsets, cache=cache, progress=False
    )


@pytest.fixture(scope="module")
def whole(zoo) -> SoupBench:
    return build_bench(zoo)


@pytest.fixture(scope="module")
def subsets(zoo) -> torch.Tensor:
    bank = predict(zoo, VAL, device="cpu", progress=False)
    return sample_subsets(
        bank,
        evaluator(zoo, VAL, device="cpu"),
        num_random=12,
        budget=4,
        num_candidates=60,
        seed=3,
    )


@pytest.fixture(scope="module")
def some(zoo, subsets) -> SoupBench:
    return build_bench(zoo, subsets)


def test_the_recipes_find_what_they_ask_for(whole, some, subsets):
    assert N < len(subsets) < 2**N - 1
    candidates = monte_carlo(N, 60, seed=3)
    for prior in PRIORS:
        options = {"candidates": candidates, "prior": prior, "seed": 3}
        soups = [craft(bench.val, bench.evaluator(), 4, **options) for bench in (some, whole)]
        assert torch.equal(soups[0].weights, soups[1].weights)
    options = {"candidates": candidates, "seed": 3}
    soups = [craft(bench.val, bench.evaluator(), 4, "safe", **options) for bench in (some, whole)]
    assert torch.equal(soups[0].weights, soups[1].weights)
    for recipe in ("greedy", "top_k", "uniform", "best_single"):
        soups = [craft(bench.val, bench.evaluator(), N, recipe) for bench in (some, whole)]
        assert torch.equal(soups[0].weights, soups[1].weights)
        assert soups[0].accuracy == soups[1].accuracy
    assert set(subsets.tolist()) >= {1 << k for k in range(N)} | {2**N - 1}


def test_rows_are_those_of_the_whole_bench(whole, some, subsets):
    rows = subsets - 1
    assert torch.equal(some.candidates, whole.candidates[rows])
    assert torch.equal(some.sizes, whole.sizes[rows])
    for part in ("val", "test"):
        for metric in ("accuracy", "nll"):
            assert torch.equal(some.soups(part, metric), whole.soups(part, metric)[rows])
            assert torch.allclose(some.ensembles(part, metric), whole.ensembles(part, metric)[rows])
        assert torch.equal(some.right(part, [0, 3]), whole.right(part, rows[[0, 3]].tolist()))
    for row, weights in enumerate(some.candidates):
        assert some.row(weights) == row
    assert not some.is_complete
    assert whole.is_complete
    assert repr(some) == f"SoupBench(6 ingredients, {len(subsets)} of 63 soups)"


def test_a_soup_that_is_missing_is_named(some, subsets):
    missing = next(mask for mask in range(1, 2**N) if mask not in set(subsets.tolist()))
    members = [k for k in range(N) if missing >> k & 1]
    weights = weights_of(torch.tensor([missing]), N)[0]
    for use in (some.row, some.evaluator("val"), some.regret):
        with pytest.raises(OffGridError, match=f"holds {len(subsets)} of the 63 soups"):
            use(weights)
    assert bitmask_of(members) == missing


def test_replay_on_all_rows_that_are_there(some, whole, subsets):
    by_hand = sorted(
        range(len(subsets)),
        key=lambda row: (
            -some.ensembles("val")[row].item(),
            -some.sizes[row].item(),
            subsets[row].item(),
        ),
    )
    assert replay.order(some).tolist() == by_hand
    assert subsets[replay.greedy(some, N)].tolist() == (replay.greedy(whole, N) + 1).tolist()
    assert subsets[replay.uniform(some)] == 2**N - 1
    assert len(set(replay.random(some, 9, seed=1).tolist())) <= 9


def test_it_is_saved_and_resumed(zoo, some, subsets, tmp_path):
    path = some.save(tmp_path / "bench.safetensors")
    again = SoupBench.load(path)
    assert torch.equal(again.bitmasks, subsets)
    assert torch.equal(again.soups("test"), some.soups("test"))
    first = build_bench(zoo, subsets, tmp_path / "store")
    second = build_bench(zoo, subsets, tmp_path / "store")
    assert torch.equal(first.soups("test"), second.soups("test"))
    other = build_bench(zoo, subsets[::2].contiguous(), tmp_path / "store")
    assert torch.equal(other.soups("test"), some.soups("test")[::2])


@settings(max_examples=30)
@given(st.sets(st.integers(1, 2**N - 1), min_size=1), st.permutations(range(N)), st.integers(1, N))
def test_smaller_zoos_of_a_sampled_bench(whole, masks, order, size):
    subsets = torch.tensor(sorted(masks))
    rows = subsets - 1
    some = SoupBench(
        whole.val,
        whole.test,
        {part: whole._tables["soups"][part][rows] for part in ("val", "test")},
        subsets=subsets,
    )
    members = order[:size]
    kept = [mask for mask in masks if mask & ~bitmask_of(members) == 0]
    if not kept:
        return
    smaller = some.subset(members)
    reference = whole.subset(members)
    assert smaller.num_soups == len(kept)
    for row, weights in enumerate(smaller.candidates):
        expected = reference.soups("test")[reference.row(weights)]
        assert smaller.soups("test")[row] == expected
        assert some.soups("test")[some.rows_of_subset(members)[row]] == expected


@pytest.mark.parametrize("wrong", [[2, 1], [1, 1], [0, 1], [1, 64], []])
def test_bitmasks_that_are_none(whole, wrong):
    with pytest.raises(BankError, match="ascending bitmasks of 6 ingredients"):
        SoupBench(whole.val, whole.test, {}, subsets=torch.tensor(wrong, dtype=torch.int64))


def test_the_candidates_of_a_sample(whole, some, tmp_path):
    assert whole.candidates_for("radin") is None
    assert torch.equal(some.candidates_for("radin"), some.candidates)
    sample = {"num_random": 12, "num_candidates": 60, "seed": 3}
    told = SoupBench.load(some.save(tmp_path / "some.safetensors"))
    told.manifest["sampled"] = sample
    assert torch.equal(told.candidates_for("safe"), monte_carlo(N, 60, seed=3))
    drawn = told.candidates_for("random")
    craft(told.val, told.evaluator(), 12, "random", candidates=drawn)
    assert "sampled" not in told.subset(range(N - 1)).manifest
    with pytest.raises(ParameterError, match="sub_zoos needs a bench that holds all soups"):
        compare(told, ["greedy"], 2, sub_zoos=3)


@pytest.mark.parametrize("members", [[], [N], [-1], [0, 30]])
def test_what_is_no_ingredient_is_refused(whole, some, members):
    for bench in (whole, some):
        with pytest.raises(ParameterError, match="Ingredients are numbers from 0 to 5"):
            bench.row_of(members)
