"""book/tools/make.py, on a book of one page and one notebook."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat import v4

import kept_runs
import make
from conftest import EXECUTED, read_without_time, run_make_book
from fingerprint import fingerprint
from generated import add_reruns, fill, find_entry
from notebook_page import describe_execution, finish_notebook, is_progress_bar, papermill_command
from parameters import declared_parameters
from times import times_page

PARAMETERS = (
    'budget = 4  # evaluations\nprior: float = 1.0\nzoo = "digits"\nquick = False\nrows = None\n'
)
DEFAULTS = {"budget": 4, "prior": 1.0, "zoo": "digits", "quick": False, "rows": None}
WORK = """\
if budget < 1:
    raise ValueError(f"budget must be at least 1, not {budget}")
print("spent", budget)"""
CONFIG = 'title: Small\nonly_build_toc_files: true\nexecute: {execute_notebooks: "off"}\n'
CONFIG += "parse: {myst_enable_extensions: [colon_fence, deflist]}\n"


@pytest.fixture
def small_book(root: Path, tmp_path: Path) -> Path:
    """A whole book in little, in a folder whose name has a space."""
    small = tmp_path / "small book"
    (small / "notebooks").mkdir(parents=True)
    (small / "book" / "tools").mkdir(parents=True)
    for script in (root / "book" / "tools").glob("*.py"):
        shutil.copy(script, small / "book" / "tools")
    (small / "_config.yml").write_text(CONFIG)
    (small / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/01_a\n"
    )
    (small / "book" / "index.md").write_text(
        f"# Small\n\n[source](https://github.com/{make.REPOSITORY})\n"
    )
    cells = [
        v4.new_markdown_cell("# A notebook"),
        v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        v4.new_code_cell(WORK),
    ]
    nbformat.write(v4.new_notebook(cells=cells), small / "notebooks" / "01_a.ipynb")
    return small


def test_declared_parameters(small_book):
    assert declared_parameters(small_book / "notebooks" / "01_a.ipynb") == DEFAULTS


def test_parameters_that_are_no_plain_values_are_refused(small_book):
    path = small_book / "notebooks" / "01_a.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = "budget = 2 * n"
    nbformat.write(notebook, path)
    with pytest.raises(
        make.BuildError, match=r"01_a.ipynb is no notebook with a cell of plain parameters"
    ):
        declared_parameters(path)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("budget", "8", 8),
        ("prior", "2", 2.0),
        ("prior", "1e-1", 0.1),
        ("prior", "-1", -1.0),
        ("zoo", "7", "7"),
        ("quick", "1", True),
        ("quick", "False", False),
        ("rows", "12", 12),
        ("rows", "many", "many"),
    ],
)
def test_values_take_the_type_of_the_default(name, text, value):
    parsed = make.parse_value(name, text, DEFAULTS[name])
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("budget", "eight"),
        ("budget", "2.5"),
        ("budget", ""),
        ("prior", "strong"),
        ("prior", "[1]"),
        ("quick", "2"),
    ],
)
def test_values_of_another_type_are_refused(name, text):
    with pytest.raises(make.BuildError, match=f"^{name} must be .* as in the notebooks' {name} = "):
        make.parse_value(name, text, DEFAULTS[name])


def test_options_come_from_the_notebooks(tmp_path):
    words = ["--out", str(tmp_path), "--fresh", "1", "--jobs", "2", "--budget", "8", "--quick=1"]
    options, parameters = make.parse_options(words, DEFAULTS)
    assert options == make.Options(out=tmp_path, fresh=True, jobs=2)
    assert parameters == {"budget": 8, "quick": True}


@pytest.mark.parametrize("words", [["--bugdet", "8"], ["--bud", "8"], ["8"]])
def test_an_option_that_no_notebook_declares_is_refused(words):
    with pytest.raises(
        make.BuildError, match=r"no notebook declares .*; they declare budget, prior, zoo"
    ):
        make.parse_options(words, DEFAULTS)


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("https://github.com/someone/their-fork.git", "someone/their-fork"),
        ("https://github.com/someone/their-fork", "someone/their-fork"),
        ("https://user:secret@github.com/someone/fork.git", "someone/fork"),
        ("git@github.com:someone/dotted.name.git", "someone/dotted.name"),
        ("ssh://git@github.com/someone/fork.git", "someone/fork"),
        ("https://gitlab.com/someone/fork.git", make.REPOSITORY),
        ("https://notgithub.com/someone/fork.git", make.REPOSITORY),
        ("", make.REPOSITORY),
    ],
)
def test_links_lead_to_the_clones_own_repository(monkeypatch, remote, name):
    for variable in ("GITHUB_REPOSITORY", "REPOSITORY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(make, "git", lambda *_: remote)
    assert make.repository_name() == name
    assert make.known_repository() == (name if "someone" in name else "")


def test_a_repository_can_be_named(monkeypatch):
    monkeypatch.setattr(make, "git", lambda *_: "https://github.com/someone/fork")
    monkeypatch.setenv("GITHUB_REPOSITORY", "some/workflow")
    assert make.repository_name() == "some/workflow"
    monkeypatch.setenv("REPOSITORY", "else/where")
    assert make.repository_name() == "else/where"
    monkeypatch.setenv("REPOSITORY", "https://github.com/else/where")
    with pytest.raises(make.BuildError, match="REPOSITORY must be owner/name"):
        make.repository_name()


def test_issues_are_linked_where_the_repository_is_known(root, tmp_path):
    config = tmp_path / "_config.yml"
    shutil.copy(root / "_config.yml", config)
    assert yaml.safe_load(config.read_text("utf-8"))["html"]["use_issues_button"] is True
    make.leave_out_issues(tmp_path)
    assert yaml.safe_load(config.read_text("utf-8"))["html"]["use_issues_button"] is False


def test_a_page_in_the_contents_must_exist(small_book):
    (small_book / "book" / "index.md").unlink()
    with pytest.raises(
        make.BuildError, match=r"_toc.yml names book/index, but there is no book/index.md"
    ):
        make.pages_in_toc(small_book)


@pytest.mark.parametrize(
    ("text", "is_bar"),
    [
        (" 50%|█████     | 2/4 [00:00<00:00]", True),
        ("3it [00:01,  2.5it/s]", True),
        ("\n", True),
        ("UserWarning: 50%", False),
    ],
)
def test_progress_bars_are_told_from_warnings(text, is_bar):
    assert is_progress_bar(v4.new_output("stream", name="stderr", text=text)) is is_bar
    assert not is_progress_bar(v4.new_output("stream", name="stdout", text=text))


def test_a_page_keeps_no_timing_and_no_path(tmp_path):
    cell = v4.new_code_cell("budget = 8", metadata={"tags": ["injected-parameters"]})
    cell.metadata.papermill = {"duration": 1.5, "start_time": "now"}
    cell.metadata.execution = {"iopub.execute_input": "now"}
    notebook = v4.new_notebook(cells=[cell])
    notebook.metadata.papermill = {
        "input_path": str(tmp_path),
        "duration": 2.0,
        "parameters": {"budget": 8},
    }
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook, path)

    execution = describe_execution(DEFAULTS, tmp_path, seconds=2.4, threads=1)
    finish_notebook(path, "notebooks/a.ipynb", DEFAULTS, {"budget": 8}, execution)

    done = nbformat.read(path, as_version=4)
    assert done.metadata.papermill == {"parameters": {"budget": 8}}
    assert done.cells[0].metadata == {"tags": ["injected-parameters", "remove-cell"]}
    assert "rerun with `budget = 8`" in done.cells[1].source
    assert [cell.id for cell in done.cells] == ["injected-parameters", "rerun-note", "provenance"]
    foot = done.cells[-1].source
    assert "papermill notebooks/a.ipynb out.ipynb -p budget 8 -p prior 1.0 -p zoo digits" in foot
    assert "Commit\n: unknown" in foot
    assert re.search(r"\nExecuted\n: \d{4}-\d\d-\d\d \d\d:\d\d UTC, in 2 s\n", foot)
    assert ", 1 thread)" in foot
    assert str(tmp_path) not in path.read_text("utf-8")


def test_two_builds_do_not_share_a_folder(tmp_path):
    with make.only_build_in(tmp_path):
        second = make.only_build_in(tmp_path)
        with pytest.raises(make.BuildError, match="another build is at work in"):
            second.__enter__()
    with make.only_build_in(tmp_path):
        pass


def test_provenance_tells_a_commit_from_uncommitted_work(small_book):
    def git(*words: str) -> str:
        identity = [
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@example.org",
            "-c",
            "commit.gpgsign=false",
        ]
        command = ["git", "-C", small_book, *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "A small book")
    path = small_book / "notebooks" / "01_a.ipynb"
    revision = git("rev-parse", "--short", "HEAD")
    (small_book / "copy.ipynb").write_text(path.read_text())
    for uncommitted in (True, False):
        copy = small_book / "copy.ipynb" if uncommitted else small_book.parent / "copy.ipynb"
        shutil.copy(path, copy)
        execution = describe_execution(DEFAULTS, small_book, seconds=1, threads=1)
        assert f"`{revision}`" in execution["commit"]
        assert ("with uncommitted changes" in execution["commit"]) is uncommitted
        copy.unlink()


def test_build_rerun_and_failures_leave_a_good_book(small_book):
    """Build, fail in a cell, fail in the pages: all in one test, for each build takes seconds."""
    out = small_book / "_build"
    page = out / "html" / "notebooks" / "01_a.html"
    source = (small_book / "notebooks" / "01_a.ipynb").read_bytes()

    done = run_make_book(out, "--budget", "8", root=small_book)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str(out / "html" / "index.html")
    assert len(done.stdout.splitlines()) == 5, (
        "one line for all notebooks, this notebook, the live parts, the pages, the path"
    )
    assert "spent 8" in page.read_text()
    assert "# Parameters" not in page.read_text()
    assert (small_book / "notebooks" / "01_a.ipynb").read_bytes() == source
    good = page.read_bytes()

    done = run_make_book(out, "--budget", "8", "--fresh", "1", root=small_book)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_without_time(page) == EXECUTED.sub("", good.decode()), "from nothing, it is another"
    good = page.read_bytes()

    done = run_make_book(out, "--budget", "0", root=small_book)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    sentence = done.stderr
    assert (
        "notebooks/01_a.ipynb, cell [3]: ValueError: budget must be at least 1, not 0" in sentence
    )
    assert (out / "stage" / "notebooks" / "01_a.executed.ipynb").exists()
    assert page.read_bytes() == good

    (small_book / "book" / "index.md").write_text("# Small\n\n[](nowhere.md)\n")
    done = run_make_book(out, root=small_book)
    assert done.returncode == 1
    assert "nowhere.md" in done.stderr
    assert "Traceback" not in done.stderr
    assert str(out / "sphinx.log") in done.stderr.splitlines()[-1]
    assert page.read_bytes() == good


def test_a_mark_in_a_page_becomes_a_table(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("# A\n\n% a table\n\nThe rest.\n")
    fill(page, "a table", "| x |")
    assert page.read_text() == "# A\n\n| x |\n\nThe rest.\n"
    with pytest.raises(make.BuildError, match="a.md has no line '% a table'"):
        fill(page, "a table", "| x |")
    fill(tmp_path / "no.md", "a table", "| x |")
    assert not (tmp_path / "no.md").exists()


def test_the_pages_that_the_build_fills_have_their_marks(root):
    assert "\n% parameters of the notebooks\n" in (root / "book" / "rerun.md").read_text("utf-8")
    assert "\n% execution times\n" in (root / "book" / "times.md").read_text("utf-8")


def test_an_entry_of_the_contents_is_found_however_deep():
    deep = {"file": "book/reruns"}
    contents = {
        "root": "a",
        "parts": [{"chapters": [{"file": "b"}, {"file": "c", "sections": [deep]}]}],
    }
    assert find_entry(contents, "book/reruns") is deep
    assert find_entry(contents, "book/none") is None


def test_without_reruns_the_contents_stay_as_they_are(small_book):
    before = (small_book / "_toc.yml").read_bytes()
    add_reruns(
        small_book, [small_book / "notebooks" / "01_a.ipynb"], small_book / "_build" / "reruns"
    )
    assert (small_book / "_toc.yml").read_bytes() == before


def keep(folder: Path, budget: int, made_from: str) -> None:
    """A run as `make rerun` keeps it."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = DEFAULTS | {"budget": budget}
    mark = {"parameters": parameters, "fingerprint": made_from, "data": ""}
    metadata = {kept_runs.KEY: {**mark, "seconds": 1.0}}
    nbformat.write(v4.new_notebook(metadata=metadata), folder / f"budget={budget}.ipynb")


