"""What the commands of `radin` do; `radin.cli.parser` reads their options."""

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
from radin.cli.tables import describe_ingredients, describe_split, print_table, print_trials, wrap
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
from radin.recipes.selection import RANKED, RECIPES, default_candidates
from radin.recipes.trust import trust
from radin.soup.average import SoupLike
from radin.soup.save import save_soup

State = Mapping[str, Tensor] | None  # of a soup whose batch norm was measured again

NAME_COLUMNS = 24  # of an ingredient's name, its end, in a table


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
    evaluate = evaluator(
        zoo, split, refresh=train, progress=show_progress(), **_network_options(options)
    )
    bank = predict(zoo, split, progress=show_progress(), **_network_options(options))
    soup = craft(
        bank, evaluate, options.budget, options.recipe, prior=options.prior, seed=options.seed
    )
    spent = f"{soup.evaluations} of {soup.budget} evaluations spent"
    note = f"; {soup.note}" if soup.note else ""
    print(wrap(f"{soup.recipe}: {spent} on {describe_split(options, split)}{note}") + "\n")
    print_trials(bank, soup)
    state = None if train is None else _refresh(options, zoo, soup.weights, train)
    if options.out is not None:
        provenance = _provenance(options, soup)
        print(f"\nwrote {_save(options, zoo, soup.weights, provenance, state=state)}")
    try:
        winner = soup.weights if state is None else state
        rivals = _rivals(options, zoo, bank, soup, train)
        _compare(options, zoo, winner, rivals, split, chose_the_winner=True)
        if test is not None:
            _compare(options, zoo, winner, rivals, test)
    finally:  # an unreadable test image must not cost the rest of the report
        if soup.recipe in RANKED:
            _print_trust(bank, zoo, soup, refreshed=train is not None)
    if options.out is None:
        print_notes("note: the soup was not written; give --out soup.safetensors.")


def rank_command(options: argparse.Namespace) -> None:
    """Entry fee and stage 1."""
    check_numbers(options)
    split = open_part(options, options.part)
    zoo = open_zoo(options, checkpoint_paths(options), split)
    bank = predict(zoo, split, progress=show_progress(), **_network_options(options))
    candidates = default_candidates(bank.num_models, seed=options.seed)
    ranking = rank(bank, candidates, options.prior, top=options.top)
    print(
        f"the first {len(ranking.order)} of {len(candidates)} candidates on "
        f"{describe_split(options, split)}\n"
    )
    rows = [
        [
            str(number),
            f"{ranking.estimates[k]:.2f}",
            f"{ranking.scores[k]:.2f}",
            describe_ingredients(bank, candidates[k]),
        ]
        for number, k in enumerate(ranking.order.tolist(), start=1)
    ]
    print_table(["rank", "estimate", "score", "ingredients"], rows)
    best = int(bank.accuracies().argmax())
    print(
        f"\nbest single: {bank.names[best]}, {bank.accuracies()[best]:.2f}%. "
        "Estimates are ensembles, not soups."
    )


def average_command(options: argparse.Namespace) -> None:
    """A soup of given weights, without a network or images."""
    zoo = open_with_notes(checkpoint_paths(options), ema=options.ema)
    check_output(options)  # after the notes on the files, and before anything is computed
    weights = options.weights or [1 / len(zoo)] * len(zoo)
    _warn_of_batch_norm(zoo)
    path = _save(options, zoo, weights, {"recipe": "average"})
    print(f"wrote {path}, the average of {len(zoo)} checkpoints")


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
        evaluator(zoo, split, progress=show_progress(), **_network_options(options))([1.0])
        for split in splits
    ]
    if len(splits) == 1:
        print(
            f"{zoo.names[0]}: accuracy {accuracies[0]:.2f}% on {describe_split(options, splits[0])}"
        )
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
    bench = SoupBench.load(options.name)
    budget = check_integer("budget", options.budget, minimum=1)
    oracle, best = bench.oracle
    rows = [["oracle", "", str(int((oracle > 0).sum())), "", f"{best:.2f}", "0.00"]]
    recipes = [
        ("radin", 0.0),
        ("radin", 1.0),
        *((name, 0.0) for name in RECIPES if name not in ("radin", "ensemble")),
    ]
    for name, prior in recipes:
        soup = craft(
            bench.val, bench.evaluator("val"), budget, name, prior=prior, seed=options.seed
        )
        regret = bench.regret(soup.weights)
        label = f"{name}, prior {prior:g}" if name == "radin" else name
        numbers = [f"{soup.accuracy:.2f}", f"{best - regret:.2f}", f"{regret:.2f}"]
        rows.append([label, str(soup.evaluations), str(len(soup.members)), *numbers])
    print(
        f"{options.name}: {bench.num_models} ingredients, budget {budget}, "
        f"{bench.test.num_images} test images\n"
    )
    print_table(["recipe", "evaluations", "ingredients", "val", "test", "regret"], rows)


