"""What the explorer's recipes return, at every budget and for every seed: the page's own answers.

The page computes the same in `book/_static/explorer/explorer.js`. The words and numbers that do not
move, such as the answers to its three tasks, come from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import radin
from radin.experiments.bench import replay
from radin.ranking.named_metrics import NLL

CANDIDATES = {
    "cifar10": (10, 20, 50, 100, 200, 500, 1023),
    "cifar10-wild": (10, 20, 40, 60, 80, 100, 127),
}
NUM_SEEDS = 10
MAX_BUDGET = 30
LABELS = {  # of each recipe, in the order in which the page lists them
    "radin": "radin",
    "radin_nll": "radin by NLL",
    "safe": "safe",
    "greedy": "greedy",
    "random": "random",
    "uniform": "uniform",
    "best_single": "best single",
}
RECIPES = tuple(LABELS)
FIXED = ("greedy", "uniform", "best_single")  # the draw of candidates does not change them
ALL_DRAWS = "all"  # the value of the seed for the mean over all of them
# What the page shows before a control is moved, and what it shows without scripts.
START: dict[str, Any] = {
    "zoo": "cifar10",
    "budget": 4,
    "prior": 0.0,
    "candidates": 200,
    "seed": ALL_DRAWS,
    "recipes": ("radin", "safe", "greedy", "best_single"),
}


@cache
def load(zoo: str) -> radin.SoupBench:
    return radin.SoupBench.load(zoo)


def drawn_rows(zoo: str, candidates: int, seed: int) -> np.ndarray:
    """The rows of one draw of Monte Carlo candidates: (candidates,)."""
    return replay.monte_carlo_rows(load(zoo), candidates, seed)


@cache
def answers(zoo: str, prior: float, candidates: int) -> dict[str, np.ndarray]:
    """The row of the soup that each recipe returns: name to (NUM_SEEDS, MAX_BUDGET)."""
    bench = load(zoo)
    scores = -bench.ensembles("val", NLL).numpy()
    found: dict[str, list[Any]] = {recipe: [] for recipe in RECIPES}
    for seed in range(NUM_SEEDS):
        among = drawn_rows(zoo, candidates, seed)
        rows = {
            "radin": replay.radin(bench, MAX_BUDGET, prior, among=among),
            "radin_nll": replay.radin(bench, MAX_BUDGET, scores=scores, among=among),
            "safe": replay.safe(bench, MAX_BUDGET, among=among),
            "greedy": replay.greedy(bench, MAX_BUDGET),
            "random": replay.random(bench, MAX_BUDGET, seed, among=among),
            "uniform": np.full(MAX_BUDGET, replay.uniform(bench)),
            "best_single": np.full(MAX_BUDGET, replay.best_single(bench)),
        }
        for recipe in RECIPES:
            found[recipe].append(rows[recipe])
    return {recipe: np.array(rows) for recipe, rows in found.items()}


@dataclass(frozen=True)
class Spread:
    """A number over the draws of candidates: its mean, and the lowest and highest."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f}"

    @property
    def in_full(self) -> str:
        if self.low == self.high:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(zoo: str, rows: np.ndarray, part: str) -> Spread:
    """The accuracy of these soups on "val" or "test" in percent."""
    values = load(zoo).soups(part).numpy()[rows]
    return Spread(values.mean().item(), values.min().item(), values.max().item())


def returned(recipe: str, part: str = "test", **changes: Any) -> Spread:
    """The accuracy of what a recipe returns at the first settings, apart from these changes."""
    at = START | changes
    rows = answers(at["zoo"], at["prior"], at["candidates"])[recipe][:, at["budget"] - 1]
    return spread(at["zoo"], rows, part)


# ---------------------------------------------------------------- three guided tasks


@dataclass(frozen=True)
class Task:
    """A question that sets the controls, and its answer, which a reader unfolds afterwards."""

    title: str
    settings: dict[str, Any]
    ask: str
    tell: str


WILD: dict[str, Any] = {"zoo": "cifar10-wild", "candidates": 127}
# The zoo alone is changed: its slider of candidates stays where it is.
SWITCHED: dict[str, Any] = {
    "zoo": "cifar10-wild",
    "candidates": CANDIDATES["cifar10-wild"][CANDIDATES[START["zoo"]].index(START["candidates"])],
}
LESS_BUDGET = {"candidates": 1023, "budget": 4}
MORE_BUDGET = LESS_BUDGET | {"budget": 8}
LINK = "../notebooks/"  # from a page of the book and from a notebook alike


def tasks() -> list[Task]:
    """The tasks, with answers whose numbers are computed from the benches."""
    return [wild_task(), budget_task(), choice_task()]


