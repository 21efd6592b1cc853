"""ImageNet, the 2% of its training images that recipes choose by, and its shifted test sets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from radin.data import objectnet
from radin.data.listing import IMAGE_SUFFIXES, is_service_name, subfolders
from radin.errors import DataError, list_names
from radin.files import data_root
from radin.ranking.projection import Projection

SIZE_PIXELS = 224  # edge of an image, unless another one is asked for


@dataclass(frozen=True)
class Part:
    """The official contents and folders of one part.

    Attributes:
        title: as papers call it.
        num_images: of the full set.
        folders: that may hold its class folders, under the data root; the first one is usual.
        source: where people get it.
        class_folder: what the name of a class folder means.
    """

    title: str
    num_images: int
    folders: tuple[str, ...]
    source: str
    class_folder: str = "<wnid>"


NUM_TRAIN_IMAGES = 1_281_167  # of which the two parts "train" and "val" are made
HELD_OUT_PER_CLASS = 26  # images, by the published index file
HELD_OUT_SHARE = 0.02  # of each class, where that file is absent
INDEX_FILE = "imagenet_98_idxs.npy"
# The 1,000th image that the published file holds out, counted from zero, in the order that it was
# made for.
CHECKED_NAME = (1000, "n01675722_4108.JPEG")

_IMAGENET = "image-net.org (ILSVRC 2012; it asks for an account)"
PARTS = {
    "train": Part("ImageNet98p", 1_255_167, ("imagenet/train",), _IMAGENET),
    "val": Part("ImageNet2p", 26_000, ("imagenet/train",), _IMAGENET),
    "test": Part("ImageNet", 50_000, ("imagenet/val", "imagenet/val_in_folder"), _IMAGENET),
    "v2": Part(
        "ImageNetV2",
        10_000,
        ("imagenetv2-matched-frequency-format-val",),
        "github.com/modestyachts/ImageNetV2 (matched frequency)",
        "<0 to 999>",
    ),
    "sketch": Part(
        "ImageNetSketch",
        50_889,
        ("sketch", "imagenet-sketch", "imagenet-sketch/sketch", "sketch/sketch"),
        "github.com/HaohanWang/ImageNet-Sketch",
    ),
    "r": Part("ImageNetR", 30_000, ("imagenet-r",), "github.com/hendrycks/imagenet-r"),
    "a": Part("ImageNetA", 7_500, ("imagenet-a",), "github.com/hendrycks/natural-adv-examples"),
    "objectnet": Part("ObjectNet", 18_574, ("objectnet-1.0/images",), "objectnet.dev", "<object>"),
}
TEST_SETS = tuple(part for part in PARTS if part != "train")  # of the published results


class PartImages(NamedTuple):
    """The images of one part.

    Attributes:
        files: (path, label), ordered by label and name.
        class_names: of the K classes of the part.
        projection: from 1,000 logits to the K classes; None where they are the same.
        border: pixels to cut off at each edge.
        note: how these images differ from the full, published part; empty where they do not.
    """

    files: list[tuple[Path, int]]
    class_names: list[str]
    projection: Projection | None
    border: int
    note: str


def find_images(part: str, root: str | Path | None = None) -> PartImages:
    """The images of one part of ImageNet, or of a shifted test set. No image is opened.

    Args:
        part: "train" and "val", which share ImageNet's training images: 98% to train on, and 2% to
            choose by; "test", ImageNet's own validation images; or "v2", "sketch", "r", "a",
            "objectnet".
        root: the folder of the data sets; `RADIN_DATA` or the user's cache directory when not
            given.

    Raises:
        DataError: the part is unknown or absent; class folders are missing, empty, unknown or laid
            out in another way; or a mapping or the index file is damaged or of another set.
    """
    if part not in PARTS:
        raise DataError(f"imagenet has no part {part!r}; it has {', '.join(PARTS)}.")
    base = data_root(root)
    candidates = _existing_folders(base, part)
    class_folders, class_names, projection = _classes(part, base)
    folder = next(
        (each for each in candidates if not set(class_folders).isdisjoint(subfolders(each))),
        candidates[0],
    )
    _check_class_folders(folder, class_folders, part)
    names = _list_images(folder, class_folders)
    num_found = sum(map(len, names))
    num_official = PARTS[part].num_images
    selected = np.ones(num_found, dtype=bool)
    note = ""
    if part in ("train", "val"):
        held, note = _held_out(base, folder, class_folders, names)
        selected = held == (part == "val")
        num_official = NUM_TRAIN_IMAGES
    if not selected.any():
        raise DataError(f"{folder}: too few images for a part {part!r}; put more there.")
    if num_found != num_official:
        counts = f"{folder} holds {num_found:,} images, the full set {num_official:,}"
        note = f"{note}; {counts}" if note else counts
    is_selected = iter(selected.tolist())
    files = [
        (folder / class_folder / name, label)
        for label, class_folder in enumerate(class_folders)
        for name in names[label]
        if next(is_selected)
    ]
    border = objectnet.BORDER_PIXELS if part == "objectnet" else 0
    return PartImages(files, class_names, projection, border, note)


def check_layouts(parts: Iterable[str], root: str | Path | None = None) -> None:
    """Raise one DataError that lists every fault in the folders of several parts."""
    parts = list(parts)
    faults = []
    for part in parts:
        try:
            find_images(part, root)
        except DataError as error:
            faults.append(f"- {part}: {error}")
    if faults:
        title = f"{len(faults)} of {len(parts)} parts of imagenet cannot be used:"
        raise DataError("\n".join([title, *faults]))


# Classes -----------------------------------------------------------------------------------------


@cache
def wnids(data_set: str = "imagenet") -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes, in the order of the logits.

    Args:
        data_set: "imagenet"; "imagenet_r" or "imagenet_a" for the 200 classes of these.

    Raises:
        DataError: timm, which has the lists, is missing or too old.
    """
    timm = find_spec("timm")  # importing it would take seconds
    for folder in (timm.submodule_search_locations or []) if timm else []:
        path = Path(folder, "data", "_info", f"{data_set}_synsets.txt")
        if path.is_file():
            return tuple(path.read_text().split())
    raise DataError(
        f"The classes of {data_set} are listed in timm, which is missing or too old; "
        "pip install -U timm."
    )


