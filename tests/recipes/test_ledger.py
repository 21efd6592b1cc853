"""radin/recipes/ledger.py: whatever is asked of it, it pays out no more than the budget."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import random_bank
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
    """None asks for an evaluation, a number for that much training; what does not fit is refused and not booked."""
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
