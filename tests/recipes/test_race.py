"""radin/recipes/race.py: racing, against evaluating everything, and what it may not do."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import random_bank, tiny_split, tiny_zoo
from radin import LogitBank, SoupBench, craft, evaluator, exhaustive, fast_estimate, predict
from radin.errors import ParameterError
from radin.experiments.bench.tabulate import pack_bits
from radin.ranking.named_metrics import NLL
from radin.recipes.rules import RaceRules

ALL_IN_FULL = RaceRules(share=1, threshold=math.inf)


def random_bench(num_models: int, num_images: int, seed: int, *, apart: float = 0.3) -> SoupBench:
    """A bench whose soups are right where their ensembles are, but for a share of the images."""
    bank = random_bank(num_models, num_images, 3, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    rows = exhaustive(num_models)
    outputs = torch.einsum("rk,knc->rnc", rows, bank.logits.float())
    right = outputs.argmax(-1) == bank.labels
    right ^= torch.rand(right.shape, generator=rng) < apart
    singles = [2**k - 1 for k in range(num_models)]
    right[singles] = bank.logits.argmax(-1) == bank.labels
    table = torch.stack([right.double().mean(1) * 100, torch.zeros(len(rows))], 1)
    packed = pack_bits(right)
    return SoupBench(
        bank, bank, {"val": table, "test": table}, right={"val": packed, "test": packed}
    )


class Recording:
    """The evaluator of a bench, which keeps on how many images each soup was run."""

    def __init__(self, bench: SoupBench) -> None:
        self.table = bench.evaluator()
        self.metric = self.table.metric
        self.partial = None
        self.images: dict[int, list[int]] = {}

    def image_values(self, soups, images, *, bank):
        for weights in soups:
            ran = range(bank.num_images) if images is None else images
            self.images.setdefault(self.table.bench.row(weights), []).extend(ran)
        return self.table.image_values(soups, images, bank=bank)


zoos = {"num_models": st.integers(1, 4), "num_images": st.integers(5, 60)}
rules_of_any_kind = st.builds(
    RaceRules,
    share=st.floats(0.01, 1),
    growth=st.floats(1.1, 5),
    threshold=st.one_of(st.floats(0, 5), st.just(math.inf)),
    candidates_per_pass=st.floats(1, 8),
)


@given(**zoos, seed=st.integers(0, 999), budget=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_without_dropping_it_is_all_candidates_in_full(num_models, num_images, seed, budget):
    bench = random_bench(num_models, num_images, seed)
    found = craft(bench.val, bench.evaluator(), budget, "race", race_rules=ALL_IN_FULL)
    rows = [row for row in range(bench.num_soups) if bench.sizes[row] > 1]
    losses = NLL.comparable(fast_estimate(bench.val, bench.candidates, NLL))
    rows.sort(key=lambda row: (-losses[row], -int(bench.sizes[row]), row))
    values = bench.soups("val").tolist()
    best = max(values[row] for row in rows[:budget]) if rows else -1.0
    best = max(best, bench.val.accuracies().max().item())
    assert found.value == pytest.approx(best)
    assert bench.soups("val")[bench.row(found.weights)] == pytest.approx(best)
    assert found.evaluations == min(budget, len(rows))
    safe = craft(bench.val, bench.evaluator(), budget, "safe")
    assert torch.equal(found.weights, safe.weights)


@given(
    **zoos,
    seed=st.integers(0, 999),
    budget=st.integers(1, 9),
    rules=rules_of_any_kind,
    sample=st.integers(0, 9),
)
@settings(max_examples=100, deadline=None)
def test_it_runs_no_more_than_it_pays_for(num_models, num_images, seed, budget, rules, sample):
    bench = random_bench(num_models, num_images, seed)
    evaluate = Recording(bench)
    soup = craft(bench.val, evaluate, budget, "race", race_rules=rules, seed=sample)
    ran = sum(len(images) for images in evaluate.images.values())
    assert soup.forward_equivalents == pytest.approx(ran / num_images)
    assert soup.forward_equivalents <= budget
    assert sum((t.cost for t in soup.trials), Fraction(0)) == Fraction(ran, num_images)
    for row, images in evaluate.images.items():
        assert len(images) == len(set(images)) <= num_images  # no image twice
        assert bench.sizes[row] > 1  # nothing is spent on an ingredient alone
    several = 2**num_models - 1 - num_models
    assert soup.evaluations == len(evaluate.images) <= min(rules.num_soups(budget), several)
    whole = [t for t in soup.trials if t.cost == 1]
    for trial in whole:
        assert trial.value == pytest.approx(bench.soups("val")[bench.row(trial.weights)].item())
        assert trial.standard_error == 0
    assert any(torch.equal(soup.weights, trial.weights) for trial in soup.trials)


@pytest.mark.parametrize("name", ["cifar10-wild", "pacs-photo", "pacs-sketch"])
def test_on_real_zoos_it_is_as_good_as_its_soups_in_full(name):
    """Within the noise of validation, for a third of the passes."""
    bench = SoupBench.load(name)
    for seed in range(3):
        raced = craft(bench.val, bench.evaluator(), 4, "race", seed=seed)
        full = craft(bench.val, bench.evaluator(), RaceRules().num_soups(4), "safe")
        reached = bench.soups("val")[bench.row(raced.weights)].item()
        assert reached >= full.value - 100 / math.sqrt(4 * bench.val.num_images)
        assert raced.forward_equivalents <= 4 < full.forward_equivalents


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"threshold": 0.0}, "the leader is clear"),
        ({"threshold": math.inf, "share": 0.5}, "the budget is spent"),
        ({"threshold": math.inf, "candidates_per_pass": 1.0}, "all images were run"),
    ],
)
def test_it_says_why_it_ended(options, note):
    bench = random_bench(4, 60, 3)
    soup = craft(bench.val, bench.evaluator(), 5, "race", race_rules=RaceRules(**options))
    assert note in soup.note
    assert "soups raced against the first one and the best single" in soup.note


def test_many_soups_start_on_few_images():
    bench = random_bench(4, 60, 1)
    soup = craft(bench.val, bench.evaluator(), 3, "race")
    assert soup.evaluations == 7
    costs = [trial.cost for trial in soup.trials]
    assert costs[:2] == [0, 1]
    assert 0 < min(costs[2:]) < 1
    assert all(t.standard_error > 0 for t in soup.trials[2:] if t.cost < 1)


def test_live_races_are_those_of_the_table(tmp_path):
    zoo, split = tiny_zoo(tmp_path), tiny_split(60)
    bank = predict(zoo, split, "cpu", cache=False, progress=False)
    bench = SoupBench.build(zoo, split, split, device="cpu", progress=False, cache=False)
    live = craft(bank, evaluator(zoo, split, "cpu"), 3, "race", seed=2)
    table = craft(bench.val, bench.evaluator(), 3, "race", seed=2)
    assert torch.equal(live.weights, table.weights)
    assert live.value == pytest.approx(table.value)
    assert live.note == table.note
    assert craft(bank, evaluator(zoo, split, "cpu", metric="nll"), 2, "race").metric == NLL


def test_what_cannot_race():
    bench = random_bench(3, 30, 0)
    with pytest.raises(ParameterError, match="race runs soups on single images"):
        craft(bench.val, lambda weights: 50.0, 2, "race")
    with pytest.raises(ParameterError, match="race chooses its images itself"):
        craft(bench.val, bench.evaluator(share=0.3), 2, "race")
    with pytest.raises(ParameterError, match="a mean over images, such as accuracy"):
        craft(bench.val, lambda weights: 50.0, 2, "race", metric="macro_f1")
    targets = LogitBank(torch.randn(3, 20, 1), torch.randn(20))
    with pytest.raises(ParameterError, match="race needs a metric"):
        craft(targets, lambda weights: 1.0, 2, "race", metric="mean_squared_error")


@pytest.mark.parametrize(
    "options",
    [
        {"share": 0},
        {"share": 1.1},
        {"growth": 1},
        {"threshold": -1},
        {"threshold": math.nan},
        {"candidates_per_pass": 0.5},
        {"candidates_per_pass": math.inf},
    ],
)
def test_impossible_rules(options):
    with pytest.raises(ParameterError, match=f"{next(iter(options))} of a race must be"):
        RaceRules(**options)
