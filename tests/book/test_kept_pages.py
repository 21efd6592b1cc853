"""Executed notebooks are kept: what runs again after which change, and what the page then shows."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import v4

import fingerprint
import kept_pages
from conftest import run_make_book

CONFIG = """\
title: Small
only_build_toc_files: true
execute: {execute_notebooks: "off"}
parse: {myst_enable_extensions: [colon_fence, deflist]}
"""
TOC = "format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/a\n- file: notebooks/b\n"


def notebook(
    code: str, *, prose: str = "# A", caption: str = "", tags: tuple[str, ...] = ()
) -> Any:
    metadata = {"mystnb": {"figure": {"caption": caption}}, "tags": list(tags)}
    cells = [
        v4.new_markdown_cell(prose, id="0"),
        v4.new_code_cell("n = 1  # a number", id="1", metadata={"tags": ["parameters"]}),
        v4.new_code_cell(code, id="2", metadata=metadata),
    ]
    return v4.new_notebook(cells=cells)


def executed(source: Any, answer: str) -> Any:
    """What papermill makes of a notebook with a parameter given."""
    done = nbformat.from_dict(source)
    given = v4.new_code_cell("n = 2", id="x", metadata={"tags": ["injected-parameters"]})
    done.cells.insert(2, given)
    done.cells[3].outputs = [v4.new_output("stream", name="stdout", text=answer)]
    done.cells[3].execution_count = 3
    return done


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.ipynb"


# ---------------------------------------------------------------- the fingerprint


def fingerprint_of(path: Path, source: Any) -> str:
    nbformat.write(source, path)
    return fingerprint.fingerprint(path)


def test_prose_is_not_in_the_fingerprint_and_code_is(path):
    first = fingerprint_of(path, notebook("print(n)"))
    assert fingerprint_of(path, notebook("print(n)", prose="# B", caption="a picture")) == first
    assert fingerprint_of(path, notebook("print(-n)")) != first
    assert fingerprint_of(path, notebook("print(n)", tags=("raises-exception",))) != first


@pytest.mark.parametrize("what", ["folder_digest", "packages", "accelerator"])
def test_radin_packages_and_device_are_in_the_fingerprint(path, monkeypatch, what):
    first = fingerprint_of(path, notebook("print(n)"))
    other = ["numpy 1"] if what == "packages" else "other"
    monkeypatch.setattr(fingerprint, what, lambda *_: other)
    fingerprint.surroundings.cache_clear()
    changed = fingerprint_of(path, notebook("print(n)"))
    monkeypatch.undo()
    fingerprint.surroundings.cache_clear()
    assert changed != first
    assert fingerprint_of(path, notebook("print(n)")) == first


def test_a_folder_changes_with_names_and_contents_and_not_with_what_python_compiled(tmp_path):
    (tmp_path / "a.py").write_text("1")
    first = fingerprint.folder_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("1")
    assert fingerprint.folder_digest(tmp_path) == first
    (tmp_path / "a.py").write_text("2")
    second = fingerprint.folder_digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, fingerprint.folder_digest(tmp_path)}) == 3


def test_the_pinned_packages_are_in_the_fingerprint(monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprint, "PINS", tmp_path / "requirements.txt")
    fingerprint.PINS.write_text(
        "numpy==1 ; python_version < '3' \\\n    --hash=sha256:0\nno-such==1\n"
    )
    names = [line.split()[0] for line in fingerprint.packages()]
    assert names == ["Python", "no-such", "numpy", "torch"]
    assert "no-such not installed" in fingerprint.packages()


def test_data_count_for_the_chapters_that_read_them(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_DATA", str(tmp_path))
    assert fingerprint.data_fingerprint({"budget": 4, "source": "bench"}) == ""
    live = {"source": "live"}
    empty = fingerprint.data_fingerprint(live)
    images = tmp_path / "cifar10" / "val" / "cat"
    images.mkdir(parents=True)
    found = fingerprint.data_fingerprint(live)
    assert found != empty
    (tmp_path / "cifar10" / ".lock").touch()
    assert fingerprint.data_fingerprint(live) == found
    (images / "1.png").touch()
    os.utime(images, (1, 1))
    more = fingerprint.data_fingerprint(live)
    assert more != found
    assert fingerprint.data_fingerprint({"data_root": ""}) == more
    assert fingerprint.data_fingerprint({"data_root": str(images)}) != more


# ---------------------------------------------------------------- keeping and merging


def test_a_page_is_its_source_with_the_outputs_of_the_kept_execution():
    done = executed(notebook("print(n)"), "2")
    source = notebook("print(n)", prose="# Other words", caption="another caption")
    page = kept_pages.merge(source, done, {"n": 2})
    assert [cell.id for cell in page.cells] == ["0", "1", "x", "2"]
    assert page.cells[0].source == "# Other words"
    assert page.cells[3].outputs[0].text == "2"
    assert page.cells[3].metadata.mystnb.figure.caption == "another caption"
    assert [cell.id for cell in kept_pages.merge(source, done, {}).cells] == ["0", "1", "2"]
    assert source.cells[2].outputs == []


def test_an_execution_is_found_by_what_made_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    mark = {"parameters": {"n": 2}, "fingerprint": "f", "data": ""}
    assert kept_pages.find("a", mark) is None
    kept_pages.keep("a", executed(notebook("print(n)"), "2"), mark, {"seconds": 1.0})
    found = kept_pages.find("a", mark)
    assert found.metadata[kept_pages.KEY] == {"seconds": 1.0}
    for other in ({"parameters": {"n": 3}}, {"fingerprint": "g"}, {"data": "d"}):
        assert kept_pages.find("a", mark | other) is None
    assert kept_pages.find("b", mark) is None
    kept_pages.kept_path("a", mark).write_text("{")
    assert kept_pages.find("a", mark) is None


def test_what_was_not_used_for_the_longest_time_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    source = executed(notebook("print(n)"), "2")
    marks = [{"parameters": {"n": n}} for n in range(kept_pages.MAX_KEPT + 1)]
    for age, mark in enumerate(marks[:-1]):
        kept_pages.keep("a", source, mark, {})
        os.utime(kept_pages.kept_path("a", mark), (1000 - age, 1000 - age))
    assert kept_pages.find("a", marks[-2]) is not None  # the oldest, used now
    kept_pages.keep("a", source, marks[-1], {})
    gone = [mark for mark in marks if not kept_pages.kept_path("a", mark).exists()]
    assert gone == [marks[-3]]


# ---------------------------------------------------------------- whole builds


@pytest.fixture
def small(root: Path, tmp_path: Path) -> Path:
    """A book of two notebooks, whose code is this test's own."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book" / "tools").mkdir(parents=True)
    for script in (root / "book" / "tools").glob("*.py"):
        shutil.copy(script, tmp_path / "book" / "tools")
    (tmp_path / "_config.yml").write_text(CONFIG)
    (tmp_path / "_toc.yml").write_text(TOC)
    (tmp_path / "book" / "index.md").write_text("# Small\n")
    for name in "ab":
        code = f"print('{name} of', {str(tmp_path.name)!r}, n)"
        nbformat.write(notebook(code), tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, after), "utf-8")


