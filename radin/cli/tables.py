"""Tables and lines as the command line prints them."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from radin.data.splits import Split
from radin.errors import counted
from radin.ranking.bank import LogitBank
from radin.recipes.craft import Soup
from radin.recipes.selection import RANKED

WIDTH = 100  # columns of the widest table
MAX_NAMES = 3  # of ingredients that are always listed


def describe_split(options: argparse.Namespace, split: Split) -> str:
    sample = ", a quick look" if options.images is not None else ""
    return f"{split.part}, {counted(len(split), 'image')}{sample}"


def wrap(text: str) -> str:
    """The text in lines of at most `WIDTH` columns."""
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in text.splitlines()
    )


def describe_ingredients(bank: LogitBank, weights: Tensor) -> str:
    """The names of a soup's ingredients, or of those that it leaves out where they are fewer."""
    names = [name for name, weight in zip(bank.names, weights.tolist(), strict=True) if weight > 0]
    missing = [name for name in bank.names if name not in names]
    if missing and len(names) <= max(MAX_NAMES, len(missing)):
        return f"{len(names)}: {', '.join(names)}"
    return f"{len(names)}: all but {', '.join(missing)}" if missing else f"{len(names)}: all"


def print_trials(bank: LogitBank, soup: Soup) -> None:
    """What stage 2 evaluated, in order: the estimate of stage 1, and the accuracy or metric.

    Where soups were run on a share of the images, the standard error stands beside it.
    """
    rows = []
    some_are_partial = any(trial.cost < 1 for trial in soup.trials if trial.evaluated)
    for number, trial in enumerate(soup.trials, start=1):
        is_winner = number == soup.choice + 1
        value = soup.metric.text(trial.value) + (" *" if is_winner else "  ")
        error = [soup.metric.text(trial.standard_error)] * some_are_partial
        ingredients = describe_ingredients(bank, trial.weights)
        rows.append([str(number), soup.metric.text(trial.estimate), value, *error, ingredients])
    number_header = "rank" if soup.recipe in RANKED else "trial"
    errors = ["error"] * some_are_partial
    header = [number_header, "estimate", f"{soup.metric}  ", *errors, "ingredients (* the winner)"]
    print_table(header, rows)


def print_json(content: Mapping[str, Any]) -> None:
    """Print what --json shows: whole numbers, and null for what is no finite number."""
    print(json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def named_weights(bank: LogitBank, weights: Tensor) -> dict[str, float]:
    """The mixing weights above 0 by the ingredients' names."""
    pairs = zip(bank.names, weights.tolist(), strict=True)
    return {name: weight for name, weight in pairs if weight > 0}


def soup_content(bank: LogitBank, soup: Soup) -> dict[str, Any]:
    """What --json says of a soup and the trials that led to it."""
    return {
        "recipe": soup.recipe,
        "metric": soup.metric.name,
        "value": soup.value,
        "budget": soup.budget,
        "evaluations": soup.evaluations,
        "forward_equivalents": soup.forward_equivalents,
        "note": soup.note,
        "weights": named_weights(bank, soup.weights),
        "trials": [
            {
                "weights": named_weights(bank, trial.weights),
                "estimate": trial.estimate,
                "value": trial.value,
                "evaluated": trial.evaluated,
                "standard_error": trial.standard_error,
                "passes": float(trial.cost),
                "chosen": number == soup.choice,
            }
            for number, trial in enumerate(soup.trials)
        ],
    }


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table of at most `WIDTH` columns.

    The first column, and a last column of ingredients, are aligned to the left, all others to the
    right.
    """
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        if header[-1].startswith("ingredients"):
            cells[-1] = row[-1]
        line = "  ".join(cells).rstrip()
        print(line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}...")
