"""Which files of a folder make a part: the split that is there, a share held out of it, or a union of domains."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from radin.data.download.catalog import DataSet
from radin.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
HELD_OUT = (
    0.1  # the share of each class's training images that becomes "val" where a data set has none
)
HALVES = ("pretrain", "finetune")  # of "train"
WITHOUT = "without-"  # followed by a domain: all the others

# Takes the sorted images of one class and the class's name, gives those that belong to the part.
Choice = Callable[[list[Path], str], list[Path]]


def part_files(
    base: Path, part: str, known: DataSet | None = None
) -> tuple[list[tuple[Path, int]], list[str]]:
    """The images of one part as (file, label), ordered by label, and the names of all classes.

    A folder with `train`, `val` or `test` in it is divided by those; in any other, each folder is a domain.

    Args:
        base: the data set's folder.
        part: what `radin.load_split` allows.
        known: what the data set must hold, if it is one that radin knows by name.

    Raises DataError when a part, domain or class is missing, unknown or empty.
    """
    if known is not None and part in known.absent:
        raise DataError(f"{known.name} has no part {part!r}: {known.absent[part]}.")
    by_domain = (
        bool(known.domains)
        if known
        else not any((base / each).is_dir() for each in ("train", "val", "test"))
    )
    sources, choose = _domain_sources(base, part, known) if by_domain else _part_source(base, part)
    class_names = _class_names(base, sources, known, by_domain)
    files: list[tuple[Path, int]] = []
    for label, class_name in enumerate(class_names):
        for source in sources:
            if not (source / class_name).is_dir():  # a part need not hold every class
                continue
            found = _images(source / class_name)
            chosen = choose(found, class_name)
            if known and not by_domain and not chosen:
                raise DataError(
                    f"{source / class_name}: too few images for a split {part!r} (there are {len(found)}); "
                    f"every class of {known.name} needs at least one. Put more images there."
                )
            files += [(path, label) for path in chosen]
    if not files:
        raise DataError(
            f"{sources[0]}: too few images to hold out a part {part!r}; put more images there."
        )
    return files, class_names


def subfolders(place: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    try:
        return sorted(
            path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")
        )
    except OSError as error:
        raise DataError(f"{place}: could not be read ({error.strerror}).") from error


def _part_source(base: Path, part: str) -> tuple[list[Path], Choice]:
    """The folder that holds a part of a divided data set, and the choice of its images."""
    there = subfolders(base)
    if "train" in there:
        holds_out = "val" not in there
        if (
            part == "train"
            or (part == "val" and holds_out)
            or (part in HALVES and part not in there)
        ):
            return [base / "train"], lambda found, name: _share(found, part, name, holds_out)
        there = sorted({*there, *HALVES, "val"})
    if part not in there or not (base / part).is_dir():
        raise DataError(
            f"{base} has no part {part!r}; it has {', '.join(there) or 'no folders at all'}."
        )
    return [base / part], _everything


def _domain_sources(base: Path, part: str, known: DataSet | None) -> tuple[list[Path], Choice]:
    """The folders of the domains that a part asks for, and the choice of their images."""
    there = subfolders(base)
    domains = list(known.domains) if known else there
    if missing := [domain for domain in domains if domain not in there]:
        raise DataError(
            f"{base}: domains are missing: {listed(missing)}; it needs all of {', '.join(domains)}."
        )
    domain, slash, share = part.partition("/")
    left_out = domain.startswith(WITHOUT) and domain not in domains
    domain = domain.removeprefix(WITHOUT) if left_out else domain
    chosen = [each for each in domains if (each != domain) == left_out]
    if (
        domain not in domains
        or not chosen
        or (share not in ("train", "val") if slash else left_out)
    ):
        raise DataError(
            f"{base} has no part {part!r}; its domains are {', '.join(domains) or 'no folders at all'}, and its parts "
            f"<domain>, <domain>/train, <domain>/val, {WITHOUT}<domain>/train and {WITHOUT}<domain>/val."
        )
    sources = [base / each for each in chosen]
    return sources, (lambda found, name: _share(found, share, name, True)) if slash else _everything


def _class_names(
    base: Path, sources: list[Path], known: DataSet | None, by_domain: bool
) -> list[str]:
    """The classes of the whole data set, so that a label means the same class in every part."""
    for source in sources:
        here = subfolders(source)
        if not here:
            raise DataError(f"{source}: no class folders; images must lie in one folder per class.")
        if known is not None:
            _check_classes(source, here, known)
    if known is not None:
        return sorted(known.classes)
    if by_domain:
        return sorted({name for domain in subfolders(base) for name in subfolders(base / domain)})
    (source,) = sources
    if not (base / "train").is_dir():
        others = [base / part for part in ("val", "test") if (base / part).is_dir()]
        return sorted({name for part in (source, *others) for name in subfolders(part)})
    classes = subfolders(base / "train")
    if unknown := sorted(set(subfolders(source)) - set(classes)):
        raise DataError(
            f"{source}: classes that {base / 'train'} does not have: {listed(unknown)}."
        )
    return classes


def _check_classes(source: Path, here: Iterable[str], known: DataSet) -> None:
    """Raise DataError unless the folder holds exactly the classes of the data set whose name it has."""
    if (source / "val_annotations.txt").is_file():
        raise DataError(
            f"{source.parent} is laid out like the official archive of {known.name}: put the archive itself into "
            f"{source.parent.parent}, remove this folder, and radin will sort its images into classes."
        )
    otherwise = "To use images of your own, give their folder another name"
    if missing := sorted(set(known.classes) - set(here)):
        raise DataError(
            f"{source}: {len(missing)} of the {len(known.classes)} classes of {known.name} are missing: "
            f"{listed(missing)}. Put them there. {otherwise}."
        )
    if unknown := sorted(set(here) - set(known.classes)):
        raise DataError(
            f"{source}: classes that {known.name} does not have: {listed(unknown)}. {otherwise}."
        )


def _images(folder: Path) -> list[Path]:
    """The images anywhere below a class's folder, sorted; DataError when there is none."""
    found = sorted(
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=_refuse)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )
    if not found:
        raise DataError(f"{folder}: no images in this class ({', '.join(IMAGE_SUFFIXES)}).")
    return found


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: could not be read ({error.strerror}).") from error


# Shares -----------------------------------------------------------------------------------------


def _everything(found: list[Path], class_name: str) -> list[Path]:
    return found


def _share(found: list[Path], part: str, class_name: str, holds_out: bool) -> list[Path]:
    """The files of one class that belong to a part of `train`, `val` held out of it or not."""
    if holds_out:
        found = _hold_out(found, "val" if part == "val" else "train", class_name)
    return _halve(found, part, class_name) if part in HALVES else found


def _hold_out(found: list[Path], part: str, class_name: str) -> list[Path]:
    """The files of one class that belong to `part`, by a shuffle that depends on nothing but the class's name."""
    order = np.random.default_rng(list(class_name.encode())).permutation(len(found))
    count = math.floor(HELD_OUT * len(found))
    chosen = order[:count] if part == "val" else order[count:]
    return [found[i] for i in sorted(chosen)]


def _halve(found: list[Path], part: str, class_name: str) -> list[Path]:
    """Half of the files of one class, by another such shuffle; an odd one goes to `pretrain`."""
    order = np.random.default_rng([1, *class_name.encode()]).permutation(len(found))
    count = math.ceil(len(found) / 2)
    chosen = order[:count] if part == "pretrain" else order[count:]
    return [found[i] for i in sorted(chosen)]


def listed(names: list[str], most: int = 8) -> str:
    """Some names in a sentence, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:most])} and {rest} more"
