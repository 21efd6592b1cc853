"""Which objects of ObjectNet are which classes of ImageNet, from the files beside its images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from radin.errors import DataError

BORDER_PIXELS = 2  # a red line around every image, so that nobody trains on one by mistake
NUM_CLASSES = 113
# The logits of some labels: a file that is shifted by one line would change them.
_LOGIT_OF_LABEL = {"banana": 954, "teapot": 849, "umbrella": 879}

_FOLDERS = "folder_to_objectnet_label.json"  # folder: object
_OBJECTS = "objectnet_to_imagenet_1k.json"  # object: ImageNet's labels, divided by semicolons
_LINES = "pytorch_to_imagenet_2012_id.json"  # index of the logit: line of the label
_LABELS = "imagenet_to_label_2012_v2"  # ImageNet's labels, one in a line


def read_mappings(folder: Path, num_logits: int) -> dict[str, list[int]]:
    """The image folders of the objects that are classes of ImageNet, each with its logits.

    Args:
        folder: ObjectNet's folder `mappings`.
        num_logits: of ImageNet's networks: 1,000.

    Returns:
        Lists of indices of logits, by the name of the image folder.

    Raises:
        DataError: one of the four files is missing or damaged, or does not fit the others.
    """
    objects = _read_json(folder / _FOLDERS, str)
    labels_of = _read_json(folder / _OBJECTS, str)
    folder_of = {thing: image_folder for image_folder, thing in objects.items()}
    logits_of = _logits_of_labels(folder, num_logits)
    groups: dict[str, list[int]] = {}
    owner: dict[int, str] = {}
    for thing, labels in labels_of.items():
        if thing not in folder_of:
            raise DataError(
                f"{folder / _FOLDERS}: no folder for {thing!r}, which {_OBJECTS} names; get both "
                "again."
            )
        group = groups[folder_of[thing]] = []
        for label in (label.strip() for label in labels.split(";")):
            if len(logits_of.get(label, [])) != 1:
                raise DataError(
                    f"{folder / _OBJECTS}: {label!r} is not one line of {_LABELS}; get both again."
                )
            (logit,) = logits_of[label]
            if logit in owner:
                raise DataError(
                    f"{folder / _OBJECTS}: {label!r} is given to {owner[logit]!r} and {thing!r}; "
                    "get it again."
                )
            owner[logit] = thing
            group.append(logit)
    if len(groups) != NUM_CLASSES or len(folder_of) != len(objects):
        raise DataError(
            f"{folder / _OBJECTS}: {len(groups)} objects with a folder of their own, not "
            f"{NUM_CLASSES}; get it again."
        )
    return groups


def _logits_of_labels(folder: Path, num_logits: int) -> dict[str, list[int]]:
    """The logits of each of ImageNet's labels: one, except for "crane", which is two classes."""
    lines = _read(folder / _LABELS).splitlines()
    line_numbers = _read_json(folder / _LINES, int)
    if len(lines) != num_logits:
        raise DataError(
            f"{folder / _LABELS}: {len(lines):,} lines, not {num_logits:,}; get it again."
        )
    try:
        line_of = {int(logit): line for logit, line in line_numbers.items()}
    except ValueError as error:
        raise DataError(f"{folder / _LINES}: {error}; get it again.") from error
    every = set(range(num_logits))
    if set(line_of) != every or len(line_numbers) != num_logits or set(line_of.values()) != every:
        raise DataError(
            f"{folder / _LINES}: does not give each of {num_logits:,} logits a line; get it again."
        )
    found: dict[str, list[int]] = {}
    for logit, line in line_of.items():
        found.setdefault(lines[line].strip(), []).append(logit)
    for label, logit in _LOGIT_OF_LABEL.items():
        if found.get(label, [logit]) != [logit]:
            raise DataError(
                f"{folder}: {_LABELS} and {_LINES} do not make {label!r} logit {logit}; get both "
                "again."
            )
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"{path}: could not be read ({reason}); it comes with ObjectNet's images, from "
            "objectnet.dev."
        ) from error


def _read_json(path: Path, value_type: type) -> dict[str, Any]:
    """A JSON object whose values are all of one type."""
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); get it again.") from error
    if not isinstance(content, dict) or any(
        type(value) is not value_type for value in content.values()
    ):
        raise DataError(
            f"{path}: must be a JSON object with values of type {value_type.__name__}; get it "
            "again."
        )
    return content
