"""Archives made by tests: tiny ones with the layout of the official files, and harmful ones."""

from __future__ import annotations

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image


def packed(kind: str, files: dict[str, bytes]) -> bytes:
    """A zip, tar or tar.gz of files by name."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tar.gz" else "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def picture(value: int, kind: str = "jpeg", edge: int = 4) -> bytes:
    """A small image file that is different for each value."""
    pixels = np.random.default_rng(value).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def cifar_records(labels: list[int], seed: int = 0) -> bytes:
    """One batch of CIFAR-10's binary version with random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1).tobytes()


def cifar_archive(per_class: int = 4) -> bytes:
    """CIFAR-10 with `per_class` images of each class in every batch; batches are out of order."""
    labels = [label for _ in range(per_class) for label in range(10)]
    names = [
        "data_batch_3",
        "data_batch_1",
        "test_batch",
        "data_batch_2",
        "data_batch_5",
        "data_batch_4",
    ]
    files = {
        f"cifar-10-batches-bin/{name}.bin": cifar_records(labels, seed)
        for seed, name in enumerate(names)
    }
    return packed("tar.gz", {"cifar-10-batches-bin/readme.html": b"hello"} | files)