def fetch_command(options: argparse.Namespace) -> None:
    """A download by name, and the number and size of its files."""
    name = options.dataset
    root = data_root(options.to or None)
    if name == MODEL_SOUPS:
        ids = ingredient_ids(options.ids or "all")
        folder = root / MODEL_SOUPS
        sizes_before = _sizes(folder)
        load_results(folder)  # first, because these files are small and may fail
        paths = fetch_ingredients(ids, folder, progress=show_progress())
        paths += [folder / file for file in RESULT_FILES]
        sizes = {path: path.stat().st_size for path in paths}
    elif options.ids is not None:
        raise ParameterError(
            f"--ids chooses among the ingredients of {MODEL_SOUPS}; {name} is fetched whole."
        )
    else:
        folders_before = set(root.iterdir()) if root.is_dir() else set()
        folder = fetch(name, root, progress=show_progress())
        sizes = _sizes(folder)
        sizes_before = sizes if folder in folders_before else {}
    total = sum(sizes.values())
    num_new = len(sizes.keys() - sizes_before.keys())
    size = f"{total / 1e9:.2f} GB" if total >= 1e9 else f"{total / 1e6:.2f} MB"
    print(f"{name}: {len(sizes)} files, {num_new} of them new, {size}, in {folder}")


def _sizes(folder: Path) -> dict[Path, int]:
    """The bytes of each file below a folder."""
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


# What the commands share ------------------------------------------------------------------------


def _network_options(options: argparse.Namespace) -> dict[str, Any]:
    """How networks run, for `predict`, `evaluator` and `soup_logits`."""
    return {
        "device": options.device,
        "batch_size": options.batch_size,
        "half": options.precision == "half",
        "workers": options.workers,
    }


def _provenance(options: argparse.Namespace, soup: Soup) -> dict[str, object]:
    """What a soup's file tells about how the soup was made."""
    names = ["model", "data", "part", "images", "size", "mean", "std"]
    names += ["precision", "recipe", "budget", "prior", "seed", "refresh_part"]
    results = {
        "normalise": colours_name(options),
        "evaluations": soup.evaluations,
        "accuracy": soup.accuracy,
    }
    return {name: getattr(options, name) for name in names} | results


def _warn_of_batch_norm(zoo: Zoo) -> None:
    if any(key.endswith(RUNNING_STATISTICS) for key in zoo.keys()):
        print_notes(
            "note: averaged statistics of batch norm fit no soup; radin craft --refresh-part "
            "train measures them again."
        )


def _refresh(
    options: argparse.Namespace, zoo: Zoo, weights: Tensor, train: Split
) -> Mapping[str, Tensor]:
    """A soup with its batch norm measured on training images."""
    return refresh_batch_norm(zoo, weights, train, options.device, batch_size=options.batch_size)


def _save(
    options: argparse.Namespace,
    zoo: Zoo,
    weights: Tensor | list[float],
    provenance: dict[str, object],
    *,
    state: State = None,
) -> Path:
    """Write the soup, and return the path to open: the index, where the soup is in shards."""
    with warnings.catch_warnings():
        # About batch norm, in terms of Python: `_warn_of_batch_norm` has told the same.
        warnings.simplefilter("ignore")
        return save_soup(
            zoo,
            weights,
            options.out,
            provenance=provenance,
            state=state,
            max_shard_size=options.shard_size,
        )


def _print_trust(bank: LogitBank, zoo: Zoo, soup: Soup, *, refreshed: bool) -> None:
    report = trust(bank, zoo, trials=soup.trials, refreshed=refreshed, progress=show_progress())
    print("\n" + wrap(str(report)))


def _rivals(
    options: argparse.Namespace, zoo: Zoo, bank: LogitBank, soup: Soup, train: Split | None
) -> dict[str, SoupLike | None]:
    """The best single ingredient and the uniform soup by name; None where one is the winner.

    Args:
        train: images on which the uniform soup's batch norm is measured, or None.
    """
    best = int(bank.accuracies().argmax())
    single = torch.eye(len(zoo))[best]
    uniform = torch.full((len(zoo),), 1 / len(zoo))
    weights_of = {
        f"best single ({bank.names[best][-NAME_COLUMNS:]})": single,
        "uniform soup": uniform,
    }
    rivals: dict[str, SoupLike | None] = {}
    for name, weights in weights_of.items():
        if torch.allclose(soup.weights.float(), weights):
            rivals[name] = None
        elif weights is uniform and train is not None:
            rivals[name] = _refresh(options, zoo, uniform, train)
        else:
            rivals[name] = weights
    return rivals


def _compare(
    options: argparse.Namespace,
    zoo: Zoo,
    winner: SoupLike,
    rivals: Mapping[str, SoupLike | None],
    split: Split,
    *,
    chose_the_winner: bool = False,
) -> None:
    """Print the winner against each rival, image by image; this is outside the budget.

    Args:
        rivals: by name; None for one that is the winner itself.
        chose_the_winner: whether these are the images that chose it.
    """
    winner_name = "winner"
    for name, rival in rivals.items():
        winner_name = f"winner, the {name}" if rival is None else winner_name
    winner_correct = _correct(options, zoo, winner, split)
    rows = [[winner_name, _percent(winner_correct), "", ""]]
    for name, rival in rivals.items():
        if rival is None:
            continue
        correct = _correct(options, zoo, rival, split)
        difference, low, high = paired_interval(winner_correct, correct)
        interval = f"{low:+.2f} to {high:+.2f}"
        rows.append([name, _percent(correct), f"{difference:+.2f}", interval])
    flattered = ", which chose the winner and flatter it" if chose_the_winner else ""
    print(f"\non {describe_split(options, split)}{flattered}:")
    print_table(["", "accuracy", "winner less it", "95%, paired"], rows)


def _correct(options: argparse.Namespace, zoo: Zoo, soup: SoupLike, split: Split) -> Tensor:
    """Whether the soup's answer on each image is correct, (n,)."""
    logits, labels = soup_logits(zoo, soup, split, **_network_options(options))
    return logits.argmax(-1) == labels


def _percent(correct: Tensor) -> str:
    return f"{100 * correct.double().mean():.2f}"
