"""Numbers in prose come from executed cells; notebooks are committed without outputs.

A bare decimal in the text of a page or of a notebook is an error unless book/reported.yml lists it as a
figure that the paper reports. Code, mathematics, roles such as glue, link targets and directive options are
no prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml

FENCE = re.compile(r"^\s*(?P<mark>`{3,}|:{3,}|~{3,})\s*(?:\{(?P<directive>[\w:.-]+)\})?(?P<rest>.*)$")
CODE_DIRECTIVES = {
    "bibliography",
    "code",
    "code-block",
    "code-cell",
    "eval-rst",
    "literalinclude",
    "math",
    "raw",
}
COMMENT = re.compile(r"\s*%")
OPTION = re.compile(r"\s*(:[\w-]+:|---|[\w-]+:\s)")
NOT_PROSE = re.compile(
    r"""\{[\w:.-]+\}`[^`]*`      # a role: {glue:text}`page.ipynb::key:.2f`
      | (?P<ticks>`+).*?(?P=ticks)  # code
      | \$[^$]+\$                # mathematics
      | (?<=\])\([^)\s]*[^)]*\)  # the target of a link
      | <[^>\s][^>]*>            # an address or a tag
      | https?://\S+
      | \barXiv[ :]*\d{4}\.\d{4,5}(v\d+)?
      | \b(?:Python|PyTorch|torch|Sphinx|CUDA|Jupyter\ Book|CC\ BY|version)\ ?v?\d+(?:\.\w+)+
      | \bv?\d+\.\d+\.\d+[\w.]*  # a version
    """,
    re.VERBOSE,
)
DECIMAL = re.compile(r"(?<![\w.])[-+]?\d*\.\d+")


def prose(markdown: str) -> Iterator[tuple[int, str]]:
    """Number and text of every line, less all that is no prose."""
    open_fences: list[tuple[str, bool]] = []  # (mark, is code)
    in_options = in_math = False
    for number, line in enumerate(blank_comments(markdown).splitlines(), start=1):
        fence = FENCE.match(line)
        if fence and closes(fence, open_fences):
            open_fences.pop()
        elif fence and not in_code(open_fences) and not (fence["mark"][0] == "`" and "`" in fence["rest"]):
            open_fences.append((fence["mark"], is_code(fence)))
            in_options = fence["directive"] is not None
            if not is_code(fence) and not fence["mark"].startswith("~"):
                yield number, NOT_PROSE.sub(" ", title(fence))
        elif line.strip().startswith("$$") and not in_code(open_fences):
            in_math = not in_math if line.count("$$") == 1 else in_math
        elif in_code(open_fences) or in_math or COMMENT.match(line) or (in_options and OPTION.match(line)):
            continue
        else:
            in_options = False
            yield number, NOT_PROSE.sub(" ", line)


def blank_comments(markdown: str) -> str:
    """HTML comments and front matter replaced by as many empty lines."""
    return re.sub(r"<!--.*?-->|\A---\n.*?\n---\n", lambda match: "\n" * match[0].count("\n"), markdown, flags=re.DOTALL)


def in_code(open_fences: list[tuple[str, bool]]) -> bool:
    return bool(open_fences) and open_fences[-1][1]


def closes(fence: re.Match[str], open_fences: list[tuple[str, bool]]) -> bool:
    if not open_fences or fence["directive"] or fence["rest"].strip():
        return False
    mark = open_fences[-1][0]
    return fence["mark"][0] == mark[0] and len(fence["mark"]) >= len(mark)


def is_code(fence: re.Match[str]) -> bool:
    if fence["directive"]:
        return fence["directive"].split(":")[0] in CODE_DIRECTIVES
    return fence["mark"][0] != ":"


def title(fence: re.Match[str]) -> str:
    """What stands behind the name of a directive, when it is text and no file."""
    return "" if fence["directive"] in {"figure", "image", "include"} else fence["rest"]


def bare_decimals(markdown: str) -> list[tuple[int, str]]:
    return [(number, found) for number, line in prose(markdown) for found in DECIMAL.findall(line)]


def text_cells(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def sources(root: Path) -> dict[str, str]:
    """The prose of every page, by the page's name in the table of contents."""
    pages = {path: path.read_text("utf-8") for path in sorted((root / "book").glob("*.md"))}
    pages |= {path: text_cells(path) for path in sorted((root / "notebooks").rglob("*.ipynb"))}
    return {path.relative_to(root).with_suffix("").as_posix(): text for path, text in pages.items()}


