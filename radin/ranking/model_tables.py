"""Logits that another program computed, as one table for each model, checked against each other.

A table has n images and C classes. What is wrong with one of them, or does not fit the others, is
refused with the name of the model or file. `radin.ranking.bank_files` reads such tables from files.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radin.errors import BankError, counted, list_names
from radin.ranking.logit_values import (
    check_ids,
    check_table,
    is_number,
    to_array,
    to_ids,
    to_logits,
)

MIN_IMAGES_FOR_CHANCE = 50  # with fewer, a good model can be no better than a guess by accident
NUM_DEVIATIONS_OVER_CHANCE = 3.0


@dataclass
class ModelLogits:
    """What one model gives.

    Attributes:
        name: the file, or the name or number of the array, for messages.
        logits: (n, C).
        labels: (n,), or None where they are somewhere else.
        ids: (n,) texts that name the images, or None.
        classes: C names of the columns, or None.
    """

    name: str
    logits: np.ndarray
    labels: np.ndarray | None = None
    ids: np.ndarray | None = None
    classes: list[str] | None = None

    @property
    def has_numbered_classes(self) -> bool:
        """Whether the columns are called 0, 1, 2, ..., as the labels are."""
        return self.classes == [str(k) for k in range(self.logits.shape[1])]


@dataclass
class ModelLabels:
    """Labels (n,) with the name of their origin, and the ids of their images where given."""

    name: str
    labels: np.ndarray
    ids: np.ndarray | None = None


def combine(
    models: Iterable[ModelLogits],
    num_models: int,
    labels: ModelLabels | None,
    *,
    probabilities: bool,
) -> tuple[Tensor, Tensor]:
    """The logits (N, n, C) and labels (n,) of a bank, from tables that fit together.

    Images are put into the order of the first model, by their ids, and classes into the order of
    its columns, by their names. Columns called 0, 1, 2, ... are put into that order.

    Args:
        models: one after the other, so that memory holds the bank and one of them.
        num_models: N.
        labels: where the models do not hold them.
        probabilities: whether the tables hold probabilities, whose logarithms are taken.

    Raises:
        BankError: something is missing, not a number, or does not fit; it names the model.
    """
    if num_models == 0:
        raise BankError("A logit bank needs the logits of at least one model; none were given.")
    bank = np.empty(0)
    names = []
    known_labels = [] if labels is None else [labels]
    first: ModelLogits | None = None
    for k, model in enumerate(models):
        check_table(model.name, model.logits, model.ids, model.classes)
        first = _reference(model) if first is None else first
        if first.classes is None:  # without names, columns are in the order of the first names
            first = replace(first, classes=model.classes)
        if model.labels is not None:
            known_labels.append(ModelLabels(model.name, model.labels, model.ids))
        table = _in_common_order(model, first, known_labels)
        table = to_logits(model.name, table, probabilities=probabilities)
        if k == 0:
            bank = np.empty((num_models, *table.shape), table.dtype)
        elif table.itemsize > bank.itemsize:
            bank = bank.astype(table.dtype)
        bank[k] = table
        names.append(model.name)
    assert first is not None
    found = _common_labels(known_labels, first)
    _warn_of_duplicates(names, bank)
    _warn_of_chance(names, bank, found)
    return torch.from_numpy(bank), torch.from_numpy(found)


def _reference(model: ModelLogits) -> ModelLogits:
    """What the others are compared with: the first model, with a table that takes no memory."""
    classes = model.classes
    numbers = [str(k) for k in range(model.logits.shape[1])]
    if classes is not None and set(classes) == set(numbers):
        classes = numbers
    empty = np.broadcast_to(np.float32(0), model.logits.shape)
    return replace(model, logits=empty, classes=classes)


def _in_common_order(
    model: ModelLogits, first: ModelLogits, labels: Sequence[ModelLabels]
) -> np.ndarray:
    """The table of a model, with classes and images in the order of the first one."""
    classes = _order_of_classes(model, first)
    if classes is not None and not first.has_numbered_classes:
        for each in labels:
            if np.asarray(each.labels).dtype.kind in "iuf":
                raise BankError(
                    f"{model.name}: its columns are in another order than those of {first.name}, "
                    f"so the numbers in {each.name} do not say which classes the labels are; "
                    "give the names of the columns as labels, or write all files in one order."
                )
    _check_shape(model, first)
    images = _order_of_images(model, first)
    table = model.logits if classes is None else model.logits[:, classes]
    return table if images is None else table[images]


def _order_of_classes(model: ModelLogits, first: ModelLogits) -> list[int] | None:
    """Which columns of the model are the first one's, in its order; None for all alike."""
    if model.classes is None or first.classes is None or model.classes == first.classes:
        return None
    if set(model.classes) != set(first.classes):
        different = sorted(set(model.classes) ^ set(first.classes))
        raise BankError(
            f"{model.name}: its columns are not those of {first.name}; only one of them has "
            f"{list_names(map(repr, different))}."
        )
    return [model.classes.index(name) for name in first.classes]


