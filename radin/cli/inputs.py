"""What a command line asks for, checked and opened: numbers, images, checkpoints."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from radin.checkpoints.adapter_zoo import adapters_of, open_adapters
from radin.checkpoints.adapters import holds_adapters
from radin.checkpoints.architectures import builder, find_function
from radin.checkpoints.huggingface import (
    PROCESSOR_FILE,
    Preprocessing,
    check_same_classes,
    label_names,
    preprocessing,
)
from radin.checkpoints.paths import describe_soups
from radin.checkpoints.zoo import Zoo
from radin.cli.notes import print_notes, show_progress
from radin.cli.words import FOLDER_PREFIX
from radin.data.load import load_split
from radin.data.overlap import find_same_files
from radin.data.samples import OwnSplit
from radin.data.splits import CLIP, IMAGENET, Normalised, Split
from radin.errors import (
    CheckpointError,
    DataError,
    ParameterError,
    check_integer,
    check_seed,
    counted,
)
from radin.files import expand_path
from radin.inference.devices import pick_device
from radin.inference.partial import check_share
from radin.ranking.projection import Projection
from radin.ranking.rank import check_prior
from radin.recipes.craft import check_threshold
from radin.recipes.functions import RecipeFunction
from radin.recipes.learned import check_holdout
from radin.soup.shards import parse_size

FOLDER_IMAGE_PIXELS = 224  # edge of the images of a folder where --size is not given
HF_PREFIX = "hf:"
# The options that only one recipe uses, with the values that ask for nothing.
RECIPE_OPTIONS: dict[str, dict[str, Any]] = {
    "radin": {"prior": 0.0, "free_singles": False},
    "safe": {"threshold": 0.0},
    "learned": {"granularity": "ingredient", "start": "uniform", "holdout": 0.0},
}
COLOURS = {"clip": CLIP, "imagenet": IMAGENET}


def check_numbers(options: argparse.Namespace) -> None:
    """Refuse impossible options now, not after hours of work."""
    for name in ("budget", "top", "batch_size", "images", "workers"):
        value = getattr(options, name, None)
        if value is not None:
            check_integer(f"--{name.replace('_', '-')}", value, minimum=1)
    if hasattr(options, "prior"):
        check_prior(options.prior)
        check_seed(options.seed)
    if hasattr(options, "share"):
        check_share(options.share)
        check_threshold(options.threshold)
        check_holdout(options.holdout)
    pick_device(options.device)


def check_recipe_options(recipe: str, options: Mapping[str, Any]) -> None:
    """Refuse an option of another recipe than the one that is asked for: it would do nothing."""
    for owner, unused in RECIPE_OPTIONS.items():
        for name, nothing in unused.items():
            if recipe != owner and options.get(name) not in (None, nothing):
                option = f"--{name.replace('_', '-')}"
                raise ParameterError(
                    f"{option} is for --recipe {owner}, not for {recipe}; leave {option} out, or "
                    f"give --recipe {owner}."
                )


def check_output(options: argparse.Namespace, *, may_exist: bool = False) -> None:
    """Refuse --out if its file cannot be written, or exists already.

    Args:
        may_exist: do not refuse a file that exists; a later call does.
    """
    if options.shard_size is not None:
        parse_size("--shard-size", options.shard_size)
    if options.out is None:
        return
    options.out = expand_path(options.out)
    if writes_adapter(options):
        _check_adapter_output(options)
        return
    if options.out.suffix != ".safetensors":
        raise ParameterError(f"{options.out}: a soup is saved as .safetensors; change the ending.")
    for path in (options.out, options.out.with_name(f"{options.out.name}.index.json")):
        if os.path.isdir(path):
            raise ParameterError(f"{path} is a folder; give --out a file.")
        if os.path.lexists(path) and not (options.force or may_exist):
            raise ParameterError(f"{path} exists; give another --out, or --force to replace it.")
    # Its name is as long as any that the writing of the soup makes.
    _try_to_write(options, options.out.parent, f".{options.out.name}-00000-of-00000.")


def writes_adapter(options: argparse.Namespace) -> bool:
    """Whether --out is the folder of an adapter, and not the file of a soup.

    Without --base a soup of adapters is always an adapter.
    """
    if options.out is None or Path(options.out).suffix == ".safetensors":
        return False
    return options.base is not None or holds_adapters(checkpoint_paths(options))


def _check_adapter_output(options: argparse.Namespace) -> None:
    """Refuse a folder that holds anything, and options that an adapter cannot follow."""
    if options.shard_size is not None:
        raise ParameterError("--shard-size cuts a merged soup; --out FOLDER is an adapter, a file.")
    if getattr(options, "refresh_part", None) is not None:
        raise ParameterError(
            "--refresh-part measures batch norm, which an adapter does not hold; give --out a file "
            "that ends in .safetensors, for the soup merged into its base."
        )
    if os.path.lexists(options.out) and not os.path.isdir(options.out):
        raise ParameterError(f"{options.out} is a file; give --out a folder.")
    if os.path.isdir(options.out) and os.listdir(options.out) and not options.force:
        raise ParameterError(
            f"{options.out} is not empty; give another --out, or --force to replace the adapter in "
            "it."
        )
    _try_to_write(options, options.out, ".")


def _try_to_write(options: argparse.Namespace, folder: Path, prefix: str) -> None:
    """Refuse a folder that cannot be written to now, not after the budget has been spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, prefix=prefix, suffix=".writing"):
            pass
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"{options.out} cannot be written ({getattr(error, 'strerror', None) or error}); give "
            "another --out."
        ) from error


