"""radin/experiments/tables.py: numbers of a table as people read them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radin.experiments import tables


def texts(frame: pd.DataFrame) -> dict[str, list[str]]:
    return tables.as_texts(frame).to_dict("list")


def test_counts_accuracies_and_what_is_missing():
    frame = pd.DataFrame(
        {
            "ingredients": [252.0, 1023.0, 4.0],
            "test (%)": [82.3, 81.25, np.nan],
            "free": [-0.326496, 0.000123, 12.3456789],
            "rate": [0.00012, 0.0003, 0.001],
            "sure": [True, False, True],
        }
    )
    assert texts(frame) == {
        "ingredients": ["252", "1,023", "4"],
        "test (%)": ["82.30", "81.25", "–"],
        "free": ["−0.326", "1.2e-04", "12.35"],
        "rate": ["0.00012", "0.00030", "0.00100"],
        "sure": ["True", "False", "True"],
    }
    assert frame.loc[0, "ingredients"] == 252.0


def test_a_row_of_counts_below_a_row_of_accuracies():
    frame = pd.DataFrame({"a": [82.31, 252.0], "b": [81.5, 10.0]}, index=["accuracy", "images"])
    assert texts(frame) == {"a": ["82.31", "252"], "b": ["81.5", "10"]}


def test_an_interval_is_one_column_and_nothing_for_a_difference_from_itself():
    frame = pd.DataFrame(
        {
            "gain": [0.7, 0.0, 1.1],
            "95% low": [0.25, 0.0, np.nan],
            "95% high": [1.1, 0.0, np.nan],
            "cost": [4, 0, 1],
        },
        index=["radin", "best single", "oracle"],
    )
    found = texts(frame)
    assert list(found) == ["gain", "95% interval", "cost"]
    assert found["95% interval"] == ["0.25 to 1.10", "–", "–"]


def test_a_column_of_mixed_values():
    frame = pd.DataFrame({"x": ["word", 63.0, 0.5, None, 1234, float("nan")]}, dtype=object)
    assert texts(frame)["x"] == ["word", "63", "0.5", "–", "1,234", "–"]


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=9))
def test_no_cell_is_raw(values):
    cells = texts(pd.DataFrame({"x": values}))["x"]
    for cell in cells:
        assert not re.search(r"nan|\.\d{6}", cell, re.I)
    # "0.0" stands only beside a number with that decimal, such as "0.5".
    if any(cell.endswith(".0") for cell in cells):
        assert any(re.search(r"\.[1-9]$", cell) for cell in cells)


def test_zeros_are_kept_beside_a_decimal_and_nowhere_else():
    assert texts(pd.DataFrame({"x": [0.0, 0.5]}))["x"] == ["0.0", "0.5"]
    assert texts(pd.DataFrame({"x": [0.0, 5.0]}))["x"] == ["0", "5"]


@pytest.mark.parametrize("shape", [(0, 0), (0, 2), (2, 0)])
def test_an_empty_table_stays_empty(shape):
    frame = pd.DataFrame(np.zeros(shape))
    assert tables.as_texts(frame).shape == shape


def test_levels_of_names_stay():
    index = pd.MultiIndex.from_product([["cifar10", "wild"], ["soup", "ensemble"]])
    frame = pd.DataFrame({"passes": [1.0, 5.5, 1.0, 4.0]}, index=index)
    assert tables.as_texts(frame).index.equals(index)
