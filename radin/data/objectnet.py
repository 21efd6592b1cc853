"""Which objects of ObjectNet are classes of ImageNet, and which: read from the files that come with its images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from radin.errors import DataError

BORDER = 2  # a red line around every image, so that nobody trains on one by mistake
NUM_CLASSES = 113
# Labels whose logits are known: a file that is off by one line would move them all.
_ANCHORS = {"banana": 954, "teapot": 849, "umbrella": 879}

_FOLDERS = "folder_to_objectnet_label.json"  # folder: object
_OBJECTS = "objectnet_to_imagenet_1k.json"  # object: ImageNet's labels, divided by semicolons
_NUMBERS = "pytorch_to_imagenet_2012_id.json"  # number of the logit: line of the label
_LABELS = "imagenet_to_label_2012_v2"  # ImageNet's labels, one in a line


def read_mappings(place: Path, num_logits: int) -> dict[str, list[int]]:
    """The image folders of the objects that are classes of ImageNet, each with the numbers of its logits.

    Args:
        place: ObjectNet's folder `mappings`.
        num_logits: of ImageNet's networks: 1,000.

    Raises DataError when one of its four files is missing or damaged, or does not fit the others.
    """
    objects, labels_of = _read_json(place / _FOLDERS, str), _read_json(place / _OBJECTS, str)
    folder_of = {thing: folder for folder, thing in objects.items()}
    number_of = _label_numbers(place, num_logits)
    groups: dict[str, list[int]] = {}
    used: dict[int, str] = {}
    for thing, labels in labels_of.items():
        if thing not in folder_of:
            raise DataError(
                f"{place / _FOLDERS}: no folder for {thing!r}, which {_OBJECTS} names; get both anew."
            )
        numbers = groups[folder_of[thing]] = []
        for label in (label.strip() for label in labels.split(";")):
            if len(number_of.get(label, [])) != 1:
                raise DataError(
                    f"{place / _OBJECTS}: {label!r} is not one line of {_LABELS}; get both anew."
                )
            (number,) = number_of[label]
            if number in used:
                raise DataError(
                    f"{place / _OBJECTS}: {label!r} is given to {used[number]!r} and {thing!r}; get it anew."
                )
            used[number] = thing
            numbers.append(number)
    if len(groups) != NUM_CLASSES or len(folder_of) != len(objects):
        raise DataError(
            f"{place / _OBJECTS}: {len(groups)} objects with a folder of their own, not {NUM_CLASSES}; get it anew."
        )
    return groups


def _label_numbers(place: Path, num_logits: int) -> dict[str, list[int]]:
    """The logits that each of ImageNet's labels stands for: one, but for "crane", which is two classes."""
    lines = _read(place / _LABELS).splitlines()
    numbers = _read_json(place / _NUMBERS, int)
    if len(lines) != num_logits:
        raise DataError(
            f"{place / _LABELS}: {len(lines):,} lines, not {num_logits:,}; get it anew."
        )
    try:
        line_of = {int(number): line for number, line in numbers.items()}
    except ValueError as error:
        raise DataError(f"{place / _NUMBERS}: {error}; get it anew.") from error
    every = set(range(num_logits))
    if set(line_of) != every or len(numbers) != num_logits or set(line_of.values()) != every:
        raise DataError(
            f"{place / _NUMBERS}: does not give each of {num_logits:,} logits a line; get it anew."
        )
    found: dict[str, list[int]] = {}
    for number, line in line_of.items():
        found.setdefault(lines[line].strip(), []).append(number)
    if wrong := [
        label for label, number in _ANCHORS.items() if found.get(label, [number]) != [number]
    ]:
        raise DataError(
            f"{place}: {_LABELS} and {_NUMBERS} do not make {wrong[0]!r} logit {_ANCHORS[wrong[0]]}; get both anew."
        )
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: could not be read ({reason}); it comes with ObjectNet's images, from objectnet.dev."
        ) from error


def _read_json(path: Path, kind: type) -> dict[str, Any]:
    """A JSON object whose values are all of one kind."""
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); get it anew.") from error
    if not isinstance(content, dict) or any(type(value) is not kind for value in content.values()):
        raise DataError(
            f"{path}: must be a JSON object with values of type {kind.__name__}; get it anew."
        )
    return content
