"""Drawings in the place of ImageNet and its five shifted test sets, laid out in the folders in which those come."""

from __future__ import annotations

import colorsys
import json
import os
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from radin.data.imagenet import INDEX_FILE, PARTS, wnids
from radin.data.objectnet import NUM_CLASSES as NUM_OBJECTS
from radin.data.splits import FolderSplit
from radin.errors import DataError, check_seed
from radin.files import cache_root, hash_text

NUM_CLASSES = 1000
LEARNED = (
    10  # classes that the stand-in's ingredients learn; every test set has images of all of them
)
TRAIN, VAL, TEST = (
    10,
    2,
    1,
)  # images of a learned class in each part; any other class has one, which nobody reads
MARK = "STAND-IN.txt"  # tells a folder of drawings from one of photographs

_FORMAT = "drawings-1"
_OBJECTNET = "objectnet-1.0"


def learned_classes() -> list[int]:
    """The labels of the classes that the ingredients learn, among those that ImageNet-R and ImageNet-A share."""
    shared = sorted(set(wnids("imagenet_r")) & set(wnids("imagenet_a")))
    return [wnids().index(wnid) for wnid in shared[:: len(shared) // LEARNED][:LEARNED]]


def learned(split: FolderSplit) -> FolderSplit:
    """The images of a split whose classes the ingredients have learned: the only ones worth predicting."""
    classes = set(learned_classes())
    groups = (
        [(k,) for k in range(split.num_classes)]
        if split.projection is None
        else split.projection.groups
    )
    chosen = [
        (path, label)
        for path, label in zip(split.files, split.labels.tolist(), strict=True)
        if not classes.isdisjoint(groups[label])
    ]
    fewer = FolderSplit(split.name, split.part, chosen, split.class_names, split.size, split.border)
    fewer.projection, fewer.note = split.projection, f"stand-in: {len(chosen)} drawings"
    return fewer


def make_images(root: str | Path | None = None, seed: int = 0, progress: bool = True) -> Path:
    """Draw a stand-in of ImageNet and of its five shifted test sets, in the folders in which they come.

    Every class folder is there, since a loader insists on them. An index file beside the training images holds out
    the validation images of the learned classes. All of it takes 5 MB, in so many small files that it fills 40 MB of
    a disk, and a few seconds. What is there already is kept.

    Args:
        root: a new folder, for `radin.load_split("imagenet", part, root)`; by default one under `RADIN_CACHE`.
        seed: of the drawings.
        progress: whether to show a bar.

    Returns: root.

    Raises DataError where root holds something else, or cannot be written.
    """
    key = hash_text(_FORMAT, str(check_seed(seed)), str([TRAIN, VAL, TEST, *learned_classes()]))[
        :16
    ]
    root = cache_root() / "images" / f"standin-{key}" if root is None else Path(root).expanduser()
    # The text is a key on disk: it stays as it is, or drawings made before would be refused.
    mark = f"Drawings in the place of ImageNet and its test sets, made by radin.standin: {key}\n"
    if _is_there(root, mark):
        return root
    staging = root.with_name(f".{root.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        _draw_all(staging, seed, progress)
        (staging / MARK).write_text(mark, "utf-8")
        os.replace(staging, root)  # whole or absent; an empty folder gives way
    except OSError as error:
        if not _is_there(root, mark):  # else another process was faster
            raise DataError(
                f"{root}: could not be written ({error.strerror}); choose another place."
            ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return root


def _is_there(root: Path, mark: str) -> bool:
    """Whether root is this very stand-in; DataError where it is something else."""
    if (root / MARK).is_file() and (root / MARK).read_text("utf-8") == mark:
        return True
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root} is not this stand-in of ImageNet; it is left alone: choose a new folder."
        )
    return False


def _draw_all(root: Path, seed: int, progress: bool) -> None:
    shown = set(learned_classes())
    objects = _objects()
    rows = [("train", wnid, label, TRAIN + VAL) for label, wnid in enumerate(wnids())]
    rows += [("test", wnid, label, TEST) for label, wnid in enumerate(wnids())]
    rows += [("v2", str(label), label, TEST) for label in range(NUM_CLASSES)]
    rows += [("sketch", wnid, label, TEST) for label, wnid in enumerate(wnids())]
    for part in ("r", "a"):
        rows += [(part, wnid, wnids().index(wnid), TEST) for wnid in wnids(f"imagenet_{part}")]
    rows += [("objectnet", name, labels[0], TEST) for name, labels in objects.items()]
    held = []
    for part, folder, label, many in tqdm(
        rows, desc="drawing a stand-in", unit=" classes", disable=not progress
    ):
        place = root / PARTS[part].places[0] / folder
        place.mkdir(parents=True)
        count = many if label in shown else 1
        for k in range(count):
            rng = np.random.default_rng([seed, list(PARTS).index(part), label, k])
            path = place / f"{folder}_{k:02d}{'.png' if part == 'objectnet' else '.JPEG'}"
            _save_image(draw(label, part, rng, edge=64 if label in shown else 32), path)
        if part == "train":
            held += [label in shown and k < VAL for k in range(count)]
    np.save(root / "imagenet" / INDEX_FILE, np.array(held, dtype=np.float64))
    _write_mappings(root / _OBJECTNET / "mappings", objects)


def _save_image(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


def _objects() -> dict[str, list[int]]:
    """The folders of the objects that stand for ObjectNet's, each with one to three labels of ImageNet."""
    shown = learned_classes()
    others = iter(label for label in range(NUM_CLASSES) if label not in shown)
    firsts = chain(shown, others)
    numbers = [[next(firsts)] for _ in range(NUM_OBJECTS)]
    for k, labels in enumerate(numbers):
        labels += [next(others) for _ in range(k % 3)]
    return {f"object_{k:03d}": labels for k, labels in enumerate(numbers)}


def _write_mappings(place: Path, objects: dict[str, list[int]]) -> None:
    """The four files by which ObjectNet says which of its objects are classes of ImageNet, in their own formats."""
    place.mkdir()
    title = {folder: folder.replace("_", " ") for folder in objects}
    label = [f"stand-in for class {k}" for k in range(NUM_CLASSES)]
    line_of = {
        k: (k + 7) % NUM_CLASSES for k in range(NUM_CLASSES)
    }  # its lines are in another order than the logits
    files = {
        "folder_to_objectnet_label.json": title,
        "objectnet_to_imagenet_1k.json": {
            title[f]: "; ".join(label[k] for k in ks) for f, ks in objects.items()
        },
        "pytorch_to_imagenet_2012_id.json": {str(k): line for k, line in line_of.items()},
    }
    for name, content in files.items():
        (place / name).write_text(json.dumps(content), "utf-8")
    lines = sorted(range(NUM_CLASSES), key=line_of.__getitem__)
    (place / "imagenet_to_label_2012_v2").write_text(
        "".join(f"{label[k]}\n" for k in lines), "utf-8"
    )


# One drawing ------------------------------------------------------------------------------------


def draw(label: int, part: str, rng: np.random.Generator, edge: int = 64) -> np.ndarray:
    """One image of a class, (edge, edge, 3) bytes: a striped shape, in the manner of a part of ImageNet.

    Shape, colours and stripes belong to the class; place, size, angle and background are drawn. Sketches are ink on
    white, renditions (r) have other colours, adversarial ones (a) are small among other shapes, objects (objectnet)
    lie at any angle in dim light, with a red line of two pixels around them.

    Args:
        part: one of `radin.data.imagenet.PARTS`.
    """
    y, x = np.mgrid[0:edge, 0:edge] / (edge / 2) - 1 + 1 / edge
    size = rng.uniform(0.55, 0.8) * (0.6 if part == "a" else 1)
    turn = rng.uniform(0, 2 * np.pi) if part == "objectnet" else rng.uniform(-0.3, 0.3)
    u, v = (x - rng.uniform(-0.2, 0.2)) / size, (y - rng.uniform(-0.2, 0.2)) / size
    u, v = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
    level, wave = _shape(label % 6, u, v), _wave(label, u, v)
    if part == "sketch":
        ink = (abs(level) < 0.07) | ((level < 0) & (abs(wave) < 0.2))
        return _pixels(np.where(ink, 0.15, 0.97)[..., None] + rng.normal(0, 0.02, (edge, edge, 3)))
    shift, light = (0.35 if part == "r" else 0), (0.7 if part == "objectnet" else 1)
    stripes = [
        light * _colour(_share(label, 0.618034) + shift + rng.normal(0, 0.02), 0.75, 0.9),
        light * _colour(_share(label, 0.754878) + shift, 0.6, 0.6),
    ]
    image = np.where(
        (level < 0)[..., None],
        np.where((wave > 0)[..., None], *stripes),
        _background(part, x, y, rng),
    )
    noise = {"r": 0.0, "v2": 0.14}.get(part, 0.1)
    image = _pixels(image + rng.normal(0, 1, image.shape) * noise)
    return (
        np.pad(image, ((2, 2), (2, 2), (0, 0))) + _red_line(edge) if part == "objectnet" else image
    )


def _shape(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Below 0 inside a shape, above it outside: disc, square, triangle, ring, cross, flower."""
    r, across, up = np.hypot(x, y), abs(x), abs(y)
    match kind:
        case 0:
            return r - 0.9
        case 1:
            return np.maximum(across, up) - 0.8
        case 2:
            return np.maximum(-y - 0.6, 0.87 * across + 0.5 * y - 0.5)
        case 3:
            return abs(r - 0.65) - 0.25
        case 4:
            return np.minimum(
                np.maximum(across - 0.28, up - 0.9), np.maximum(up - 0.28, across - 0.9)
            )
        case _:
            return r - 0.62 - 0.3 * np.cos(5 * np.arctan2(y, x))


def _wave(label: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """From -1 to 1, across the stripes of a class."""
    lean = np.pi * _share(label, 0.380277)
    return np.sin((4 + 10 * _share(label, 0.569840)) * (x * np.cos(lean) + y * np.sin(lean)))


def _share(label: int, step: float) -> float:
    """A number from 0 to 1 for each class, neighbouring classes far apart."""
    return label * step % 1


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _background(part: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if part == "r":
        return np.broadcast_to(_colour(rng.random(), 0.25, 0.95), (*x.shape, 3))
    tilt = rng.normal(0, 0.08, 2)
    image = (
        rng.uniform(0.4, 0.6) + rng.uniform(-0.05, 0.05, 3) + (tilt[0] * x + tilt[1] * y)[..., None]
    )
    for _ in range(4 if part == "a" else 0):
        (left, top), size = rng.uniform(-0.9, 0.9, 2), rng.uniform(0.2, 0.4)
        inside = _shape(int(rng.integers(6)), (x - left) / size, (y - top) / size) < 0
        image = np.where(inside[..., None], _colour(rng.random(), 0.6, 0.8), image)
    return image


def _pixels(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 255, 0, 255).astype(np.uint8)


def _red_line(edge: int) -> np.ndarray:
    line = np.zeros((edge + 4, edge + 4, 3), np.uint8)
    line[..., 0] = 255
    line[2:-2, 2:-2] = 0
    return line