def wild_task() -> Task:
    bench = load("cifar10-wild")
    ensembles, soups = (table.numpy() for table in (bench.ensembles("val"), bench.soups("val")))
    uniform = replay.uniform(bench)
    single = replay.best_single(bench)
    first = replay.order(bench)[0]
    place = replay.order(bench).tolist().index(single) + 1
    return Task(
        "Choose the wild zoo: why does RADIN lose?",
        START | WILD,
        "In this zoo the ingredients were fine-tuned with higher learning rates. RADIN ranks all "
        "subsets here, and yet its line stays below that of the best single ingredient. Look at "
        "the upper chart: which soups does RADIN evaluate, and which soups are accurate?",
        "The fast estimate is the accuracy of the ensemble, and ensembles are fine here: the "
        f"first in RADIN's ranking has {ensembles[first]:.2f}% on validation, that of all "
        f"ingredients {ensembles[uniform]:.2f}%. Their soups have {soups[first]:.2f}% and "
        f"{soups[uniform]:.2f}%. The weights are so far apart that averaging them is no longer "
        "like averaging outputs, and the more ingredients, the more is lost. One ingredient alone "
        f"loses nothing: the best has {soups[single]:.2f}%, more than any soup. But an ensemble of "
        f"one looks poor beside the others, so it is number {place} in the ranking. With "
        f"{START['budget']} evaluations RADIN returns {returned('radin', **WILD)}% on test, and "
        f"the best single ingredient has {returned('best_single', **WILD)}%. The recipe "
        "<em>safe</em> compares with that ingredient for free and returns "
        f'{returned("safe", **WILD)}%. <a href="{LINK}13_when_it_breaks.html">When it breaks</a> '
        "takes such zoos apart.",
    )


def budget_task() -> Task:
    before, after = (
        {part: returned("radin", part, **at) for part in ("val", "test")}
        for at in (LESS_BUDGET, MORE_BUDGET)
    )
    share = before["test"].mean / 100
    error = 100 * (share * (1 - share) / load("cifar10").test.num_images) ** 0.5
    return Task(
        "Raise the budget: why can it hurt?",
        START | MORE_BUDGET | {"recipes": ("radin", "best_single")},
        f"RADIN ranks all subsets, and the budget is now {MORE_BUDGET['budget']}. Move it down to "
        f"{LESS_BUDGET['budget']} and up again. What happens to RADIN on validation (in the "
        "table), and what on test? How can a recipe that has seen more choose worse?",
        f"With {LESS_BUDGET['budget']} evaluations the chosen soup has {before['val']}% on "
        f"validation and {before['test']}% on test; with {MORE_BUDGET['budget']} it has "
        f"{after['val']}% and {after['test']}%. More evaluations can only raise the best "
        "<em>validation</em> accuracy. But the winner of many close soups owes a part of its lead "
        "to the validation images that it happened to get right, and this luck does not carry "
        f"over to test. The step is small: one accuracy on test has a standard error of "
        f"{error:.2f} points. Choose fewer candidates, and the mean over the draws rises and "
        f'falls by chance as well. <a href="{LINK}08_many_zoos.html">The chapter on many zoos</a> '
        "measures this optimism.",
    )


def choice_task() -> Task:
    rows = "".join(
        f'<tr><th scope="row">{label}</th>'
        f"<td>{returned(recipe).in_full}</td>"
        f"<td>{returned(recipe, **SWITCHED).in_full}</td></tr>"
        for recipe, label in LABELS.items()
    )
    return Task(
        "Which recipe would you ship?",
        START | {"recipes": RECIPES},
        f"You have {START['budget']} evaluations, and you must decide before you see the test "
        "images. Choose a recipe by what this page shows. Then choose the zoo "
        "<em>cifar10-wild</em>: would you have been content there, too?",
        f"Mean test accuracy (%) with {START['budget']} evaluations, and the lowest and highest "
        f"of the {NUM_SEEDS} draws:"
        '<table><thead><tr><th scope="col">recipe</th>'
        + "".join(f'<th scope="col">{zoo}</th>' for zoo in CANDIDATES)
        + f"</tr></thead><tbody>{rows}</tbody></table>"
        "On the first zoo the soups are close together, and every recipe that averages is ahead "
        "of the best single ingredient. On the second one, averaging fails, and only recipes that "
        "fall back on the best ingredient keep its accuracy. You do not know which kind of zoo "
        "you have, so a free fallback is worth having. Two zoos are an example, not evidence: "
        f'<a href="{LINK}08_many_zoos.html">the chapter on many zoos</a> asks the same of a '
        f'planned collection, and <a href="../book/decide.html">the decision guide</a> follows it.',
    )
