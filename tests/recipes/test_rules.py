"""radin/recipes/rules.py: what is looked at, in which order, and what is returned."""

from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from radin.recipes.rules import best_so_far, comparable, greedy_choices, random_order

ACCURACIES = st.lists(st.integers(0, 7).map(lambda hits: 100 * (hits / 7)), min_size=1, max_size=9)


@given(ACCURACIES)
def test_the_first_of_the_best(accuracies):
    values = comparable(accuracies).tolist()
    for budget, choice in enumerate(best_so_far(accuracies), start=1):
        assert choice == values.index(max(values[:budget]))


@given(st.integers(0, 50), st.integers(1, 700))
def test_equal_accuracies_are_equal(hits, num_images):
    assert comparable(100 * (hits / num_images)) == comparable(100 * hits / num_images)


@given(ACCURACIES, st.randoms(use_true_random=False), st.integers(0, 9))
def test_greedy_evaluates_one_addition_at_a_time(singles, dice, budget):
    looks: list[list[int]] = []
    accuracies: list[float] = []

    def look(members: list[int]) -> float:
        looks.append(members)
        accuracies.append(singles[members[0]])
        return accuracies[-1]

    def evaluate(members: list[int]) -> float:
        looks.append(members)
        accuracies.append(100 * dice.randint(0, 7) / 7)
        return accuracies[-1]

    choices = list(
        islice(greedy_choices(np.array(singles), look=look, evaluate=evaluate), budget + 1)
    )
    assert len(choices) == len(looks) == min(budget, len(singles) - 1) + 1
    best_first = sorted(range(len(singles)), key=lambda k: (-comparable(singles[k]), k))
    assert looks[0] == best_first[:1]
    assert choices[0] == 0
    for turn in range(1, len(looks)):
        kept = looks[choices[turn - 1]]
        assert looks[turn] == [*kept, best_first[turn]]
        does_no_harm = comparable(accuracies[turn]) >= comparable(accuracies[choices[turn - 1]])
        assert choices[turn] == (turn if does_no_harm else choices[turn - 1])


@given(st.integers(1, 40), st.integers(0, 5))
def test_a_random_order_has_every_candidate_once(count, seed):
    order = random_order(count, seed=seed)
    assert sorted(order) == list(range(count))
    assert (order == random_order(count, seed=seed)).all()
