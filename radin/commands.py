"""What the commands of `radin` do; `radin.cli` reads their options."""

from __future__ import annotations

import argparse
import sys
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from radin.architectures import CLIP, IMAGENET, Normalised, builder
from radin.bank import LogitBank
from radin.bench import SoupBench
from radin.compare import paired_interval
from radin.craft import RANKED, RECIPES, Order, Soup, craft
from radin.data import Split, load_split
from radin.errors import CheckpointError, DataError, ParameterError, check_seed, check_whole
from radin.predict import SoupLike, evaluator, pick_device, predict, refresh_batch_norm, soup_logits
from radin.rank import check_prior, rank
from radin.soup import save_soup
from radin.trust import trust
from radin.zoo import RUNNING_STATISTICS, Zoo

WIDTH = 100  # columns of the widest table
FOLDER = "imagenet-folder:"
COLOURS = {"clip": CLIP, "imagenet": IMAGENET}
State = Mapping[str, Tensor] | None  # of a soup whose batch norm was measured anew


def craft_command(options: argparse.Namespace) -> None:
    """Entry fee, stages 1 and 2, the soup's file, and the report."""
    _check_numbers(options)
    _check_out(options)
    split = _images(options, options.part)
    test = _other_part(options, options.test_part, split)
    train = _other_part(options, options.refresh_part, split)
    zoo = _zoo(options, _paths(options), split.num_classes)
    if train is None:
        _warn_of_batch_norm(zoo)
    evaluate = evaluator(zoo, split, options.device, options.batch_size, train)
    bank = predict(zoo, split, options.device, options.batch_size, progress=_bars())
    soup = craft(bank, evaluate, options.budget, options.recipe, prior=options.prior, seed=options.seed)
    spent = f"{soup.evaluations} of {soup.budget} evaluations spent on {split.part}, {len(split)} images"
    print(_wrapped(f"{soup.recipe}: {spent}" + (f"; {soup.note}" if soup.note else "")) + "\n")
    _print_trials(bank, soup)
    state = None if train is None else refresh_batch_norm(zoo, soup.weights, train, options.device, options.batch_size)
    if options.out is not None:
        _save(zoo, soup.weights, options.out, _provenance(options, soup), state)
        print(f"\nwrote {options.out}")
    _compare(options, zoo, bank, soup, state, [split, test, train])
    if soup.recipe in RANKED:
        report = trust(bank, zoo, trials=soup.trials, refreshed=train is not None, progress=_bars())
        print("\n" + _wrapped(str(report)))
    if options.out is None:
        _say("note: the soup was not written; give --out soup.safetensors.")


def rank_command(options: argparse.Namespace) -> None:
    """Entry fee and stage 1."""
    _check_numbers(options)
    split = _images(options, options.part)
    zoo = _zoo(options, _paths(options), split.num_classes)
    bank = predict(zoo, split, options.device, options.batch_size, progress=_bars())
    candidates = Order(None, options.prior, options.seed).candidates_for(bank)
    ranking = rank(bank, candidates, options.prior, top=options.top)
    print(f"the first {len(ranking.order)} of {len(candidates)} candidates on {split.part}, {len(split)} images\n")
    rows = [
        [str(place + 1), f"{ranking.estimates[k]:.2f}", f"{ranking.scores[k]:.2f}", _members(bank, candidates[k])]
        for place, k in enumerate(ranking.order.tolist())
    ]
    _print_table(["rank", "estimate", "score", "ingredients"], rows)
    best = int(bank.accuracies().argmax())
    print(f"\nbest single: {bank.names[best]}, {bank.accuracies()[best]:.2f}%. Estimates are ensembles, not soups.")


def average_command(options: argparse.Namespace) -> None:
    """A soup of given weights, without a network or images."""
    _check_out(options)
    zoo = Zoo.open(_paths(options), progress=_bars())
    _say(*zoo.notes)
    weights = options.weights or [1 / len(zoo)] * len(zoo)
    _warn_of_batch_norm(zoo)
    _save(zoo, weights, options.out, {"recipe": "average"})
    print(f"wrote {options.out}, the average of {len(zoo)} checkpoints")


def evaluate_command(options: argparse.Namespace) -> None:
    """The accuracy of one file on one part."""
    split = _images(options, options.part)
    zoo = _zoo(options, options.soup, split.num_classes, unused="error")
    if len(zoo) > 1:
        raise CheckpointError(f"{options.soup} holds {len(zoo)} checkpoints; give the file of one soup.")
    accuracy = evaluator(zoo, split, options.device, options.batch_size)([1.0])
    print(f"{zoo.names[0]}: accuracy {accuracy:.2f}% on {split.part}, {len(split)} images")


def bench_command(options: argparse.Namespace) -> None:
    """Every recipe on a shipped soup bench."""
    bench, budget = SoupBench.load(options.name), check_whole("budget", options.budget, least=1)
    oracle, best = bench.oracle
    rows = [["oracle", "", str(int((oracle > 0).sum())), "", f"{best:.2f}", "0.00"]]
    asked = [("radin", 0.0), ("radin", 1.0), *((name, 0.0) for name in RECIPES if name not in ("radin", "ensemble"))]
    for name, prior in asked:
        soup = craft(bench.val, bench.evaluator("val"), budget, name, prior=prior, seed=options.seed)
        regret = bench.regret(soup.weights)
        said = f"{name}, prior {prior:g}" if name == "radin" else name
        numbers = [f"{soup.accuracy:.2f}", f"{best - regret:.2f}", f"{regret:.2f}"]
        rows.append([said, str(soup.evaluations), str(len(soup.members)), *numbers])
    print(f"{options.name}: {bench.num_models} ingredients, budget {budget}, {bench.test.num_images} test images\n")
    _print_table(["recipe", "evaluations", "ingredients", "val", "test", "regret"], rows)


