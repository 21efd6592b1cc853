"""book/tools/numbers_in_text.py: an executed notebook shows its numbers in Jupyter."""

from __future__ import annotations

import nbformat
from nbformat import v4

import numbers_in_text
from kept_runs import GLUED
from make import put_numbers_into_downloads

TEXT = (
    "{glue:text}`n:,d` soups gain {glue:text}`gain:+.2f` ({glue:text}`verdict`), see "
    "{glue:text}`02_other.ipynb::other:.1f`; {term}`soups <soup>` of a {term}`zoo`, {cite}`a`."
)
SHOWN = "1,023 soups gain +0.20 (ahead), see {}; soups of a zoo, {{cite}}`a`."


def executed(**values):
    def output(name, value):
        metadata = {"scrapbook": {"name": name}}
        return v4.new_output("display_data", {GLUED: repr(value)}, metadata=metadata)

    cell = v4.new_code_cell("glue", outputs=[output(*each) for each in values.items()])
    return v4.new_notebook(cells=[v4.new_markdown_cell(TEXT), cell])


def test_values_take_the_place_of_their_names(tmp_path, capsys):
    path = tmp_path / "out.ipynb"
    nbformat.write(executed(n=1023, gain=0.2, verdict="ahead"), path)
    assert numbers_in_text.main([str(path)]) == 0
    text = nbformat.read(path, as_version=4).cells[0].source
    assert text == SHOWN.format("{glue:text}`02_other.ipynb::other:.1f`")
    assert capsys.readouterr().out == f"{path}: the numbers are in the text\n"


def test_downloads_know_the_numbers_of_other_chapters(tmp_path):
    nbformat.write(executed(n=1023, gain=0.2, verdict="ahead"), tmp_path / "01_one.ipynb")
    nbformat.write(executed(other=7.25), tmp_path / "02_other.ipynb")
    put_numbers_into_downloads(tmp_path)
    text = nbformat.read(tmp_path / "01_one.ipynb", as_version=4).cells[0].source
    assert text == SHOWN.format("7.2")


def test_what_is_no_notebook_is_said(tmp_path, capsys):
    path = tmp_path / "out.ipynb"
    path.write_text("{")
    assert numbers_in_text.main([str(path)]) == 1
    assert f"error: {path} is no notebook" in capsys.readouterr().err
    assert numbers_in_text.main([]) == 2


def test_every_glued_number_of_a_chapter_is_understood(root):
    for path in (root / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                found = numbers_in_text.GLUED.findall(cell.source)
                assert len(found) == cell.source.count("{glue:text}"), path
                for _, spec in found:
                    format("" if spec in ("", "s") else 1, spec)
