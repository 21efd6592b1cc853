"""The dark versions of a notebook's figures, as files that the page shows by night.

An executed notebook holds both versions of each figure (`radin.experiments.plots.night`). MyST-NB
names the light one by its SHA-256, and the dark one gets the same name in another folder, where
`book/_static/book.js` finds it.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import nbformat

from radin.experiments.plots.night import MIME

PNG = "image/png"


def save_night_figures(path: Path, folder: Path) -> list[Path]:
    """Take the dark figures out of an executed notebook and write them to a folder."""
    notebook = nbformat.read(path, as_version=4)
    saved = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for mime in [mime for mime in data if mime.endswith(MIME)]:
                dark = data.pop(mime)
                if mime != MIME or PNG not in data:
                    continue  # a glued figure, which another page shows
                name = hashlib.sha256(base64.b64decode(data[PNG])).hexdigest()
                folder.mkdir(parents=True, exist_ok=True)
                saved.append(folder / f"{name}.png")
                saved[-1].write_bytes(base64.b64decode(dark))
    nbformat.write(notebook, path)
    return saved
