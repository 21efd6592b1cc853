"""Splits by name: the embedded digits, data sets that are downloaded once, and any folder of images."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from radin.datasets import fetch as fetch
from radin.datasets import find
from radin.errors import DataError, check_whole
from radin.files import hash_text, update_hash
from radin.folders import part_files

_BLOCK = 1024  # images that are decoded before they are scaled: large enough for torch, small beside the whole


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
    """A split that lies in memory: images (n, channels, height, width) in single precision, labels (n,).

    A copy of a split that has a `fingerprint` already is given that one, so that both are found alike.
    """

    def __init__(
        self,
        name: str,
        part: str,
        images: Tensor,
        labels: Tensor,
        class_names: list[str],
        fingerprint: str | None = None,
    ) -> None:
        self.name, self.part, self.class_names = name, part, class_names
        self.images, self.labels = images, labels
        if fingerprint is None:
            digest = hashlib.sha256()
            update_hash(digest, "images", images)
            update_hash(digest, "labels", labels)
            fingerprint = digest.hexdigest()
        self.fingerprint = fingerprint

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
        return self.combine_hashes([hashlib.sha256(_read(path)).hexdigest() for path in self.files])

    def combine_hashes(self, hashes: list[str]) -> str:
        """The fingerprint, given the hex SHA-256 of each file."""
        parts = [f"size={self.size}", *self.class_names]
        for label, digest in zip(self.labels.tolist(), hashes, strict=True):
            parts += [str(label), digest]
        return hash_text(*parts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_image(self.files[index], self.size), int(self.labels[index])


def read_image(path: Path, size: int | None = None) -> Tensor:
    """An image file as (3, height, width), scaled to -1 .. 1; with `size`, its centre square resized to size x size.

    Raises DataError when the file is not an image or is cut short.
    """
    return _scale(torch.from_numpy(_decode(path, _read(path), size)))


def in_memory(split: Split, progress: bool = True) -> ArraySplit:
    """The same split with its images decoded once into one tensor: for training, which reads them many times.

    Images, labels, names and fingerprint are equal to those of `split`, so what was predicted on one is found
    for the other. Costs 12 bytes a pixel: 0.6 GB for CIFAR-10's 50,000 images.

    Args:
        split: what `load_split` gave; one that lies in memory is returned as it is.
        progress: whether to show a bar.

    Raises DataError when an image cannot be read or differs in size from the first.
    """
    if isinstance(split, ArraySplit):
        return split
    if not isinstance(split, FolderSplit):
        raise DataError(f"{split!r} is not a split that radin.load_split made; only those can be read into memory.")
    hashes: list[str] = []
    files = tqdm(split.files, desc=f"reading {split.name}, {split.part}", disable=not progress, unit=" images")
    for i, path in enumerate(files):
        content = _read(path)  # once, for its hash and its pixels
        hashes.append(hashlib.sha256(content).hexdigest())
        pixels = _decode(path, content, split.size)
        if i == 0:
            images = torch.empty(len(split), 3, *pixels.shape[:2])
            block = np.empty((_BLOCK, *pixels.shape), dtype=np.uint8)
        if pixels.shape != block.shape[1:]:
            raise DataError(
                f"{path} has {_edges(pixels)} pixels, {split.files[0]} has {_edges(block[0])}; pass "
                "load_split(..., size=32), say."
            )
        block[i % _BLOCK] = pixels
        if (i + 1) % _BLOCK == 0 or i + 1 == len(split):
            first = i - i % _BLOCK
            images[first : i + 1] = _scale(torch.from_numpy(block[: i + 1 - first]))
    split.fingerprint = split.combine_hashes(hashes)
    return ArraySplit(split.name, split.part, images, split.labels, split.class_names, split.fingerprint)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: could not be read ({error.strerror}).") from error


def _decode(path: Path, content: bytes, size: int | None) -> np.ndarray:
    """The content of an image file as (height, width, 3) bytes."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "cut short or no image" if isinstance(error, UnidentifiedImageError) else error  # it names a buffer
        raise DataError(f"{path}: not a readable image ({reason}); replace or remove it.") from error
    if size is not None:
        scale = size / min(image.size)
        width, height = (max(size, round(edge * scale)) for edge in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return np.array(image)


def _scale(pixels: Tensor) -> Tensor:
    """Bytes (..., height, width, 3) as (..., 3, height, width) in single precision, -1 .. 1."""
    return pixels.movedim(-1, -3).float().div(127.5).sub(1)


def _edges(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def load_split(name: str, part: str, root: str | Path | None = None, size: int | None = None) -> Split:
    """One part of a data set as a torch Dataset with `.num_classes` and `.class_names`.

    Args:
        name: "digits" (embedded in scikit-learn), "cifar10", "tiny-imagenet", "pacs", "domainnet", or a folder of
            images: a name under `root` or a path of its own.
        part: of digits, one of `radin.data.DIGITS_PARTS`. Of a folder `<part>/<class>/<image>`: "train", "val",
            "test", or any other part it has. Without a folder `val` it gets one: a fixed tenth of each class of
            `train`, which `train` then leaves out. "pretrain" and "finetune" are two fixed halves of "train".
            Of a folder `<domain>/<class>/<image>`, such as pacs and domainnet: "<domain>", all of it;
            "<domain>/train" and "<domain>/val", which is a fixed tenth of each class; and "without-<domain>/train"
            and "without-<domain>/val", the same for all other domains together.
        root: where data sets lie; `RADIN_DATA` or the user's cache directory when not given. A set that radin
            knows by name may have its edge in pixels behind it (`pacs-64`), and is downloaded if it is not there;
            with RADIN_OFFLINE=1 in the environment an error says what would have been.
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
    base, known = find(name, root)
    files, class_names = part_files(base, part, known)
    return FolderSplit(name, part, files, class_names, size)


def batches(split: Dataset[Any], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The split in order, as (images, labels) batches; slices when it lies in memory, decodes otherwise.

    Raises DataError when the split is empty or its images differ in size.
    """
    if len(split) == 0:  # type: ignore[arg-type]
        raise DataError(f"{_named(split)} is empty; a split needs at least one image.")
    if isinstance(split, ArraySplit):
        yield from zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
        return
    try:
        for images, labels in DataLoader(split, batch_size=batch_size):
            labels = torch.as_tensor(labels)
            if labels.ndim != 1 or labels.is_floating_point():
                raise DataError(
                    f"{_named(split)}: labels must be whole numbers, one for each image, not {labels.dtype}."
                )
            yield images, labels.long()
    except RuntimeError as error:
        if "stack expects each tensor to be equal size" not in str(error):
            raise
        raise DataError(f"{_named(split)}: its images differ in size; pass load_split(..., size=32), say.") from error


def mixed_batches(split: Dataset[Any], batch_size: int, seed: int = 0) -> Iterator[Tensor]:
    """The images once, in a random order and batches of almost one size.

    Batch norm weighs all batches alike, so a small last one or batches of one class each, as a sorted folder
    would give, would bend it.
    """
    count = len(split)  # type: ignore[arg-type]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for chosen in order.tensor_split(math.ceil(count / batch_size)):
        if isinstance(split, ArraySplit):
            yield split.images[chosen]
        else:
            yield next(batches(Subset(split, chosen.tolist()), len(chosen)))[0]


def _named(split: Dataset[Any]) -> str:
    """A split in an error message; the repr of a list or of torch's own data sets may be all their numbers."""
    return repr(split) if isinstance(split, Split) else f"a {type(split).__name__} of {len(split)}"  # type: ignore[arg-type]


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
