"""radin/recipes/rules.py: what is looked at, in which order, and what is returned."""

from __future__ import annotations

from itertools import islice, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radin.errors import ParameterError
from radin.recipes.rules import (
    GREEDY_WORDS,
    GreedyRules,
    best_so_far,
    comparable,
    greedy_choices,
    random_order,
)

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


RULES = [
    GreedyRules(**dict(zip(GREEDY_WORDS, words, strict=True)))
    for words in product(*GREEDY_WORDS.values())
]


def soups_of_greedy(singles, value_of, rules):
    """What greedy returns after each evaluation, written down plainly: lists of members."""
    n = len(singles)
    sign = {"best_first": -1, "worst_first": 1, "as_listed": 0}[rules.order]
    order = sorted(range(n), key=lambda k: (sign * singles[k], k))
    answers = []
    if rules.paid == "all":
        for count in range(1, n):
            answers.append([max(range(count), key=lambda k: (singles[k], -k))])
    kept = order[:1]
    reached = singles[order[0]]
    answers.append(kept)
    for k in order[1:]:
        value = value_of([*kept, k])
        if value > reached or (rules.keep == "equal" and value == reached):
            kept = [*kept, k]
            reached = value
        answers.append(kept)
    return answers[1:] if rules.paid == "none" and n > 1 else answers


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=6),
    st.integers(0, 1000),
    st.sampled_from(RULES),
    st.integers(1, 14),
)
def test_greedy_follows_its_rules(singles, salt, rules, budget):
    def value_of(members: list[int]) -> float:
        if len(members) == 1:
            return float(singles[members[0]])
        return float((31 * sum(2**k for k in members) + salt) * 7919 % 8)

    looks: list[list[int]] = []
    evaluations: list[list[int]] = []

    def look(members: list[int]) -> float:
        looks.append(members)
        return value_of(members)

    def evaluate(members: list[int]) -> float:
        evaluations.append(members)
        return look(members)

    choices = greedy_choices(np.array(singles), look=look, evaluate=evaluate, rules=rules)
    found = list(islice(choices, budget + rules.free_choices))
    wanted = soups_of_greedy(singles, value_of, rules)
    answers = [looks[choice] for choice in found[rules.free_choices :] or found]
    assert answers == wanted[:budget]
    assert len(evaluations) == len(found) - rules.free_choices <= budget


@pytest.mark.parametrize("name", list(GREEDY_WORDS))
def test_another_word_is_refused(name):
    with pytest.raises(ParameterError, match=f"{name} of greedy must be one of"):
        GreedyRules(**{name: "sideways"})
