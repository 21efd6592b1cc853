"""What `radin rank --bank`, `radin ask` and `radin tell` do: soups of networks that others run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from radin.cli.inputs import check_recipe_options
from radin.cli.notes import print_notes
from radin.cli.tables import print_table, print_trials, wrap
from radin.cli.words import ASK_OPTIONS, DEFAULT_BUDGET, default_recipe
from radin.errors import ParameterError, check_integer, counted
from radin.files import atomic_path, expand_path
from radin.ranking.bank import LogitBank
from radin.ranking.bank_files import find_files
from radin.ranking.export import RECIPE_SUFFIXES, TABLE_SUFFIXES, save_mergekit, save_ranking
from radin.ranking.named_metrics import find_metric
from radin.ranking.rank import Ranking
from radin.recipes.ask_tell import AskTell
from radin.recipes.trial_file import TrialFile, open_number

SOUP_SUFFIXES = (".json", *RECIPE_SUFFIXES)  # in which one soup is written

Source = Mapping[str, Any]  # where the bank of a ledger is


# The bank ----------------------------------------------------------------------------------------


def describe_source(options: argparse.Namespace) -> dict[str, Any]:
    """Where the bank of --bank is, with whole paths, so that it can be opened from any folder."""
    paths = options.bank[0] if len(options.bank) == 1 else options.bank
    labels = None if options.labels is None else str(expand_path(options.labels).absolute())
    return {
        "bank": [str(file.absolute()) for file in find_files(paths, labels)],
        "labels": labels,
        "names": options.names,
        "probabilities": options.probabilities,
    }


def open_bank(source: Source) -> LogitBank:
    return LogitBank.from_files(
        source["bank"],
        source["labels"],
        names=source["names"],
        probabilities=source["probabilities"],
    )


# Files of results --------------------------------------------------------------------------------


def check_exports(options: argparse.Namespace, suffixes: Sequence[str]) -> None:
    """Refuse the files of --out that exist or have an ending that is none of the suffixes."""
    options.out = [expand_path(path) for path in options.out or ()]
    for path in options.out:
        if path.suffix not in suffixes:
            raise ParameterError(f"{path}: --out takes {', '.join(suffixes)}; change the ending.")
        if path.is_dir():
            raise ParameterError(f"{path} is a folder; give --out a file.")
        if path.exists() and not options.force:
            raise ParameterError(f"{path} exists; give another --out, or --force to replace it.")


def export_ranking(
    options: argparse.Namespace,
    bank: LogitBank,
    candidates: Tensor,
    ranking: Ranking,
    *,
    models: Sequence[str],
) -> None:
    """Write the files of --out: tables of the ranking, and mergekit's recipe of the first soup.

    Args:
        models: what mergekit opens, N folders or names.
    """
    for path in options.out:
        if path.suffix in TABLE_SUFFIXES:
            print(f"wrote {save_ranking(path, bank, candidates, ranking)}")
        else:
            best = candidates[ranking.order[0]]
            print(f"wrote {save_mergekit(path, models, best)}, the first candidate")


def _export_soup(
    options: argparse.Namespace, bank: LogitBank, weights: Tensor, trial: int | None
) -> None:
    """Write one soup to the files of --out; `trial` is None for the recipe's result."""
    for path in options.out:
        if path.suffix in RECIPE_SUFFIXES:
            save_mergekit(path, bank.names, weights)
        else:
            named = dict(zip(bank.names, weights.tolist(), strict=True))
            content = {"trial": trial, "done": trial is None, "weights": named}
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path}")


# Ask and tell ------------------------------------------------------------------------------------


def ask_command(options: argparse.Namespace) -> None:
    """The soup to evaluate next, or the recipe's result."""
    check_exports(options, SOUP_SUFFIXES)
    arguments, source = _arguments(options)
    check_recipe_options(arguments["recipe"], arguments)
    bank = open_bank(source)
    with AskTell(bank, options.ledger, source=source, **arguments) as session:
        num_asked = len(session.trials)
        weights = session.ask()
        trials = session.trials
        soup = session.soup
    if weights is None:
        assert soup is not None
        note = f"; {soup.note}" if soup.note else ""
        spent = f"{soup.evaluations} of {soup.budget} evaluations spent"
        print(wrap(f"{soup.recipe}: {spent} on {counted(bank.num_images, 'image')}{note}") + "\n")
        print_trials(bank, soup)
        print()
        _print_weights(bank, soup.weights)
        _export_soup(options, bank, soup.weights, None)
        return
    number = len(trials)
    if number == num_asked:
        print_notes(f"note: trial {number} was asked for before and has no value yet.")
    print(f"trial {number} of at most {arguments['budget']}: evaluate this soup\n")
    _print_weights(bank, weights)
    estimate = find_metric(arguments.get("metric", "accuracy")).text(trials[-1]["estimate"])
    print(f"\nfast estimate, by its ensemble: {estimate}")
    _export_soup(options, bank, weights, number)
    print(f"then: radin tell {options.ledger} VALUE --trial {number}")


def tell_command(options: argparse.Namespace) -> None:
    """The value of the soup that was asked for."""
    ledger = TrialFile(options.ledger)
    content = ledger.read()
    number = options.trial
    if number is None:
        number = open_number(content, ledger.path)
    ledger.tell(check_integer("--trial", number, minimum=1), options.value, force=options.force)
    ledger.close()
    print(
        f"trial {number}: {options.value:g} is written down; go on with radin ask {options.ledger}"
    )


def _arguments(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the recipe, and where the bank is: as given, else as the ledger has them."""
    given = {name: getattr(options, name) for name in ASK_OPTIONS}
    arguments = {name: value for name, value in given.items() if value is not None}
    source = None if options.bank is None else describe_source(options)
    ledger = TrialFile(options.ledger)
    try:
        if ledger.exists:
            content = ledger.read()
            if content["options"].get("candidates") is not None:
                raise ParameterError(
                    f"{ledger.path}: begun in Python with candidates of its own; go on there."
                )
            find_metric(content["options"].get("metric") or "accuracy")  # no function of Python
            stored = {k: v for k, v in content["options"].items() if v is not None}
            return stored | arguments, source or _stored_source(content, ledger.path)
    finally:
        ledger.close()
    if source is None:
        raise ParameterError(
            f"{ledger.path}: no such ledger; give --bank, the logits, to begin one."
        )
    usual = {"budget": DEFAULT_BUDGET, "recipe": default_recipe("prior" in arguments)}
    return usual | arguments, source


def _stored_source(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    source: dict[str, Any] = content["source"]
    if not source:
        raise ParameterError(f"{path}: begun in Python; give --bank, the same logits as files.")
    return source


def _print_weights(bank: LogitBank, weights: Tensor) -> None:
    used = weights.nonzero().flatten().tolist()
    print_table(["ingredient", "weight"], [[bank.names[k], f"{weights[k]:.6g}"] for k in used])
