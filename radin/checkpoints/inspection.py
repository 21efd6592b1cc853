"""Every checkpoint is read once: is it finite, is it a duplicate, is it near the initialisation?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from radin.checkpoints.checkpoint import Checkpoint
from radin.checkpoints.dtypes import can_hold_nan, kind_of, real_numbers
from radin.checkpoints.formats import is_parameter
from radin.checkpoints.not_averaged import compared_keys, exact_hash
from radin.errors import CheckpointError, counted, list_names
from radin.files import update_hash

MAX_UNRELATED_COSINE = 0.2  # below it two networks, or layers, have nothing in common
MAX_FILES_AT_ONCE = 8  # a disk gains nothing from more readers
MAX_LISTED_DIFFERENCES = 40  # in one error; the beginning of a longer one would scroll away
_ELEMENTS_PER_PIECE = 1 << 16  # compared at once: in double precision they fit a core's cache


class Inspection(NamedTuple):
    """What was computed while a checkpoint was read.

    Attributes:
        fingerprint: hex hash of the tensors that are used, by name.
        unused: hex hash of each tensor that is not used.
        compared: hex hash of each tensor that must be the same in all files, or may not differ
            together with another: whole numbers, and factors of a product.
        distance: ||theta - theta_0|| / ||theta_0||, over the parameters; 0 without an
            initialisation.
        cosine: between theta and theta_0.
        median_cosine: the upper median of that cosine over the matrices and kernels.
    """

    fingerprint: str
    unused: dict[str, str]
    compared: dict[str, str]
    distance: float
    cosine: float
    median_cosine: float


def inspect_all(
    checkpoints: Sequence[Checkpoint],
    *,
    unused: Collection[str],
    init: Checkpoint | None,
    progress: bool,
) -> list[Inspection]:
    """Read every checkpoint once, several at a time on as many cores as torch uses.

    Args:
        unused: the keys that are hashed one by one, and not checked or compared.
        init: what the others are compared with.
        progress: whether to show a bar.

    Raises:
        CheckpointError: NaN or infinite weights, or tensors that cannot be read; it names the
            first such file.
    """
    num_threads = min(len(checkpoints), torch.get_num_threads(), MAX_FILES_AT_ONCE)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="radin-inspection")
    bar = tqdm(
        total=len(checkpoints), desc="checking ingredients", disable=not progress, leave=False
    )
    try:
        inspections = []
        # In the order of the files, errors too.
        for inspection in pool.map(partial(_inspect, unused=unused, init=init), checkpoints):
            inspections.append(inspection)
            bar.update()
        return inspections
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


def _inspect(
    checkpoint: Checkpoint, *, unused: Collection[str], init: Checkpoint | None
) -> Inspection:
    digest = hashlib.sha256()
    unused_hashes: dict[str, str] = {}
    compared: dict[str, str] = {}
    to_compare = compared_keys(checkpoint)
    products: dict[str, tuple[Tensor, int]] = {}
    for key in sorted(checkpoint):
        tensor = checkpoint[key]
        is_unused = key in unused
        key_digest = hashlib.sha256() if is_unused else digest
        try:
            is_finite = is_unused or _is_finite(tensor)
            update_hash(key_digest, key, tensor)
            if key in to_compare and not is_unused:
                compared[key] = exact_hash(tensor)
            if init is not None and is_finite and not is_unused and is_parameter(key, tensor):
                products[key] = _products(tensor, init[key]), tensor.ndim
        except (RuntimeError, TypeError, ValueError, MemoryError) as error:
            # For example a name that is not valid text.
            raise CheckpointError(
                f"{checkpoint.path}: {key!r}, {tensor.dtype}, cannot be read ({error}); save it "
                "in single precision."
            ) from error
        if is_unused:
            unused_hashes[key] = key_digest.hexdigest()
        if not is_finite:
            weights = counted(_count_not_finite(tensor), "NaN or infinite weight")
            raise CheckpointError(
                f"{checkpoint.path}: {key} holds {weights}; "
                "the training run diverged, leave this ingredient out."
            )
    return Inspection(digest.hexdigest(), unused_hashes, compared, *_distance_and_cosines(products))


def _is_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinity, in the real and the imaginary part.

    A sum keeps either, and is several times faster than a look at each element.
    """
    if not can_hold_nan(tensor.dtype):
        return True
    numbers = real_numbers(tensor)
    if numbers.element_size() == 1:  # torch does not add 8-bit floats
        return all(piece.float().isfinite().all() for piece in numbers.split(_ELEMENTS_PER_PIECE))
    wide = numbers.dtype if numbers.dtype == torch.float64 else torch.float32
    if numbers.sum(dtype=wide).isfinite():
        return True
    return bool(numbers.isfinite().all())  # a sum of finite elements may overflow


