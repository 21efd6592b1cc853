"""radin/recipes/functions.py: recipes of the user's own."""

from __future__ import annotations

import pytest
import torch

import radin
from radin.errors import BudgetError, ParameterError

BENCH = radin.SoupBench.load("pacs-photo")
N = BENCH.num_models


def run(function, budget=3):
    evaluate = BENCH.evaluator("val")
    soup = radin.craft(BENCH.val, evaluate, budget, function)
    assert soup.evaluations == evaluate.count <= budget
    return soup


def one(*members):
    weights = torch.zeros(N)
    weights[list(members)] = 1 / len(members)
    return weights


def test_a_function_can_be_radin():
    def mine(bank, ledger):
        candidates = radin.exhaustive(bank.num_models)
        order = radin.rank(bank, candidates, top=ledger.left).order
        values = [ledger.spend(candidates[k]) for k in order]
        return candidates[order[values.index(max(values))]]

    found = run(mine)
    wanted = radin.craft(BENCH.val, BENCH.evaluator("val"), 3)
    assert found.recipe == "mine"
    assert torch.equal(found.weights, wanted.weights)
    assert [t.value for t in found.trials] == [t.value for t in wanted.trials]
    assert found.trust is None


def test_what_it_returns_unseen_is_evaluated():
    soup = run(lambda bank, ledger: [1 / N] * N)
    assert soup.evaluations == 1
    assert soup.value == BENCH.evaluator("val")([1 / N] * N)
    # A look at an ensemble is no evaluation of the soup.
    looked = run(lambda bank, ledger: ledger.look(one(0, 1)) and one(0, 1))
    assert [t.evaluated for t in looked.trials] == [False, True]
    assert looked.value == BENCH.evaluator("val")(one(0, 1))


def test_a_soup_that_it_has_evaluated_costs_no_second_evaluation():
    def last(bank, ledger):
        for k in range(1, 4):
            ledger.spend(one(0, k).tolist())
        return one(0, 2).numpy()

    soup = run(last)
    assert soup.members == [0, 2]
    assert soup.choice == 1
    assert soup.to_frame().chosen.tolist() == [False, True, False]


def test_one_ingredient_is_free():
    soup = run(lambda bank, ledger: torch.eye(N)[2], budget=1)
    assert soup.evaluations == 0
    assert soup.value == pytest.approx(BENCH.val.accuracies()[2].item())


def overspend(bank, ledger):
    while True:
        ledger.spend(one(0, 1))


def unseen(bank, ledger):
    ledger.spend(one(0, 1))
    return one(0, 2)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (overspend, BudgetError, "is spent"),
        (
            lambda bank, ledger: setattr(ledger, "budget", 9),
            BudgetError,
            "cannot change its budget",
        ),
        (unseen, ParameterError, "unseen returned a soup that it did not evaluate"),
        (lambda bank, ledger: None, ParameterError, "must return mixing weights.*not None"),
        (lambda bank, ledger: "best", ParameterError, "must return mixing weights.*'best'"),
        (lambda bank, ledger: [0, 1], ParameterError, "these have"),
        (lambda bank, ledger: [1] * N, ParameterError, "must sum to 1"),
        (lambda bank, ledger: ledger.spend([0.5, 0.5]), ParameterError, "must have shape"),
    ],
)
def test_what_a_function_does_wrong_is_said(function, error, message):
    with pytest.raises(error, match=message):
        run(function, budget=1)


def test_ask_and_tell_takes_a_function(tmp_path):
    def pairs(bank, ledger):
        found = {ledger.spend(one(0, k)): k for k in (1, 2)}
        return one(0, found[max(found)])

    evaluate = BENCH.evaluator("val")
    with radin.AskTell(BENCH.val, tmp_path / "ledger.json", 2, pairs) as session:
        while (weights := session.ask()) is not None:
            session.tell(weights, evaluate(weights))
        found = session.soup
    wanted = run(pairs, budget=2)
    assert found is not None
    assert torch.equal(found.weights, wanted.weights)


def test_a_table_of_the_trials():
    soup = radin.craft(BENCH.val, BENCH.evaluator("val"), 2, "greedy")
    frame = soup.to_frame(BENCH.val.names)
    assert frame.index.tolist() == [1, 2, 3]
    assert frame.evaluated.tolist() == [False, True, True]
    assert frame.passes.tolist() == [0, 1, 1]
    assert frame.value.tolist() == [trial.value for trial in soup.trials]
    assert frame.estimate.tolist() == [trial.estimate for trial in soup.trials]
    weights = torch.tensor(frame[BENCH.val.names].to_numpy())
    assert torch.equal(weights, torch.stack([t.weights for t in soup.trials]).double())
    assert frame.ingredients.tolist() == (weights > 0).sum(1).tolist()
    assert frame[frame.chosen].value.item() == soup.value
    with pytest.raises(ParameterError, match="different names"):
        soup.to_frame(["a"] * N)
