"""radin/inference/partial.py: soups on a share of the images, live, on benches and in craft."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import joblib
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import Listed, random_bank, save_states, tiny_split, tiny_zoo
from radin import LogitBank, SoupBench, Zoo, average, craft, evaluator, exhaustive, predict
from radin.errors import BankError, BudgetError, ParameterError
from radin.inference.evaluate import LiveEvaluator
from radin.inference.partial import PartialEvaluations
from radin.ranking.named_metrics import ACCURACY, find_metric
from radin.ranking.projection import Projection
from radin.recipes.ledger import Ledger

SPLIT = tiny_split(60)
UNIFORM = torch.full((3,), 1 / 3)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def bank(zoo) -> LogitBank:
    return predict(zoo, SPLIT, "cpu", cache=False, progress=False)


def partial_evaluator(zoo, split, bank, share=0.3, ratio=math.inf, **options):
    return evaluator(zoo, split, "cpu", bank=bank, share=share, max_noise_ratio=ratio, **options)


def slow_estimate(whole_values, ensemble_values, sample) -> float:
    """The estimate by a loop over the images that were run."""
    total = sum(ensemble_values.tolist())
    for i, chance in zip(sample.indices.tolist(), sample.chances.tolist(), strict=True):
        total += (whole_values[i].item() - ensemble_values[i].item()) / chance
    return total / len(ensemble_values)


@given(
    share=st.floats(0.05, 1),
    seed=st.integers(0, 50),
    metric=st.sampled_from(["accuracy", "nll", "top2_accuracy"]),
)
@settings(max_examples=25)
def test_many_soups_are_those_of_a_loop(share, seed, metric):
    bank = random_bank(num_models=3, num_images=30, num_classes=4, seed=seed)
    found = find_metric(metric)
    rng = torch.Generator().manual_seed(seed + 1000)
    logits = torch.randn(7, 30, 4, generator=rng)
    values = torch.stack([found.per_image(each[None].double(), bank.labels)[0] for each in logits])
    evaluations = PartialEvaluations(bank, found, share=share, seed=seed, max_noise_ratio=math.inf)

    def run(soups, images):
        rows = values[list(soups)]
        return rows if images is None else rows[:, images]

    rows = exhaustive(3)
    answers = evaluations.evaluate(list(rows), run)
    sample = evaluations._sample
    whole = values.mean(1).tolist()
    p = rows.double() / rows.double().sum(1, keepdim=True)
    for k, (answer, record) in enumerate(zip(answers, evaluations.evaluations, strict=True)):
        assert answer == record.value
        if k == 2 or len(sample.indices) == 30:  # number 2 is the first of two ingredients
            assert (answer, record.standard_error, record.cost) == (pytest.approx(whole[k]), 0, 1)
            assert record.num_images == 30
            continue
        ensemble = torch.einsum("k,knc->nc", p[k], bank.logits.double())
        ensemble_values = found.per_image(ensemble[None], bank.labels)[0]
        assert answer == pytest.approx(slow_estimate(values[k], ensemble_values, sample))
        assert record.cost == Fraction(record.num_images, 30) < 1
        assert record.standard_error > 0


@pytest.mark.parametrize("name", ["cifar10-wild", "pacs-photo"])
def test_answers_have_no_bias_over_samples(name):
    """On real zoos, tame and wild; the error is the standard error, and intervals hold."""
    bench = SoupBench.load(name)
    rows = bench.candidates[[2, 6, 14, 42]]
    whole = [bench.evaluator()(weights) for weights in rows]
    off = [[] for _ in rows]
    covered = []
    for seed in range(25):
        evaluate = bench.evaluator(share=0.3, seed=seed, max_noise_ratio=math.inf)
        evaluate(bench.candidates[-1])
        for k, weights in enumerate(rows):
            off[k].append(evaluate(weights) - whole[k])
            covered.append(abs(off[k][-1]) <= 1.96 * evaluate.standard_error)
    for errors in off:
        spread = max(statistics.stdev(errors), 1e-9)
        assert abs(statistics.fmean(errors)) < 4 * spread / math.sqrt(len(errors))
    assert statistics.fmean(covered) > 0.88


def test_a_share_of_one_is_the_whole_evaluation(zoo, bank):
    bench = SoupBench.load("pacs-sketch")
    whole, table = bench.evaluator(), bench.evaluator(share=1)
    assert all(table(weights) == whole(weights) for weights in bench.candidates)
    live, with_bank = evaluator(zoo, SPLIT, "cpu"), partial_evaluator(zoo, SPLIT, bank, share=1.0)
    rows = list(exhaustive(3))
    assert with_bank.many(rows) == live.many(rows)
    assert {each.cost for each in with_bank.partial.evaluations} == {1}
    assert with_bank.standard_error == 0


def test_only_the_chosen_images_are_read(zoo, bank):
    images = Listed(SPLIT)
    evaluate = partial_evaluator(zoo, images, bank)
    images.asked.clear()
    evaluate(UNIFORM)
    assert sorted(images.asked) == list(range(60))
    images.asked.clear()
    evaluate([0.5, 0.5, 0.0])
    assert len(images.asked) == len(set(images.asked)) == 18
    assert images.asked == evaluate.partial._sample.indices.tolist()
    images.asked.clear()
    evaluate.many([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
    assert len(images.asked) == 18  # one pass for both
    assert [each.num_images for each in evaluate.partial.evaluations] == [60, 18, 18, 18]
    assert evaluate.partial.cost == Fraction(19, 10)


def test_live_answers_are_those_of_the_table(zoo, bank):
    bench = SoupBench.build(zoo, SPLIT, SPLIT, device="cpu", progress=False, cache=False)
    live = partial_evaluator(zoo, SPLIT, bank, seed=5)
    table = bench.evaluator(share=0.3, seed=5, max_noise_ratio=math.inf)
    rows = list(exhaustive(3).flip(0))
    assert live.many(rows) == pytest.approx([table(weights) for weights in rows])
    assert live.partial.evaluations == pytest.approx(table.partial.evaluations)
    assert table.count == len(rows)


def test_workers_give_the_same(zoo, bank):
    rows = list(exhaustive(3).flip(0))
    alone = partial_evaluator(zoo, SPLIT, bank).many(rows)
    with joblib.parallel_config("threading", n_jobs=2):
        assert partial_evaluator(zoo, SPLIT, bank).many(rows) == alone


def test_a_state_dict_is_run_on_all_images(zoo, bank):
    evaluate, state = partial_evaluator(zoo, SPLIT, bank), average(zoo, UNIFORM)
    whole = evaluator(zoo, SPLIT, "cpu")(UNIFORM)
    values = evaluate.many([state, UNIFORM, state, [0.5, 0.5, 0.0]])
    assert values[:3] == [whole] * 3
    assert [each.cost == 1 for each in evaluate.partial.evaluations] == [True, True, True, False]


def differing(bank: LogitBank, count: int, *, at_end: bool) -> torch.Tensor:
    """A run of soups that are wrong where the ensemble is right, on `count` images."""
    right = bank.logits.double().mean(0).argmax(-1) == bank.labels
    order = PartialEvaluations(bank, ACCURACY, share=0.3)._order.ranks.argsort()
    order = order.flip(0) if at_end else order
    values = 100 * right.double()
    values[order[right[order]][:count]] = 0
    return values


def test_refreshed_batch_norm_and_projections(tmp_path):
    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))  # noqa: E731
    states = [make().state_dict() for _ in range(3)]
    normed = Zoo.open(save_states(tmp_path, *states), make, progress=False)
    split = tiny_split(60)
    split.projection = Projection([[0, 1], [2]], 3)
    split.labels = split.labels.clamp(max=1)
    split.class_names = ["a", "b"]
    bank = predict(normed, split, "cpu", cache=False, progress=False)
    options = {"refresh": tiny_split(40, seed=9)}
    live = partial_evaluator(normed, split, bank, share=0.5, **options)
    rows = list(exhaustive(3).flip(0))
    values = live.many(rows)
    whole = evaluator(normed, split, "cpu", **options)
    for weights, value, record in zip(rows, values, live.partial.evaluations, strict=True):
        exact = whole(weights)
        if record.cost == 1:
            assert value == exact
        assert abs(value - exact) <= 6 * record.standard_error + 1e-9
    assert [each.num_images for each in live.partial.evaluations] == [60, *[30] * 6]


@pytest.mark.parametrize(("at_end", "grows"), [(False, False), (True, True)])
def test_the_share_grows_where_soups_differ_in_the_tail(at_end, grows):
    bank = random_bank(num_models=3, num_images=200, seed=1)
    values = differing(bank, 10, at_end=at_end)
    evaluations = PartialEvaluations(bank, ACCURACY, share=0.3)
    evaluations.evaluate([UNIFORM], lambda soups, images: values[None])
    assert (evaluations.share > 0.3) is grows
    assert ("raised from 0.3" in evaluations.report() or "all images" in evaluations.report()) is (
        grows
    )
    fixed = PartialEvaluations(bank, ACCURACY, share=0.3, max_noise_ratio=math.inf)
    fixed.evaluate([UNIFORM], lambda soups, images: values[None])
    assert fixed.share == 0.3


def test_a_single_ingredient_says_nothing_about_the_share():
    bank = random_bank(num_models=3, num_images=200, seed=1)
    values = differing(bank, 10, at_end=True)
    evaluations = PartialEvaluations(bank, ACCURACY, share=0.3)
    evaluations.evaluate([torch.eye(3)[0]], lambda soups, images: values[images][None])
    assert evaluations.evaluations[0].num_images == 60
    assert evaluations.next_costs == (1, Fraction(3, 10))
    assert evaluations.finding == ""


# Recipes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["radin", "greedy", "random"])
@pytest.mark.parametrize("name", ["cifar10", "cifar10-wild"])
def test_a_budget_pays_for_more_soups(name, recipe):
    bench = SoupBench.load(name)
    soup = craft(bench.val, bench.evaluator(share=0.3), budget=3, recipe=recipe)
    costs = [trial.cost for trial in soup.trials]
    assert 2 < soup.forward_equivalents == float(sum(costs)) <= 3
    assert soup.evaluations > 3
    assert costs.count(Fraction(1)) == 1
    assert costs[-1] >= Fraction(3, 10)
    assert ("raised from 0.3" in soup.note) is (costs[-1] > Fraction(3, 10))
    if name == "cifar10-wild":
        assert costs[-1] > Fraction(3, 10)
    assert all((t.standard_error > 0) is (0 < t.cost < 1) for t in soup.trials)
    assert f"{soup.evaluations} soups evaluated in " in str(soup)


def test_craft_with_a_live_share(zoo, bank):
    evaluate = partial_evaluator(zoo, SPLIT, bank)
    assert isinstance(evaluate, LiveEvaluator)
    soup = craft(bank, evaluate, budget=2)
    costs = [trial.cost for trial in soup.trials]
    mixes = [len(trial.weights.nonzero()) > 1 for trial in soup.trials]
    first = mixes.index(True)
    assert costs[first] == 1
    assert set(costs[:first] + costs[first + 1 :]) == {Fraction(3, 10)}
    assert len(costs) == 4
    learned = craft(bank, partial_evaluator(zoo, SPLIT, bank), budget=4, recipe="learned")
    assert learned.forward_equivalents == 4
    assert learned.trials[0].cost == 1


def test_the_ledger_cannot_be_overspent():
    bench = SoupBench.load("pacs-photo")
    book = Ledger(bench.val, bench.evaluator(share=0.3, max_noise_ratio=math.inf), budget=2)
    cost = Fraction(246, 822)
    assert book.left == 4
    with pytest.raises(BudgetError, match="budget of 2 evaluations is spent"):
        book.spend_many(bench.candidates[-5:])
    assert book.forward_equivalents == 1 + 3 * cost
    assert (book.left, book.passes_left) == (0, 0)


def test_answers_outside_the_range_are_booked_at_its_end():
    bank = random_bank(num_models=3, num_images=50)
    evaluate = type("Evaluate", (), {"__call__": lambda self, weights: 100.7})()
    evaluate.partial = PartialEvaluations(bank, ACCURACY, share=1.0)
    evaluate.partial.evaluate([UNIFORM], lambda soups, images: torch.full((1, 50), 100.0))
    assert Ledger(bank, evaluate, budget=1).spend(UNIFORM) == 100


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 1.5, -1, math.nan, "half", True])
def test_impossible_shares(zoo, bank, share):
    with pytest.raises(ParameterError, match="share must be a number above 0 and at most 1"):
        partial_evaluator(zoo, SPLIT, bank, share=share)


def test_what_a_share_needs(zoo, bank):
    with pytest.raises(ParameterError, match="share=0.3 needs the logit bank"):
        evaluator(zoo, SPLIT, "cpu", share=0.3)
    with pytest.raises(ParameterError, match="mean over images.*macro_f1 is evaluated on all"):
        partial_evaluator(zoo, SPLIT, bank, metric="macro_f1")
    with pytest.raises(ParameterError, match="max_noise_ratio must be above 0"):
        partial_evaluator(zoo, SPLIT, bank, ratio=0.0)
    with pytest.raises(ParameterError, match="bank holds 3 ingredients and 60 images.*20"):
        partial_evaluator(zoo, tiny_split(20), bank)
    with pytest.raises(BankError, match="other labels; make the bank from this split"):
        partial_evaluator(zoo, tiny_split(60, seed=4), bank)(UNIFORM)
    with pytest.raises(ParameterError, match="gives nll only whole"):
        SoupBench.load("pacs-photo").evaluator(metric="nll", share=0.3)
