"""Every chapter has the same skeleton, and every solution is executed.

A notebook's solutions are cells between `solution-start` and `solution-end`: the build of the book
executes them. A page without cells holds its solutions in ```python blocks, executed here, or says
of one that it is written in words.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

import make

SKELETON = ("The idea in a picture", "What we found", "Pitfalls", "Exercises")
FEWEST_EXERCISES = {"notebooks/10_claims": 1}  # two everywhere else
ASSIGNMENTS = "notebooks/assignments/"

BLOCK = re.compile(
    r"^(?P<mark>`{3,})(?P<head>[^`\n]*)\n(?P<body>.*?)^(?P=mark)[ \t]*$", re.MULTILINE | re.DOTALL
)
LABEL = re.compile(r"^:label:\s*(\S+)", re.MULTILINE)
CLASSES = re.compile(r"^:class:\s*(.+)", re.MULTILINE)


def names() -> list[str]:
    """The pages of the book, as the table of contents names them."""
    pages = make.pages_in_toc(make.ROOT)
    return [page.relative_to(make.ROOT).with_suffix("").as_posix() for page in pages]


NOTEBOOKS = [
    name for name in names() if name.startswith("notebooks/") and not name.startswith(ASSIGNMENTS)
]
PAGES = [
    name
    for name in names()
    if (make.ROOT / f"{name}.md").is_file()
    and "{exercise}" in (make.ROOT / f"{name}.md").read_text("utf-8")
]


# ---------------------------------------------------------------- reading a chapter


def cells(name: str) -> list[Any]:
    return nbformat.read(make.ROOT / f"{name}.ipynb", as_version=4).cells


def text_of(name: str) -> str:
    """The prose of a page or of a notebook."""
    if (page := make.ROOT / f"{name}.md").is_file():
        return page.read_text("utf-8")
    return "\n\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")


def headings(markdown: str) -> list[str]:
    """Titles of the sections, `##` only; a line in a fenced block is none."""
    return re.findall(r"^## +(.+?)\s*$", BLOCK.sub("", markdown), re.MULTILINE)


def section(markdown: str, title: str) -> str:
    """What stands under the heading `title`, up to the next one of its rank."""
    found = re.search(
        rf"^## +{re.escape(title)}\s*$(.*?)(?=^## |\Z)", markdown, re.MULTILINE | re.DOTALL
    )
    return found[1] if found else ""


def section_cells(all_cells: list[Any], title: str) -> list[Any]:
    """The cells of a section: from the one with its heading up to the one with the next."""
    inside: list[Any] = []
    for cell in all_cells:
        found = headings(cell.source) if cell.cell_type == "markdown" else []
        if title in found or (inside and not found):
            inside.append(cell)
        elif inside:
            break
    return inside


def directives(markdown: str, name: str) -> list[tuple[str, str]]:
    """Argument and body of each directive of one name that is not inside another block."""
    heads = [
        (re.fullmatch(r"\{([\w-]+)\}\s*(.*)", m["head"].strip()), m["body"])
        for m in BLOCK.finditer(markdown)
    ]
    return [(head[2], body) for head, body in heads if head and head[1] == name]


def exercises(markdown: str) -> list[str]:
    """Labels of the exercises, in their order."""
    return [
        label[1] for _, body in directives(markdown, "exercise") if (label := LABEL.search(body))
    ]


def gated_solutions(all_cells: list[Any]) -> list[tuple[str, str, list[Any]]]:
    """Label, options and cells of each solution, from its start to its end."""
    found: list[tuple[str, str, list[Any]]] = []
    is_open = False
    for cell in all_cells:
        markdown = cell.source if cell.cell_type == "markdown" else ""
        for label, options in directives(markdown, "solution-start"):
            assert not is_open, f"{label} begins inside another solution"
            found.append((label, options, []))
            is_open = True
        if is_open:
            found[-1][2].append(cell)
        if directives(markdown, "solution-end"):
            assert is_open, "a solution ends that has not begun"
            is_open = False
    assert not is_open, f"the solution of {found[-1][0]} has no end"
    return found


def has_tag(cell: Any, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def is_code(cell: Any) -> bool:
    return cell.cell_type == "code"


def python_blocks(markdown: str) -> list[str]:
    return [
        match["body"] for match in BLOCK.finditer(markdown) if match["head"].strip() == "python"
    ]


def page_solutions(name: str) -> list[tuple[str, str, list[str]]]:
    """Label, options and ```python blocks of each solution on a page without cells."""
    return [
        (label, (CLASSES.search(body) or [""])[0], python_blocks(body))
        for label, body in directives(text_of(name), "solution")
    ]


# ---------------------------------------------------------------- the skeleton


@pytest.fixture(params=NOTEBOOKS)
def chapter(request: pytest.FixtureRequest) -> str:
    return request.param


def test_there_are_chapters():
    assert len(NOTEBOOKS) >= 9
    assert "book/01_paper" in PAGES


def test_files_bear_the_numbers_of_their_chapters():
    toc = yaml.safe_load((make.ROOT / "_toc.yml").read_text("utf-8"))
    numbered = [part for part in toc["parts"] if part.get("numbered", toc["defaults"]["numbered"])]
    files = [Path(each["file"]).name for part in numbered for each in part["chapters"]]
    assert [name[:3] for name in files] == [f"{number:02}_" for number in range(1, len(files) + 1)]
    assert {f"notebooks/{name}" for name in files} >= set(NOTEBOOKS)


def test_a_chapter_opens_with_what_you_will_learn(chapter):
    first, second = cells(chapter)[:2]
    assert first.source.startswith("# ")
    box = directives(first.source, "admonition")
    assert [title for title, _ in box] == ["What you will learn"]
    assert box[0][1].count("\n- ") + box[0][1].startswith("- ") >= 2
    assert BLOCK.sub("", first.source).strip().count("\n\n") >= 1, "a paragraph follows the box"
    assert has_tag(second, "parameters")


@pytest.mark.parametrize("name", [*NOTEBOOKS, "book/01_paper"])
def test_sections_are_those_of_every_chapter_in_their_order(name):
    found = headings(text_of(name))
    assert [title for title in found if title in SKELETON] == list(SKELETON)
    assert found[0] == SKELETON[0]
    assert found[-1] == SKELETON[-1]
    assert len(found) > len(SKELETON), "worked sections stand between"


def test_the_idea_is_a_figure_with_a_few_words(chapter):
    idea = section_cells(cells(chapter), SKELETON[0])
    figures = [cell.metadata.mystnb for cell in idea if "mystnb" in cell.metadata]
    assert figures, "no figure under the idea"
    for figure in figures:
        assert figure["figure"]["name"].startswith("fig-")
        assert len(figure["figure"]["caption"]) > 40
        assert len(figure["image"]["alt"]) > 60
    words = section(text_of(chapter), SKELETON[0]).split()
    assert 20 <= len(words) <= 200


@pytest.mark.parametrize("name", [*NOTEBOOKS, "book/01_paper"])
def test_what_was_found_are_numbers_from_cells(name):
    assert section(text_of(name), SKELETON[1]).count("{glue:text}`") >= 3


