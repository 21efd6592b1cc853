"""ImageNet, the 2% of its training images that recipes choose by, and the shifted test sets made for it."""

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
from radin.data.folders import IMAGE_SUFFIXES, listed, subfolders
from radin.errors import DataError
from radin.files import data_root
from radin.ranking.projection import Projection

SIZE = 224  # edge in pixels, unless another is asked for


@dataclass(frozen=True)
class Known:
    """What is known of one part.

    Attributes:
        title: as papers call it.
        num_images: of the full set.
        places: where its class folders may lie under the data root; the first one is usual.
        source: where people get it.
        class_folder: what a class folder's name is.
    """

    title: str
    num_images: int
    places: tuple[str, ...]
    source: str
    class_folder: str = "<wnid>"


TRAIN_IMAGES = 1_281_167  # of which the two parts "train" and "val" are made
HELD_OUT_PER_CLASS = 26  # by the published index file
HELD_OUT = 0.02  # by the substitute
INDEX_FILE = "imagenet_98_idxs.npy"
# The 1,000th image that the published file holds out, counted from zero, in the order that it was made for.
GUARD = (1000, "n01675722_4108.JPEG")

_IMAGENET = "image-net.org (ILSVRC 2012; it asks for an account)"
PARTS = {
    "train": Known("ImageNet98p", 1_255_167, ("imagenet/train",), _IMAGENET),
    "val": Known("ImageNet2p", 26_000, ("imagenet/train",), _IMAGENET),
    "test": Known("ImageNet", 50_000, ("imagenet/val", "imagenet/val_in_folder"), _IMAGENET),
    "v2": Known(
        "ImageNetV2",
        10_000,
        ("imagenetv2-matched-frequency-format-val",),
        "github.com/modestyachts/ImageNetV2 (matched frequency)",
        "<0 to 999>",
    ),
    "sketch": Known(
        "ImageNetSketch",
        50_889,
        ("sketch", "imagenet-sketch", "imagenet-sketch/sketch", "sketch/sketch"),
        "github.com/HaohanWang/ImageNet-Sketch",
    ),
    "r": Known("ImageNetR", 30_000, ("imagenet-r",), "github.com/hendrycks/imagenet-r"),
    "a": Known("ImageNetA", 7_500, ("imagenet-a",), "github.com/hendrycks/natural-adv-examples"),
    "objectnet": Known("ObjectNet", 18_574, ("objectnet-1.0/images",), "objectnet.dev", "<object>"),
}
TEST_SETS = tuple(
    part for part in PARTS if part != "train"
)  # on which published ingredients are reported


class Found(NamedTuple):
    """The images of one part.

    Attributes:
        files: (path, label), ordered by label and name.
        class_names: of the K classes of the part.
        projection: from 1,000 logits to the K classes; None where they are the same.
        border: pixels to cut off at each edge.
        note: what sets these images apart from the full, published part.
    """

    files: list[tuple[Path, int]]
    class_names: list[str]
    projection: Projection | None
    border: int
    note: str


def find_images(part: str, root: str | Path | None = None) -> Found:
    """The images of one part of ImageNet, or of a shifted test set.

    Args:
        part: "train" and "val", which share ImageNet's training images: 98% to train on, and 2% to choose by;
            "test", ImageNet's own validation images; or "v2", "sketch", "r", "a", "objectnet".
        root: where data sets lie; `RADIN_DATA` or the user's cache directory when not given.

    Raises DataError, before an image is opened, when the part is unknown or absent, when class folders are missing,
    empty, unknown or laid out in another way, and when a mapping or the index file is damaged or of another set.
    """
    if part not in PARTS:
        raise DataError(f"imagenet has no part {part!r}; it has {', '.join(PARTS)}.")
    base = Path(root).expanduser() if root is not None else data_root()
    places = _places(base, part)
    folders, class_names, projection = _classes(part, base)
    place = next(
        (place for place in places if not set(folders).isdisjoint(subfolders(place))), places[0]
    )
    _check_folders(place, folders, part)
    names = _list_classes(place, folders)
    total, full = sum(map(len, names)), PARTS[part].num_images
    chosen, note = np.ones(total, dtype=bool), ""
    if part in ("train", "val"):
        held, note = _held_out(base, place, folders, names)
        chosen, full = held == (part == "val"), TRAIN_IMAGES
    if not chosen.any():
        raise DataError(f"{place}: too few images for a part {part!r}; put more there.")
    if total != full:
        note = "; ".join(
            filter(None, [note, f"{place} holds {total:,} images, the full set {full:,}"])
        )
    wanted = iter(chosen.tolist())
    files = [
        (place / folder / name, label)
        for label, folder in enumerate(folders)
        for name in names[label]
        if next(wanted)
    ]
    return Found(
        files, class_names, projection, objectnet.BORDER if part == "objectnet" else 0, note
    )


