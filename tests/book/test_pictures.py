"""A picture that a notebook glued becomes a file that another page can show."""

from __future__ import annotations

import base64

import nbformat

from pictures import PNG, save_glued_pictures


def test_glued_pictures_are_saved_under_their_keys(tmp_path):
    glued = nbformat.v4.new_output(
        "display_data",
        data={PNG: base64.b64encode(b"picture").decode()},
        metadata={"scrapbook": {"name": "fig_a", "mime_prefix": "application/papermill.record/"}},
    )
    number = nbformat.v4.new_output(
        "display_data",
        data={"application/papermill.record/text/plain": "4"},
        metadata={"scrapbook": {"name": "budget", "mime_prefix": "application/papermill.record/"}},
    )
    shown = nbformat.v4.new_output(
        "display_data", data={"image/png": base64.b64encode(b"other").decode()}
    )
    cells = [
        nbformat.v4.new_code_cell(outputs=[glued, number, shown]),
        nbformat.v4.new_markdown_cell("text"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    (saved,) = save_glued_pictures(tmp_path / "a.ipynb", tmp_path / "figures")
    assert saved == tmp_path / "figures" / "fig_a.png"
    assert saved.read_bytes() == b"picture"
