"""Draw a stand-in for ImageNet and its five shifted test sets, in the folders they come in."""

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
from radin.files import cache_root, expand_path, hash_text

NUM_CLASSES = 1000
# The stand-in's ingredients are trained on these few classes. Every test set has images of them.
NUM_TRAINED_CLASSES = 10
# Images of a trained class in each part. Every other class has one, which nobody reads.
TRAIN_IMAGES = 10
VAL_IMAGES = 2
TEST_IMAGES = 1
TRAINED_PIXELS = 64  # edge of an image of a trained class
OTHER_PIXELS = 32
MARK_FILE = "STAND-IN.txt"  # tells a folder of drawings from one of photographs

_FORMAT = "drawings-1"
_OBJECTNET = "objectnet-1.0"


def trained_classes() -> list[int]:
    """The labels of the classes that the stand-in's ingredients are trained on.

    They are among the classes that ImageNet-R and ImageNet-A share.
    """
    shared = sorted(set(wnids("imagenet_r")) & set(wnids("imagenet_a")))
    step = len(shared) // NUM_TRAINED_CLASSES
    return [wnids().index(wnid) for wnid in shared[::step][:NUM_TRAINED_CLASSES]]


def keep_trained_classes(split: FolderSplit) -> FolderSplit:
    """The images of a split whose classes the ingredients are trained on."""
    classes = set(trained_classes())
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
    fewer = FolderSplit(
        split.name, split.part, chosen, split.class_names, size=split.size, border=split.border
    )
    fewer.projection = split.projection
    fewer.note = f"stand-in: {len(chosen)} drawings"
    return fewer


def make_images(root: str | Path | None = None, *, seed: int = 0, progress: bool = True) -> Path:
    """Draw a stand-in for ImageNet and its five shifted test sets, in the folders they come in.

    Every class has its folder, because a loader checks that. An index file beside the training
    images holds out the validation images of the trained classes. Everything takes 5 MB, in so many
    small files that it fills 40 MB of a disk, and a few seconds. An earlier stand-in is kept.

    Args:
        root: a new folder, for `radin.load_split("imagenet", part, root)`. By default a folder
            under `RADIN_CACHE`.
        seed: of the drawings.
        progress: whether to show a progress bar.

    Returns:
        The root.

    Raises:
        DataError: root holds something else, or cannot be written.
    """
    images = [TRAIN_IMAGES, VAL_IMAGES, TEST_IMAGES]
    key = hash_text(_FORMAT, str(check_seed(seed)), str([*images, *trained_classes()]))[:16]
    root = cache_root() / "images" / f"standin-{key}" if root is None else expand_path(root)
    # This text is a key on disk: with another text, drawings made before would not be found.
    mark = f"Drawings in the place of ImageNet and its test sets, made by radin.standin: {key}\n"
    if _is_complete(root, mark):
        return root
    staging = root.with_name(f".{root.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        _draw_all(staging, seed=seed, progress=progress)
        (staging / MARK_FILE).write_text(mark, "utf-8")
        os.replace(staging, root)  # complete or absent; replaces an empty folder
    except OSError as error:
        if not _is_complete(root, mark):  # else another process was faster
            raise DataError(
                f"{root}: could not be written ({error.strerror}); choose another folder."
            ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return root


def _is_complete(root: Path, mark: str) -> bool:
    """Whether root is this very stand-in; DataError when it is something else."""
    if (root / MARK_FILE).is_file() and (root / MARK_FILE).read_text("utf-8") == mark:
        return True
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root} is not this stand-in for ImageNet and is not changed; choose a new folder."
        )
    return False


def _draw_all(root: Path, *, seed: int, progress: bool) -> None:
    trained = set(trained_classes())
    objects = _objects()
    held_out = []
    for part, folder, label, num_images in tqdm(
        _all_classes(objects), desc="drawing a stand-in", unit=" classes", disable=not progress
    ):
        class_folder = root / PARTS[part].folders[0] / folder
        class_folder.mkdir(parents=True)
        count = num_images if label in trained else 1
        pixels = TRAINED_PIXELS if label in trained else OTHER_PIXELS
        suffix = ".png" if part == "objectnet" else ".JPEG"
        for k in range(count):
            rng = np.random.default_rng([seed, list(PARTS).index(part), label, k])
            _save_image(
                draw(label, part, rng, edge=pixels), class_folder / f"{folder}_{k:02d}{suffix}"
            )
        if part == "train":
            held_out += [label in trained and k < VAL_IMAGES for k in range(count)]
    np.save(root / "imagenet" / INDEX_FILE, np.array(held_out, dtype=np.float64))
    _write_mappings(root / _OBJECTNET / "mappings", objects)


def _all_classes(objects: dict[str, list[int]]) -> list[tuple[str, str, int, int]]:
    """Part, folder, label and number of images of every class of every part."""
    num_train = TRAIN_IMAGES + VAL_IMAGES
    rows = [("train", wnid, label, num_train) for label, wnid in enumerate(wnids())]
    rows += [("test", wnid, label, TEST_IMAGES) for label, wnid in enumerate(wnids())]
    rows += [("v2", str(label), label, TEST_IMAGES) for label in range(NUM_CLASSES)]
    rows += [("sketch", wnid, label, TEST_IMAGES) for label, wnid in enumerate(wnids())]
    for part in ("r", "a"):
        of_part = wnids(f"imagenet_{part}")
        rows += [(part, wnid, wnids().index(wnid), TEST_IMAGES) for wnid in of_part]
    rows += [("objectnet", name, labels[0], TEST_IMAGES) for name, labels in objects.items()]
    return rows


