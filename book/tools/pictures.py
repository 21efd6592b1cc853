"""Pictures that a notebook glued, as files for the other pages.

MyST-NB carries numbers from page to page, but its figure directive reads only its own notebook. A
picture on another page would have no caption, no number and no alt text. As a file it is an
ordinary figure: `glue("digits_fig_budget", fig)` becomes `figures/digits_fig_budget.png`.
"""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat

PNG = "application/papermill.record/image/png"


def save_glued_pictures(notebook: Path, folder: Path) -> list[Path]:
    """Write each glued PNG of an executed notebook to `folder`, named by its key; returns them."""
    saved = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            key = output.get("metadata", {}).get("scrapbook", {}).get("name")
            picture = output.get("data", {}).get(PNG)
            if key and picture:
                folder.mkdir(parents=True, exist_ok=True)
                saved.append(folder / f"{key}.png")
                saved[-1].write_bytes(base64.b64decode(picture))
    return saved
