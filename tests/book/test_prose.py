"""Numbers in prose come from executed cells, terms are linked at first use, notebooks are clean.

A bare decimal in the text of a page or of a notebook is an error, and so is a whole number that
counts or measures something, unless book/reported.yml lists it as a figure that others report.
Code, mathematics, roles such as glue, link targets and directive options are no prose. A term of
the glossary is a {term} link at its first use in running text: headings, titles, captions and
links are no running text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
import yaml

from prose import chapters_and_pages, notebooks, sources

FENCE = re.compile(
    r"^\s*(?P<mark>`{3,}|:{3,}|~{3,})\s*(?:\{(?P<directive>[\w:.-]+)\})?(?P<rest>.*)$"
)
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


class Line(NamedTuple):
    """A line of a page, less all that is no prose."""

    number: int
    text: str
    inside: tuple[
        str, ...
    ]  # the directives around it, outermost first; "title" where it is the title of the last


def prose(markdown: str) -> Iterator[Line]:
    """Every line that holds prose."""
    fences: list[tuple[str, str]] = []  # (mark, directive, or "code" where it is code)
    in_options = in_math = in_solution = False
    for number, line in enumerate(blank_comments(markdown).splitlines(), start=1):
        fence = FENCE.match(line)
        inside = (*(("solution",) if in_solution else ()), *(directive for _, directive in fences))
        if fence and closes(fence, fences):
            fences.pop()
        elif (
            fence and not in_code(fences) and not (fence["mark"][0] == "`" and "`" in fence["rest"])
        ):
            # A solution with cells begins and ends in directives of its own.
            in_solution = {"solution-start": True, "solution-end": False}.get(
                fence["directive"], in_solution
            )
            directive = fence["directive"] or ""
            fences.append((fence["mark"], "code" if is_code(fence) else directive))
            in_options = bool(directive)
            if not is_code(fence) and not fence["mark"].startswith("~"):
                yield Line(number, NOT_PROSE.sub(" ", title(fence)), (*inside, directive, "title"))
        elif line.strip().startswith("$$") and not in_code(fences):
            in_math = not in_math if line.count("$$") == 1 else in_math
        elif (
            in_code(fences) or in_math or COMMENT.match(line) or (in_options and OPTION.match(line))
        ):
            continue
        else:
            in_options = False
            yield Line(number, NOT_PROSE.sub(" ", line), inside)


def blank_comments(markdown: str) -> str:
    """HTML comments and front matter replaced by as many empty lines."""
    return re.sub(
        r"<!--.*?-->|\A---\n.*?\n---\n",
        lambda match: "\n" * match[0].count("\n"),
        markdown,
        flags=re.DOTALL,
    )


def in_code(fences: list[tuple[str, str]]) -> bool:
    return bool(fences) and fences[-1][1] == "code"


def closes(fence: re.Match[str], fences: list[tuple[str, str]]) -> bool:
    if not fences or fence["directive"] or fence["rest"].strip():
        return False
    mark = fences[-1][0]
    return fence["mark"][0] == mark[0] and len(fence["mark"]) >= len(mark)


def is_code(fence: re.Match[str]) -> bool:
    if fence["directive"]:
        return fence["directive"].split(":")[0] in CODE_DIRECTIVES
    return fence["mark"][0] != ":"


def title(fence: re.Match[str]) -> str:
    """What stands behind the name of a directive, when it is text and no file."""
    return "" if fence["directive"] in {"figure", "image", "include"} else fence["rest"]


def bare_decimals(markdown: str) -> list[tuple[int, str]]:
    return [
        (line.number, found) for line in prose(markdown) for found in DECIMAL.findall(line.text)
    ]


# What a number counts or measures where it is a result. One adjective may stand between, as in
# "200 random soups".
COUNTED = re.compile(
    r"""(?<![\w.,§-])(?P<number>\d+(?:,\d{3})*)[ ]?
        (?: % | (?:[ ]?[a-z-]+[ ])?
            (?:(?:percentage[ ])?points | percent | times | images | photographs | soups | subsets
              | seconds | minutes | hours | GB | MB)\b )""",
    re.VERBOSE,
)
# What is no result but a definition: of what.
DEFINED = {
    r"\b95%(?! of\b)": "how wide the intervals of this book are",
    r"\bmiddle 90%": "how much of all draws a shade holds",
    r"\b[Ss]tage \d": "the name of a step",
}
HYPOTHETICAL = {
    "exercise",
    "solution",
}  # an exercise supposes numbers, and its solution computes with them


def bare_counts(markdown: str) -> list[tuple[int, str]]:
    found = []
    for line in prose(markdown):
        if HYPOTHETICAL.isdisjoint(line.inside):
            text = re.sub("|".join(DEFINED), "", line.text)
            found += [(line.number, match[0].strip()) for match in COUNTED.finditer(text)]
    return found


@pytest.fixture(scope="module")
def reported(root: Path) -> list[dict[str, str]]:
    return yaml.safe_load((root / "book" / "reported.yml").read_text("utf-8")) or []


def test_no_bare_decimal_in_prose(root, reported):
    allowed = {
        (entry["page"], number)
        for entry in reported
        for number in re.findall(r"[\d.]+", entry["figure"])
    }
    bare = [
        f"{page}, line {number}: {decimal}"
        for page, text in chapters_and_pages(root).items()
        for number, decimal in bare_decimals(text)
        if (page, decimal.lstrip("+-")) not in allowed
    ]
    assert not bare, (
        "glue these numbers from a cell, or list them in book/reported.yml:\n" + "\n".join(bare)
    )


def test_every_reported_figure_has_a_source_and_is_in_use(root, reported):
    pages = sources(root)
    for entry in reported:
        assert set(entry) == {"page", "figure", "source"}, entry
        assert entry["source"].strip(), entry
        assert entry["figure"] in pages[entry["page"]], (
            f"{entry['page']} no longer has {entry['figure']}"
        )


def test_no_bare_count_in_prose(root, reported):
    allowed = {(entry["page"], entry["figure"]) for entry in reported}
    bare = [
        f"{page}, line {number}: {count}"
        for page, text in chapters_and_pages(root).items()
        for number, count in bare_counts(text)
        if not {(page, count), (page, COUNTED.match(count)["number"])} & allowed
    ]
    assert not bare, (
        "glue these numbers from a cell, or list them in book/reported.yml:\n" + "\n".join(bare)
    )


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


# Made from docstrings, which hold no role; the first of these pages points to the glossary.
API_PAGES = "book/api"
# Pages where a first use need not be a link, with the reason.
UNLINKED_PAGES = {
    "book/glossary": "it is where the links lead",
    "book/bibliography": "titles of papers",
}
# Terms whose first use need not be a link, with the reason.
UNLINKED_TERMS = {
    "checkpoint": "every reader's word for a file of parameters",
    "gap": "an ordinary word, too",
    "logit": "every reader's word; its glossary entry is for the rest",
    "margin": "an ordinary word, too",
    "papermill": "the name of a program, linked where it is introduced",
}
# Names that hold a term's word and do not mean it.
NAMES = re.compile(r"\b[Mm]odel [Ss]oups\b|\bsoups paper\b|“[^”]*”|\"[^\"]*\"")
TERM_ROLE = re.compile(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`")
LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")
HEADING = re.compile(r"\s*(#{1,6}\s|\(.*\)=)")
CAPTIONED = {"figure", "image", "title"}  # what stands in these is a caption or a title


def glossary_terms(root: Path) -> list[str]:
    """The terms of the glossary, longest first, as they are written there."""
    glossary = (root / "book" / "glossary.md").read_text("utf-8")
    body = glossary[glossary.index("```{glossary}") :]
    return sorted(re.findall(r"^(\w[^\n]*)\n  \S", body, re.M), key=lambda term: (-len(term), term))


def unlinked(markdown: str, terms: list[str]) -> dict[str, int]:
    """Terms that a page uses in running text before it links them, and the line of that use."""
    words = "|".join(re.escape(term) for term in terms)
    use = re.compile(rf"⟦([^⟧]*)⟧|(?<![\w-])({words})(?:e?s)?(?![\w-])", re.IGNORECASE)
    linked, early = set(), {}
    markdown = TERM_ROLE.sub(lambda role: f"⟦{role[1]}⟧", markdown)
    for line in prose(LINK.sub(lambda link: " " + "\n" * link[0].count("\n"), markdown)):
        if HEADING.match(line.text) or not CAPTIONED.isdisjoint(line.inside):
            continue
        for link, word in use.findall(NAMES.sub(" ", line.text)):
            if link:
                linked.add(link.strip().lower())
            elif word.lower() not in linked:
                early.setdefault(word.lower(), line.number)
    return early


def test_terms_are_linked_at_their_first_use(root):
    terms = [term for term in glossary_terms(root) if term not in UNLINKED_TERMS]
    assert len(terms) > 20
    missing = [
        f"{page}, line {number}: {term}"
        for page, text in chapters_and_pages(root).items()
        if page not in UNLINKED_PAGES and not page.startswith(API_PAGES)
        for term, number in unlinked(text, terms).items()
    ]
    assert not missing, "write {term}`...` where the page first uses these:\n" + "\n".join(missing)


def test_exceptions_are_in_the_glossary(root):
    assert set(UNLINKED_TERMS) <= set(glossary_terms(root))


@pytest.mark.parametrize(
    "markdown",
    [
        "A soup is made.",
        "Two Soups, then a {term}`soup`.",
        "Learned soups are no {term}`soups <soup>`.",
        "```{note}\nA soup.\n```",
        "- **Soup**: a model.",
        "A {term}`soup bench` holds every soup.",
    ],
)
def test_the_check_of_terms_finds(markdown):
    assert len(unlinked(markdown, ["learned soup", "soup bench", "soup"])) == 1


@pytest.mark.parametrize(
    "markdown",
    [
        "A {term}`soup`, then a soup.",
        "{term}`Soups <soup>` and soups.",
        "# A soup\n\n{term}`The soup <soup>` of a soup.",
        "`soup`, $soup$, [soup](soup.md), {glue:text}`soup:.2f`",
        "```{figure} soup.png\n:alt: a soup\n\nA soup.\n```",
        "```{exercise} A soup\n:label: ex-soup\n\nNothing.\n```",
        "Model soups {cite}`soups`, sub-soup, soupy",
        "```python\nsoup\n```",
    ],
)
def test_the_check_of_terms_lets_pass(markdown):
    assert unlinked(markdown, ["soup"]) == {}


@pytest.mark.parametrize(
    "markdown",
    [
        "A gain of 4 points.",
        "It is 3 percentage points better.",
        "Of all images 12% are wrong.",
        "| radin | 81% |",
        "On 10,000 test images.",
        "It takes 40 seconds.",
        "About 7 times as fast.",
        "A download of 170 MB",
        "All 95% of the soups.",
        "```{note}\nAll 1,023 soups.\n```",
        "```{exercise} Title\nOf 5 soups.\n```\n\nAnd 6 soups.",
        "```{solution-start} ex-a\n```\n\n5 soups.\n\n```{solution-end}\n```\n\n6 soups.",
    ],
)
def test_the_check_of_counts_finds(markdown):
    assert len(bare_counts(markdown)) == 1


@pytest.mark.parametrize(
    "markdown",
    [
        "A budget of 4, three times, half a point.",
        "A 95% interval, a paired 95% {term}`interval`.",
        "The shade holds the middle 90% of them.",
        "Images of 8 by 8 pixels, class 3, chapter 4.",
        "{glue:text}`gain:.0f` points, {glue:text}`share:.0f`% of images",
        "`take(500)` images and $100$ soups",
        "```text\n33 GB\n```",
        "```{exercise} T\nOf 500 images, 6 points.\n```\n````{solution} ex-a\n5 soups.\n````",
        "```{solution-start} ex-a\n:class: dropdown\n```\n\n5 soups.\n\n```{solution-end}\n```",
    ],
)
def test_the_check_of_counts_lets_pass(markdown):
    assert bare_counts(markdown) == []


HERE = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    "path", notebooks(HERE), ids=lambda path: f"{path.parent.parent.name}/{path.stem}"
)
def test_notebook_is_committed_clean(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3", (
        "papermill and Binder look for this kernel"
    )
    cells = notebook.cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not [cell.source for cell in code if cell.outputs or cell.execution_count], (
        "strip the outputs"
    )
    if (
        "assignments" not in path.parts
    ):  # a student's copy is graded as it is, and nobody reruns it with other values
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1


def test_there_are_notebooks_to_check(root):
    found = {path.relative_to(root / "notebooks").parts[:-2] for path in notebooks(root)}
    assert found == {(), ("assignments", "source"), ("assignments", "release")}
