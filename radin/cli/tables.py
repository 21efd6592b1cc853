"""Tables and lines as the command line prints them."""

from __future__ import annotations

import argparse
import textwrap

import torch
from torch import Tensor

from radin.data.splits import Split
from radin.ranking.bank import LogitBank
from radin.recipes.craft import Soup
from radin.recipes.selection import RANKED

WIDTH = 100  # columns of the widest table


def _described(options: argparse.Namespace, split: Split) -> str:
    return (
        f"{split.part}, {len(split)} images{', a quick look' if options.images is not None else ''}"
    )


def _wrapped(text: str) -> str:
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in text.splitlines()
    )


def _members(bank: LogitBank, weights: Tensor) -> str:
    """The ingredients of a soup by name, or those that it leaves out where they are fewer."""
    names = [name for name, weight in zip(bank.names, weights.tolist(), strict=True) if weight > 0]
    missing = [name for name in bank.names if name not in names]
    if missing and len(names) <= max(3, len(missing)):
        return f"{len(names)}: {', '.join(names)}"
    return f"{len(names)}: all but {', '.join(missing)}" if missing else f"{len(names)}: all"


def _print_trials(bank: LogitBank, soup: Soup) -> None:
    """What stage 2 evaluated, in order: what stage 1 said of it, what it is."""
    rows, chosen = [], False
    for place, trial in enumerate(soup.trials):
        won = (
            not chosen
            and torch.equal(trial.weights, soup.weights)
            and trial.accuracy == soup.accuracy
        )
        chosen = chosen or won
        accuracy = f"{trial.accuracy:.2f}" + (" *" if won else "  ")
        rows.append(
            [str(place + 1), f"{trial.estimate:.2f}", accuracy, _members(bank, trial.weights)]
        )
    place_of = "rank" if soup.recipe in RANKED else "trial"
    _print_table([place_of, "estimate", "accuracy  ", "ingredients (* the winner)"], rows)


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    """Columns of numbers to the right, words (the first and the last column) to the left; at most `WIDTH` wide."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        if header[-1].startswith("ingredients"):
            cells[-1] = row[-1]
        line = "  ".join(cells).rstrip()
        print(line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}...")
