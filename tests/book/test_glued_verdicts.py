"""What the chapters of the book glue: each verdict is what its own interval says.

Two pages that show the same interval can then not contradict each other, nor the ledger.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest

from radin.experiments.collection.plan import MARGIN_POINTS

PREFIX = "application/papermill.record/"
# Where the interval of a verdict is, compared with zero.
SIDES = {
    "ahead": 1,
    "holds": 1,
    "holds, within the margin": 1,
    "behind": -1,
    "turned round": -1,
    "turned round, within the margin": -1,
    "does not hold here": -1,
    "no clear difference": 0,
    "open": 0,
    "equal": 0,
}
EQUALITY = "claim_high"  # the ledger's claim that two recipes are equal holds within a margin
NUMBER = r"[+\-−]?\d+(?:\.\d+)?"
WRITTEN = re.compile(rf"\((?:95% interval )?(?P<low>{NUMBER}) to (?P<high>{NUMBER})\)")
ENDS = (("_low", "_high"), ("_from", "_to"))


def glued_values(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """What a notebook has glued, as text, by its key."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            text = output.get("data", {}).get(f"{PREFIX}text/plain")
            if name and text is not None:
                found[name] = str(ast.literal_eval(text) if text[:1] in "'\"" else text)
    return found


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def verdicts_with_ends(values: dict[str, str]) -> dict[str, tuple[str, float, float]]:
    """(verdict, low, high) of each verdict whose interval is glued with it.

    Verdicts in words of their own, such as "greedy is ahead", are left out.
    """
    found = {}
    for key, text in values.items():
        base = key.removesuffix("_verdict")
        written = WRITTEN.search(values.get(base, ""))
        ends = [written["low"], written["high"]] if written else []
        for low, high in ENDS:
            if base + low in values and base + high in values:
                ends = [values[base + low], values[base + high]]
        verdict = text if base != key else text.rpartition(": ")[2]  # the ledger's hold both
        if verdict in SIDES and ends and all(re.fullmatch(NUMBER, end) for end in ends):
            found[key] = (verdict, *map(number, ends))
    return found


def contradictions(values: dict[str, str]) -> list[str]:
    """The verdicts that their own intervals do not carry.

    An end that was written as zero may have been on either side of it.
    """
    found = []
    for key, (verdict, low, high) in verdicts_with_ends(values).items():
        if key.startswith(EQUALITY):
            inside = low >= -MARGIN_POINTS and high <= MARGIN_POINTS
            fits = (verdict == "holds") == inside
        else:
            fits = {1: low >= 0, -1: high <= 0, 0: low <= 0 <= high}[SIDES[verdict]]
        if not fits:
            found.append(f"{key}: {verdict!r} beside {low} to {high}")
    return found


def test_each_verdict_is_what_its_interval_says(book: Path):
    executed = sorted((book / "_sources" / "notebooks").glob("*.ipynb"))
    assert executed
    wrong, count = [], 0
    for path in executed:
        values = glued_values(nbformat.read(path, as_version=4))
        count += len(verdicts_with_ends(values))
        wrong += [f"{path.stem}, {each}" for each in contradictions(values)]
    assert not wrong, "\n".join(wrong)
    assert count > 60


@pytest.mark.parametrize(
    "values",
    [
        {"a": "+0.2 (−0.1 to +0.5)", "a_verdict": "ahead"},
        {"a": "0.2", "a_low": "0.1", "a_high": "0.3", "a_verdict": "open"},
        {"a_from": "-0.1", "a_to": "0.3", "a_verdict": "behind"},
        {"a": "+0.20 points (95% interval +0.10 to +0.30): does not hold here"},
        {"claim_high_a": "+0.20 points (95% interval −0.10 to +0.50): holds"},
    ],
)
def test_contradictions_are_found(values):
    assert len(contradictions(values)) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"a": "+0.2 (+0.1 to +0.5)", "a_verdict": "holds"},
        {"a": "0.2", "a_low": "-0.1", "a_high": "0.3", "a_verdict": "no clear difference"},
        {"a": "−0.20 points (95% interval −0.30 to −0.10): does not hold here"},
        {"a": "+0.01 (+0.00 to +0.02)", "a_verdict": "holds, within the margin"},
        {"other_verdict": "yes"},
        {"claim_high_a": "+0.02 points (95% interval −0.11 to +0.15): holds"},
    ],
)
def test_what_fits_is_let_pass(values):
    assert not contradictions(values)


def test_values_come_out_of_a_notebook_as_they_were_glued():
    outputs = [
        nbformat.v4.new_output(
            "display_data",
            data={f"{PREFIX}text/plain": text},
            metadata={"scrapbook": {"name": name, "mime_prefix": PREFIX}},
        )
        for name, text in (("number", "0.25"), ("text", "'ahead'"))
    ]
    cell = nbformat.v4.new_code_cell("", outputs=outputs)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert glued_values(notebook) == {"number": "0.25", "text": "ahead"}
