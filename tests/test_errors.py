"""radin/errors.py: checks of numbers, and lists of names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from radin.errors import MAX_SEED, ParameterError, check_integer, check_seed, counted, list_names


@pytest.mark.parametrize(
    ("names", "most", "expected"),
    [
        ([], 8, ""),
        (["a"], 1, "a"),
        (["a", "b", "c"], 3, "a, b, c"),
        (["a", "b", "c"], 2, "a, b and 1 more"),
        ((Path("a"), 2), 1, "a and 1 more"),
        (iter("abc"), 1, "a and 2 more"),
        (range(1002), 2, "0, 1 and 1,000 more"),
    ],
)
def test_names_beyond_the_first_are_counted(names, most, expected):
    assert list_names(names, most=most) == expected


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "file", "0 files"),
        (1, "probability", "1 probability"),
        (2, "probability", "2 probabilities"),
        (1200, "id", "1,200 ids"),
        (2, "key", "2 keys"),
        (1, "array", "1 array"),
    ],
)
def test_things_are_counted(number, noun, expected):
    assert counted(number, noun) == expected


@pytest.mark.parametrize("value", [1.5, True, "2", None, 1])
def test_what_is_not_an_integer_of_at_least_2_is_refused(value):
    with pytest.raises(ParameterError, match="n must be a whole number of at least 2, not"):
        check_integer("n", value, minimum=2)


def test_numpy_integers_become_integers():
    assert type(check_integer("n", np.int64(3), minimum=2)) is int


def test_seeds_have_a_maximum():
    assert check_seed(MAX_SEED) == MAX_SEED
    with pytest.raises(ParameterError, match=f"seed must be at most {MAX_SEED}"):
        check_seed(MAX_SEED + 1)
