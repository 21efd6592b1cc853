"""Folders laid out like ImageNet and its shifted test sets, with images of a few pixels."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

TOPS = {
    "test": "imagenet/val",
    "v2": "imagenetv2-matched-frequency-format-val",
    "sketch": "sketch",
    "r": "imagenet-r",
    "a": "imagenet-a",
}
ANCHORS = {954: "banana", 849: "teapot", 879: "umbrella"}


def pixels(seed: int = 0, edge: int = 8, kind: str = "JPEG") -> bytes:
    """The bytes of an image file of noise."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def put(parent: Path, folders: Sequence[str], count: int, suffix: str = ".JPEG") -> None:
    """`count` images in each folder, with names whose order is not that of their numbers."""
    content = pixels()
    for folder in folders:
        (parent / folder).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            (parent / folder / f"{folder}_{7 * k + 5}{suffix}").write_bytes(content)


def put_objectnet(
    base: Path, groups: dict[str, list[int]], others: Sequence[str], num_logits: int
) -> None:
    """ObjectNet's images and its four files of mappings; `groups` are logits by folder."""
    put(base / "images", [*groups, *others], 1, ".png")
    lines = list(range(num_logits))
    random.Random(0).shuffle(lines)  # line of each logit's label
    labels = [ANCHORS.get(number, f"label {number}, of many words") for number in range(num_logits)]
    by_line = dict(zip(lines, labels, strict=True))
    title = {folder: folder.replace("_", " ").title() for folder in [*groups, *others]}
    mappings = base / "mappings"
    mappings.mkdir()
    things = {
        title[folder]: "; ".join(labels[k] for k in numbers) for folder, numbers in groups.items()
    }
    for name, content in (
        ("folder_to_objectnet_label.json", title),
        ("objectnet_to_imagenet_1k.json", things),
        (
            "pytorch_to_imagenet_2012_id.json",
            {str(number): line for number, line in enumerate(lines)},
        ),
    ):
        (mappings / name).write_text(json.dumps(content))
    (mappings / "imagenet_to_label_2012_v2").write_text(
        "\n".join(by_line[k] for k in range(num_logits)) + "\n"
    )
