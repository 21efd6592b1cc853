"""Batches of images, decoded ahead of the network, and the fingerprint of a split."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from radin.data.network_inputs import Inputs
from radin.data.samples import Samples, as_split, subset_of
from radin.data.splits import ArraySplit, FolderSplit, Normalised, Split, check_readable
from radin.errors import DataError
from radin.files import update_hash


def batches(
    split: Dataset[Any], batch_size: int, *, start: int = 0, workers: int | None = None
) -> Iterator[tuple[Inputs, Tensor]]:
    """The split in order, as (images, labels) batches.

    A split in memory is sliced; the images of any other are decoded. Where a network takes several
    tensors, the "images" are a mapping from the names of its arguments to batches.

    Args:
        split: as `as_split` takes it.
        start: index of the first image.
        workers: threads that decode a split of radin's, one for each core by default; processes
            that read any other data set, none by default.

    Raises:
        DataError: the split is empty, an image cannot be read, or its images differ in size.
    """
    split = as_split(split)
    if len(split) == 0:  # type: ignore[arg-type]
        raise DataError(f"{_describe(split)} is empty; a split needs at least one image.")
    if isinstance(split, ArraySplit):
        images = split.images[start:].split(batch_size)
        labels = split.labels[start:].split(batch_size)
        yield from zip(images, labels, strict=True)
        return
    try:
        if isinstance(split, Split):
            yield from _decoded_ahead(split, batch_size, start, workers or _num_cores())
        elif isinstance(split, Samples):
            yield from split.batches(batch_size, start=start, workers=workers)
    except RuntimeError as error:
        if "stack expects each tensor to be equal size" not in str(error):
            raise
        way_out = (
            "pass load_split(..., size=32), say"
            if isinstance(split, Split)
            else "resize images and pad texts to one size, or give a DataLoader whose collate_fn "
            "does"
        )
        raise DataError(f"{_describe(split)}: its images differ in size; {way_out}.") from error


def _decoded_ahead(
    split: Split, batch_size: int, start: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches whose images threads decode while the batch before is used."""
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        batch_starts = range(start, len(split), batch_size)
        ahead: deque[list[Future[tuple[Tensor, int]]]] = deque()
        for batch_start in (*batch_starts, None):
            if batch_start is not None:
                indices = range(batch_start, min(batch_start + batch_size, len(split)))
                ahead.append([pool.submit(split.__getitem__, i) for i in indices])
            if len(ahead) > 1 or (batch_start is None and ahead):
                items = [future.result() for future in ahead.popleft()]
                images = torch.stack([image for image, _ in items])
                yield images, torch.tensor([label for _, label in items])
    except DataError:
        source = split.split if isinstance(split, Normalised) else split
        if isinstance(source, FolderSplit):  # one image cannot be read: count all such images
            check_readable(source, progress=sys.stderr.isatty())
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mixed_batches(split: Dataset[Any], batch_size: int, *, seed: int = 0) -> Iterator[Inputs]:
    """The images once, in a random order and in batches of almost one size.

    Batch norm gives all batches the same weight. A small last batch, or batches of one class each,
    as a sorted folder would give, would distort its statistics.
    """
    split = as_split(split)
    count = len(split)  # type: ignore[arg-type]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for indices in order.tensor_split(math.ceil(count / batch_size)):
        if isinstance(split, ArraySplit):
            yield split.images[indices]
            continue
        chosen = indices.tolist()
        subset = split.subset(chosen) if isinstance(split, Split) else subset_of(split, chosen)
        yield next(batches(subset, len(indices)))[0]


def _describe(split: Dataset[Any]) -> str:
    """A split in an error message; the repr of other data sets may be all their numbers."""
    return repr(as_split(split))


def fingerprint(split: Dataset[Any]) -> str:
    """Hex hash of a split's content and preprocessing.

    It is the split's own `.fingerprint`; for a data set without one, the hash of every item.
    """
    split = as_split(split)
    own = getattr(split, "fingerprint", None)
    if own is not None:
        return str(own)
    digest = hashlib.sha256()
    for images, labels in batches(split, 256):
        if isinstance(images, Tensor):
            update_hash(digest, "images", images)
        else:
            for name, tensor in sorted(images.items()):
                update_hash(digest, f"input {name}", tensor)
        update_hash(digest, "labels", labels)
    return digest.hexdigest()