def test_reruns_that_are_all_outdated_are_left_out_in_so_many_words(small_book, capsys):
    notebook, kept = small_book / "notebooks" / "01_a.ipynb", small_book / "_build" / "reruns"
    (small_book / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: book/reruns\n"
    )
    before = (small_book / "_toc.yml").read_bytes()
    for budget in (1, 2):
        keep(kept / "01_a", budget, "of old sources")
    add_reruns(small_book, [notebook], kept)
    assert capsys.readouterr().out == (
        "01_a: 2 kept runs are outdated and left out; make rerun makes them again\n"
    )
    assert (small_book / "_toc.yml").read_bytes() == before
    keep(kept / "01_a", 2, fingerprint(notebook))
    add_reruns(small_book, [notebook], kept)
    assert capsys.readouterr().out == ""  # the page itself counts those that are left out
    assert "Left out: 1 made from other sources" in (small_book / "reruns" / "01_a.md").read_text(
        "utf-8"
    )


def test_the_stage_holds_of_the_assignments_only_what_students_get(root, tmp_path, monkeypatch):
    teacher = tmp_path / "clone"
    folders = ("source", "release", "submitted/ada", "autograded/ada", "feedback/ada")
    for folder in folders:
        path = teacher / make.ASSIGNMENTS / folder / "soups" / "soups.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text("### BEGIN SOLUTION" if folder == "source" else folder)
    (teacher / make.ASSIGNMENTS / "gradebook.db").touch()
    (teacher / "notebooks" / "01_a.ipynb").write_text("{}")
    (teacher / "book" / "source").mkdir(parents=True)
    (teacher / "book" / "source" / "page.md").touch()
    monkeypatch.setattr(make, "ROOT", teacher)
    make.make_stage(tmp_path / "small", make.REPOSITORY)
    staged = sorted(
        str(path.relative_to(tmp_path / "small")) for path in (tmp_path / "small").rglob("*.*")
    )
    assert staged == [
        "book/source/page.md",
        "notebooks/01_a.ipynb",
        "notebooks/assignments/release/soups/soups.ipynb",
    ]

    monkeypatch.setattr(make, "ROOT", root)
    make.make_stage(tmp_path / "stage", make.REPOSITORY)
    assignments = tmp_path / "stage" / make.ASSIGNMENTS
    assert [path.name for path in assignments.iterdir()] == ["release"]
    notebooks = list((tmp_path / "stage").rglob("*.ipynb"))
    assert len([path for path in notebooks if path.is_relative_to(assignments)]) == 3
    assert not [path for path in notebooks if "BEGIN SOLUTION" in path.read_text("utf-8")]


