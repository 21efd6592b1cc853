"""What the commands of `radin` do; `radin.cli` reads their options."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radin.checkpoints.formats import RUNNING_STATISTICS
from radin.checkpoints.zoo import Zoo
from radin.cli.inputs import (
    check_numbers,
    check_output,
    checkpoint_paths,
    colours_name,
    open_other_part,
    open_part,
    open_parts,
    open_with_notes,
    open_zoo,
    print_notes,
    show_progress,
)
from radin.cli.tables import describe_split, list_ingredients, print_table, print_trials, wrap
from radin.data.download.catalog import fetch
from radin.data.splits import Split
from radin.errors import CheckpointError, ParameterError, check_integer
from radin.experiments.bench.bench import SoupBench
from radin.experiments.intervals import paired_interval, standard_error
from radin.experiments.model_soups.ingredients import fetch_ingredients, ingredient_ids
from radin.experiments.model_soups.results import MODEL_SOUPS, RESULT_FILES, load_results
from radin.files import data_root
from radin.inference.batch_norm import refresh_batch_norm
from radin.inference.evaluate import evaluator, soup_logits
from radin.inference.predict import predict
from radin.ranking.bank import LogitBank
from radin.ranking.rank import rank
from radin.recipes.craft import Soup, craft
from radin.recipes.selection import RANKED, RECIPES, Order
from radin.recipes.trust import trust
from radin.soup.average import SoupLike
from radin.soup.save import save_soup

State = Mapping[str, Tensor] | None  # of a soup whose batch norm was measured anew


def craft_command(options: argparse.Namespace) -> None:
    """Entry fee, stages 1 and 2, the soup's file, and the report."""
    check_numbers(options)
    check_output(options)
    split = open_part(options, options.part)
    test = open_other_part(options, options.test_part, split)
    train = open_other_part(options, options.refresh_part, split)
    zoo = open_zoo(options, checkpoint_paths(options), split)
    if train is None:
        _warn_of_batch_norm(zoo)
    evaluate = evaluator(zoo, split, refresh=train, progress=show_progress(), **_engine(options))
    bank = predict(zoo, split, progress=show_progress(), **_engine(options))
    soup = craft(
        bank, evaluate, options.budget, options.recipe, prior=options.prior, seed=options.seed
    )
    spent = f"{soup.evaluations} of {soup.budget} evaluations spent on {describe_split(options, split)}"
    print(wrap(f"{soup.recipe}: {spent}" + (f"; {soup.note}" if soup.note else "")) + "\n")
    print_trials(bank, soup)
    state = (
        None
        if train is None
        else refresh_batch_norm(zoo, soup.weights, train, options.device, options.batch_size)
    )
    if options.out is not None:
        print(f"\nwrote {_save(options, zoo, soup.weights, _provenance(options, soup), state)}")
    try:
        _compare(options, zoo, bank, soup, state, [split, test, train])
    finally:  # an unreadable test image must not cost the rest of the report
        if soup.recipe in RANKED:
            report = trust(
                bank, zoo, trials=soup.trials, refreshed=train is not None, progress=show_progress()
            )
            print("\n" + wrap(str(report)))
    if options.out is None:
        print_notes("note: the soup was not written; give --out soup.safetensors.")


def rank_command(options: argparse.Namespace) -> None:
    """Entry fee and stage 1."""
    check_numbers(options)
    split = open_part(options, options.part)
    zoo = open_zoo(options, checkpoint_paths(options), split)
    bank = predict(zoo, split, progress=show_progress(), **_engine(options))
    candidates = Order(None, options.prior, options.seed).candidates_for(bank)
    ranking = rank(bank, candidates, options.prior, top=options.top)
    print(
        f"the first {len(ranking.order)} of {len(candidates)} candidates on {describe_split(options, split)}\n"
    )
    rows = [
        [
            str(place + 1),
            f"{ranking.estimates[k]:.2f}",
            f"{ranking.scores[k]:.2f}",
            list_ingredients(bank, candidates[k]),
        ]
        for place, k in enumerate(ranking.order.tolist())
    ]
    print_table(["rank", "estimate", "score", "ingredients"], rows)
    best = int(bank.accuracies().argmax())
    print(
        f"\nbest single: {bank.names[best]}, {bank.accuracies()[best]:.2f}%. Estimates are ensembles, not soups."
    )