def check_layouts(parts: Iterable[str], root: str | Path | None = None) -> None:
    """Raise one DataError that lists all that is wrong with the folders of several parts, before any work."""
    parts, wrong = list(parts), []
    for part in parts:
        try:
            find_images(part, root)
        except DataError as error:
            wrong.append(f"- {part}: {error}")
    if wrong:
        raise DataError(
            "\n".join([f"{len(wrong)} of {len(parts)} parts of imagenet cannot be used:", *wrong])
        )


# Classes ----------------------------------------------------------------------------------------


@cache
def wnids(of: str = "imagenet") -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes in the order of the logits, or of the 200 of "imagenet_r" or "_a"."""
    timm = find_spec("timm")  # importing it would take seconds
    for place in (timm.submodule_search_locations or []) if timm else []:
        path = Path(place, "data", "_info", f"{of}_synsets.txt")
        if path.is_file():
            return tuple(path.read_text().split())
    raise DataError(
        f"The classes of {of} are listed in timm, which is not there or too old; pip install -U timm."
    )


def _classes(part: str, base: Path) -> tuple[list[str], list[str], Projection | None]:
    """The class folders of a part in the order of its labels, the names of its classes, and its projection."""
    if part == "objectnet":
        groups = objectnet.read_mappings(base / "objectnet-1.0" / "mappings", len(wnids()))
        folders = sorted(groups)
        ids = [groups[folder] for folder in folders]
        return folders, folders, Projection(ids, len(wnids()))
    if part in ("r", "a"):
        some = wnids(f"imagenet_{part}")
        number = {wnid: k for k, wnid in enumerate(wnids())}
        return list(some), list(some), Projection([[number[wnid]] for wnid in some], len(number))
    folders = list(map(str, range(len(wnids())))) if part == "v2" else list(wnids())
    return folders, list(wnids()), None


# Layouts ----------------------------------------------------------------------------------------


def _places(base: Path, part: str) -> list[Path]:
    """Those of a part's possible places that are there; DataError when none is."""
    known = PARTS[part]
    if there := [base / place for place in known.places if (base / place).is_dir()]:
        return there
    raise DataError(
        f"{base / known.places[0]}: no such folder. Get {known.title} from {known.source} and put its images into "
        f"{known.places[0]}/{known.class_folder}/ under {base}, or point RADIN_DATA (or root=...) at the folder that "
        "holds them so."
    )


def _check_folders(place: Path, folders: Sequence[str], part: str) -> None:
    """Raise DataError unless the class folders, and no others, are in their place."""
    here = set(subfolders(place))
    missing, unknown = sorted(set(folders) - here), sorted(here - set(folders))
    if not missing:
        # ObjectNet has 200 more objects that ImageNet does not know.
        if unknown and part != "objectnet":
            raise DataError(
                f"{place}: {listed(unknown)}: no class of {PARTS[part].title}; move that elsewhere."
            )
        return
    for name in unknown:
        if not set(folders).isdisjoint(subfolders(place / name)):
            raise DataError(
                f"{place}: the class folders lie one level too deep, in {name}; move them up."
            )
    files = [entry.name for entry in os.scandir(place) if entry.is_file()]
    if f"{missing[0]}.tar" in files:
        raise DataError(
            f"{place}: holds {missing[0]}.tar; unpack every archive into a folder of its name."
        )
    if loose := sum(name.lower().endswith(IMAGE_SUFFIXES) for name in files):
        raise DataError(
            f"{place}: {loose:,} images lie there without class folders; sort them into {folders[0]}/ and so on, for "
            "ImageNet's validation images with the usual script, valprep.sh."
        )
    raise DataError(
        f"{place}: {len(missing):,} of the {len(folders):,} class folders of {PARTS[part].title} are missing: "
        f"{listed(missing)}; unpack the archive anew."
    )