@pytest.mark.parametrize("name", [*NOTEBOOKS, "book/01_paper"])
def test_pitfalls_are_some(name):
    assert section(text_of(name), SKELETON[2]).count("\n- **") >= 2


# ---------------------------------------------------------------- exercises and solutions


def test_each_exercise_of_a_chapter_has_one_solution_with_code(chapter):
    all_cells, text = cells(chapter), text_of(chapter)
    solutions = gated_solutions(all_cells)
    labels = exercises(text)
    assert len(labels) >= FEWEST_EXERCISES.get(chapter, 2)
    assert len(labels) == len(directives(text, "exercise")), "an exercise has no label"
    assert [label for label, _, _ in solutions] == labels
    assert not directives(text, "solution"), (
        "only a solution of gated cells can hold code that is executed"
    )
    for label, options, inside in solutions:
        assert CLASSES.search(options), f"{label} does not fold"
        assert "dropdown" in CLASSES.search(options)[1]
        assert [cell for cell in inside if is_code(cell) and has_tag(cell, "solution")], (
            f"{label} has no code"
        )


def test_a_solution_begins_and_ends_in_cells_of_its_own(chapter):
    for label, _, inside in gated_solutions(cells(chapter)):
        assert inside[0].source.startswith("```{solution-start}"), label
        assert len(BLOCK.sub("", inside[0].source).strip()) > 20, (
            f"{label} does not say what is done"
        )
        assert inside[-1].source.strip() == "```{solution-end}\n```", label


def test_solutions_come_last_and_hold_all_that_is_tagged_so(chapter):
    all_cells = cells(chapter)
    inside = [cell.id for _, _, held in gated_solutions(all_cells) for cell in held]
    tagged = [cell.id for cell in all_cells if has_tag(cell, "solution")]
    assert set(tagged) <= set(inside)
    after = section_cells(all_cells, SKELETON[-1])
    code = [cell for cell in after if is_code(cell)]
    assert all(has_tag(cell, "solution") or has_tag(cell, "remove-cell") for cell in code)
    assert {cell.id for cell in code} >= set(tagged), "a solution stands before the exercises"
    hidden = {
        "hide-input",
        "hide-cell",
        "hide-output",
        "remove-cell",
        "remove-input",
        "remove-output",
    }
    assert not [
        cell.id
        for cell in all_cells
        if has_tag(cell, "solution") and hidden & set(cell.metadata.tags)
    ]


