"""Which files of a folder belong to a part: a subfolder, a held-out share, or several domains."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from radin.data.download.catalog import DataSet
from radin.errors import DataError, list_names

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
HELD_OUT_SHARE = 0.1  # of the training images of each class: the "val" of a data set without one
HALVES = ("pretrain", "finetune")  # of "train"
WITHOUT = "without-"  # followed by a domain: all the others

# Takes the sorted images of one class and the class's name, gives those that belong to the part.
SelectImages = Callable[[list[Path], str], list[Path]]


def part_files(
    base: Path, part: str, data_set: DataSet | None = None
) -> tuple[list[tuple[Path, int]], list[str]]:
    """The images of one part as (file, label), ordered by label, and the names of all classes.

    A folder that holds `train`, `val` or `test` is divided by those; in any other folder, each
    folder is a domain.

    Args:
        base: the data set's folder.
        part: as `radin.load_split` takes it.
        data_set: what the folder must hold, if radin knows the data set by name.

    Raises:
        DataError: a part, domain or class is missing, unknown or empty.
    """
    if data_set is not None and part in data_set.absent:
        raise DataError(f"{data_set.name} has no part {part!r}: {data_set.absent[part]}.")
    if data_set is not None:
        by_domain = bool(data_set.domains)
    else:
        by_domain = not any((base / each).is_dir() for each in ("train", "val", "test"))
    sources, select = (
        _domain_sources(base, part, data_set) if by_domain else _part_source(base, part)
    )
    class_names = _class_names(base, sources, data_set, by_domain)
    files: list[tuple[Path, int]] = []
    for label, class_name in enumerate(class_names):
        for source in sources:
            folder = source / class_name
            if not folder.is_dir():  # a part need not hold every class
                continue
            images = _images(folder)
            selected = select(images, class_name)
            if data_set and not by_domain and not selected:
                raise DataError(
                    f"{folder}: too few images for a split {part!r} (there are {len(images)}); "
                    f"every class of {data_set.name} needs at least one. Put more images there."
                )
            files += [(path, label) for path in selected]
    if not files:
        raise DataError(
            f"{sources[0]}: too few images to hold out a part {part!r}; put more images there."
        )
    return files, class_names


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    try:
        return sorted(
            path.name
            for path in folder.iterdir()
            if path.is_dir() and not path.name.startswith(".")
        )
    except OSError as error:
        raise DataError(f"{folder}: could not be read ({error.strerror}).") from error


def _part_source(base: Path, part: str) -> tuple[list[Path], SelectImages]:
    """The folder that holds a part of a divided data set, and how to select its images."""
    parts = subfolders(base)
    if "train" in parts:
        holds_out = "val" not in parts
        from_train = (
            part == "train"
            or (part == "val" and holds_out)
            or (part in HALVES and part not in parts)
        )
        if from_train:
            return [base / "train"], lambda images, name: _share(
                images, part, name, holds_out=holds_out
            )
        parts = sorted({*parts, *HALVES, "val"})
    if part not in parts or not (base / part).is_dir():
        raise DataError(
            f"{base} has no part {part!r}; it has {', '.join(parts) or 'no folders at all'}."
        )
    return [base / part], _all_images


def _domain_sources(
    base: Path, part: str, data_set: DataSet | None
) -> tuple[list[Path], SelectImages]:
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
        return sources, _all_images
    return sources, lambda images, name: _share(images, share, name, holds_out=True)


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
    if not (base / "train").is_dir():
        others = [base / part for part in ("val", "test") if (base / part).is_dir()]
        return sorted({name for part in (source, *others) for name in subfolders(part)})
    classes = subfolders(base / "train")
    if unknown := sorted(set(subfolders(source)) - set(classes)):
        raise DataError(
            f"{source}: classes that {base / 'train'} does not have: {list_names(unknown)}."
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


def _images(folder: Path) -> list[Path]:
    """The images anywhere below a class's folder, sorted; DataError when there is none."""
    images = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=_raise_data_error)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )
    if not images:
        raise DataError(f"{folder}: no images in this class ({', '.join(IMAGE_SUFFIXES)}).")
    return images


def _raise_data_error(error: OSError) -> None:
    raise DataError(f"{error.filename}: could not be read ({error.strerror}).") from error


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
    order = np.random.default_rng(list(class_name.encode())).permutation(len(images))
    count = math.floor(HELD_OUT_SHARE * len(images))
    selected = order[:count] if part == "val" else order[count:]
    return [images[i] for i in sorted(selected)]


def _halve(images: list[Path], part: str, class_name: str) -> list[Path]:
    """Half of the images of one class, by another such shuffle; an odd one is in `pretrain`."""
    order = np.random.default_rng([1, *class_name.encode()]).permutation(len(images))
    count = math.ceil(len(images) / 2)
    selected = order[:count] if part == "pretrain" else order[count:]
    return [images[i] for i in sorted(selected)]
