"""Which files radin wrote itself: soups and their shards, banks, benches and predictions."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import safe_open

from radin.checkpoints.formats import INDEX_SUFFIX, read_index
from radin.errors import CheckpointError

SOUP_ENTRY = "radin"  # of the metadata of a soup's file: JSON that names its ingredients
_FORMAT_PREFIX = "radin-"  # of the metadata's "format" in all other files of radin


def is_soup(path: Path) -> bool:
    """Whether radin wrote a safetensors file, or the shards of an index, as a soup."""
    return bool(soup_ingredients(path))


def is_store(path: Path) -> bool:
    """Whether a safetensors file is a bank, a bench or predictions of radin, no checkpoint."""
    return _metadata(path).get("format", "").startswith(_FORMAT_PREFIX)


def soup_ingredients(path: Path) -> list[str]:
    """The fingerprints of the ingredients with a weight above zero; empty for any other file."""
    return _ingredients(_metadata(path))


def _ingredients(metadata: dict[str, str]) -> list[str]:
    try:
        content = json.loads(metadata.get(SOUP_ENTRY, ""))
        ingredients = content["ingredients"]
        return [each["sha256"] for each in ingredients if each["weight"] > 0]
    except (ValueError, KeyError, TypeError, RecursionError):  # of another program
        return []


def _metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file, or of the first shard of an index."""
    if path.name.endswith(INDEX_SUFFIX):
        try:
            path = path.parent / min(read_index(path).values())
        except CheckpointError:  # it is reported when the checkpoint is opened
            return {}
    if path.suffix.lower() != ".safetensors" or not os.path.isfile(path):
        return {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}
    except Exception:  # a damaged file is reported when it is opened as a checkpoint
        return {}