@pytest.fixture(scope="module")
def reported(root: Path) -> list[dict[str, str]]:
    return yaml.safe_load((root / "book" / "reported.yml").read_text("utf-8")) or []


def test_no_bare_decimal_in_prose(root, reported):
    allowed = {(entry["page"], number) for entry in reported for number in re.findall(r"[\d.]+", entry["figure"])}
    bare = [
        f"{page}, line {number}: {decimal}"
        for page, text in sources(root).items()
        for number, decimal in bare_decimals(text)
        if (page, decimal.lstrip("+-")) not in allowed
    ]
    assert not bare, "glue these numbers from a cell, or list them in book/reported.yml:\n" + "\n".join(bare)


def test_every_reported_figure_has_a_source_and_is_in_use(root, reported):
    pages = sources(root)
    for entry in reported:
        assert set(entry) == {"page", "figure", "source"}, entry
        assert entry["source"].strip(), entry
        assert entry["figure"] in pages[entry["page"]], f"{entry['page']} no longer has {entry['figure']}"


@pytest.mark.parametrize(
    "markdown",
    [
        "The soup reaches 81.03 percent.",
        "It is **.5** better.",
        "A gain of +1.25 points",
        ":::{note}\nThe gain is 0.7 points.\n:::",
        "```{figure} figures/a_1.5.png\n:name: fig-a\n\nAccuracy 81.0 at a budget of 4.\n```",
        "```{admonition} Only 0.5 points\nSee below.\n```",
        "| radin | 81.0 |",
        "````{prf:proposition}\n```{math}\nx = 0.5\n```\nSo 0.5 it is.\n````",
        "> We found 3.5.",
        "$$ x = 0.5 $$\nand 0.5 again",
    ],
)
def test_the_check_finds(markdown):
    assert len(bare_decimals(markdown)) == 1


@pytest.mark.parametrize(
    "markdown",
    [
        "A budget of 4, in 2024, with 100 / 500.",
        "`prior = 0.5` and ``lr = 1e-3 * 0.5``",
        "Score $A + 0.5 \\lambda$.",
        "$$\nx = 0.5\n$$",
        "```{math}\n:label: eq-a\nx = 0.5\n```",
        "```python\nlr = 0.5\n```",
        "{glue:text}`../notebooks/01_soup.ipynb::best:.1f`% of images",
        "[the paper](https://arxiv.org/abs/2401.17790) and <https://arxiv.org/abs/2401.17790>",
        "arXiv 2401.17790, arXiv:2401.17790v2",
        "Python 3.11 or newer, jupyter-book 1.0.4.post1, CC BY 4.0",
        "```{figure} figures/a_1.5.png\n:width: 0.5\n:alt: at 0.5\n\nNo number here.\n```",
        "<!-- was 0.5 -->",
        "% was 0.5",
        "```{code-block} python\n:lineno-start: 1\nx = 0.5\n```",
        "Section 2. 5 soups",
    ],
)
def test_the_check_lets_pass(markdown):
    assert bare_decimals(markdown) == []


def notebooks() -> list[Path]:
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    return sorted(folder.rglob("*.ipynb"))


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebook_is_committed_clean(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3", "papermill and Binder look for this kernel"
    cells = notebook.cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not [cell.source for cell in code if cell.outputs or cell.execution_count], "strip the outputs"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1


def test_there_are_notebooks_to_check():
    assert notebooks()
