"""The numbers of one model: whether they are logits, and in which form a bank keeps them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radin.errors import BankError, counted, list_names

# How far the probabilities of an image may be from the sum 1: half precision has 11 bits, and a
# table of text often has 4 decimals for each of C classes.
PROBABILITY_TOLERANCE = 1e-2
MIN_IMAGES_FOR_WHOLE_NUMBERS = 10  # with fewer, logits of a class may all be whole by accident


def to_array(name: str, values: Any) -> np.ndarray:
    """Numbers as a numpy array in half, single or double precision.

    Args:
        values: an array of numpy, torch, JAX or another library, or nested lists.

    Raises:
        BankError: they are not numbers, or complex.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array = np.asarray(values)
        if array.dtype.name == "bfloat16":  # of JAX, which numpy knows by ml_dtypes
            array = array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise BankError(f"{name}: cannot be read as one table of numbers ({error}).") from error
    if array.dtype.kind not in "fiu":
        raise BankError(
            f"{name}: holds {array.dtype}, not numbers; give the logits as floating-point numbers."
        )
    return array


def check_table(
    name: str, logits: np.ndarray, ids: np.ndarray | None, classes: list[str] | None
) -> None:
    """Check that the logits of a model are a table (n, C), with different ids and classes.

    Raises:
        BankError: they are not.
    """
    shape = logits.shape
    if len(shape) == 1:
        raise BankError(
            f"{name}: its shape is {shape}, one number for each image. These look like "
            "predicted classes; a bank needs the logits, a row of C numbers for each image."
        )
    if len(shape) != 2 or 0 in shape:
        raise BankError(
            f"{name}: its shape is {shape}; the logits of one model are a table (n, C) of "
            "images and classes, one file or array for each model."
        )
    if ids is not None:
        check_ids(name, ids, shape[0])
    check_columns(name, logits, classes)
    if classes is not None and len(set(classes)) < len(classes):
        twice = sorted({each for each in classes if classes.count(each) > 1})
        raise BankError(f"{name}: has several columns {list_names(twice)}; name each once.")


def check_columns(name: str, logits: np.ndarray, classes: list[str] | None) -> None:
    """Check that no column holds labels or row numbers: whole numbers where the others have none.

    Raises:
        BankError: one does.
    """
    if len(logits) < MIN_IMAGES_FOR_WHOLE_NUMBERS:
        return
    with np.errstate(invalid="ignore"):  # infinity % 1
        whole = (logits % 1 == 0).all(0)
    varied = (logits != logits[0]).any(0)
    if whole.all() or not (whole & varied).any():
        return
    k = int((whole & varied).argmax())
    column = f"number {k} (from 0)" if classes is None else repr(classes[k])
    raise BankError(
        f"{name}: the column {column} holds whole numbers only, unlike the others, and is probably "
        "no class; call a column of labels 'label', one that names the images 'id', and leave "
        "others out."
    )


def check_ids(name: str, ids: np.ndarray, num_images: int) -> None:
    """Check that there are n different ids.

    Raises:
        BankError: there are not.
    """
    if ids.shape != (num_images,):
        raise BankError(
            f"{name}: has {counted(len(ids), 'id')} for {counted(num_images, 'image')}."
        )
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        raise BankError(
            f"{name}: {counted(int((counts > 1).sum()), 'id')} given several times, such as "
            f"{values[counts > 1].tolist()[0]!r}; each image needs an id of its own."
        )


def to_logits(name: str, table: np.ndarray, *, probabilities: bool) -> np.ndarray:
    """The table in half or single precision, after a logarithm where it holds probabilities.

    Raises:
        BankError: a number is missing or not finite, or these are probabilities where they should
            be logits, or the other way round.
    """
    table = np.asarray(table, table.dtype if table.dtype == np.float16 else np.float64)
    bad = ~np.isfinite(table).all(1)
    if bad.any():
        raise BankError(
            f"{name}: {counted(int(bad.sum()), 'image')} with a logit that is missing, NaN or "
            f"infinite, the first is in row {int(bad.argmax())} (from 0); leave this model "
            "out, or these images out of all files."
        )
    are_probabilities = look_like_probabilities(table)
    if are_probabilities and not probabilities:
        raise BankError(
            f"{name}: these are probabilities (each image's numbers are from 0 to 1, with sum 1), "
            "and an ensemble averages logits. Give the logits; or probabilities=True "
            "(--probabilities), which takes their logarithm: it ranks as the logits do."
        )
    if probabilities and not are_probabilities:
        raise BankError(
            f"{name}: probabilities=True, but these are no probabilities (numbers from 0 to 1 with "
            "sum 1 for each image); leave the option out where all models give logits."
        )
    if probabilities:
        table = _logarithms(name, table)
    return table if table.dtype == np.float16 else _to_single(name, table)


def _to_single(name: str, table: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        single = table.astype(np.float32)
    if not np.isfinite(single).all():
        raise BankError(
            f"{name}: the largest logit, {np.abs(table).max():.3g}, is too large for single "
            "precision; are these logits?"
        )
    return single


def look_like_probabilities(table: np.ndarray) -> bool:
    """Whether each row of a table (n, C) has numbers from 0 to 1 with sum 1."""
    if table.shape[1] < 2 or table.min() < 0 or table.max() > 1:
        return False
    sums = table.sum(1, dtype=np.float64)
    return bool((np.abs(sums - 1) <= PROBABILITY_TOLERANCE).all())


def _logarithms(name: str, table: np.ndarray) -> np.ndarray:
    """Log-probabilities in single precision. They are logits less a constant of each image.

    A zero was rounded from a positive number: it counts as the smallest positive one of the table.
    """
    table = table.astype(np.float64)
    zeros = table == 0
    if zeros.any():
        smallest = table[~zeros].min()
        warnings.warn(
            f"{name}: {counted(int(zeros.sum()), 'probability')} of 0 taken as {smallest:.2g}, the "
            "smallest other one there; give logits where you have them",
            stacklevel=5,
        )
        table = np.where(zeros, smallest, table)
    return np.log(table).astype(np.float32)


def to_ids(values: Any) -> np.ndarray:
    """Ids of images as an array of texts."""
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values], dtype=str)


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