def _check_shape(model: ModelLogits, first: ModelLogits) -> None:
    for axis, what in ((0, "images"), (1, "classes")):
        own = model.logits.shape[axis]
        expected = first.logits.shape[axis]
        if own != expected:
            raise BankError(
                f"{model.name}: has {own:,} {what}, {first.name} has {expected:,}; every model "
                "must predict the same images and classes."
            )


def _order_of_images(model: ModelLogits | ModelLabels, first: ModelLogits) -> np.ndarray | None:
    """Which rows of the model are the images of the first one, in its order; None for all alike.

    Raises:
        BankError: other images, or only one of the two names its images.
    """
    if (model.ids is None) != (first.ids is None):
        without = model.name if model.ids is None else first.name
        other = first.name if model.ids is None else model.name
        raise BankError(
            f"{without}: has no ids of its images, {other} has; give ids for all, or for none if "
            "all have one order."
        )
    if model.ids is None or first.ids is None or np.array_equal(model.ids, first.ids):
        return None
    only = sorted(set(model.ids.tolist()) ^ set(first.ids.tolist()))
    if only:
        number = counted(len(only), "id")
        raise BankError(
            f"{model.name}: its images are not those of {first.name}; {number} in one of them "
            f"only: {list_names(map(repr, only), most=3)}."
        )
    position = np.argsort(model.ids)
    return position[np.searchsorted(model.ids[position], first.ids)]


def _common_labels(known: Sequence[ModelLabels], first: ModelLogits) -> np.ndarray:
    """The labels of the first model's images, where all that are given agree."""
    if not known:
        raise BankError(
            f"No labels: {first.name} holds none; give labels=..., one whole number for each image."
        )
    num_images, num_classes = first.logits.shape
    found: np.ndarray | None = None
    for each in known:
        labels = _label_numbers(each, first.classes)
        if labels.shape != (num_images,):
            raise BankError(
                f"{each.name}: its labels have shape {labels.shape}, and there are {num_images:,} "
                "images; give one label for each image."
            )
        if each.ids is not None:
            check_ids(each.name, each.ids, num_images)
        order = _order_of_images(each, first)
        labels = labels if order is None else labels[order]
        if found is not None and (different := found != labels).any():
            raise BankError(
                f"{each.name}: its labels are not those of {known[0].name} ("
                f"{int(different.sum()):,} of {num_images:,} differ, the first is in row "
                f"{int(different.argmax())}); are the images in another order?"
            )
        found = labels
    assert found is not None
    if found.min() == 1 and found.max() == num_classes:
        raise BankError(
            f"{known[0].name}: the labels count from 1 to {num_classes}; classes count from 0, so "
            "subtract 1."
        )
    return found


def _label_numbers(given: ModelLabels, classes: list[str] | None) -> np.ndarray:
    """Labels as whole numbers; names of classes become the numbers of their columns."""
    labels = np.asarray(given.labels)
    if labels.dtype.kind in "OUS":
        labels = _numbers_of_texts(given, labels, classes)
    if labels.dtype.kind not in "iuf":
        raise BankError(
            f"{given.name}: labels are whole numbers from 0, or names of the columns of the "
            f"logits; these are {labels.dtype}, such as {labels.flatten()[:1].tolist()}."
        )
    with np.errstate(invalid="ignore"):  # infinity % 1
        are_wrong = ~np.isfinite(labels) | (labels % 1 != 0)
    if are_wrong.any():
        raise _wrong_labels(given, labels, are_wrong)
    return labels.astype(np.int64)