def average_command(options: argparse.Namespace) -> None:
    """A soup of given weights, without a network or images."""
    check_output(options)
    zoo = open_with_notes(checkpoint_paths(options), ema=options.ema)
    weights = options.weights or [1 / len(zoo)] * len(zoo)
    _warn_of_batch_norm(zoo)
    print(
        f"wrote {_save(options, zoo, weights, {'recipe': 'average'})}, the average of {len(zoo)} checkpoints"
    )


def evaluate_command(options: argparse.Namespace) -> None:
    """The accuracy of one file on one part, or a table of several."""
    check_numbers(options)
    splits = open_parts(options, options.part.split(","))
    zoo = open_zoo(options, options.soup, splits[0], unused="error")
    if len(zoo) > 1:
        raise CheckpointError(
            f"{options.soup} holds {len(zoo)} checkpoints; give the file of one soup."
        )
    accuracies = [
        evaluator(zoo, split, progress=show_progress(), **_engine(options))([1.0]) for split in splits
    ]
    if len(splits) == 1:
        print(f"{zoo.names[0]}: accuracy {accuracies[0]:.2f}% on {describe_split(options, splits[0])}")
        return
    print(f"{zoo.names[0]} on {options.data}\n")
    rows = [
        [
            split.part,
            f"{accuracy:.2f}",
            f"{standard_error(accuracy, len(split)):.2f}",
            str(len(split)),
        ]
        for split, accuracy in zip(splits, accuracies, strict=True)
    ]
    print_table(["part", "accuracy", "standard error", "images"], rows)


def bench_command(options: argparse.Namespace) -> None:
    """Every recipe on a shipped soup bench."""
    bench, budget = SoupBench.load(options.name), check_integer("budget", options.budget, minimum=1)
    oracle, best = bench.oracle
    rows = [["oracle", "", str(int((oracle > 0).sum())), "", f"{best:.2f}", "0.00"]]
    asked = [
        ("radin", 0.0),
        ("radin", 1.0),
        *((name, 0.0) for name in RECIPES if name not in ("radin", "ensemble")),
    ]
    for name, prior in asked:
        soup = craft(
            bench.val, bench.evaluator("val"), budget, name, prior=prior, seed=options.seed
        )
        regret = bench.regret(soup.weights)
        said = f"{name}, prior {prior:g}" if name == "radin" else name
        numbers = [f"{soup.accuracy:.2f}", f"{best - regret:.2f}", f"{regret:.2f}"]
        rows.append([said, str(soup.evaluations), str(len(soup.members)), *numbers])
    print(
        f"{options.name}: {bench.num_models} ingredients, budget {budget}, {bench.test.num_images} test images\n"
    )
    print_table(["recipe", "evaluations", "ingredients", "val", "test", "regret"], rows)


def fetch_command(options: argparse.Namespace) -> None:
    """A download by name, and what then lies where."""
    name, root = options.dataset, Path(options.to).expanduser() if options.to else data_root()
    if name == MODEL_SOUPS:
        folder, ids = root / MODEL_SOUPS, ingredient_ids(options.ids or "all")
        there = _sizes(folder)
        load_results(folder)  # what is small and may fail comes first
        fetched = fetch_ingredients(ids, folder, progress=show_progress())
        fetched += [folder / file for file in RESULT_FILES]
        sizes = {path: path.stat().st_size for path in fetched}
    elif options.ids is not None:
        raise ParameterError(
            f"--ids chooses among the ingredients of {MODEL_SOUPS}; {name} is fetched whole."
        )
    else:
        before = set(root.iterdir()) if root.is_dir() else set()
        folder = fetch(name, root, show_progress())
        sizes = _sizes(folder)
        there = sizes if folder in before else {}
    total, new = sum(sizes.values()), len(sizes.keys() - there.keys())
    size = f"{total / 1e9:.2f} GB" if total >= 1e9 else f"{total / 1e6:.2f} MB"
    print(f"{name}: {len(sizes)} files, {new} of them new, {size}, in {folder}")


