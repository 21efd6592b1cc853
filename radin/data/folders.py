"""Which files of a folder belong to a part: a subfolder, a held-out share, or several domains."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from radin.data.download.catalog import DataSet
from radin.data.listing import IMAGE_SUFFIXES, Aside, list_images, subfolders
from radin.data.overlap import MAX_COMPARED_IMAGES, describe_copies
from radin.errors import DataError, list_names
from radin.files import encode_text

HELD_OUT_SHARE = 0.1  # of the training images of each class: the "val" of a data set without one
HALVES = ("pretrain", "finetune")  # of "train"
WITHOUT = "without-"  # followed by a domain: all the others
# The usual names of the folders of each part, in lower case, the first one first.
PART_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}

# Takes the sorted images of one class and the class's name, gives those that belong to the part.
SelectImages = Callable[[list[Path], str], list[Path]]


class PartFiles(NamedTuple):
    """The images of one part.

    Attributes:
        files: (path, label), ordered by label.
        class_names: of all classes of the data set.
        notes: what was left aside, and what else to know about these images.
    """

    files: list[tuple[Path, int]]
    class_names: list[str]
    notes: list[str]


class _Source(NamedTuple):
    """The folders that hold a part's class folders, and how to select its images.

    Attributes:
        folders: that hold the class folders.
        select: the images of a class that belong to the part.
        notes: what to know about the folders.
        others: the folders of the other parts.
    """

    folders: list[Path]
    select: SelectImages
    notes: list[str]
    others: list[Path]


def part_files(base: Path, part: str, data_set: DataSet | None = None) -> PartFiles:
    """The images of one part, the names of all classes, and what to know about both.

    A folder that holds `train`, `val` or `test`, under one of their usual names (`PART_NAMES`), is
    divided by those; in any other folder, each folder is a domain.

    Args:
        base: the data set's folder.
        part: as `radin.load_split` takes it.
        data_set: what the folder must hold, if radin knows the data set by name. Other folders are
            searched for images that are in two parts.

    Raises:
        DataError: a part, domain or class is missing, unknown or empty.
    """
    if data_set is not None and part in data_set.absent:
        raise DataError(f"{data_set.name} has no part {part!r}: {data_set.absent[part]}.")
    if data_set is not None:
        by_domain = bool(data_set.domains)
    else:
        by_domain = not any(_folders_of(group, base) for group in PART_NAMES)
    source = _domain_source(base, part, data_set) if by_domain else _part_source(base, part)
    class_names = _class_names(base, source.folders, data_set, by_domain)
    aside = Aside()
    files: list[tuple[Path, int]] = []
    rest: list[Path] = []
    for label, class_name in enumerate(class_names):
        for folder in (each / class_name for each in source.folders):
            if not os.path.isdir(folder):  # a part need not hold every class
                continue
            images = _images(folder, aside)
            selected = source.select(images, class_name)
            if data_set is not None and not by_domain and not selected:
                raise _too_few(folder, len(images), part, data_set)
            files += [(path, label) for path in selected]
            rest += sorted(set(images) - set(selected))
    if not files:
        raise DataError(
            f"{source.folders[0]}: too few images to hold out a part {part!r}; put more images "
            "there."
        )
    notes = [*source.notes, *aside.describe()]
    if data_set is None:
        others = {each.name: _all_of(each, class_names) for each in source.others}
        others["another share of their folder"] = rest
        notes += describe_copies([path for path, _ in files], others)
    return PartFiles(files, class_names, notes)


def _too_few(folder: Path, count: int, part: str, data_set: DataSet) -> DataError:
    return DataError(
        f"{folder}: too few images for a split {part!r} (there are {count}); every class of "
        f"{data_set.name} needs at least one. Put more images there."
    )


def _all_of(folder: Path, class_names: Iterable[str]) -> list[Path]:
    """The images of another part, or too many to compare; none where they cannot be read."""
    images: list[Path] = []
    try:
        for name in sorted(set(subfolders(folder)) & set(class_names)):
            images += list_images(folder / name, Aside())
            if len(images) > MAX_COMPARED_IMAGES:
                break
    except DataError:
        return []
    return images


def _folders_of(group: str, base: Path) -> list[str]:
    """The folders in a data set that are train, val or test by their names, the usual one first."""
    names = subfolders(base)
    return [name for usual in PART_NAMES[group] for name in names if name.lower() == usual]


def _part_source(base: Path, part: str) -> _Source:
    """The folder that holds a part of a divided data set, and how to select its images."""
    parts = subfolders(base)
    by_group = {group: _folders_of(group, base) for group in PART_NAMES}
    train = by_group["train"]
    holds_out = bool(train) and not by_group["val"]
    if part in ("val", *HALVES) and part not in parts and train and (part != "val" or holds_out):
        folder, share = train[0], part
    else:
        folder = _folder_of(base, part, parts, by_group)
        share = "train" if folder in train else ""
    notes = [] if share or folder == part else [f"{part} is the folder {folder}"]
    group = next((group for group, names in by_group.items() if folder in names), "")
    if rivals := [name for name in by_group.get(group, []) if name != folder]:
        notes.append(f"left aside, other folders of that kind: {list_names(rivals)}")
    if share == "val":
        notes += _describe_neglected(parts, by_group)
    others = [base / name for each, names in by_group.items() if each != group for name in names]
    if not share:
        return _Source([base / folder], _all_images, notes, others)
    return _Source(
        [base / folder],
        lambda images, name: _share(images, share, name, holds_out=holds_out),
        notes,
        others,
    )


def _folder_of(base: Path, part: str, parts: list[str], by_group: dict[str, list[str]]) -> str:
    """The folder of that name, or of another usual name of that part."""
    if part in parts:
        return part
    group = next((group for group, names in PART_NAMES.items() if part in names), "")
    if found := by_group.get(group):
        return found[0]
    shown = sorted({*parts, *HALVES, "val"}) if by_group["train"] else parts
    raise DataError(
        f"{base} has no part {part!r}; it has {', '.join(shown) or 'no folders at all'}."
    )


def _describe_neglected(parts: list[str], by_group: dict[str, list[str]]) -> list[str]:
    """What to say when val is held out of train while other folders lie beside it."""
    usual = {name for names in by_group.values() for name in names} | {*HALVES}
    unknown = [name for name in parts if name not in usual]
    if not unknown:
        return []
    share = f"val is {HELD_OUT_SHARE:.0%} of each class of train"
    return [f"{share}; left aside, other folders, each a part of its own: {list_names(unknown)}"]


def _domain_source(base: Path, part: str, data_set: DataSet | None) -> _Source:
    """The folders of the domains that a part asks for, and how to select their images."""
    folders = subfolders(base)
    domains = list(data_set.domains) if data_set else folders
    if missing := [domain for domain in domains if domain not in folders]:
        raise DataError(
            f"{base}: domains are missing: {list_names(missing)}; it needs all of "
            f"{', '.join(domains)}."
        )
    domain, slash, share = part.partition("/")
    is_left_out = domain.startswith(WITHOUT) and domain not in domains
    if is_left_out:
        domain = domain.removeprefix(WITHOUT)
    selected = [each for each in domains if (each != domain) == is_left_out]
    has_share = share in ("train", "val") if slash else not is_left_out
    if domain not in domains or not selected or not has_share:
        raise DataError(
            f"{base} has no part {part!r}; its domains are "
            f"{', '.join(domains) or 'no folders at all'}, and its parts <domain>, <domain>/train, "
            f"<domain>/val, {WITHOUT}<domain>/train and {WITHOUT}<domain>/val."
        )
    sources = [base / each for each in selected]
    if not slash:
        return _Source(sources, _all_images, [], [])
    return _Source(
        sources, lambda images, name: _share(images, share, name, holds_out=True), [], []
    )


def _class_names(
    base: Path, sources: list[Path], data_set: DataSet | None, by_domain: bool
) -> list[str]:
    """The classes of the whole data set, so that a label means the same class in every part."""
    for source in sources:
        folders = subfolders(source)
        if not folders:
            raise DataError(
                f"{source}: no class folders; images must be in one folder for each class."
            )
        if data_set is not None:
            _check_classes(source, folders, data_set)
    if data_set is not None:
        return sorted(data_set.classes)
    if by_domain:
        return sorted({name for domain in subfolders(base) for name in subfolders(base / domain)})
    (source,) = sources
    if not (train := _folders_of("train", base)):
        others = [base / name for group in ("val", "test") for name in _folders_of(group, base)]
        return sorted({name for part in (source, *others) for name in subfolders(part)})
    classes = subfolders(base / train[0])
    if unknown := sorted(set(subfolders(source)) - set(classes)):
        raise DataError(
            f"{source}: classes that {base / train[0]} does not have: {list_names(unknown)}."
        )
    return classes


def _check_classes(source: Path, folders: Iterable[str], data_set: DataSet) -> None:
    """Raise DataError unless the folders are exactly the classes of the data set."""
    if (source / "val_annotations.txt").is_file():
        raise DataError(
            f"{source.parent} is laid out like the official archive of {data_set.name}: put the "
            f"archive itself into {source.parent.parent}, remove this folder, and radin will sort "
            "its images into classes."
        )
    way_out = "To use images of your own, give their folder another name"
    if missing := sorted(set(data_set.classes) - set(folders)):
        raise DataError(
            f"{source}: {len(missing)} of the {len(data_set.classes)} classes of {data_set.name} "
            f"are missing: {list_names(missing)}. Put them there. {way_out}."
        )
    if unknown := sorted(set(folders) - set(data_set.classes)):
        raise DataError(
            f"{source}: classes that {data_set.name} does not have: {list_names(unknown)}. "
            f"{way_out}."
        )


def _images(folder: Path, aside: Aside) -> list[Path]:
    """The images anywhere below a class's folder, sorted; DataError when there is none."""
    of_class = Aside()
    images = list_images(folder, of_class)
    if not images:
        found = "; ".join(of_class.describe())
        raise DataError(
            f"{folder}: no images in this class ({', '.join(IMAGE_SUFFIXES)})"
            f"{f'; {found}; save them as one of these' if found else ''}."
        )
    aside.add(of_class)
    return images