def _numbers_of_texts(
    given: ModelLabels, labels: np.ndarray, classes: list[str] | None
) -> np.ndarray:
    texts = labels.astype(str)
    number_of = {each: k for k, each in enumerate(classes or ())}
    different = set(texts.flatten().tolist())
    if different <= set(number_of):
        return np.vectorize(number_of.__getitem__, otypes=[np.int64])(texts)
    if all(map(is_number, different)):
        return texts.astype(np.float64)
    # A missing cell is a NaN among texts. Where some are names, a number is wrong, too.
    named = {*number_of} if different & {*number_of} else {*filter(is_number, different)}
    raise _wrong_labels(given, labels, ~np.isin(texts, sorted(named)))


def _wrong_labels(given: ModelLabels, labels: np.ndarray, are_wrong: np.ndarray) -> BankError:
    """An error that names the row of the first wrong label, and its image where it has an id."""
    labels = np.atleast_1d(labels)
    rows = np.flatnonzero(np.atleast_1d(are_wrong).reshape(len(labels), -1).any(1))
    row = int(rows[0])
    image = "" if given.ids is None or row >= len(given.ids) else f", image {given.ids[row]!s}"
    shown = labels[row : row + 1].tolist()[0]
    return BankError(
        f"{given.name}: {counted(len(rows), 'label')} missing or impossible, the first is in row "
        f"{row} (from 0){image}: {shown!r}; labels are whole numbers from 0, or names of the "
        "columns of the logits."
    )


def _warn_of_duplicates(names: Sequence[str], bank: np.ndarray) -> None:
    first: dict[str, str] = {}
    for name, table in zip(names, bank, strict=True):
        digest = hashlib.sha256(table.data).hexdigest()
        if digest in first:
            warnings.warn(
                f"{name} holds the same logits as {first[digest]}; an average weighs such a model "
                "several times, so leave one out if that is not meant",
                stacklevel=4,
            )
        first.setdefault(digest, name)


def _warn_of_chance(names: Sequence[str], bank: np.ndarray, labels: np.ndarray) -> None:
    """Warn of models that are no better than a guess: rows or classes are then often shuffled."""
    num_images = len(labels)
    if num_images < MIN_IMAGES_FOR_CHANCE or labels.min() < 0:  # the bank refuses such labels
        return
    chance = np.bincount(labels).max() / num_images
    limit = chance + NUM_DEVIATIONS_OVER_CHANCE * (chance * (1 - chance) / num_images) ** 0.5
    guessing = [
        name
        for name, table in zip(names, bank, strict=True)
        if (table.argmax(-1) == labels).mean() <= limit
    ]
    if guessing:
        warnings.warn(
            f"{list_names(guessing)}: right on no more images than a guess; are the images or the "
            "classes in another order than the labels?",
            stacklevel=4,
        )


def models_of_arrays(
    arrays: Mapping[str, Any] | Sequence[Any] | np.ndarray | Tensor,
    names: Sequence[str] | None,
    ids: Sequence[Any] | None,
) -> list[ModelLogits]:
    """The models of `LogitBank.from_arrays`, and their names for messages.

    Raises:
        BankError: another number of names or ids than arrays.
    """
    if isinstance(arrays, Mapping):
        if names is not None:
            raise BankError("The arrays have names already; leave names=... out.")
        names = [str(name) for name in arrays]
        arrays = list(arrays.values())
    if not hasattr(arrays, "__len__"):
        raise BankError(f"The logits are a list or mapping of arrays, not a {type(arrays)}.")
    for what, given in (("name", names), ("id list", ids)):
        if given is not None and len(given) != len(arrays):
            raise BankError(
                f"{counted(len(given), what)} given for {counted(len(arrays), 'array')}."
            )
    models = []
    for k, array in enumerate(arrays):
        name = f"array {k}" if names is None else str(names[k])
        model_ids = None if ids is None else to_ids(ids[k])
        models.append(ModelLogits(name, to_array(name, array), ids=model_ids))
    return models