def open_part(options: argparse.Namespace, part: str) -> Split:
    """A part of --data, in the colours that the network was trained with."""
    if (options.mean is None) != (options.std is None):
        raise ParameterError("--mean and --std belong together; give both or neither.")
    name = options.data
    size = options.size
    if ":" in name and not name.startswith(FOLDER_PREFIX):
        return _open_own_data(options, part)
    if name.startswith(FOLDER_PREFIX):
        folder = Path(os.path.realpath(expand_path(name.removeprefix(FOLDER_PREFIX))))
        if not os.path.isdir(folder):
            raise DataError(
                f"{folder}: no such folder; --data {FOLDER_PREFIX}PATH needs "
                "PATH/<part>/<class>/<image>."
            )
        name = str(folder)
        size = _default_size(options) if size is None else size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the note below tells the same
        split = load_split(name, part, size=size)
    _match_classes(options, split)
    if options.images is not None:
        split = split.take(options.images)
    if split.note:
        print_notes(f"note: {split.name}, {split.part}: {split.note}.")
    if options.mean is not None:
        return Normalised(split, options.mean, options.std)
    if colours_name(options) == PROCESSOR_FILE and (own := _preprocessing(options)):
        return Normalised(split, own.mean, own.std)
    colours = COLOURS.get(colours_name(options))
    return split if colours is None else Normalised(split, *colours)


def _open_own_data(options: argparse.Namespace, part: str) -> Split:
    """What the function of --data package.module:function gives for a part."""
    for option in ("size", "normalise", "mean", "std"):
        if getattr(options, option) is not None:
            raise ParameterError(
                f"--{option} is for images that radin reads; the function of --data {options.data} "
                "gives them as the network takes them."
            )
    module, _, name = options.data.partition(":")
    forms = f"{FOLDER_PREFIX}PATH, a data set's name, or package.module:function"
    function = find_function(module, name, forms=forms)
    split = OwnSplit(options.data, part, function(part))
    return split if options.images is None else split.take(options.images)


def _hf_folder(options: argparse.Namespace) -> str | None:
    """The folder of --model hf:FOLDER."""
    is_hf = options.model is not None and options.model.startswith(HF_PREFIX)
    return options.model.removeprefix(HF_PREFIX) if is_hf else None


def _preprocessing(options: argparse.Namespace) -> Preprocessing | None:
    folder = _hf_folder(options)
    return None if folder is None else preprocessing(folder)


def _default_size(options: argparse.Namespace) -> int:
    own = _preprocessing(options)
    return FOLDER_IMAGE_PIXELS if own is None or own.size is None else own.size


def _match_classes(options: argparse.Namespace, split: Split) -> None:
    """Put the logits into the order of the split's classes, where a config.json names them."""
    folder = _hf_folder(options)
    if folder is None or split.projection is not None:
        return
    numbers = {_plain(name): k for k, name in enumerate(label_names(folder))}
    wanted = [_plain(name) for name in split.class_names]
    if sorted(numbers) != sorted(wanted) or list(numbers) == wanted:
        return
    split.projection = Projection([[numbers[name]] for name in wanted], len(wanted))
    print_notes(
        f"note: {split.name}, {split.part}: the logits are put into the order of its classes, "
        f"which is not that of {folder}."
    )


def _plain(class_name: str) -> str:
    return class_name.casefold().replace("_", " ").replace("-", " ").strip()


