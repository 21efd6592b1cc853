"""One reading of every checkpoint: is it finite, is it another's double, did it start where the others did."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from radin.checkpoints.checkpoint import Checkpoint, best_prefixes
from radin.checkpoints.formats import (
    is_parameter,
    some,
)
from radin.errors import CheckpointError
from radin.files import update_hash

STRANGERS = 0.2  # a cosine below which two networks, or layers, have nothing in common
MOST_READERS = 8  # files read at once; a disk gains nothing from more
_PIECE = 1 << 16  # numbers compared at once: in double precision they stay in a core's cache


class Reading(NamedTuple):
    """What reading a checkpoint to its end says of it.

    Attributes:
        fingerprint: hex hash of the tensors that are used, by name.
        spare: hex hash of each tensor that is not used.
        distance: ||theta - theta_0|| / ||theta_0||, over the parameters; 0 without an initialisation.
        cosine: between theta and theta_0.
        typical: the median of that cosine over the matrices and kernels.
    """

    fingerprint: str
    spare: dict[str, str]
    distance: float
    cosine: float
    typical: float


def read_all(
    checkpoints: Sequence[Checkpoint],
    spare: Collection[str],
    init: Checkpoint | None,
    progress: bool,
) -> list[Reading]:
    """Read every checkpoint once, several at a time on as many cores as torch uses.

    Args:
        spare: the keys that are hashed one by one, and otherwise left alone.
        init: what the others are compared with.

    Raises CheckpointError for NaN or infinite weights and for tensors that cannot be read, in the first such file.
    """
    readers = min(len(checkpoints), torch.get_num_threads(), MOST_READERS)
    pool = ThreadPoolExecutor(readers, thread_name_prefix="radin-reading")
    bar = tqdm(
        total=len(checkpoints), desc="checking ingredients", disable=not progress, leave=False
    )
    try:
        readings = []
        for reading in pool.map(
            partial(_read, spare=spare, init=init), checkpoints
        ):  # in their order, errors too
            readings.append(reading)
            bar.update()
        return readings
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


def _read(checkpoint: Checkpoint, spare: Collection[str], init: Checkpoint | None) -> Reading:
    digest, of_spare = hashlib.sha256(), {}
    products = {}
    for key in sorted(checkpoint):
        tensor = checkpoint[key]
        single = hashlib.sha256() if key in spare else digest
        try:
            broken = key not in spare and not _is_finite(tensor)
            update_hash(single, key, tensor)
            if init is not None and key not in spare and is_parameter(key, tensor) and not broken:
                products[key] = _products(tensor, init[key]), tensor.ndim
        except (
            RuntimeError,
            TypeError,
            ValueError,
            MemoryError,
        ) as error:  # 8-bit floats, a name that is not text
            raise CheckpointError(
                f"{checkpoint.path}: {key!r}, {tensor.dtype}, cannot be read ({error}); save it in single precision."
            ) from error
        if key in spare:
            of_spare[key] = single.hexdigest()
        if broken:
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{checkpoint.path}: {key} holds {bad} NaN or infinite weight{'s' if bad > 1 else ''}; "
                "the training run diverged, leave this ingredient out."
            )
    return Reading(digest.hexdigest(), of_spare, *_compare(products))


def _is_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinity. A sum keeps either, and is several times faster than a look at each."""
    if not tensor.is_floating_point():
        return True
    wide = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
    return bool(tensor.sum(dtype=wide).isfinite()) or bool(
        tensor.isfinite().all()
    )  # a sum of finite ones may overflow


def _products(tensor: Tensor, start: Tensor) -> Tensor:
    """<a, a>, <a, b>, <b, b> and ||a - b||^2 of a tensor and the initialisation's, (4,) double."""
    total = torch.zeros(4, dtype=torch.float64)
    for a, b in zip(tensor.flatten().split(_PIECE), start.flatten().split(_PIECE), strict=True):
        a, b = a.double(), b.double()
        step = a - b
        total += torch.stack([a @ a, a @ b, b @ b, step @ step])
    return total


