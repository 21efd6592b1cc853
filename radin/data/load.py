"""Splits by name: the embedded digits, data sets that are downloaded once, and any folder of images."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from radin import imagenet
from radin.datasets import fetch as fetch
from radin.datasets import find
from radin.errors import DataError, check_whole
from radin.files import update_hash
from radin.folders import part_files
from radin.images import read_image as read_image
from radin.splits import ArraySplit, FolderSplit, Split
from radin.splits import check_readable as check_readable
from radin.splits import in_memory as in_memory
from radin.splits import unreadable as unreadable


def load_split(name: str, part: str, root: str | Path | None = None, size: int | None = None) -> Split:
    """One part of a data set as a torch Dataset with `.num_classes` and `.class_names`.

    Args:
        name: "digits" (embedded in scikit-learn), "cifar10", "tiny-imagenet", "pacs", "domainnet", "imagenet", or a
            folder of images: a name under `root` or a path of its own.
        part: of digits, one of `radin.data.DIGITS_PARTS`. Of a folder `<part>/<class>/<image>`: "train", "val",
            "test", or any other part it has. Without a folder `val` it gets one: a fixed tenth of each class of
            `train`, which `train` then leaves out. "pretrain" and "finetune" are two fixed halves of "train".
            Of a folder `<domain>/<class>/<image>`, such as pacs and domainnet: "<domain>", all of it;
            "<domain>/train" and "<domain>/val", which is a fixed tenth of each class; and "without-<domain>/train"
            and "without-<domain>/val", the same for all other domains together. Of imagenet, one of
            `radin.imagenet.PARTS`; "val" is then the 2% held out of its training images, "test" its own validation
            images, and the shifted test sets are parts too.
        root: where data sets lie; `RADIN_DATA` or the user's cache directory when not given. A set that radin
            knows by name may have its edge in pixels behind it (`pacs-64`), and is downloaded if it is not there;
            with RADIN_OFFLINE=1 in the environment an error says what would have been.
        size: edge in pixels that folder images are resized and cropped to, 224 for imagenet by default; of other
            folders the images must all have one size already where it is not given.

    Raises DataError when the data set, part or a class is missing, empty or unreadable.
    """
    if size is not None:
        check_whole("size", size, least=1)
    if name == "imagenet":
        found = imagenet.find_images(part, root)
        split = FolderSplit(name, part, found.files, found.class_names, size or imagenet.SIZE, found.border)
        split.projection, split.note = found.projection, found.note
        return split
    if name == "digits":
        if size not in (None, 8):
            raise DataError(f"digits are 8 x 8 pixels; leave out size={size}.")
        return _digits(part)
    base, known = find(name, root)
    files, class_names = part_files(base, part, known)
    return FolderSplit(name, part, files, class_names, size)


def batches(
    split: Dataset[Any], batch_size: int, start: int = 0, workers: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The split in order, as (images, labels) batches; slices when it lies in memory, decodes otherwise.

    Args:
        start: the image to begin with.
        workers: threads that decode a split of radin's ahead of its use, one for each core by default; processes that
            read any other data set, none by default.

    Raises DataError when the split is empty, an image cannot be read, or its images differ in size.
    """
    if len(split) == 0:  # type: ignore[arg-type]
        raise DataError(f"{_named(split)} is empty; a split needs at least one image.")
    if isinstance(split, ArraySplit):
        yield from zip(split.images[start:].split(batch_size), split.labels[start:].split(batch_size), strict=True)
        return
    try:
        if isinstance(split, Split):
            yield from _decoded_ahead(split, batch_size, start, workers or _cores())
            return
        rest = Subset(split, range(start, len(split))) if start else split  # type: ignore[arg-type]
        for images, labels in DataLoader(rest, batch_size=batch_size, num_workers=workers or 0):
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


def _decoded_ahead(split: Split, batch_size: int, start: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches whose images threads decode while the batch before is used."""
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        starts = range(start, len(split), batch_size)
        ahead: deque[list[Future[tuple[Tensor, int]]]] = deque()
        for first in (*starts, None):
            if first is not None:
                wanted = range(first, min(first + batch_size, len(split)))
                ahead.append([pool.submit(split.__getitem__, i) for i in wanted])
            if len(ahead) > 1 or (first is None and ahead):
                items = [image.result() for image in ahead.popleft()]
                yield torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])
    except DataError:
        files = getattr(split, "split", split)  # behind other colours
        if isinstance(files, FolderSplit):
            check_readable(files, progress=sys.stderr.isatty())  # one image cannot be read: how many are there?
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
            some = split.only(chosen.tolist()) if isinstance(split, Split) else Subset(split, chosen.tolist())
            yield next(batches(some, len(chosen)))[0]


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