def open_parts(options: argparse.Namespace, parts: list[str]) -> list[Split]:
    """Several parts of --data for one network; one error reports all parts that fail."""
    if twice := next((part for part in parts if parts.count(part) > 1), None):
        raise ParameterError(f"--part names {twice!r} twice; give each part once.")
    splits = []
    messages = []
    for part in parts:
        try:
            splits.append(open_part(options, part))
        except DataError as error:
            messages.append(str(error))
    if messages:
        raise DataError("\n".join(messages))
    for split in splits[1:]:
        _check_same_network(split, splits[0])
    return splits


def _check_same_network(other: Split, split: Split) -> None:
    """DataError unless one network fits both splits.

    They must have the same classes, or, for a test set with fewer classes, the same logits.
    """
    alike = (
        other.class_names == split.class_names
        or split.projection is not None
        or other.projection is not None
    )
    if not alike or other.num_logits != split.num_logits:
        raise DataError(f"{other!r} has other classes than {split!r}; give parts of one data set.")


def colours_name(options: argparse.Namespace) -> str:
    """A key of `COLOURS`, "none", or the file that names them."""
    if options.normalise:
        return str(options.normalise)
    if options.model.startswith("open_clip:"):
        return "clip"
    return "none" if _preprocessing(options) is None else PROCESSOR_FILE


def open_other_part(options: argparse.Namespace, part: str | None, split: Split) -> Split | None:
    """The part of --test-part or --refresh-part, which must share no image with `split`."""
    if part is None:
        return None
    if part == options.part:
        raise ParameterError(
            f"--part, which chooses, is {part!r}; --test-part and --refresh-part must be others."
        )
    if options.test_part == options.refresh_part:
        raise ParameterError(
            f"--test-part and --refresh-part are both {part!r}; the test part is for the report "
            "only."
        )
    other = open_part(options, part)
    _check_same_network(other, split)
    if shared := find_same_files(split.files, other.files):
        raise ParameterError(
            f"--part {options.part} and {part} share {counted(len(shared), 'image')}, such as "
            f"{min(shared)}; give parts without common images."
        )
    return other


def checkpoint_paths(options: argparse.Namespace) -> str | list[str]:
    """One folder or glob, or the files to which the shell has expanded it."""
    return options.checkpoints[0] if len(options.checkpoints) == 1 else options.checkpoints


def open_zoo(
    options: argparse.Namespace, paths: str | list[str], split: Split, *, unused: str = "skip"
) -> Zoo:
    """The zoo of --model; `unused` is the default of --unused."""
    build = builder(options.model, split.num_logits, online=options.online)
    if options.base is not None:
        return open_adapters_with_notes(
            options, paths, build=build, unused=options.unused or "skip"
        )
    zoo = open_with_notes(
        paths,
        build=build,
        init=getattr(options, "init", None),
        unused=options.unused or unused,
        ema=options.ema,
    )
    if _hf_folder(options) is not None:
        check_same_classes(zoo.paths)
    return zoo


def open_adapters_with_notes(
    options: argparse.Namespace, paths: str | list[str], **build_options: Any
) -> Zoo:
    """Open the adapters of --base as a zoo, and print its warnings as notes, once."""
    if getattr(options, "init", None) is not None:
        raise ParameterError("--init is what files were trained from; for adapters --base is that.")
    if options.ema:
        raise ParameterError("--ema is for checkpoints; adapters of peft hold no moving average.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes tell the same
        zoo = open_adapters(paths, options.base, progress=show_progress(), **build_options)
    refuse_soups(zoo.paths, [adapter.fingerprint for adapter in adapters_of(zoo)])
    print_notes(*zoo.notes)
    return zoo


def open_with_notes(paths: str | list[str], **options: Any) -> Zoo:
    """Open a zoo, and print its warnings as notes, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes tell the same
        zoo = Zoo.open(paths, progress=show_progress(), **options)
    refuse_soups(zoo.paths, zoo.fingerprints)
    print_notes(*zoo.notes)
    return zoo


def refuse_soups(paths: Sequence[Path], fingerprints: Sequence[str]) -> None:
    """Refuse soups among their ingredients.

    The shell may have made a list of a glob that an earlier soup matches, too.
    """
    if soups := describe_soups(paths, fingerprints):
        raise CheckpointError(f"{soups}; leave them out, or give the glob in quotation marks.")


def find_own_recipe(recipe: str) -> str | RecipeFunction:
    """The function of --recipe package.module:function; a recipe's name stays as it is."""
    module, colon, name = recipe.partition(":")
    forms = "--recipe package.module:function"
    return find_function(module, name, forms=forms) if colon else recipe