def build(small: Path, *options: str, out: str = "out") -> subprocess.CompletedProcess[str]:
    return run_make_book(small / out, *options, root=small)


def pages(small: Path, out: str) -> dict[str, bytes]:
    html = small / out / "html"
    return {str(p.relative_to(html)): p.read_bytes() for p in html.rglob("*") if p.is_file()}


@pytest.mark.whole
def test_only_what_changed_runs_and_the_book_is_the_same_as_a_fresh_one(small):
    """One test for all, because each build takes seconds."""
    first = build(small)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.startswith("notebooks: 0 kept, 2 to run")
    made = (small / "out" / "html" / "index.html").stat().st_ino

    again = build(small)
    assert again.stdout.startswith("notebooks: 2 kept, 0 to run\n")
    assert (small / "out" / "html" / "index.html").stat().st_ino == made

    change(small / "notebooks" / "a.ipynb", "# A", "# Another title")
    prose = build(small)
    assert prose.stdout.startswith("notebooks: 2 kept, 0 to run\n")
    assert "Another title" in (small / "out" / "html" / "notebooks" / "b.html").read_text("utf-8")

    change(small / "notebooks" / "b.ipynb", "b of", "b changed of")
    code = build(small)
    assert code.stdout.startswith("notebooks: 1 kept, 1 to run\nnotebooks/b.ipynb ... ")
    assert "b changed of" in (small / "out" / "html" / "notebooks" / "b.html").read_text("utf-8")

    (small / "_toc.yml").write_text(TOC.replace("- file: notebooks/a\n", ""))
    assert build(small).returncode == 0
    assert not (small / "out" / "html" / "notebooks" / "a.html").exists()
    assert build(small, out="elsewhere").returncode == 0
    assert pages(small, "out") == pages(small, "elsewhere")

    fresh = build(small, "--fresh", "1")
    assert fresh.stdout.startswith("notebooks: 0 kept, 1 to run\n")


@pytest.mark.whole
def test_a_warning_fails_every_build_until_it_is_gone(small):
    assert build(small).returncode == 0
    change(small / "book" / "index.md", "# Small\n", "# Small\n\n[](nowhere.md)\n")
    for _ in range(2):
        done = build(small)
        assert done.returncode == 1
        assert "nowhere.md" in done.stderr
    change(small / "book" / "index.md", "nowhere.md", "index.md")
    assert build(small).returncode == 0


def test_one_notebook_that_fails_is_one_sentence(small):
    change(small / "notebooks" / "b.ipynb", "print('b of', ", "raise ValueError('b is bad', ")
    done = build(small)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: notebooks/b.ipynb, cell [2]: ValueError: ")
