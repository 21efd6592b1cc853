"""The notebooks that `make rerun` kept: what made them, whether it has changed, what they say."""

from __future__ import annotations

import ast
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat

from fingerprint import data_fingerprint, fingerprint
from parameters import Parameters, declared_parameters

if TYPE_CHECKING:
    from torch import Tensor

KEY = "radin_rerun"  # where a kept notebook's metadata says what made it
UNFINISHED = ".unfinished.ipynb"
GLUED = "application/papermill.record/text/plain"


@dataclass(frozen=True)
class Run:
    """One kept run: all its parameters, and what its notebook recorded and glued."""

    parameters: Parameters
    answers: dict[
        str, tuple[str, dict[str, Tensor]]
    ]  # part: fingerprint of its labels, right answers by recipe
    numbers: dict[str, float]
    seconds: float


def kept_mark(path: Path) -> Parameters:
    """What made a kept notebook, and its seconds; empty for any other file."""
    try:
        return json.loads(path.read_text("utf-8"))["metadata"].get(KEY, {})
    except (OSError, ValueError, KeyError):
        return {}


def is_current(path: Path, wanted: Parameters) -> bool:
    """Whether a kept notebook was made with these parameters from the sources as they are."""
    kept = kept_mark(path)
    return all(kept.get(key) == value for key, value in wanted.items())


def read_runs(source: Path, folder: Path) -> tuple[list[Run], int]:
    """The runs of a chapter, each once, by their parameters; and how many are outdated."""
    if not folder.is_dir():
        return [], 0
    current, declared = fingerprint(source), declared_parameters(source)
    runs: dict[str, Run] = {}
    left_out = 0
    for path in sorted(folder.glob("*.ipynb")):
        kept = kept_mark(path)
        if path.name.endswith(UNFINISHED) or not kept:
            continue
        data = data_fingerprint(kept["parameters"])
        if (kept["fingerprint"], kept.get("data")) != (current, data):
            left_out += 1
            continue
        kept["parameters"] = {
            name: kept["parameters"][name] for name in declared
        }  # a notebook's file sorts them
        runs.setdefault(repr(kept["parameters"]), read_run(path, kept))
    return sorted(runs.values(), key=in_order), left_out


def in_order(run: Run) -> list[tuple[str, Any]]:
    """What sorts runs by their parameters, the first one first; values of two kinds apart."""
    return [(type(value).__name__, value) for value in run.parameters.values()]


def read_run(path: Path, kept: Parameters) -> Run:
    """Everything that a kept notebook recorded and glued."""
    from radin.experiments.notebook import RECORD_PREFIX, read_record

    answers, numbers = {}, {}
    for name, value in glued(nbformat.read(path, as_version=4)).items():
        if name.startswith(RECORD_PREFIX):
            answers[name.removeprefix(RECORD_PREFIX)] = read_record(value)
        elif type(value) in (int, float) and math.isfinite(value):
            numbers[name] = value
    return Run(kept["parameters"], answers, numbers, kept["seconds"])


def glued(notebook: Any) -> dict[str, Any]:
    """The plain values that a notebook's cells gave a name."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            text = output.get("data", {}).get(GLUED)
            if name and text:
                try:
                    found[name] = ast.literal_eval(text)
                except (ValueError, SyntaxError):  # nan, or a figure
                    continue
    return found
