"""The class names of the data sets that radin knows by name."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path


def class_names(data_set: str) -> tuple[str, ...]:
    """The names of the class folders of "cifar10", "tiny-imagenet", "pacs" or "domainnet"."""
    return _read_class_names()[data_set]


@cache
def _read_class_names() -> dict[str, tuple[str, ...]]:
    text = Path(__file__).with_name("class_names.json").read_text(encoding="utf-8")
    return {data_set: tuple(names) for data_set, names in json.loads(text).items()}
