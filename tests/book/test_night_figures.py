"""book/tools/night_figures.py: a notebook's dark figures become files of the page."""

from __future__ import annotations

import base64
import hashlib
import io

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from night_figures import save_night_figures
from radin.experiments.plots.night import BACKGROUND, MIME


@pytest.fixture
def executed(tmp_path):
    code = (
        "from radin.experiments.plots import style\n"
        "import matplotlib.pyplot as plt\n"
        "style.set_style()\n"
        "plt.plot([0, 1]);"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    path = tmp_path / "page.ipynb"
    nbformat.write(notebook, path)
    return path


def test_the_dark_figure_has_the_name_of_the_light_one(executed, tmp_path):
    (path,) = save_night_figures(executed, tmp_path / "night")
    (output,) = nbformat.read(executed, as_version=4).cells[0].outputs
    assert MIME not in output.data
    png = base64.b64decode(output.data["image/png"])
    assert path.name == f"{hashlib.sha256(png).hexdigest()}.png"
    with Image.open(path) as dark, Image.open(io.BytesIO(png)) as day:
        assert dark.size == day.size
        corner = dark.convert("RGB").getpixel((0, 0))
        assert corner == tuple(round(255 * part) for part in BACKGROUND[:3])
    assert save_night_figures(executed, tmp_path / "night") == []