def _sizes(folder: Path) -> dict[Path, int]:
    """The bytes of each file below a folder."""
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


# What the commands share ------------------------------------------------------------------------


def _engine(options: argparse.Namespace) -> dict[str, Any]:
    """How networks run."""
    return {
        "device": options.device,
        "batch_size": options.batch_size,
        "half": options.precision == "half",
        "workers": options.workers,
    }


def _provenance(options: argparse.Namespace, soup: Soup) -> dict[str, object]:
    asked = ["model", "data", "part", "images", "size", "mean", "std"]
    asked += ["precision", "recipe", "budget", "prior", "seed", "refresh_part"]
    found = {
        "normalise": colours_name(options),
        "evaluations": soup.evaluations,
        "accuracy": soup.accuracy,
    }
    return {name: getattr(options, name) for name in asked} | found


def _warn_of_batch_norm(zoo: Zoo) -> None:
    if any(key.endswith(RUNNING_STATISTICS) for key in zoo.keys()):
        print_notes(
            "note: averaged statistics of batch norm fit no soup; radin craft --refresh-part train measures them anew."
        )


def _save(
    options: argparse.Namespace,
    zoo: Zoo,
    weights: Tensor | list[float],
    about: dict[str, object],
    state: State = None,
) -> Path:
    """Write the soup; the path to open, which is the index where it became shards."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of batch norm, in terms of Python: `_warn_of_batch_norm` has said it
        return save_soup(
            zoo,
            weights,
            options.out,
            provenance=about,
            state=state,
            max_shard_size=options.shard_size,
        )


def _compare(
    options: argparse.Namespace,
    zoo: Zoo,
    bank: LogitBank,
    soup: Soup,
    state: State,
    parts: list[Split | None],
) -> None:
    """The winner against the best single ingredient and the uniform soup, image by image; outside the budget.

    Args:
        state: the winner with its batch norm measured anew, or None.
        parts: the images that chose it, those that did not (or None), and those for batch norm (or None).
    """
    best, (*reported, train) = int(bank.accuracies().argmax()), parts
    single, equal = torch.eye(len(zoo))[best], torch.full((len(zoo),), 1 / len(zoo))
    winner, rivals = "winner", dict[str, SoupLike]()
    for name, weights in (
        (f"best single ({bank.names[best][-24:]})", single),
        ("uniform soup", equal),
    ):
        if torch.allclose(soup.weights.float(), weights):
            winner = f"winner, the {name}"
        elif weights is equal and train is not None:
            rivals[name] = refresh_batch_norm(zoo, equal, train, options.device, options.batch_size)
        else:
            rivals[name] = weights
    for split in reported:
        if split is None:
            continue
        won = _right(options, zoo, soup.weights if state is None else state, split)
        rows = [[winner, f"{100 * won.double().mean():.2f}", "", ""]]
        for name, rival in rivals.items():
            right = _right(options, zoo, rival, split)
            less, low, high = paired_interval(won, right)
            rows.append(
                [
                    name,
                    f"{100 * right.double().mean():.2f}",
                    f"{less:+.2f}",
                    f"{low:+.2f} to {high:+.2f}",
                ]
            )
        flattered = ", which chose the winner and flatter it" if split is parts[0] else ""
        print(f"\non {describe_split(options, split)}{flattered}:")
        print_table(["", "accuracy", "winner less it", "95%, paired"], rows)


def _right(options: argparse.Namespace, zoo: Zoo, soup: SoupLike, split: Split) -> Tensor:
    logits, labels = soup_logits(zoo, soup, split, **_engine(options))
    return logits.argmax(-1) == labels


# Words ------------------------------------------------------------------------------------------
