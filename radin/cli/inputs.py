"""What a command line asks for, checked and opened: numbers, images, checkpoints."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from radin.checkpoints.architectures import builder
from radin.checkpoints.zoo import Zoo
from radin.data.load import load_split
from radin.data.splits import CLIP, IMAGENET, Normalised, Split
from radin.errors import DataError, ParameterError, check_seed, check_integer
from radin.inference.devices import pick_device
from radin.ranking.rank import check_prior
from radin.soup.shards import parse_size

FOLDER = "imagenet-folder:"
COLOURS = {"clip": CLIP, "imagenet": IMAGENET}


def check_numbers(options: argparse.Namespace) -> None:
    """Refuse what would be refused later, after the work."""
    for name in ("budget", "top", "batch_size", "images", "workers"):
        if getattr(options, name, None) is not None:
            check_integer(f"--{name.replace('_', '-')}", getattr(options, name), minimum=1)
    if hasattr(options, "prior"):
        check_prior(options.prior)
        check_seed(options.seed)
    pick_device(options.device)


def check_out(options: argparse.Namespace) -> None:
    """Refuse a soup's file that is there already, or that could not be written."""
    if options.shard_size is not None:
        parse_size("--shard-size", options.shard_size)
    if options.out is None:
        return
    if options.out.suffix != ".safetensors":
        raise ParameterError(f"{options.out}: a soup is saved as .safetensors; change the ending.")
    for path in (options.out, options.out.with_name(f"{options.out.name}.index.json")):
        if path.is_dir():
            raise ParameterError(f"{path} is a folder; give --out a file.")
        if path.exists() and not options.force:
            raise ParameterError(f"{path} exists; give another --out, or --force to replace it.")
    try:  # now, and not after the budget has been spent
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=options.out.parent):
            pass
    except OSError as error:
        raise ParameterError(
            f"{options.out} cannot be written ({error.strerror}); give another --out."
        ) from error


def images_of(options: argparse.Namespace, part: str) -> Split:
    """A part of --data, in the colours that the network was trained with."""
    name, size = options.data, options.size
    if (options.mean is None) != (options.std is None):
        raise ParameterError("--mean and --std belong together; give both or neither.")
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER)).expanduser().resolve()
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder; --data {FOLDER}PATH needs PATH/<part>/<class>/<image>."
            )
        name, size = str(folder), 224 if size is None else size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the note says it, too
        split = load_split(name, part, size=size)
    if options.images is not None:
        split = split.take(options.images)
    if split.note:
        say(f"note: {split.name}, {split.part}: {split.note}.")
    colours = (
        (options.mean, options.std)
        if options.mean is not None
        else COLOURS.get(colours_of(options))
    )
    return split if colours is None else Normalised(split, *colours)


def parts_of(options: argparse.Namespace, parts: list[str]) -> list[Split]:
    """Several parts of --data for one network; whatever is wrong with any of them is said before any work."""
    if twice := next((part for part in parts if parts.count(part) > 1), None):
        raise ParameterError(f"--part names {twice!r} twice; give each part once.")
    splits, wrong = [], []
    for part in parts:
        try:
            splits.append(images_of(options, part))
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("\n".join(wrong))
    for split in splits[1:]:
        _check_same_network(split, splits[0])
    return splits


def _check_same_network(other: Split, split: Split) -> None:
    """One network must serve both: the same classes, or, for a test set with fewer, the same logits."""
    alike = (
        other.class_names == split.class_names
        or split.projection is not None
        or other.projection is not None
    )
    if not alike or other.num_logits != split.num_logits:
        raise DataError(f"{other!r} has other classes than {split!r}; give parts of one data set.")


def colours_of(options: argparse.Namespace) -> str:
    return options.normalise or ("clip" if options.model.startswith("open_clip:") else "none")


def other_part(options: argparse.Namespace, part: str | None, split: Split) -> Split | None:
    if part is None:
        return None
    if part == options.part:
        raise ParameterError(
            f"--part, which chooses, is {part!r}; --test-part and --refresh-part must be others."
        )
    if options.test_part == options.refresh_part:
        raise ParameterError(
            f"--test-part and --refresh-part are both {part!r}; the test part is for the report only."
        )
    other = images_of(options, part)
    _check_same_network(other, split)
    if both := _files(split) & _files(other):
        raise ParameterError(
            f"--part {options.part} and {part} share {len(both):,} images, such as {min(both)}; give parts without "
            "common images."
        )
    return other


def _files(split: Split) -> set[Path]:
    return set(getattr(getattr(split, "split", split), "files", ()))  # perhaps behind other colours


def paths_of(options: argparse.Namespace) -> str | list[str]:
    """One folder or glob, or the files that the shell made of it."""
    return options.checkpoints[0] if len(options.checkpoints) == 1 else options.checkpoints


def open_zoo(
    options: argparse.Namespace, paths: str | list[str], split: Split, unused: str = "skip"
) -> Zoo:
    build, init = builder(options.model, split.num_logits), getattr(options, "init", None)
    return open_quietly(
        paths, build=build, init=init, unused=options.unused or unused, ema=options.ema
    )


def open_quietly(paths: str | list[str], **options: Any) -> Zoo:
    """Open a zoo; what is to be known of it is said once, as notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes have them too
        zoo = Zoo.open(paths, progress=bars(), **options)
    say(*zoo.notes)
    return zoo


def bars() -> bool:
    return sys.stderr.isatty()


def say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)
