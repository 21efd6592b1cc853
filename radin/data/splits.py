"""Splits: images and labels in a fixed order, in memory or in files."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.data.images import decode, describe_fault, read_file, read_image, scale
from radin.errors import DataError, ParameterError, check_integer, counted, list_names
from radin.files import hash_text, update_hash
from radin.ranking.projection import Projection

# Decoded together before they are scaled: large enough for torch, small beside a whole split.
_IMAGES_PER_BLOCK = 1024


class Split(Dataset[tuple[Tensor, int]]):
    """Images and labels of one part of a data set, in a fixed order.

    Attributes:
        name: of the data set, as asked for.
        part: of it, as asked for.
        class_names: the C classes, in the order of the labels.
        labels: (n,) int64.
        fingerprint: hex hash of the images, the labels and their preprocessing.
        projection: how to compute the logits of the classes from those of the networks, after
            averaging, for a test set with fewer classes than the networks have logits; None where
            class k is logit k.
        files: the n image files; empty where the images are not read from files.
        note: what to know about these images before quoting a number; "" when there is nothing.
    """

    name: str
    part: str
    class_names: list[str]
    labels: Tensor
    fingerprint: str
    projection: Projection | None = None
    files: Sequence[Path] = ()
    note: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_logits(self) -> int:
        """How many logits a network needs for this split."""
        return self.num_classes if self.projection is None else self.projection.num_logits

    def take(self, count: int) -> Self:
        """A split of `count` of these images, evenly spread and in their order: for a quick look.

        With `count` at or above the number of images it is the split itself.
        """
        total = len(self)
        if check_integer("count", count, minimum=1) >= total:
            return self
        fewer = self.subset([(2 * i + 1) * total // (2 * count) for i in range(count)])
        fewer.note = "; ".join(filter(None, [self.note, f"{count:,} of {total:,} images"]))
        return fewer

    def subset(self, indices: list[int]) -> Self:
        """A split of the images with these indices, in this order."""
        raise NotImplementedError(f"{type(self).__name__} has no method `subset`.")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        note = f"; {self.note}" if self.note else ""
        return (
            f"{type(self).__name__}({self.name}, {self.part}: {len(self)} images, "
            f"{self.num_classes} classes{note})"
        )


def projection_of(dataset: Dataset[Any]) -> Projection | None:
    """The projection of a split, or None for a plain torch Dataset of (image, label) pairs."""
    return getattr(dataset, "projection", None)


class ArraySplit(Split):
    """A split in memory.

    Args:
        images: (n, channels, height, width) in single precision.
        labels: (n,) int64; or targets (n,) or (n, D) in floating point, for regression.
        fingerprint: of the split that this one is a copy of, so that predictions on one are found
            for the other; computed from images and labels when not given.
    """

    def __init__(
        self,
        name: str,
        part: str,
        images: Tensor,
        labels: Tensor,
        class_names: list[str],
        *,
        fingerprint: str | None = None,
    ) -> None:
        self.name = name
        self.part = part
        self.class_names = class_names
        self.images = images
        self.labels = labels
        if fingerprint is None:
            digest = hashlib.sha256()
            update_hash(digest, "images", images)
            update_hash(digest, "labels", labels)
            fingerprint = digest.hexdigest()
        self.fingerprint = fingerprint

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = self.labels[index]
        return self.images[index], label.item() if label.ndim == 0 else label  # type: ignore

    def subset(self, indices: list[int]) -> Self:
        fewer = type(self)(
            self.name, self.part, self.images[indices], self.labels[indices], self.class_names
        )
        fewer.projection = self.projection
        fewer.note = self.note
        return fewer


class FolderSplit(Split):
    """A split on disk as `<class>/<image>`, decoded image by image.

    An image comes as (3, height, width) in single precision, scaled to -1 .. 1.

    Args:
        files: (path, label) of each image.
        size, border: see `radin.data.images.read_image`.
    """

    def __init__(
        self,
        name: str,
        part: str,
        files: list[tuple[Path, int]],
        class_names: list[str],
        *,
        size: int | None = None,
        border: int = 0,
    ) -> None:
        self.name = name
        self.part = part
        self.class_names = class_names
        self.size = size
        self.border = border
        self.files = [path for path, _ in files]
        self.labels = torch.tensor([label for _, label in files], dtype=torch.int64)

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Hash of every file's bytes with its label, and of the preprocessing."""
        hashes: list[str] = []
        bar = tqdm(
            total=len(self),
            desc=f"hashing {self.name}, {self.part}",
            unit=" images",
            delay=3,
            disable=None,
        )
        # A shared file system is slow for a single reader.
        with ThreadPoolExecutor(thread_name_prefix="hash") as pool, bar:
            for start in range(0, len(self), _IMAGES_PER_BLOCK):
                hashes += pool.map(_hash, self.files[start : start + _IMAGES_PER_BLOCK])
                bar.update(len(hashes) - bar.n)
        return self.combine_hashes(hashes)

    def combine_hashes(self, hashes: list[str]) -> str:
        """The fingerprint, given the hex SHA-256 of each file."""
        parts = ["size=None" if self.size is None else f"resize={self.size}", *self.class_names]
        if self.border:
            parts.insert(0, f"border={self.border}")
        for label, digest in zip(self.labels.tolist(), hashes, strict=True):
            parts += [str(label), digest]
        return hash_text(*parts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_image(self.files[index], self.size, self.border), int(self.labels[index])

    def subset(self, indices: list[int]) -> Self:
        fewer = copy.copy(self)
        fewer.__dict__.pop("fingerprint", None)  # that of all the images
        fewer.files = [self.files[i] for i in indices]
        fewer.labels = self.labels[indices]
        return fewer


def _hash(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()


def in_memory(split: Split, *, progress: bool = True) -> ArraySplit:
    """The same split with its images decoded once into one tensor: for training.

    Images, labels, names and fingerprint are equal to those of `split`, so predictions on one are
    found for the other. Costs 12 bytes a pixel: 0.6 GB for CIFAR-10's 50,000 images.

    Args:
        split: what `load_split` gave; a split that is in memory already is returned itself.
        progress: whether to show a bar.

    Raises:
        DataError: an image cannot be read or differs in size from the first.
    """
    if isinstance(split, ArraySplit):
        return split
    if not isinstance(split, FolderSplit):
        raise DataError(
            f"{split!r} is not a split that radin.load_split made; only those can be read into "
            "memory."
        )
    hashes: list[str] = []
    files = tqdm(
        split.files,
        desc=f"reading {split.name}, {split.part}",
        disable=not progress,
        unit=" images",
    )
    for i, path in enumerate(files):
        content = read_file(path)  # once, for its hash and its pixels
        hashes.append(hashlib.sha256(content).hexdigest())
        pixels = decode(path, content, split.size, split.border)
        if i == 0:
            images = torch.empty(len(split), 3, *pixels.shape[:2])
            block = np.empty((_IMAGES_PER_BLOCK, *pixels.shape), dtype=np.uint8)
        if pixels.shape != block.shape[1:]:
            raise DataError(
                f"{path} has {_edges(pixels)} pixels, {split.files[0]} has {_edges(block[0])}; "
                "pass load_split(..., size=32), say."
            )
        block[i % _IMAGES_PER_BLOCK] = pixels
        if (i + 1) % _IMAGES_PER_BLOCK == 0 or i + 1 == len(split):
            start = i - i % _IMAGES_PER_BLOCK
            images[start : i + 1] = scale(torch.from_numpy(block[: i + 1 - start]))
    split.fingerprint = split.combine_hashes(hashes)
    copied = ArraySplit(
        split.name,
        split.part,
        images,
        split.labels,
        split.class_names,
        fingerprint=split.fingerprint,
    )
    copied.projection = split.projection
    copied.note = split.note
    return copied


def unreadable(
    split: FolderSplit, *, indices: Sequence[int] | None = None, progress: bool = True
) -> list[tuple[Path, str]]:
    """The images of a split that cannot be decoded, each with the reason; all of them are tried.

    Args:
        indices: of the images to try, all by default.
        progress: whether to show a bar.
    """
    wanted = range(len(split)) if indices is None else indices
    bad: list[tuple[Path, str]] = []
    bar = tqdm(
        total=len(wanted),
        desc=f"checking {split.name}, {split.part}",
        disable=not progress,
        unit=" images",
    )
    with ThreadPoolExecutor(thread_name_prefix="check") as pool, bar:
        for start in range(0, len(wanted), _IMAGES_PER_BLOCK):
            paths = [split.files[i] for i in wanted[start : start + _IMAGES_PER_BLOCK]]
            reasons = pool.map(lambda path: describe_fault(path, split.size, split.border), paths)
            for path, reason in zip(paths, reasons, strict=True):
                if reason:
                    bad.append((path, reason))
                bar.update()
    return bad


def check_readable(split: FolderSplit, *, progress: bool = True) -> None:
    """Raise one DataError that counts and names the images of a split that cannot be decoded."""
    if not (bad := unreadable(split, progress=progress)):
        return
    raise DataError(
        f"{len(bad):,} of {len(split):,} images of {split.name}, {split.part}, cannot be decoded: "
        f"{list_names(f'{path}: {reason}' for path, reason in bad)}; replace or remove them."
    )


def _edges(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


# Mean and standard deviation of red, green and blue in the networks' training; pixels 0 to 1.
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalised(Split):
    """A split with other colours: each channel less its mean, over its standard deviation.

    Args:
        split: a split whose images run from -1 to 1, as `radin.load_split` gives them.
        mean, std: one number for each channel, of pixels from 0 to 1, as they are usually quoted
            (`CLIP`, `IMAGENET`).

    Raises:
        ParameterError: numbers that are no mean or standard deviation.
        DataError: another number of channels, found when an image is read.
    """

    def __init__(self, split: Split, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean = torch.tensor(mean, dtype=torch.float32)
        self._std = torch.tensor(std, dtype=torch.float32)
        if self._mean.shape != self._std.shape or self._mean.ndim != 1 or not len(self._mean):
            raise ParameterError(
                f"mean and std need one number for each channel, not {list(mean)} and {list(std)}."
            )
        finite = self._mean.isfinite().all() and self._std.isfinite().all()
        if not (finite and (self._std > 0).all()):
            raise ParameterError(
                f"mean and std must be finite and std above 0, not {list(mean)} and {list(std)}."
            )
        self.split = split
        self.name = split.name
        self.part = split.part
        self.class_names = split.class_names
        self.labels = split.labels
        self.projection = split.projection
        self.files = split.files
        self.note = split.note

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Hash of the original split and of the colours."""
        return hash_text(
            self.split.fingerprint, repr(self._mean.tolist()), repr(self._std.tolist())
        )

    def subset(self, indices: list[int]) -> Self:
        return type(self)(self.split.subset(indices), self._mean.tolist(), self._std.tolist())

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.split[index]
        if len(image) != len(self._mean):
            raise DataError(
                f"{self.split!r}: an image of {counted(len(image), 'channel')}, but mean and std "
                f"have {counted(len(self._mean), 'number')}; give one for each channel."
            )
        from_0_to_1 = image.add(1).div(2)
        return (from_0_to_1 - self._mean[:, None, None]) / self._std[:, None, None], label
