"""What assignment 3 asks for is what the collection of zoos supports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import radin
from radin.experiments.collection.analysis import HERE, summarise, zoo_effects
from radin.experiments.collection.plan import Contrast
from samples import source
from submissions import graded_cells


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    """The constants of the set-up of assignment 3."""
    setup = graded_cells(source("budget"))["setup"].source
    lines = [line for line in setup.splitlines() if line.startswith(("BUDGETS =", "TOLERANCE ="))]
    assert len(lines) == 2
    constants: dict[str, Any] = {}
    exec("\n".join(lines), constants)
    return constants


def against_greedy(recipe: str, budgets: tuple[int, ...]) -> Any:
    """A recipe minus greedy, the mean over the budgets, over all zoos of the collection."""
    table = radin.load_collection("recipes")
    effects = [zoo_effects(table, Contrast("", recipe, "greedy", budget)) for budget in budgets]
    mean = effects[0].assign(effect=np.mean([each.effect for each in effects], axis=0))
    return summarise(mean).loc[HERE]


def test_over_many_zoos_radin_with_a_fallback_reaches_greedy_and_radin_alone_does_not(rules):
    fallback = against_greedy("radin_fallback", rules["BUDGETS"])
    assert fallback.low > -rules["TOLERANCE"]
    alone = against_greedy("radin", rules["BUDGETS"])
    assert alone.high < -rules["TOLERANCE"]
