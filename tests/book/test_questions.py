"""The chapter of ten questions and the pages beside it: their promises hold, their code runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import nbformat
import pytest
import yaml

import radin
from radin.cli import parser
from radin.errors import RadinError
from radin.recipes.learned import LIVE_RECIPES
from radin.recipes.race import IMAGE_RECIPES

PAGES = ("cheatsheet", "decide")
PAGES_OF_QUESTIONS = ("14_questions", "15_more_questions")


def page(root: Path, name: str) -> str:
    return (root / "book" / f"{name}.md").read_text("utf-8")


def chapter(root: Path, name: str) -> str:
    cells = nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def blocks(text: str, language: str) -> list[str]:
    """Code blocks, those of a list too, less the indent of their fence."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.M | re.S)
    return [re.sub(rf"^{indent}", "", code, flags=re.M) for indent, code in found]


def commands(text: str) -> list[str]:
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("radin ")]


# ---------------------------------------------------------------- the ten questions


def test_all_questions_are_asked_in_their_order_and_answered_with_numbers(root):
    pages = [chapter(root, name) for name in PAGES_OF_QUESTIONS]
    parts = [part for text in pages for part in re.split(r"^## ", text, flags=re.M)]
    numbered = {int(part.split(".")[0]): part for part in parts if part[0].isdigit()}
    assert list(numbered) == list(range(1, 11))
    for part in (*numbered.values(), *(part for part in parts if part.startswith("More models"))):
        asked = re.match(r".*\n\n\*[^*]+\*", part)
        assert asked, f"{part.splitlines()[0]}: the question does not open it, in italics"
        assert part.count("{glue:text}`questions_") >= 3, part.splitlines()[0]


def test_the_three_checks_are_asked_and_answered_with_numbers(root):
    parts = re.split(r"^## ", chapter(root, "16_next_checks"), flags=re.M)
    checks = [part for part in parts if re.match(r".*\n\n\*[^*]+\*", part)]
    assert len(checks) == 3
    assert all("{glue:text}" in check for check in checks)


def test_every_open_question_is_named(root):
    for number in ("first", "second", "third"):
        texts = (chapter(root, name) for name in PAGES_OF_QUESTIONS)
        assert any(re.search(rf"[Tt]he {number} open question", text) for text in texts), number


# ---------------------------------------------------------------- cheat sheet and decision guide


@pytest.mark.parametrize("name", PAGES)
def test_every_command_parses(root, name):
    found = commands(page(root, name))
    assert len(found) >= 5
    for command in found:
        words = shlex.split(command, comments=True)
        try:
            options = parser.make_parser().parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"radin does not take: {command}")
        assert options.command == words[1]


@pytest.mark.parametrize("name", [*PAGES, "cite"])
def test_every_name_of_the_module_exists(root, name):
    for dotted in re.findall(
        r"\bradin((?:\.[a-z]\w*)+)", "\n".join(re.findall(r"`[^`]+`", page(root, name)))
    ):
        thing: object = radin
        for part in dotted.split(".")[1:]:
            thing = (
                getattr(thing, part)
                if hasattr(thing, part)
                else __import__(f"radin.{part}", fromlist=[part])
            )


def test_the_cheat_sheet_names_every_recipe_and_no_other(root):
    table = page(root, "cheatsheet").partition("## Recipes")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == set(
        radin.RECIPES | IMAGE_RECIPES | LIVE_RECIPES
    )


def test_the_arithmetic_of_an_afternoon(root, capsys):
    (code,) = [
        block for block in blocks(page(root, "decide"), "python") if block.startswith("checkpoints")
    ]
    names: dict[str, float] = {}
    exec(code, names)
    spent = names["entry_fee"] + names["report_minutes"] + names["budget"] * names["pass_minutes"]
    assert spent <= names["afternoon"] < spent + names["pass_minutes"]
    assert capsys.readouterr().out == "entry fee 48 minutes, then a budget of 28\n"


def test_every_leaf_of_the_guide_is_a_section(root):
    text = page(root, "decide")
    leaves = set(re.findall(r"\]\(([a-z-]+)\)", text))
    assert leaves == {"spend-it", "rank-alone", "average-all", "keep-the-best"}
    for leaf in leaves:
        assert re.search(rf"^\({leaf}\)=\n## [^\n]+\n\n.*?```bash\nradin ", text, re.M | re.S), leaf


def test_the_cheat_sheet_fits_a_page(root):
    text = page(root, "cheatsheet")
    assert "@page { size: A4" in text
    # What fitted at that size when it was last printed.
    assert len(text.partition("</style>")[2].splitlines()) < 95


# ---------------------------------------------------------------- cite and changelog


def bibtex(text: str) -> list[str]:
    return re.findall(r"^@\w+\{.*?^\}$", text, re.M | re.S)


def field(entry: str, name: str) -> str:
    found = re.search(rf"^\s*{name}\s*=\s*\{{(.*)\}},?$", entry, re.M)
    assert found, f"no {name} in {entry}"
    return found[1].replace("{", "").replace("}", "")


def test_the_papers_entry_is_that_of_the_bibliography(root):
    paper, _ = bibtex(page(root, "cite"))
    assert paper in bibtex((root / "book" / "references.bib").read_text("utf-8"))


def test_the_companions_entry_is_that_of_the_citation_file(root):
    paper, companion = bibtex(page(root, "cite"))
    citation = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    assert field(companion, "title") == citation["title"]
    assert field(companion, "version") == citation["version"] == radin.__version__
    assert field(companion, "author") == citation["authors"][0]["name"]
    assert field(companion, "url") == citation["repository-code"]
    assert f"Copyright (c) {field(companion, 'year')}" in (root / "LICENSE").read_text("utf-8")
    (reference,) = citation["references"]
    assert field(paper, "title") == reference["title"]
    assert field(paper, "year") == str(reference["year"])
    assert field(paper, "url") == reference["url"]
    authors = [f"{each['family-names']}, {each['given-names']}" for each in reference["authors"]]
    assert field(paper, "author") == " and ".join(authors)


def test_the_changelog_knows_this_version_and_is_a_page(root):
    text = (root / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## (?:\[)?(\d+\.\d+\.\d+)(?:\])? - \d{4}-\d\d-\d\d$", text, re.M)
    assert versions[0] == radin.__version__
    assert "{include} ../CHANGELOG.md" in page(root, "changelog")
    kinds = re.findall(r"^### (.+)$", text, re.M)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_what_the_guide_says_is_refused_is_refused(tmp_path):
    from helpers import save, state

    other = {key: tensor.repeat(*([2] * tensor.ndim)) for key, tensor in state(1).items()}
    paths = [save(state(0), tmp_path / "a.safetensors"), save(other, tmp_path / "b.safetensors")]
    with pytest.raises(RadinError, match=r"b\.safetensors"):
        radin.Zoo.open(paths, progress=False)
