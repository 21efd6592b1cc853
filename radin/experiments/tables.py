"""How the book shows a table: numbers for people, and an interval in one column.

A notebook that has called `radin.experiments.plots.style.set_style` shows every table like this.
The table itself keeps its numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from radin.experiments.intervals import write_number

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MISSING = "–"
LOW = "95% low"
HIGH = "95% high"
INTERVAL = "95% interval"
MAX_DECIMALS = 5  # of numbers that were rounded on purpose, such as learning rates


def decimals_of(values: np.ndarray) -> int | None:
    """How many decimals these numbers were rounded to; None when they were not rounded."""
    finite = values[np.isfinite(values)]
    for decimals in range(MAX_DECIMALS + 1):
        if np.allclose(finite, finite.round(decimals), rtol=0, atol=1e-9):
            return decimals
    return None


def number_text(value: float, decimals: int | None) -> str:
    """One number: with the decimals of its column, or with those that its size needs."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if decimals is not None:
        return write_number(value, f",.{decimals}f")
    if value and abs(value) < 0.01:
        return write_number(value, ".1e")
    return write_number(value, ",.2f" if abs(value) >= 1 else ".3f")


def as_texts(frame: DataFrame) -> DataFrame:
    """The table as texts: whole numbers without decimals, one number of decimals in a column.

    A row of whole numbers, such as counts below accuracies, stays one of whole numbers. What is
    missing is a dash. Two columns "95% low" and "95% high" become one, empty where an interval is
    that of a difference from itself.
    """
    table = frame.copy()
    whole_rows = _whole_rows(frame)
    texts = {k: _column_texts(frame.iloc[:, k], whole_rows) for k in range(frame.shape[1])}
    for k in range(frame.shape[1]):
        table.isetitem(k, texts[k])
    if list(frame.columns).count(LOW) == list(frame.columns).count(HIGH) == 1:
        at = list(frame.columns).index(LOW)
        lows, highs = frame[LOW].to_numpy(float), frame[HIGH].to_numpy(float)
        empty = np.isnan(lows) | ((lows == 0) & (highs == 0))
        decimals = decimals_of(np.concatenate([lows[~empty], highs[~empty]]))
        joined = [
            MISSING if none else f"{number_text(low, decimals)} to {number_text(high, decimals)}"
            for none, low, high in zip(empty, lows, highs, strict=True)
        ]
        table = table.drop(columns=[LOW, HIGH])
        table.insert(min(at, table.shape[1]), INTERVAL, joined)
    return table


def _whole_rows(frame: DataFrame) -> np.ndarray:
    """Which rows hold whole numbers only, in a table that also has others: (rows,)."""
    numbers = frame.select_dtypes("number").to_numpy(float)
    if not numbers.size:
        return np.zeros(len(frame), bool)
    whole = np.where(np.isnan(numbers), True, numbers == numbers.round()).all(1)
    return whole & (not whole.all()) & (np.abs(numbers) >= 1).any(1)


def _column_texts(column: Series[Any], whole_rows: np.ndarray) -> list[str]:
    if column.dtype.kind == "b" or column.dtype.kind not in "iuf":
        return [_cell_text(value) for value in column]
    values = column.to_numpy(float)
    decimals = decimals_of(values[~whole_rows]) if not whole_rows.all() else 0
    return [
        number_text(value, 0 if whole else decimals)
        for value, whole in zip(values, whole_rows, strict=True)
    ]


def _cell_text(value: Any) -> str:
    """A cell of a column that holds not only numbers."""
    if value is None:
        return MISSING
    if isinstance(value, float | np.floating):
        return number_text(float(value), decimals_of(np.array([value], float)))
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def show_as_texts(ipython: Any) -> None:
    """Let a notebook show its tables like this."""
    import pandas as pd

    def html(frame: DataFrame) -> str | None:
        with pd.option_context("display.max_colwidth", None):
            return as_texts(frame)._repr_html_()

    ipython.display_formatter.formatters["text/html"].for_type(pd.DataFrame, html)