def _list_classes(place: Path, folders: Sequence[str]) -> list[list[str]]:
    """The names of each class's images, sorted, as torchvision's ImageFolder orders them.

    Raises DataError when a class has none, or a folder in it.
    """
    names, empty = [], []
    for folder in tqdm(
        folders, desc=f"listing {place}", unit=" classes", delay=3, leave=False, disable=None
    ):
        found = []
        try:
            with os.scandir(place / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.name.lower().endswith(IMAGE_SUFFIXES):
                        found.append(entry.name)
                    elif entry.is_dir():
                        raise DataError(
                            f"{entry.path}: a folder inside a class; the images belong directly into {place / folder}."
                        )
        except OSError as error:
            raise DataError(f"{place / folder}: could not be read ({error.strerror}).") from error
        names.append(sorted(found))
        if not found:
            empty.append(folder)
    if empty:
        raise DataError(
            f"{place}: {len(empty):,} of {len(folders):,} class folders hold no images: {listed(empty)}; unpack the "
            "archive anew."
        )
    return names


# The held-out 2% --------------------------------------------------------------------------------


def _held_out(
    base: Path, place: Path, folders: Sequence[str], names: Sequence[list[str]]
) -> tuple[np.ndarray, str]:
    """Which of the sorted training images are held out, (n,) bool, and a note when it is not those of the paper."""
    for path in (base / "imagenet" / INDEX_FILE, base / INDEX_FILE):
        if path.is_file():
            return _published(path, place, folders, names), ""
    note = (
        f"held out by seed 0: the published index file {INDEX_FILE} is absent, so accuracies are not comparable with "
        "published ones, whose fine-tuning saw some of these images"
    )
    warnings.warn(
        f"ImageNet's 2% is {note}. Get the file from github.com/mlfoundations/model-soups and put it into "
        f"{base / 'imagenet'}.",
        stacklevel=1,  # one place, so that Python says it once
    )
    return np.concatenate(
        [_draw(folder, len(found)) for folder, found in zip(folders, names, strict=True)]
    ), note


def _published(
    path: Path, place: Path, folders: Sequence[str], names: Sequence[list[str]]
) -> np.ndarray:
    """The index file as (n,) bool, checked against the images that are there."""
    total = sum(map(len, names))
    try:
        entries = np.lib.format.open_memmap(
            path, mode="r"
        )  # unpickles nothing; a lying header takes no memory
        if entries.ndim != 1 or entries.dtype.kind not in "biuf":
            raise ValueError("it is no list of numbers")
        held = entries == 1
        if not (held | (entries == 0)).all():
            raise ValueError("it holds other numbers than 0 and 1")
    except Exception as error:  # a damaged header makes numpy's reader stumble in many ways
        raise DataError(f"{path}: not the published index file ({error}); get it anew.") from error
    if len(held) != total:
        raise DataError(
            f"{path} has {len(held):,} entries, but {place} {total:,} images, and it fits no other set than its own; "
            "complete the images, or remove the file to have 2% drawn by a seed."
        )
    if total == TRAIN_IMAGES:
        counts = [
            int(each.sum())
            for each in np.split(held, np.cumsum([len(found) for found in names])[:-1])
        ]
        chosen = [
            name
            for name, is_held in zip(chain.from_iterable(names), held.tolist(), strict=True)
            if is_held
        ]
        position, guard = GUARD
        if set(counts) != {HELD_OUT_PER_CLASS} or chosen[position] != guard:
            raise DataError(
                f"{path} does not fit {place}: it must hold out {HELD_OUT_PER_CLASS} images of each class, and number "
                f"{position:,} of them, counted from 0, must be {guard}; get both anew."
            )
    return held


def _draw(folder: str, count: int) -> np.ndarray:
    """Which of a class's images are held out, (count,) bool, by a shuffle that depends on the class's name alone."""
    share = max(round(HELD_OUT * count), min(count - 1, 1))
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.default_rng([0, *folder.encode()]).permutation(count)[:share]] = True
    return chosen
