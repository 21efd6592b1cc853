"""radin/recipes/ledger.py: it pays out no more than the budget, and its estimates are exact."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import mixing_weights, random_bank, tied_banks
from radin import RECIPES, craft, exhaustive, fast_estimate
from radin.errors import BudgetError, ParameterError
from radin.recipes.ledger import Ledger

HALVES = torch.tensor([0.5, 0.5])


def ledger(budget: int, calls: list[torch.Tensor] | None = None) -> Ledger:
    def evaluate(weights: torch.Tensor) -> float:
        if calls is not None:
            calls.append(weights)
        return 50.0

    return Ledger(random_bank(2), evaluate, budget)


def test_evaluations_cannot_be_overspent():
    calls: list[torch.Tensor] = []
    book = ledger(2, calls)
    book.look(HALVES)
    book.spend(HALVES)
    book.spend(HALVES)
    with pytest.raises(BudgetError, match="budget of 2 evaluations is spent"):
        book.spend(HALVES)
    assert len(calls) == 2
    assert (book.spent, book.left, book.forward_equivalents) == (2, 0, 2)


costs = st.one_of(st.fractions(0, 3, max_denominator=50), st.floats(0, 3))


@given(budget=st.integers(1, 6), wishes=st.lists(st.one_of(st.none(), costs), max_size=20))
def test_nothing_can_be_overspent(budget, wishes):
    """None is an evaluation, a number is training of that cost; what does not fit is not booked."""
    calls: list[torch.Tensor] = []
    book, total = ledger(budget, calls), Fraction(0)
    for wish in wishes:
        cost = Fraction(1 if wish is None else wish)
        fits = total + cost <= budget
        try:
            book.spend(HALVES) if wish is None else book.charge(wish)
        except BudgetError:
            assert not fits
        else:
            assert fits
            total += cost
        assert book.forward_equivalents == total
        assert book.left == (budget - total) // 1
        assert book.spent == len(calls)


def test_thirds_add_up():
    book = ledger(2)
    for _ in range(3):
        book.charge(Fraction(1, 3))
    assert book.left == 1
    book.spend(HALVES)
    with pytest.raises(
        BudgetError, match=r"costs 0\.01 evaluations does not fit: 2\.00 of 2 are spent"
    ):
        book.charge(0.01)


@pytest.mark.parametrize("cost", [-0.1, float("nan"), float("inf"), Fraction(-1, 3)])
def test_costs_that_are_none(cost):
    book = ledger(3)
    with pytest.raises(ParameterError, match="cost must be a number of at least 0"):
        book.charge(cost)
    assert book.forward_equivalents == 0


@given(
    bank=tied_banks(),
    recipe=st.sampled_from(sorted(RECIPES)),
    budget=st.integers(1, 40),
    data=st.data(),
)
def test_estimates_are_those_of_one_read_for_each_trial(bank, recipe, budget, data):
    """Passed along from the ranking, or read together: bit for bit the same."""
    rows = st.lists(mixing_weights(bank.num_models), min_size=1, max_size=8).map(torch.stack)
    candidates = data.draw(st.one_of(st.none(), rows, st.just(exhaustive(bank.num_models))))
    soup = craft(bank, lambda weights: 50.0, budget, recipe, candidates=candidates)
    for trial in soup.trials:
        assert trial.estimate == fast_estimate(bank, trial.weights.unsqueeze(0)).item()


def test_the_bank_is_read_once_for_all_missing_estimates(monkeypatch):
    book = ledger(4)
    assert book.look(HALVES, estimate=12.5) == 12.5
    assert book.spend(HALVES, estimate=25.0) == 50.0
    assert book.spend(HALVES) == 50.0
    assert book.spend_many(torch.eye(2)) == [50.0, 50.0]
    reads: list[int] = []

    def counting(bank: object, weights: torch.Tensor, metric: object) -> torch.Tensor:
        reads.append(len(weights))
        return torch.full((len(weights),), 7.0)

    monkeypatch.setattr("radin.recipes.ledger.fast_estimate", counting)
    for _ in range(2):
        assert [trial.estimate for trial in book.trials] == [12.5, 25.0, 7.0, 7.0, 7.0]
        assert [trial.accuracy for trial in book.trials] == [12.5, 50.0, 50.0, 50.0, 50.0]
    assert reads == [3]
