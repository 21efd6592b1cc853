"""Verdicts in the text come from cells, and each stands beside the interval that it is read from.

A verdict word that a hand typed beside an interval stays when a rerun moves the interval. A verdict
that is shown beside another difference, or that a second cell makes again, can contradict the
ledger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from prose import chapters_and_pages

ROLE = re.compile(r"\{glue:text\}`([^`]*)`")
ANY_ROLE = re.compile(r"\{[\w:]+\}`[^`]*`")
VERDICT_WORDS = re.compile(
    r"""\b(?: (?<!where\ it\ )(?:is|are|was|were)\ (?:ahead|behind|open|equal|better|worse)
        | ahead\ of | behind | holds | does\ not\ hold | turned\ round
        | no\ clear\ difference | clearly | beats?
        | significant(?:ly)? | outperforms? )\b""",
    re.VERBOSE | re.IGNORECASE,
)
# What a cell says of an interval: a verdict, or how many of something are on one side.
FROM_A_CELL = re.compile(r"_(?:verdict|ahead|behind|better|worse|open)$")
END_OF_INTERVAL = re.compile(r"_(?:low|from)$")
WHOLE_INTERVAL = re.compile(
    r"""glue\(\s*f?"(?P<key>[^"]+)",\s*(?:write_interval|written)\(""", re.VERBOSE
)  # `words` of the ledger adds the verdict itself
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z*{])|\n\s*\n|\n(?=- |\d+\. )")
# Verdicts whose name is not that of their difference.
DIFFERENCE_OF = {
    "digits_verdict": "digits_radin_gain",
    "digits_estimate_verdict": "digits_ahead",
    "cifar_rho_verdict": "cifar_rho_ahead",
    "claims_low_verdict": "claims_low-1",
}


def keys_in(text: str) -> list[tuple[str, str]]:
    """(notebook, key) of each glued value, in order; the notebook is empty on its own page."""
    found = []
    for role in ROLE.findall(text):
        notebook, _, rest = role.rpartition("::")
        found.append((Path(notebook).name, rest.split(":")[0].strip()))
    return found


def whole_intervals(root: Path) -> re.Pattern[str]:
    """The keys that are glued with their interval, as one text."""
    names = {"nothing"}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            names |= {match["key"] for match in WHOLE_INTERVAL.finditer(cell.source)}
    return re.compile("|".join(re.sub(r"\\\{.*?\\\}", r".+", re.escape(name)) for name in names))


def sentences(text: str) -> Iterator[str]:
    yield from (each for each in SENTENCE.split(text) if each.strip())


def typed_by_hand(text: str, whole: re.Pattern[str]) -> list[str]:
    """Sentences with an interval and a verdict word, but no verdict from a cell."""
    found = []
    for sentence in sentences(text):
        keys = [key for _, key in keys_in(sentence)]
        interval = any(END_OF_INTERVAL.search(key) or whole.fullmatch(key) for key in keys)
        if interval and not any(FROM_A_CELL.search(key) for key in keys):
            words = VERDICT_WORDS.findall(ANY_ROLE.sub(" ", sentence))
            found += [f"{word}: {' '.join(sentence.split())}" for word in words]
    return found


def apart_from_its_interval(text: str) -> list[str]:
    """Verdicts in a paragraph without a number of the same difference, from the same notebook."""
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\|)", text):
        shown = keys_in(paragraph)
        for notebook, key in shown:
            stem = DIFFERENCE_OF.get(key, key.removesuffix("_verdict"))
            numbers = {(notebook, stem + end) for end in ("", "_low", "_from", "_text")}
            if key.endswith("_verdict") and numbers.isdisjoint(shown):
                found.append(key)
    return found


def test_no_verdict_is_typed_by_hand(root):
    whole = whole_intervals(root)
    found = {page: typed_by_hand(text, whole) for page, text in chapters_and_pages(root).items()}
    assert {page: words for page, words in found.items() if words} == {}


def test_each_verdict_stands_beside_its_own_interval(root):
    pages = chapters_and_pages(root)
    shown = [key for text in pages.values() for _, key in keys_in(text) if key.endswith("_verdict")]
    assert len(shown) > 30
    assert set(DIFFERENCE_OF) <= set(shown)
    found = {page: apart_from_its_interval(text) for page, text in pages.items()}
    assert {page: keys for page, keys in found.items() if keys} == {}


def test_whole_intervals_are_known(root):
    whole = whole_intervals(root)
    for key in ("many_greedy_1", "claims_radin-single", "found_against_cifar10"):
        assert whole.fullmatch(key), key
    assert not whole.fullmatch("cifar_radin_test")


@pytest.mark.parametrize(
    "text",
    [
        "RADIN is ahead: {glue:text}`gain:+.1f` ({glue:text}`gain_low:+.1f` to 3).",
        "The difference is {glue:text}`all_of_it`, so\nRADIN outperforms greedy.",
        "- First.\n- There is no clear difference ({glue:text}`x.ipynb::gain_from:.1f`).",
        "The prior holds ({glue:text}`gain_low:+.1f`). {glue:text}`gain_verdict` is elsewhere.",
    ],
)
def test_the_check_of_words_finds(text):
    assert len(typed_by_hand(text, re.compile("all_of_it"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "That RADIN is ahead *{glue:text}`gain_verdict`*: {glue:text}`gain_low:+.1f` and more.",
        "It is {glue:text}`all_of_it`: ahead in {glue:text}`gain_ahead:d` and behind in two.",
        "RADIN is ahead of greedy, the paper says. The interval is {glue:text}`gain_low:.1f`.",
        "The mean is better than {glue:text}`mean:.1f`.",
    ],
)
def test_the_check_of_words_lets_pass(text):
    assert typed_by_hand(text, re.compile("all_of_it")) == []


@pytest.mark.parametrize(
    "text",
    [
        "{glue:text}`gain:.1f` ({glue:text}`loss_verdict`)",
        "{glue:text}`one.ipynb::gain:.1f` ({glue:text}`two.ipynb::gain_verdict`)",
        "{glue:text}`gain:.1f`\n\nIt is {glue:text}`gain_verdict`.",
        "- {glue:text}`gain:.1f`\n- {glue:text}`gain_verdict`",
    ],
)
def test_the_check_of_places_finds(text):
    assert len(apart_from_its_interval(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "{glue:text}`gain:.1f` ({glue:text}`gain_low:.1f`: {glue:text}`gain_verdict`)",
        "{glue:text}`a.ipynb::gain:.1f`, {glue:text}`a.ipynb::gain_verdict:s`",
    ],
)
def test_the_check_of_places_lets_pass(text):
    assert apart_from_its_interval(text) == []