# What the commands share ------------------------------------------------------------------------


def _check_numbers(options: argparse.Namespace) -> None:
    """Refuse what would be refused later, after the work."""
    for name in ("budget", "top", "batch_size"):
        if hasattr(options, name):
            check_whole(f"--{name.replace('_', '-')}", getattr(options, name), least=1)
    check_prior(options.prior)
    check_seed(options.seed)
    pick_device(options.device)


def _check_out(options: argparse.Namespace) -> None:
    if options.out is None:
        return
    if options.out.suffix != ".safetensors":
        raise ParameterError(f"{options.out}: a soup is saved as .safetensors; change the ending.")
    if options.out.exists() and not options.force:
        raise ParameterError(f"{options.out} exists; give another --out, or --force to replace it.")


def _images(options: argparse.Namespace, part: str) -> Split:
    """A part of --data, in the colours that the network was trained with."""
    name, size = options.data, options.size
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER)).expanduser().resolve()
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; --data {FOLDER}PATH needs PATH/<part>/<class>/<image>.")
        name, size = str(folder), 224 if size is None else size
    split = load_split(name, part, size=size)
    if (options.mean is None) != (options.std is None):
        raise ParameterError("--mean and --std belong together; give both or neither.")
    if options.mean is not None:
        return Normalised(split, options.mean, options.std)
    colours = _colours(options)
    return Normalised(split, *COLOURS[colours]) if colours in COLOURS else split


def _colours(options: argparse.Namespace) -> str:
    return options.normalise or ("clip" if options.model.startswith("open_clip:") else "none")


def _other_part(options: argparse.Namespace, part: str | None, split: Split) -> Split | None:
    if part is None:
        return None
    if part == options.part:
        raise ParameterError(f"--part, which chooses, is {part!r}; --test-part and --refresh-part must be others.")
    if options.test_part == options.refresh_part:
        raise ParameterError(f"--test-part and --refresh-part are both {part!r}; the test part is for the report only.")
    other = _images(options, part)
    if other.class_names != split.class_names:
        raise DataError(f"{other!r} has other classes than {split!r}; give parts of one data set.")
    return other


def _paths(options: argparse.Namespace) -> str | list[str]:
    """One folder or glob, or the files that the shell made of it."""
    return options.checkpoints[0] if len(options.checkpoints) == 1 else options.checkpoints


def _zoo(options: argparse.Namespace, paths: str | list[str], num_classes: int, unused: str = "skip") -> Zoo:
    build, init = builder(options.model, num_classes), getattr(options, "init", None)
    zoo = Zoo.open(paths, build, init, progress=_bars(), unused=options.unused or unused)
    _say(*zoo.notes)
    return zoo


def _provenance(options: argparse.Namespace, soup: Soup) -> dict[str, object]:
    asked = ["model", "data", "part", "size", "mean", "std", "recipe", "budget", "prior", "seed", "refresh_part"]
    found = {"normalise": _colours(options), "evaluations": soup.evaluations, "accuracy": soup.accuracy}
    return {name: getattr(options, name) for name in asked} | found


def _warn_of_batch_norm(zoo: Zoo) -> None:
    if any(key.endswith(RUNNING_STATISTICS) for key in zoo.keys()):
        _say(
            "note: averaged statistics of batch norm fit no soup; radin craft --refresh-part train measures them anew."
        )


def _save(zoo: Zoo, weights: Tensor | list[float], out: Path, about: dict[str, object], state: State = None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of batch norm, in terms of Python: `_warn_of_batch_norm` has said it
        save_soup(zoo, weights, out, about, state)


def _compare(
    options: argparse.Namespace, zoo: Zoo, bank: LogitBank, soup: Soup, state: State, parts: list[Split | None]
) -> None:
    """The winner against the best single ingredient and the uniform soup, image by image; outside the budget.

    Args:
        state: the winner with its batch norm measured anew, or None.
        parts: the images that chose it, those that did not (or None), and those for batch norm (or None).
    """
    best, (*reported, train) = int(bank.accuracies().argmax()), parts
    single, equal = torch.eye(len(zoo))[best], torch.full((len(zoo),), 1 / len(zoo))
    winner, rivals = "winner", dict[str, SoupLike]()
    for name, weights in ((f"best single ({bank.names[best][-24:]})", single), ("uniform soup", equal)):
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
            rows.append([name, f"{100 * right.double().mean():.2f}", f"{less:+.2f}", f"{low:+.2f} to {high:+.2f}"])
        flattered = ", which chose the winner and flatter it" if split is parts[0] else ""
        print(f"\non {split.part}, {len(split)} images{flattered}:")
        _print_table(["", "accuracy", "winner less it", "95%, paired"], rows)


def _right(options: argparse.Namespace, zoo: Zoo, soup: SoupLike, split: Split) -> Tensor:
    logits, labels = soup_logits(zoo, soup, split, options.device, options.batch_size)
    return logits.argmax(-1) == labels


# Words ------------------------------------------------------------------------------------------


def _bars() -> bool:
    return sys.stderr.isatty()


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in text.splitlines())


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
        won = not chosen and torch.equal(trial.weights, soup.weights) and trial.accuracy == soup.accuracy
        chosen = chosen or won
        accuracy = f"{trial.accuracy:.2f}" + (" *" if won else "  ")
        rows.append([str(place + 1), f"{trial.estimate:.2f}", accuracy, _members(bank, trial.weights)])
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