def test_times_tell_the_seconds_and_the_day_of_each_notebook():
    executions = [
        ("notebooks/a.ipynb", {"seconds": 1.2, "executed": "2026-11-28 19:40 UTC"}),
        ("notebooks/b.ipynb", {"seconds": 60.0, "executed": "2026-11-27 08:00 UTC"}),
    ]
    page = times_page(executions)
    rows = page[page.index("* - [") :].split("* - ")
    assert rows[1].splitlines() == ["[](../notebooks/a.ipynb)", "  - 1", "  - 2026-11-28 19:40 UTC"]
    assert rows[2].splitlines()[1] == "  - 60"
    assert rows[3].splitlines()[:2] == ["**All notebooks**", "  - **61**"]
    for fact in ("Processor\n: ", "Threads\n: ", "Memory\n: ", "Device\n: cpu", "torch "):
        assert fact in page


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (8, "-p a 8"),
        ("digits", "-p a digits"),
        ("5", "-r a 5"),
        ("True", "-r a True"),
        ("", "-p a ''"),
        (True, "-p a True"),
    ],
)
def test_papermill_gets_back_the_value_that_was_given(value, flag):
    command = papermill_command("a.ipynb", {"a": value})
    assert command == f"papermill a.ipynb out.ipynb {flag}"
    from papermill.cli import _resolve_type

    _, mark, _, text = shlex.split(
        command.partition("out.ipynb")[0] + command.partition("out.ipynb")[2]
    )[1:]
    assert (text if mark == "-r" else _resolve_type(text)) == value


@pytest.mark.parametrize(
    ("number", "shown"),
    [("-0.26", "−0.26"), ("-0.00", "0.00"), ("+0.10", "+0.10"), ("12", "12"), ("-0.05", "−0.05")],
)
def test_numbers_from_cells_have_the_minus_of_print(number, shown):
    before = f'<p>B-2 <span class="pasted-text">{number}</span> - or <code>-1</code></p>'
    after = make.with_minus_signs(before)
    assert after == before.replace(f">{number}<", f">{shown}<")
