"""Splits by name: the embedded digits, and any folder of images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from radin.errors import DataError, check_whole
from radin.files import data_root, hash_text, update_hash

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
HELD_OUT = 0.1  # the share of each class's training images that becomes "val" where a data set has none


class Split(Dataset[tuple[Tensor, int]]):
    """Images and labels of one part of a data set, in a fixed order.

    Attributes:
        name: of the data set, as asked for.
        part: of it, as asked for.
        class_names: the C classes, in the order of the labels.
        labels: (n,) int64.
        fingerprint: hex hash of the images, the labels and their preprocessing.
    """

    name: str
    part: str
    class_names: list[str]
    labels: Tensor
    fingerprint: str

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.part}: {len(self)} images, {self.num_classes} classes)"


class ArraySplit(Split):
    """A split that lies in memory: images (n, channels, height, width) in single precision, labels (n,)."""

    def __init__(self, name: str, part: str, images: Tensor, labels: Tensor, class_names: list[str]) -> None:
        self.name, self.part, self.class_names = name, part, class_names
        self.images, self.labels = images, labels
        digest = hashlib.sha256()
        update_hash(digest, "images", images)
        update_hash(digest, "labels", labels)
        self.fingerprint = digest.hexdigest()

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class FolderSplit(Split):
    """A split that lies on disk as `<class>/<image>`, decoded image by image.

    An image comes as (3, height, width) in single precision, scaled to -1 .. 1.
    """

    def __init__(self, name: str, part: str, files: list[tuple[Path, int]], class_names: list[str], size: int | None):
        self.name, self.part, self.class_names, self.size = name, part, class_names, size
        self.files = [path for path, _ in files]
        self.labels = torch.tensor([label for _, label in files], dtype=torch.int64)

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Hash of every file's bytes with its label, and of the preprocessing."""
        parts = [f"size={self.size}", *self.class_names]
        for path, label in zip(self.files, self.labels.tolist(), strict=True):
            parts += [str(label), hashlib.sha256(path.read_bytes()).hexdigest()]
        return hash_text(*parts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_image(self.files[index], self.size), int(self.labels[index])


def read_image(path: Path, size: int | None = None) -> Tensor:
    """An image file as (3, height, width), scaled to -1 .. 1; with `size`, its centre square resized to size x size.

    Raises DataError when the file is not an image or is cut short.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error}); replace or remove it.") from error
    if size is not None:
        scale = size / min(image.size)
        width, height = (max(size, round(edge * scale)) for edge in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1)


def load_split(name: str, part: str, root: str | Path | None = None, size: int | None = None) -> Split:
    """One part of a data set as a torch Dataset with `.num_classes` and `.class_names`.

    Args:
        name: "digits" (embedded in scikit-learn, no download; its parts are listed in
            `radin.data.DIGITS_PARTS`), or a folder of images: a name under
            `root` or a path of its own, laid out as `<name>/<part>/<class>/<image>`.
        part: "train", "val", "test", or any other part the data set has. A folder without `val` gets
            one: a fixed tenth of each class of `train`, which `train` then leaves out.
        root: where data sets lie; `RADIN_DATA` or the user's cache directory when not given.
        size: edge in pixels that folder images are resized and cropped to; without it they must all
            have one size already.

    Raises DataError when the data set, part or a class is missing, empty or unreadable.
    """
    if size is not None:
        check_whole("size", size, least=1)
    if name == "digits":
        if size not in (None, 8):
            raise DataError(f"digits are 8 x 8 pixels; leave out size={size}.")
        return _digits(part)
    return _folder(name, part, Path(root) if root is not None else data_root(), size)


def batches(split: Dataset[Any], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The split in order, as (images, labels) batches; slices when it lies in memory, decodes otherwise.

    Raises DataError when the split is empty or its images differ in size.
    """
    if len(split) == 0:  # type: ignore[arg-type]
        raise DataError(f"{split!r} is empty; a split needs at least one image.")
    if isinstance(split, ArraySplit):
        yield from zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
        return
    try:
        for images, labels in DataLoader(split, batch_size=batch_size):
            labels = torch.as_tensor(labels)
            if labels.ndim != 1 or labels.is_floating_point():
                raise DataError(f"{split!r}: labels must be whole numbers, one for each image, not {labels.dtype}.")
            yield images, labels.long()
    except RuntimeError as error:
        if "stack expects each tensor to be equal size" not in str(error):
            raise
        raise DataError(f"{split!r}: its images differ in size; pass load_split(..., size=32), say.") from error


def fingerprint(split: Dataset[Any]) -> str:
    """Hex hash of a split's content and preprocessing: its own `.fingerprint`, or a hash of every item."""
    known = getattr(split, "fingerprint", None)
    if known is not None:
        return str(known)
    digest = hashlib.sha256()
    for images, labels in batches(split, 256):
        update_hash(digest, "images", images)
        update_hash(digest, "labels", labels)
    return digest.hexdigest()


# Folders of images ------------------------------------------------------------------------------


def _folder(name: str, part: str, root: Path, size: int | None) -> Split:
    base = root.expanduser() / Path(name).expanduser()  # an absolute name stands for itself
    if not base.is_dir() and Path(name).is_dir():
        base = Path(name)
    if not base.is_dir():
        raise DataError(
            f"Unknown data set {name!r}: it is not 'digits', and there is no folder {base}. Put the images there as "
            "<part>/<class>/<image>, or point RADIN_DATA (or root=...) at the folder that holds it."
        )
    held_out = part in ("train", "val") and not (base / "val").is_dir()
    source = base / ("train" if held_out else part)
    if not source.is_dir():
        parts = _folders(base)
        raise DataError(f"{base} has no part {part!r}; it has {', '.join(parts) or 'no folders at all'}.")
    class_names = _class_names(base, source)
    files: list[tuple[Path, int]] = []
    for label, class_name in enumerate(class_names):
        if not (source / class_name).is_dir():  # a part need not hold every class
            continue
        found = sorted(path for path in (source / class_name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"{source / class_name}: no images in this class ({', '.join(IMAGE_SUFFIXES)}).")
        if held_out:
            found = _hold_out(found, part, class_name)
        files += [(path, label) for path in found]
    if not files:
        raise DataError(f"{source}: too few images to hold out a part {part!r}; give a folder {base / 'val'}.")
    return FolderSplit(name, part, files, class_names, size)


def _folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_names(base: Path, source: Path) -> list[str]:
    """The classes of `train` where there is one, so that a label means the same class in every part."""
    here = _folders(source)
    if not here:
        raise DataError(f"{source}: no class folders; images must lie in one folder per class.")
    if not (base / "train").is_dir():
        return here
    known = _folders(base / "train")
    if unknown := sorted(set(here) - set(known)):
        raise DataError(f"{source}: classes that {base / 'train'} does not have: {', '.join(unknown)}.")
    return known


def _hold_out(found: list[Path], part: str, class_name: str) -> list[Path]:
    """The files of one class that belong to `part`, by a shuffle that depends on nothing but the class's name."""
    order = np.random.default_rng(list(class_name.encode())).permutation(len(found))
    count = math.floor(HELD_OUT * len(found))
    chosen = order[:count] if part == "val" else order[count:]
    return [found[i] for i in sorted(chosen)]


# Digits -----------------------------------------------------------------------------------------

# How the 1,797 scans are divided, once and for all, and how much Gaussian noise each share gets
# (pixels run from -1 to 1). Without the noise and with all labels every ingredient sits near 99%,
# and no recipe can be told from another: few labels and noisy scans leave something to win.
_DIGITS_SHARES = {"pretrain": (300, 0.3), "train": (150, 0.6), "val": (500, 0.6), "test": (847, 0.6)}
_DIGITS_SHIFTS = ("test-rotated", "test-blurred", "test-noisy")  # the same 847 test scans, made worse in another way
DIGITS_DRAWS = 10  # "test-draw-1" and on: the test scans again, each time under fresh noise
DIGITS_PARTS = (*_DIGITS_SHARES, *_DIGITS_SHIFTS, *(f"test-draw-{k + 1}" for k in range(DIGITS_DRAWS)))


@cache
def _digits(part: str) -> ArraySplit:
    if part not in DIGITS_PARTS:
        raise DataError(f"digits has no part {part!r}; it has {', '.join(DIGITS_PARTS)}.")
    from scipy import ndimage
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    scans = scans.reshape(-1, 8, 8) / 8 - 1
    order = np.random.default_rng(0).permutation(len(scans))
    base = part.split("-")[0]
    position = list(_DIGITS_SHARES).index(base)
    start = sum(count for count, _ in list(_DIGITS_SHARES.values())[:position])
    count, noise = _DIGITS_SHARES[base]
    chosen = order[start : start + count]
    images = scans[chosen]
    if part == "test-rotated":
        images = ndimage.rotate(images, 20, axes=(1, 2), reshape=False, order=1, mode="nearest")
    if part == "test-blurred":
        images = ndimage.gaussian_filter(images, (0, 0.7, 0.7), mode="nearest")
    if part == "test-noisy":
        noise = 0.8
    # One noise stream per share, so that a shifted part is the test part with the same noise and one change.
    draw = int(part.rsplit("-", 1)[1]) if part.startswith("test-draw-") else 0
    images = images + noise * np.random.default_rng([1, position, draw]).standard_normal(images.shape)
    tensor = torch.from_numpy(images).float().unsqueeze(1)  # (n, 1, 8, 8)
    return ArraySplit("digits", part, tensor, torch.from_numpy(labels[chosen]).long(), [str(d) for d in range(10)])