def _classes(part: str, base: Path) -> tuple[list[str], list[str], Projection | None]:
    """The class folders in the order of the labels, the names of the classes, the projection."""
    all_wnids = wnids()
    if part == "objectnet":
        groups = objectnet.read_mappings(base / "objectnet-1.0" / "mappings", len(all_wnids))
        objects = sorted(groups)
        projection = Projection([groups[each] for each in objects], len(all_wnids))
        return objects, objects, projection
    if part in ("r", "a"):
        subset = list(wnids(f"imagenet_{part}"))
        logit_of = {wnid: k for k, wnid in enumerate(all_wnids)}
        projection = Projection([[logit_of[wnid]] for wnid in subset], len(all_wnids))
        return subset, subset, projection
    class_folders = [str(k) for k in range(len(all_wnids))] if part == "v2" else list(all_wnids)
    return class_folders, list(all_wnids), None


# Layouts -----------------------------------------------------------------------------------------


def _existing_folders(base: Path, part: str) -> list[Path]:
    """The possible folders of a part that exist; DataError when none does."""
    info = PARTS[part]
    if existing := [base / folder for folder in info.folders if (base / folder).is_dir()]:
        return existing
    raise DataError(
        f"{base / info.folders[0]}: no such folder. Get {info.title} from {info.source} and put "
        f"its images into {info.folders[0]}/{info.class_folder}/ under {base}, or point RADIN_DATA "
        "(or root=...) at the folder that holds them so."
    )


def _check_class_folders(folder: Path, class_folders: Sequence[str], part: str) -> None:
    """Raise DataError unless `folder` holds the class folders and no others."""
    title = PARTS[part].title
    existing = set(subfolders(folder))
    missing = sorted(set(class_folders) - existing)
    unknown = sorted(existing - set(class_folders))
    if not missing:
        # ObjectNet has 200 more objects, which are no classes of ImageNet.
        if unknown and part != "objectnet":
            raise DataError(
                f"{folder}: {list_names(unknown)}: no class of {title}; move that elsewhere."
            )
        return
    for name in unknown:
        if not set(class_folders).isdisjoint(subfolders(folder / name)):
            raise DataError(
                f"{folder}: the class folders are one level too deep, in {name}; move them up."
            )
    files = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    if f"{missing[0]}.tar" in files:
        raise DataError(
            f"{folder}: holds {missing[0]}.tar; unpack every archive into a folder of its name."
        )
    if num_loose := sum(name.lower().endswith(IMAGE_SUFFIXES) for name in files):
        raise DataError(
            f"{folder}: {num_loose:,} images are there without class folders; sort them into "
            f"{class_folders[0]}/ and so on, for ImageNet's validation images with the usual "
            "script, valprep.sh."
        )
    raise DataError(
        f"{folder}: {len(missing):,} of the {len(class_folders):,} class folders of {title} are "
        f"missing: {list_names(missing)}; unpack the archive again."
    )