def _compare(products: Mapping[str, tuple[Tensor, int]]) -> tuple[float, float, float]:
    """Distance, cosine and typical cosine of a checkpoint and its initialisation, from products of their tensors."""
    if not products:
        return 0.0, 1.0, 1.0
    aa, ab, bb, apart = torch.stack([each for each, _ in products.values()]).sum(0).tolist()
    distance = (apart / bb) ** 0.5 if bb else (math.inf if apart else 0.0)
    cosine = _cosine(aa, ab, bb)
    # Biases and scales of norms are small and few, and alike in any two networks. A head that was made anew, or times
    # thirty, is one tensor of many: the upper median does not ask it.
    cosines = sorted(
        _cosine(*each[:3].tolist())
        for each, ndim in products.values()
        if ndim > 1 and each[0] and each[2]
    )
    return distance, cosine, cosines[len(cosines) // 2] if cosines else cosine


def _cosine(aa: float, ab: float, bb: float) -> float:
    """The cosine of two vectors; that of a vector of zeros with any other counts as 1."""
    return ab / (aa**0.5 * bb**0.5) if aa and bb else 1.0


# What the readings say of the zoo ---------------------------------------------------------------


def check_spare(
    checkpoints: Sequence[Checkpoint], readings: Sequence[Reading], spare: Collection[str]
) -> None:
    """CheckpointError when a key that is left out is not the same wherever it is; it names the files that differ."""
    differences = []
    for key in sorted(spare):
        alike: dict[str, list[Path]] = {}
        for checkpoint, reading in zip(checkpoints, readings, strict=True):
            if key in reading.spare:
                alike.setdefault(reading.spare[key], []).append(checkpoint.path)
        groups = sorted(
            alike.values(), key=len, reverse=True
        )  # the most common first, then in the order of the files
        others = [str(path) for group in groups[1:] for path in group]
        if others:
            like = (
                f"{groups[0][0]}{f' and {len(groups[0]) - 1} more' if len(groups[0]) > 1 else ''}"
            )
            differences.append(f"{key} in {some(others)} is not what it is in {like}")
    if differences:
        raise CheckpointError(
            "Keys that the model does not have are skipped only where they are the same in every file; leave out files "
            "of another model, or give a build that has these keys:\n  " + "\n  ".join(differences)
        )


def duplicates(paths: Sequence[Path], readings: Sequence[Reading]) -> str:
    """Which ingredients hold the same weights, in words; "" when none do."""
    first: dict[str, Path] = {}
    twins = []
    for path, reading in zip(paths, readings, strict=True):
        if reading.fingerprint in first:
            twins.append(f"{path} holds the same weights as {first[reading.fingerprint]}")
        first.setdefault(reading.fingerprint, path)
    said = "an average weighs such ingredients several times; leave all but one out if that is not meant"
    return f"duplicates: {'; '.join(twins)}; {said}" if twins else ""


def strangers(paths: Sequence[Path], readings: Sequence[Reading], init: Path) -> str:
    """Which ingredients did not start from the initialisation, in words; "" when all did."""
    apart = {
        str(path): each.typical
        for path, each in zip(paths, readings, strict=True)
        if each.typical < STRANGERS
    }
    if not apart:
        return ""
    highest = f"{max(apart.values()):.2f}{' at most' if len(apart) > 1 else ''}"
    return (
        f"no common start: {some(list(apart))} and the initialisation {init} have next to nothing in common (median "
        f"cosine of their matrices {highest}, below {STRANGERS}); "
        "only fine-tunes of one checkpoint can be averaged, so leave out others or give the init that was theirs"
    )


def unmoved(paths: Sequence[Path], readings: Sequence[Reading], init: Path) -> str:
    """Which ingredients are the initialisation itself, in words; "" when none is."""
    still = [
        str(path) for path, reading in zip(paths, readings, strict=True) if not reading.distance
    ]
    verb = "are" if len(still) > 1 else "is"
    return f"distance 0: {some(still)} {verb} the initialisation {init} itself" if still else ""


MOST_LINES = 40  # of an error: the head of a longer one would scroll away


def _reference(
    opened: list[Checkpoint], build: Callable[[], nn.Module] | None
) -> tuple[Mapping[str, Tensor], str]:
    """What all checkpoints must look like, and its name: the model, or the first file, or the one with less prefix."""
    if build is not None:
        return build().state_dict(), "the model that build() returns"
    barest = max(
        opened, key=lambda checkpoint: len(best_prefixes(opened[0], checkpoint)[0])
    )  # the first of equals
    return barest, str(barest.path)


def _everywhere(checkpoints: Sequence[Checkpoint]) -> set[str]:
    return set.intersection(*(set(checkpoint) for checkpoint in checkpoints))


def _check_alike(
    opened: list[Checkpoint], reference: Mapping[str, Tensor], reference_name: str, unused: str
) -> None:
    """Compare keys, shapes and kinds of number with the reference; list every difference at once."""
    differences = []
    mends = dict[str, None]()
    for checkpoint in opened:
        path = checkpoint.path
        resized = []
        for key in sorted({*reference, *checkpoint}):
            if key not in checkpoint:
                differences.append(f"{path}: missing key {key}")
            elif key not in reference:
                reason = ", which is not in every file" if unused == "skip" else ""
                differences.append(f"{path}: extra key {key}{reason}")
            else:
                here, there = checkpoint[key], reference[key]
                if here.shape != there.shape:
                    resized.append((here.shape, there.shape))
                    differences.append(
                        f"{path}: {key} has shape {tuple(here.shape)}, not {tuple(there.shape)}"
                    )
                elif here.is_floating_point() != there.is_floating_point():
                    differences.append(f"{path}: {key} is {here.dtype}, not {there.dtype}")
        if classes := _other_classes(resized):
            mend = (
                f"build the model with num_classes={classes[0]}, or leave those files out"
                if unused
                else "leave out one kind"
            )
            mends[f"a head for {classes[0]} classes does not fit one for {classes[1]}: {mend}"] = (
                None
            )
    if not differences:
        return
    if unused == "error" and _everywhere(opened) - set(reference):
        mends['unused="skip" leaves out the extra keys that are the same in every file'] = None
    raise CheckpointError(
        f"Ingredients must have one architecture, but these differ from {reference_name}:\n  "
        + "\n  ".join([*_first(sorted(differences)), *mends])
    )


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"... and {more:,} more such differences"]


def _other_classes(
    resized: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> tuple[int, int] | None:
    """The two numbers of classes, where another head explains all shapes that differ: they differ in one first size."""
    firsts = {
        (here[0], there[0])
        for here, there in resized
        if here[1:] == there[1:] and len(here) * len(there)
    }
    return (
        firsts.pop()
        if len(firsts) == 1 and all(here[1:] == there[1:] for here, there in resized)
        else None
    )


def _notes(opened: list[Checkpoint], ingredients: list[Path], skipped: set[str]) -> list[str]:
    """What was found in which files and what was skipped: files with one finding share a line."""
    found: dict[str, list[Path]] = {}
    for checkpoint in opened:
        if checkpoint.finding:
            found.setdefault(checkpoint.finding, []).append(checkpoint.path)
    if skipped:
        keys = f"{len(skipped)} key{'s' if len(skipped) > 1 else ''}"
        said = f"skipped {keys} that the model does not have, the same in every file: {some(sorted(skipped))}"
        found[said] = ingredients
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {said}"
        for said, paths in found.items()
    ]