def _count_not_finite(tensor: Tensor) -> int:
    """How many weights are NaN or infinite; a complex one counts once."""
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    return int((~wide.isfinite()).sum())


def _products(tensor: Tensor, start: Tensor) -> Tensor:
    """<a, a>, <a, b>, <b, b> and ||a - b||^2 of a tensor and the initialisation's, (4,) double."""
    total = torch.zeros(4, dtype=torch.float64)
    pieces = zip(
        real_numbers(tensor).split(_ELEMENTS_PER_PIECE),
        real_numbers(start).split(_ELEMENTS_PER_PIECE),
        strict=True,
    )
    for a, b in pieces:
        a = a.double()
        b = b.double()
        step = a - b
        total += torch.stack([a @ a, a @ b, b @ b, step @ step])
    return total


def _distance_and_cosines(
    products: Mapping[str, tuple[Tensor, int]],
) -> tuple[float, float, float]:
    """Distance, cosine and median cosine of a checkpoint and its initialisation.

    Args:
        products: of each parameter, the answer of `_products` and the number of dimensions.
    """
    if not products:
        return 0.0, 1.0, 1.0
    aa, ab, bb, squared_distance = (
        torch.stack([each for each, _ in products.values()]).sum(0).tolist()
    )
    from_zero = math.inf if squared_distance else 0.0
    distance = (squared_distance / bb) ** 0.5 if bb else from_zero
    cosine = _cosine(aa, ab, bb)
    # Biases and scales of norms are small and few, and alike in any two networks. A new head, or
    # one times thirty, is one tensor of many and does not change the upper median.
    cosines = sorted(
        _cosine(*each[:3].tolist())
        for each, ndim in products.values()
        if ndim > 1 and each[0] and each[2]
    )
    return distance, cosine, cosines[len(cosines) // 2] if cosines else cosine


def _cosine(aa: float, ab: float, bb: float) -> float:
    """The cosine of two vectors; that of a vector of zeros with any other counts as 1."""
    return ab / (aa**0.5 * bb**0.5) if aa and bb else 1.0


# Messages about the zoo --------------------------------------------------------------------------


def check_unused(
    checkpoints: Sequence[Checkpoint],
    inspections: Sequence[Inspection],
    unused: Collection[str],
) -> None:
    """Raise CheckpointError unless each unused key is the same in every file that has it."""
    differences = []
    for key in sorted(unused):
        paths_of_hash: dict[str, list[Path]] = {}
        for checkpoint, inspection in zip(checkpoints, inspections, strict=True):
            if key in inspection.unused:
                paths_of_hash.setdefault(inspection.unused[key], []).append(checkpoint.path)
        # The most common content first, then in the order of the files.
        common, *others = sorted(paths_of_hash.values(), key=len, reverse=True)
        if others:
            different = list_names(path for group in others for path in group)
            differences.append(
                f"{key} in {different} is not what it is in {list_names(common, most=1)}"
            )
    if differences:
        raise CheckpointError(
            "Keys that the model does not have are skipped only where they are the same in every "
            "file; leave out files of another model, or give a build that has these keys:\n  "
            + "\n  ".join(differences)
        )


def describe_duplicates(paths: Sequence[Path], fingerprints: Sequence[str]) -> str:
    """A message that names the ingredients with the same weights; "" when there are none."""
    first: dict[str, Path] = {}
    pairs = []
    for path, fingerprint in zip(paths, fingerprints, strict=True):
        if fingerprint in first:
            pairs.append(f"{path} holds the same weights as {first[fingerprint]}")
        first.setdefault(fingerprint, path)
    if not pairs:
        return ""
    return (
        f"duplicates: {'; '.join(pairs)}; an average weighs such ingredients several times; leave "
        "all but one out if that is not meant"
    )


def describe_unrelated(paths: Sequence[Path], inspections: Sequence[Inspection], init: Path) -> str:
    """A message that names the ingredients with another start than the initialisation.

    "" when all of them started from it.
    """
    unrelated = {
        path: inspection.median_cosine
        for path, inspection in zip(paths, inspections, strict=True)
        if inspection.median_cosine < MAX_UNRELATED_COSINE
    }
    if not unrelated:
        return ""
    highest = f"{max(unrelated.values()):.2f}{' at most' if len(unrelated) > 1 else ''}"
    return (
        f"no common start: {list_names(unrelated)} and the initialisation {init} have next to "
        f"nothing in common (median cosine of their matrices {highest}, below "
        f"{MAX_UNRELATED_COSINE}); only fine-tunes of one checkpoint can be averaged, so leave out "
        "others or give the init that was theirs"
    )


def describe_unchanged(paths: Sequence[Path], inspections: Sequence[Inspection], init: Path) -> str:
    """A message that names the ingredients that are the initialisation; "" when none is."""
    unchanged = [
        path for path, inspection in zip(paths, inspections, strict=True) if not inspection.distance
    ]
    if not unchanged:
        return ""
    verb = "are" if len(unchanged) > 1 else "is"
    return f"distance 0: {list_names(unchanged)} {verb} the initialisation {init} itself"


# Architecture ------------------------------------------------------------------------------------


def common_keys(checkpoints: Sequence[Checkpoint]) -> set[str]:
    """The keys that are in every checkpoint."""
    return set.intersection(*(set(checkpoint) for checkpoint in checkpoints))


def check_architecture(
    checkpoints: list[Checkpoint],
    reference: Mapping[str, Tensor],
    reference_name: str,
    *,
    unused: str,
) -> None:
    """Compare keys, shapes and dtypes with the reference; list every difference at once.

    Args:
        unused: as `Zoo.open` takes it; "" where there is no `build`.

    Raises:
        CheckpointError: there is a difference.
    """
    differences: list[str] = []
    hints: dict[str, None] = {}
    for checkpoint in checkpoints:
        found, reshaped = _differences(checkpoint, reference, unused)
        differences += found
        if classes := _other_classes(reshaped):
            way_out = (
                f"build the model with num_classes={classes[0]}, or leave those files out"
                if unused
                else "leave out one kind"
            )
            hint = f"a head for {classes[0]} classes does not fit one for {classes[1]}: {way_out}"
            hints[hint] = None
    if not differences:
        return
    if unused == "error" and common_keys(checkpoints) - set(reference):
        hints['unused="skip" leaves out the extra keys that are the same in every file'] = None
    lines = sorted(differences)
    num_more = len(lines) - MAX_LISTED_DIFFERENCES
    if num_more > 0:
        lines = [*lines[:MAX_LISTED_DIFFERENCES], f"... and {num_more:,} more such differences"]
    raise CheckpointError(
        f"Ingredients must have one architecture, but these differ from {reference_name}:\n  "
        + "\n  ".join([*lines, *hints])
    )


_ShapePair = tuple[Sequence[int], Sequence[int]]  # a tensor's, and the reference's


def _differences(
    checkpoint: Checkpoint, reference: Mapping[str, Tensor], unused: str
) -> tuple[list[str], list[_ShapePair]]:
    """A line for each difference of a checkpoint and the reference, and the shapes that differ."""
    path = checkpoint.path
    lines = []
    reshaped: list[_ShapePair] = []
    for key in sorted({*reference, *checkpoint}):
        if key not in checkpoint:
            lines.append(f"{path}: missing key {key}")
        elif key not in reference:
            reason = ", which is not in every file" if unused == "skip" else ""
            lines.append(f"{path}: extra key {key}{reason}")
        else:
            own = checkpoint[key]
            wanted = reference[key]
            if own.shape != wanted.shape:
                reshaped.append((own.shape, wanted.shape))
                lines.append(
                    f"{path}: {key} has shape {tuple(own.shape)}, not {tuple(wanted.shape)}"
                )
            elif kind_of(own.dtype) != kind_of(wanted.dtype):
                lines.append(f"{path}: {key} is {own.dtype}, not {wanted.dtype}")
    return lines, reshaped


def _other_classes(reshaped: Sequence[_ShapePair]) -> tuple[int, int] | None:
    """The two numbers of classes, where another head explains all shapes that differ.

    The shapes then differ in their first size only, and all in the same way.
    """
    first_sizes = {
        (own[0], wanted[0])
        for own, wanted in reshaped
        if own[1:] == wanted[1:] and len(own) * len(wanted)
    }
    if len(first_sizes) != 1 or any(own[1:] != wanted[1:] for own, wanted in reshaped):
        return None
    return first_sizes.pop()


def describe_files(
    checkpoints: list[Checkpoint], ingredients: list[Path], unused: Collection[str]
) -> list[str]:
    """Notes on what was read of which files and what was skipped.

    Files with the same note share a line.
    """
    paths_of: dict[str, list[Path]] = {}
    for checkpoint in checkpoints:
        if checkpoint.summary:
            paths_of.setdefault(checkpoint.summary, []).append(checkpoint.path)
    if unused:
        skipped = (
            f"skipped {counted(len(unused), 'key')} that the model does not have, the same in "
            f"every file: {list_names(sorted(unused))}"
        )
        paths_of[skipped] = ingredients
    return [f"{list_names(paths, most=1)}: {note}" for note, paths in paths_of.items()]