@pytest.mark.parametrize("name", PAGES)
def test_each_exercise_of_a_page_has_one_solution(name):
    text = text_of(name)
    solutions = page_solutions(name)
    labels = exercises(text)
    assert len(labels) >= 2
    assert [label for label, _, _ in solutions] == labels
    for label, classes, blocks in solutions:
        assert "dropdown" in classes, f"{label} does not fold"
        if "written" in classes:
            assert not blocks, f"{label} has code, so it is not only written"
        else:
            assert blocks, (
                f"{label} holds no ```python block; "
                "an answer in words is marked `:class: dropdown written`"
            )
            assert any("assert " in block for block in blocks), f"{label} asserts nothing"


def blocks_of_pages() -> list[Any]:
    return [
        pytest.param(block, id=f"{name}, {label}, {k}")
        for name in PAGES
        for label, _, blocks in page_solutions(name)
        for k, block in enumerate(blocks)
    ]


@pytest.mark.parametrize("block", blocks_of_pages())
def test_the_code_of_a_solution_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "solution", "exec"), {"__name__": "solution"})
    assert not list(tmp_path.iterdir()), "it leaves files behind"


# ---------------------------------------------------------------- the built book


@cache  # two tests read each page
def solutions_in(book: Path, name: str) -> list[Any]:
    return BeautifulSoup((book / f"{name}.html").read_text("utf-8"), "html.parser").select(
        "article .solution.admonition"
    )


@pytest.mark.parametrize("name", [*NOTEBOOKS, *PAGES])
def test_solutions_fold_in_the_book(book, name):
    found = solutions_in(book, name)
    assert len(found) == len(exercises(text_of(name)))
    assert all("dropdown" in solution["class"] for solution in found)
    html = (book / f"{name}.html").read_text("utf-8")
    assert "togglebutton.js" in html, "nothing folds without this script"
    assert "solution-start" not in html
    assert "solution-end" not in html


def test_solutions_of_a_chapter_show_what_they_gave(book, chapter):
    for solution, (label, _, inside) in zip(
        solutions_in(book, chapter), gated_solutions(cells(chapter)), strict=True
    ):
        shown = solution.select(".cell.tag_solution")
        assert len(shown) == sum(has_tag(cell, "solution") for cell in inside), label
        assert solution.select(".cell.tag_solution .cell_output"), f"{label} shows no output"
        assert not solution.select(".output.traceback"), label


# ---------------------------------------------------------------- the reading itself


def made(source: str, *tags: str) -> Any:
    make_cell = nbformat.v4.new_code_cell if tags else nbformat.v4.new_markdown_cell
    return make_cell(source, metadata={"tags": list(tags)})


START, END = "```{solution-start} ex-a\n:class: dropdown\n```\n\nText.", "```{solution-end}\n```"


def test_headings_in_blocks_are_none():
    text = (
        "# T\n## A\n```bash\n## no\n```\n````{x}\n```y\n## no\n```\n## no\n````\n##  B \n### no\n"
    )
    assert headings(text) == ["A", "B"]
    assert section("## A\none\n## B\ntwo", "A").strip() == "one"
    assert section("## A\none", "B") == ""


def test_the_cells_of_a_section():
    found = [made("## A"), made("x", "t"), made("more"), made("## B"), made("y", "t")]
    assert section_cells(found, "A") == found[:3]
    assert section_cells(found, "B") == found[3:]
    assert section_cells(found, "C") == []


def test_a_solution_and_its_cells():
    found = [made("before"), made(START), made("1 + 1", "solution"), made(END), made("after")]
    ((label, options, inside),) = gated_solutions(found)
    assert (label, options.strip(), inside) == ("ex-a", ":class: dropdown", found[1:4])


@pytest.mark.parametrize("broken", [[START], [END], [START, START, END], [START, END, END]])
def test_a_solution_without_end_or_start_is_found(broken):
    with pytest.raises(AssertionError):
        gated_solutions([made(source) for source in broken])


def test_blocks_inside_a_directive():
    page = "```{exercise} T\n:label: ex-b\n\nHow?\n```\n\n"
    page += "````{solution} ex-b\n:class: dropdown\n\n```python\nassert 1\n```\n````\n"
    assert exercises(page) == ["ex-b"]
    ((label, body),) = directives(page, "solution")
    assert label == "ex-b"
    assert python_blocks(body) == ["assert 1\n"]