# Shares ------------------------------------------------------------------------------------------


def _all_images(images: list[Path], class_name: str) -> list[Path]:
    return images


def _share(images: list[Path], part: str, class_name: str, *, holds_out: bool) -> list[Path]:
    """The images of one class that belong to a part of `train`.

    Args:
        holds_out: whether `val` is a share of `train`, too.
    """
    if holds_out:
        images = _hold_out(images, "val" if part == "val" else "train", class_name)
    return _halve(images, part, class_name) if part in HALVES else images


def _hold_out(images: list[Path], part: str, class_name: str) -> list[Path]:
    """The images of one class in `part`, by a shuffle that depends only on the class's name."""
    order = np.random.default_rng(list(encode_text(class_name))).permutation(len(images))
    count = math.floor(HELD_OUT_SHARE * len(images))
    selected = order[:count] if part == "val" else order[count:]
    return [images[i] for i in sorted(selected)]


def _halve(images: list[Path], part: str, class_name: str) -> list[Path]:
    """Half of the images of one class, by another such shuffle; an odd one is in `pretrain`."""
    order = np.random.default_rng([1, *encode_text(class_name)]).permutation(len(images))
    count = math.ceil(len(images) / 2)
    selected = order[:count] if part == "pretrain" else order[count:]
    return [images[i] for i in sorted(selected)]