def _list_images(folder: Path, class_folders: Sequence[str]) -> list[list[str]]:
    """The names of each class's images, sorted, as torchvision's ImageFolder orders them.

    Raises DataError when a class has no images, or a folder in it.
    """
    bar = tqdm(
        class_folders,
        desc=f"listing {folder}",
        unit=" classes",
        delay=3,
        leave=False,
        disable=None,
    )
    names = [_list_class(folder / class_folder) for class_folder in bar]
    empty = [class_folders[k] for k, found in enumerate(names) if not found]
    if empty:
        raise DataError(
            f"{folder}: {len(empty):,} of {len(class_folders):,} class folders hold no images: "
            f"{list_names(empty)}; unpack the archive again."
        )
    return names


def _list_class(folder: Path) -> list[str]:
    """The names of the images in one class folder, sorted."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_service_name(entry.name):
                    continue
                if entry.name.lower().endswith(IMAGE_SUFFIXES):
                    names.append(entry.name)
                elif entry.is_dir():
                    raise DataError(
                        f"{entry.path}: a folder inside a class; the images belong directly into "
                        f"{folder}."
                    )
    except OSError as error:
        raise DataError(f"{folder}: could not be read ({error.strerror}).") from error
    return sorted(names)


# The held-out 2% ---------------------------------------------------------------------------------


def _held_out(
    base: Path, folder: Path, class_folders: Sequence[str], names: Sequence[list[str]]
) -> tuple[np.ndarray, str]:
    """Which of the sorted training images are held out, (n,) bool.

    The second answer is a note when these are not the images of the paper.
    """
    for path in (base / "imagenet" / INDEX_FILE, base / INDEX_FILE):
        if path.is_file():
            return _read_index_file(path, folder, names), ""
    note = (
        f"held out by seed 0: the published index file {INDEX_FILE} is absent, so accuracies are "
        "not comparable with published ones, whose fine-tuning saw some of these images"
    )
    warnings.warn(
        f"ImageNet's 2% is {note}. Get the file from github.com/mlfoundations/model-soups and put "
        f"it into {base / 'imagenet'}.",
        stacklevel=1,  # always the same line, so that Python shows the warning once
    )
    held = [
        _draw(class_folder, len(found))
        for class_folder, found in zip(class_folders, names, strict=True)
    ]
    return np.concatenate(held), note


def _read_index_file(path: Path, folder: Path, names: Sequence[list[str]]) -> np.ndarray:
    """The published index file as (n,) bool, checked against the images in `folder`."""
    num_images = sum(map(len, names))
    try:
        # A memory map unpickles nothing, and a wrong header takes no memory.
        entries = np.lib.format.open_memmap(path, mode="r")
        if entries.ndim != 1 or entries.dtype.kind not in "biuf":
            raise ValueError("it is no list of numbers")
        held = entries == 1
        if not (held | (entries == 0)).all():
            raise ValueError("it holds other numbers than 0 and 1")
    except Exception as error:  # numpy raises errors of many types for a damaged header
        raise DataError(f"{path}: not the published index file ({error}); get it again.") from error
    if len(held) != num_images:
        raise DataError(
            f"{path} has {len(held):,} entries, but {folder} {num_images:,} images, and it fits no "
            "other set than its own; complete the images, or remove the file to have 2% drawn by a "
            "seed."
        )
    if num_images == NUM_TRAIN_IMAGES:
        _check_index_file(path, folder, held, names)
    return held


def _check_index_file(
    path: Path, folder: Path, held: np.ndarray, names: Sequence[list[str]]
) -> None:
    """Raise DataError unless the index file was made for images in this order."""
    ends = np.cumsum([len(found) for found in names])
    counts = {int(of_class.sum()) for of_class in np.split(held, ends[:-1])}
    held_names = [
        name
        for name, is_held in zip(chain.from_iterable(names), held.tolist(), strict=True)
        if is_held
    ]
    index, wanted = CHECKED_NAME
    if counts != {HELD_OUT_PER_CLASS} or held_names[index] != wanted:
        raise DataError(
            f"{path} does not fit {folder}: it must hold out {HELD_OUT_PER_CLASS} images of each "
            f"class, and number {index:,} of them, counted from 0, must be {wanted}; get both "
            "again."
        )


def _draw(class_folder: str, count: int) -> np.ndarray:
    """Which of a class's images are held out, (count,) bool.

    The shuffle depends on nothing but the name of the class folder.
    """
    num_held = max(round(HELD_OUT_SHARE * count), min(count - 1, 1))
    held = np.zeros(count, dtype=bool)
    held[np.random.default_rng([0, *class_folder.encode()]).permutation(count)[:num_held]] = True
    return held
