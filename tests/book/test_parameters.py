"""book/tools/parameters.py: what a chapter says of its parameters is checked there, and shown."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat import v4

import parameters
from parameters import BuildError

SOURCE = (
    'budget = 4  # evaluations, as "many" as you like\nzoo: str = "a"  # where from\nplain = None\n'
)


def chapters() -> list[Path]:
    return sorted((Path(__file__).resolve().parent.parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture
def chapter(tmp_path: Path) -> Path:
    cells = [v4.new_code_cell(SOURCE, metadata={"tags": ["parameters"]})]
    cells.append(
        v4.new_code_cell(
            "from radin.experiments.notebook import check_parameters\n\n"
            "check_parameters(['a', 'b'], zoo=zoo)"
        )
    )
    nbformat.write(v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    return tmp_path / "a.ipynb"


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_every_chapter_explains_and_checks_each_of_its_parameters(path):
    declared = parameters.declared_parameters(path)
    check = parameters.own_check(path)
    assert check is not None
    assert {keyword.arg for keyword in check.keywords} == set(declared)
    assert all(parameters.meanings(path).values()), "each parameter has a comment behind it"
    assert all(parameters.allowed_values(path, path.name).values())
    parameters.check_given(path, path.name, {})
    table = parameters.parameter_table(path, path.name)
    assert table.count("* - ") == len(declared) + 1


def test_a_value_is_checked_as_the_chapter_itself_would(chapter):
    parameters.check_given(chapter, "a", {"zoo": "b"})
    with pytest.raises(BuildError, match=r"^a: zoo must be one of 'a', 'b' here, not 'c'$"):
        parameters.check_given(chapter, "a", {"zoo": "c"})


def test_meanings_are_the_comments(chapter):
    assert parameters.meanings(chapter) == {
        "budget": 'evaluations, as "many" as you like',
        "zoo": "where from",
        "plain": "",
    }


def test_a_check_that_needs_more_than_the_shared_module_is_refused(chapter):
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells[1].source = "check_parameters(mine, zoo=zoo)"
    nbformat.write(notebook, chapter)
    with pytest.raises(
        BuildError,
        match="what radin.experiments.notebook does not have: name 'mine' is not defined",
    ):
        parameters.check_given(chapter, "a", {})


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "%time check_parameters(zoo=zoo)",
            "a.ipynb: the cell that calls check_parameters must be plain Python",
        ),
        ("zoo = 1\n!ls\ncheck_parameters(zoo=zoo)", "without magics; its line 2 is none"),
        (
            "check_parameters(['a'], ['b'], zoo=zoo)",
            "a.ipynb calls check_parameters in a way that fails: ",
        ),
        ("check_parameters(zoo=zoo.name)", "'str' object has no attribute 'name'"),
        ("check_parameters(1, zoo=zoo)", "a.ipynb calls check_parameters in a way that fails: "),
    ],
)
def test_a_check_that_cannot_be_read_or_called_names_its_notebook(chapter, source, sentence):
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells[1].source = source
    nbformat.write(notebook, chapter)
    with pytest.raises(BuildError) as caught:
        parameters.check_given(chapter, "a.ipynb", {})
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("a.ipynb")
    assert "\n" not in str(caught.value)


def test_without_a_check_nothing_is_checked(chapter):
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells[1].source = "print(zoo)"
    nbformat.write(notebook, chapter)
    parameters.check_given(chapter, "a", {"zoo": "c"})
    assert parameters.allowed_values(chapter, "a") == {}
    assert "`zoo = 'a'`" in parameters.parameter_table(chapter, "a")


def test_a_notebook_without_parameters_has_no_table(chapter):
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("1")]), chapter)
    assert parameters.parameter_table(chapter, "a") == ""


def test_a_folder_is_found_from_where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parameters.parse_value("data_root", "images", "") == str(tmp_path / "images")
    assert parameters.parse_value("data_root", "~/images", "") == "/home/somebody/images"
    assert parameters.parse_value("data_root", "", "") == ""
    assert parameters.parse_value("zoo", "images", "") == "images"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('"a", "b" or "c"', '`"a"`, `"b"` or `"c"`'),
        ("one of 'a', 'b'", "one of `'a'`, `'b'`"),
        ("the recipes' mean of the bench's", "the recipes' mean of the bench's"),
    ],
)
def test_quoted_words_are_code(text, shown):
    assert parameters.as_code(text) == shown
