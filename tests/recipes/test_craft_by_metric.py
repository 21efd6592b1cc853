"""radin/recipes/: recipes rank, compare and report by any metric, in its direction."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import random_bank, tiny_split, tiny_zoo
from radin import (
    RECIPES,
    LogitBank,
    Metric,
    SoupBench,
    craft,
    evaluator,
    exhaustive,
    fast_estimate,
    predict,
    rank,
    trust,
)
from radin.errors import ParameterError
from radin.experiments.bench import replay
from radin.ranking.named_metrics import ACCURACY, METRICS, class_weighted_accuracy
from radin.recipes.ledger import Ledger
from radin.recipes.rules import best_so_far

HALVES = torch.tensor([0.5, 0.5])
LOSS = Metric("loss", lambda outputs, labels: 0.0, higher_is_better=False)


def book(metric: Metric, answer: object) -> Ledger:
    return Ledger(random_bank(2), lambda weights: answer, 3, metric=metric)


# The ledger -------------------------------------------------------------------------------------


@given(answer=st.floats(allow_nan=False, allow_infinity=False))
def test_the_ledger_takes_any_real_number(answer):
    ledger = book(LOSS, answer)
    assert ledger.spend(HALVES) == answer
    (trial,) = Ledger(
        random_bank(2), lambda weights: answer, 3, metric=LOSS, _looks=ledger._looks
    ).trials
    assert (trial.value, trial.metric, trial.evaluated) == (answer, LOSS, True)


@pytest.mark.parametrize("answer", [math.nan, math.inf, -math.inf, "3", None, torch.zeros(2)])
def test_the_ledger_refuses_what_is_no_number(answer):
    for spend in (lambda b: b.spend(HALVES), lambda b: b.spend_many(torch.eye(2))):
        with pytest.raises(ParameterError, match=r"evaluate\(weights\) must return a loss a fini"):
            spend(book(LOSS, answer))


@pytest.mark.parametrize(
    ("name", "answer"), [("accuracy", 100.5), ("macro_f1", -1), ("nll", -0.1), ("mean_iou", "50")]
)
def test_a_value_outside_the_range_of_its_metric(name, answer):
    with pytest.raises(ParameterError, match=f"must return an? {name} in (percent|nats)"):
        book(METRICS[name], answer).spend(HALVES)


def test_accuracy_is_asked_for_only_where_it_is_one():
    bank = random_bank(2)
    soup = craft(bank, lambda weights: 0.25, 2, metric="nll")
    assert soup.metric is METRICS["nll"]
    assert soup.value == 0.25
    for record in (soup, soup.trials[0]):
        with pytest.raises(ParameterError, match=r"measured by nll, not accuracy; read \.value"):
            record.accuracy  # noqa: B018
    soup = craft(bank, lambda weights: 25.0, 2)
    assert soup.accuracy == soup.value == soup.trials[0].accuracy == 25.0
    assert soup.metric is ACCURACY


# The recipes ------------------------------------------------------------------------------------


@given(values=st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=9))
def test_best_so_far_in_both_directions(values):
    for budget, choice in enumerate(best_so_far(values, metric=LOSS), start=1):
        assert choice == values.index(min(values[:budget]))


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(2, 9), st.integers(2, 4)),
    recipe=st.sampled_from(sorted(RECIPES)),
    name=st.sampled_from(["nll", "macro_f1", "calibration_error"]),
    budget=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_a_recipe_by_a_metric_is_the_recipe_by_its_negative(shape, recipe, name, budget, seed):
    """Smaller is better, and the negative with larger is better, choose the same soups."""
    bank = random_bank(*shape, seed=seed)
    metric = METRICS[name]
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 4, 2**bank.num_models) / 2
    bits = 2 ** torch.arange(bank.num_models)
    upside_down = Metric(
        "negative", lambda outputs, labels: -metric(outputs, labels), not metric.higher_is_better
    )

    def evaluate(weights: torch.Tensor) -> float:
        return float(table[int(((weights > 0) * bits).sum())])

    one = craft(bank, evaluate, budget, recipe, metric=metric)
    other = craft(bank, lambda weights: -evaluate(weights), budget, recipe, metric=upside_down)
    assert [trial.weights.tolist() for trial in one.trials] == [
        trial.weights.tolist() for trial in other.trials
    ]
    assert torch.equal(one.weights, other.weights)
    assert one.value == pytest.approx(-other.value)
    evaluated = [trial.value for trial in one.trials if trial.evaluated]
    if evaluated and recipe in ("radin", "random"):
        assert one.value == (max if metric.higher_is_better else min)(evaluated)
    for trial in one.trials:
        # Sums over one row and over many are added in another order: the last digit may differ.
        alone = fast_estimate(bank, trial.weights[None], metric).item()
        assert trial.estimate == pytest.approx(alone, rel=1e-12, abs=1e-12)


def test_the_first_trials_are_the_first_of_the_ranking():
    bank = random_bank(4, 50, 5)
    ranking = rank(bank, exhaustive(4), metric="nll", top=3)
    soup = craft(bank, lambda weights: 1.0, 3, metric="nll")
    assert [trial.weights.tolist() for trial in soup.trials] == exhaustive(4)[
        ranking.order
    ].tolist()


def test_a_soup_says_its_metric_and_value():
    bank = random_bank(3, 50, 5)
    assert str(craft(bank, lambda weights: 0.5, 1, metric="nll")).startswith(
        "radin: validation nll 0.5 nats, "
    )
    assert str(craft(bank, lambda weights: 50.0, 1, metric="macro_f1")).startswith(
        "radin: validation macro_f1 50.00%, "
    )


def test_impossible_metrics_are_refused_before_anything_is_evaluated():
    bank = random_bank(3)

    def evaluate(weights: torch.Tensor) -> float:
        pytest.fail("it was evaluated")

    for message, options in (
        ("metric must be one of accuracy", {"metric": "F1"}),
        ("prior is a bonus in percentage points", {"metric": "nll", "prior": 1.0}),
        ("larger or smaller numbers of <lambda>", {"metric": lambda outputs, labels: 0.0}),
        ("mean_squared_error is for regression", {"metric": "mean_squared_error"}),
        ("given for accuracy, whose larger", {"higher_is_better": False}),
    ):
        with pytest.raises(ParameterError, match=message):
            craft(bank, evaluate, 2, **options)
    targets = LogitBank(torch.zeros(3, 4, 1), torch.zeros(4))
    with pytest.raises(ParameterError, match="accuracy needs classes as labels"):
        craft(targets, evaluate, 2)
    for recipe in RECIPES:
        soup = craft(targets, lambda weights: 1.0, 1, recipe, metric="mean_squared_error")
        assert soup.metric.name == "mean_squared_error"


# Trust ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nll", "macro_f1", "calibration_error"])
def test_the_report_speaks_of_the_metric(name):
    bank = random_bank(4, 200, 5)
    metric = METRICS[name]
    unit = metric.unit_of_differences
    singles = fast_estimate(bank, torch.eye(4), metric)
    best = singles.max() if metric.higher_is_better else singles.min()
    worse = best.item() * (0.5 if metric.higher_is_better else 2.0)
    soup = craft(bank, lambda weights: worse, 2, metric=name)
    sides = ("best soup", "best ingredient")
    first, second = sides if metric.higher_is_better else sides[::-1]
    check = f"{first} less {second}, on validation{unit}"
    assert soup.trust is not None
    assert soup.trust[check] == pytest.approx(-abs(best.item() - worse))
    assert soup.trust.verdict == "no"
    assert f"({metric.text_with_unit(worse)}) is no match" in str(soup)
    fine = craft(bank, lambda weights: best.item(), 2, metric=name)
    assert fine.trust is not None
    assert fine.trust.verdict == "yes"
    whole = trust(bank, trials=fine, progress=False)
    assert whole[check] == pytest.approx(0.0)


def test_trust_needs_classes():
    targets = LogitBank(torch.zeros(3, 4, 1), torch.zeros(4))
    with pytest.raises(ParameterError, match="trust needs classes as labels"):
        trust(targets)


# The bench --------------------------------------------------------------------------------------


def test_a_bench_by_other_metrics():
    bench = SoupBench.load("cifar10").subset(range(4))
    for name in ("nll", "balanced_accuracy"):
        soup = craft(bench.val, bench.evaluator(metric=name), 3, metric=name)
        assert soup.metric.name == name
        values = bench.soups("test", name)
        row = bench.row(soup.weights)
        best = values.min() if name == "nll" else values.max()
        assert bench.regret(soup.weights, metric=name) == pytest.approx(
            abs(best.item() - values[row].item())
        )
        assert craft(bench.val, bench.evaluator(metric=name), 3).value == soup.value
    nll = bench.soups("val", "nll")
    soup = craft(bench.val, bench.evaluator(metric="nll"), 15)
    assert soup.value == nll.min().item()


def test_balanced_accuracy_of_the_soups_of_a_bench():
    bench = SoupBench.load("cifar10").subset(range(3))
    labels = bench.test.labels
    right = bench.right("test", range(7)).double()
    recalls = torch.stack([right[:, labels == c].mean(1) for c in labels.unique()])
    torch.testing.assert_close(bench.soups("test", "balanced_accuracy"), 100 * recalls.mean(0))
    weights = torch.arange(10) + 1.0
    of_images = weights[labels].double()
    torch.testing.assert_close(
        bench.soups("test", class_weighted_accuracy(weights.tolist())),
        100 * (right * of_images).sum(1) / of_images.sum(),
    )
    torch.testing.assert_close(
        bench.ensembles("test", "macro_f1"),
        fast_estimate(bench.test, bench.candidates, "macro_f1"),
    )


def test_a_bench_has_no_logits_of_its_soups():
    bench = SoupBench.load("cifar10").subset(range(3))
    for name in ("macro_f1", "top5_accuracy", "calibration_error"):
        with pytest.raises(ParameterError, match=f"logits of its soups.*cannot give their {name}"):
            bench.evaluator(metric=name)


def test_replays_do_not_know_of_metrics():
    bench = SoupBench.load("cifar10").subset(range(4))
    soup = craft(bench.val, bench.evaluator(), 3)
    assert bench.row(soup.weights) == replay.radin(bench, 3)[-1]


# Real networks ----------------------------------------------------------------------------------


def test_craft_takes_the_metric_of_its_evaluator(tmp_path):
    zoo, split = tiny_zoo(tmp_path), tiny_split(40)
    bank = predict(zoo, split, "cpu", cache=False, progress=False)
    evaluate = evaluator(zoo, split, "cpu", metric="macro_f1")
    soup = craft(bank, evaluate, 7)
    assert soup.metric.name == "macro_f1"
    assert soup.value == max(evaluate(weights) for weights in exhaustive(3))
    assert craft(bank, evaluate, 7, metric="macro_f1").value == soup.value
    with pytest.raises(ParameterError, match="craft was asked for nll, but evaluate measures macr"):
        craft(bank, evaluate, 7, metric="nll")
    with pytest.raises(ParameterError, match="asked for macro_f1, but evaluate measures accuracy"):
        craft(bank, evaluator(zoo, split, "cpu"), 7, metric="macro_f1")