def _save_image(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


def _objects() -> dict[str, list[int]]:
    """The folders of the objects that stand for ObjectNet's, each with one to three labels."""
    trained = trained_classes()
    others = iter(label for label in range(NUM_CLASSES) if label not in trained)
    firsts = chain(trained, others)
    labels_of = [[next(firsts)] for _ in range(NUM_OBJECTS)]
    for k, labels in enumerate(labels_of):
        labels += [next(others) for _ in range(k % 3)]
    return {f"object_{k:03d}": labels for k, labels in enumerate(labels_of)}


def _write_mappings(folder: Path, objects: dict[str, list[int]]) -> None:
    """Write ObjectNet's four files, which say which of its objects are classes of ImageNet."""
    folder.mkdir()
    titles = {name: name.replace("_", " ") for name in objects}
    labels = [f"stand-in for class {k}" for k in range(NUM_CLASSES)]
    # ObjectNet lists the classes in another order than that of the logits.
    line_of = {k: (k + 7) % NUM_CLASSES for k in range(NUM_CLASSES)}
    files = {
        "folder_to_objectnet_label.json": titles,
        "objectnet_to_imagenet_1k.json": {
            titles[name]: "; ".join(labels[k] for k in ks) for name, ks in objects.items()
        },
        "pytorch_to_imagenet_2012_id.json": {str(k): line for k, line in line_of.items()},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), "utf-8")
    lines = sorted(range(NUM_CLASSES), key=line_of.__getitem__)
    text = "".join(f"{labels[k]}\n" for k in lines)
    (folder / "imagenet_to_label_2012_v2").write_text(text, "utf-8")


# One drawing ------------------------------------------------------------------------------------


def draw(label: int, part: str, rng: np.random.Generator, *, edge: int = 64) -> np.ndarray:
    """One image of a class: a striped shape, in the manner of a part of ImageNet.

    Shape, colours and stripes belong to the class. Position, size, angle and background are random.
    Sketches are ink on white. Renditions (r) have other colours. Adversarial images (a) are small
    among other shapes. Objects (objectnet) have any angle and dim light, and a red line of two
    pixels around them.

    Args:
        label: of the class, 0 to 999.
        part: one of `radin.data.imagenet.PARTS`.
        rng: for everything that is random.
        edge: in pixels, without the red line.

    Returns:
        (edge, edge, 3) bytes.
    """
    y, x = np.mgrid[0:edge, 0:edge] / (edge / 2) - 1 + 1 / edge
    size = rng.uniform(0.55, 0.8) * (0.6 if part == "a" else 1)
    turn = rng.uniform(0, 2 * np.pi) if part == "objectnet" else rng.uniform(-0.3, 0.3)
    u = (x - rng.uniform(-0.2, 0.2)) / size
    v = (y - rng.uniform(-0.2, 0.2)) / size
    u, v = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
    level = _shape(label % 6, u, v)
    wave = _wave(label, u, v)
    if part == "sketch":
        ink = (abs(level) < 0.07) | ((level < 0) & (abs(wave) < 0.2))
        return _pixels(np.where(ink, 0.15, 0.97)[..., None] + rng.normal(0, 0.02, (edge, edge, 3)))
    shift = 0.35 if part == "r" else 0
    light = 0.7 if part == "objectnet" else 1
    stripes = [
        light * _colour(_share(label, 0.618034) + shift + rng.normal(0, 0.02), 0.75, 0.9),
        light * _colour(_share(label, 0.754878) + shift, 0.6, 0.6),
    ]
    striped = np.where((wave > 0)[..., None], *stripes)
    image = np.where((level < 0)[..., None], striped, _background(part, x, y, rng))
    noise = {"r": 0.0, "v2": 0.14}.get(part, 0.1)
    image = _pixels(image + rng.normal(0, 1, image.shape) * noise)
    if part != "objectnet":
        return image
    return np.pad(image, ((2, 2), (2, 2), (0, 0))) + _red_line(edge)


def _shape(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Below 0 inside a shape, above it outside: disc, square, triangle, ring, cross, flower."""
    r = np.hypot(x, y)
    across = abs(x)
    up = abs(y)
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
    """A wave from -1 to 1 whose sign gives the stripes of a class."""
    lean = np.pi * _share(label, 0.380277)
    return np.sin((4 + 10 * _share(label, 0.569840)) * (x * np.cos(lean) + y * np.sin(lean)))


def _share(label: int, step: float) -> float:
    """A number from 0 to 1 for each class; classes with neighbouring labels are far apart."""
    return label * step % 1


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _background(part: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if part == "r":
        return np.broadcast_to(_colour(rng.random(), 0.25, 0.95), (*x.shape, 3))
    tilt = rng.normal(0, 0.08, 2)
    colour = rng.uniform(0.4, 0.6) + rng.uniform(-0.05, 0.05, 3)
    image = colour + (tilt[0] * x + tilt[1] * y)[..., None]
    for _ in range(4 if part == "a" else 0):
        left, top = rng.uniform(-0.9, 0.9, 2)
        size = rng.uniform(0.2, 0.4)
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
