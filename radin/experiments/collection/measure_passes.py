"""What each recipe returns for a number of forward passes, and what a share of the images costs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radin.experiments.bench import replay
from radin.experiments.bench.bench import SoupBench
from radin.experiments.collection.make import MadeZoo
from radin.experiments.collection.measure import SHIPPED_DESIGN, Row
from radin.experiments.collection.passes import (
    NUM_RANDOM_SEEDS,
    NUM_SAMPLE_SEEDS,
    NUM_SOUPS,
    PASSES,
    SHARE,
)
from radin.inference.devices import single_thread
from radin.ranking.convex import convex
from radin.recipes.craft import craft
from radin.recipes.learned import learn, steps_within
from radin.recipes.rules import RaceRules, best_so_far, safe_choices

DIGITS = 4  # of what is kept
LEARNED_GRANULARITIES = {"learned": "ingredient", "learned_tensor": "tensor"}


@dataclass(frozen=True)
class Choice:
    """What a recipe returned, or the mean over draws.

    Attributes:
        val, test: accuracy in percent.
        size: ingredients.
        spent: forward passes over the validation images.
    """

    val: float
    test: float
    size: float
    spent: float


@dataclass(frozen=True)
class OffGrid:
    """A soup that is no subset: its accuracies in percent and its number of ingredients."""

    val: float
    test: float
    size: int


@dataclass(frozen=True)
class ShareLooks:
    """Soups in the order of a recipe, run on a share of the images.

    Attributes:
        values: (M,) estimated validation accuracy in percent.
        errors: (M,) standard errors in points; 0 where the soup was run on all images.
        costs: (M,) passes.
        share: of the images, as far as it has grown.
    """

    values: np.ndarray
    errors: np.ndarray
    costs: np.ndarray
    share: float

    def first(self, passes: float) -> ShareLooks:
        """As many of the soups as so many passes pay for."""
        return self.take(int((self.costs.cumsum() <= passes + 1e-9).sum()))

    def take(self, count: int) -> ShareLooks:
        """The first soups."""
        some = slice(count)
        return ShareLooks(self.values[some], self.errors[some], self.costs[some], self.share)


def share_looks(
    bench: SoupBench, rows: np.ndarray, *, share: float = SHARE, seed: int = 0
) -> ShareLooks:
    """Run soups on a share of the images, one after the other, as `radin.craft` does."""
    evaluate = bench.evaluator(share=share, seed=seed)
    partial = evaluate.partial
    assert partial is not None
    soups = [bench.candidates[int(row)] for row in rows]
    first = 0
    while first < len(rows) and partial.next_costs[0] != partial.next_costs[1]:
        evaluate(soups[first])  # until the share is known
        first += 1

    def look_up(which: Sequence[int], images: list[int] | None) -> torch.Tensor:
        chosen = [soups[first + k] for k in which]
        return evaluate.image_values(chosen, images, bank=bench.val)

    if first < len(rows):
        partial.evaluate(soups[first:], look_up)
    found = partial.evaluations
    return ShareLooks(
        np.clip([each.value for each in found], 0, 100),
        np.array([each.standard_error for each in found]),
        np.array([float(each.cost) for each in found]),
        partial.share,
    )


def pass_tables(
    zoo: str,
    design: str,
    bench: SoupBench,
    convex_soup: OffGrid | None = None,
    learned: Mapping[str, list[Choice]] | None = None,
) -> dict[str, list[Row]]:
    """The tables "passes", with one row for each recipe and number of passes, and "partial".

    Args:
        zoo: its name.
        design: its design.
        bench: all of its soups.
        convex_soup: None where it was not run; its recipes have no rows then.
        learned: what learned soups returned, by recipe, at each of `PASSES`.
    """
    shares = {
        "radin": ShareDraws(bench, replay.order(bench)),
        "safe": ShareDraws(bench, replay.safe_order(bench)),
    }
    choices = _on_all_images(bench) | {"race": _race(bench)}
    choices |= {f"{name}_share": _on_a_share(bench, name, each) for name, each in shares.items()}
    if convex_soup is not None:
        choices |= _with_convex(bench, convex_soup)
    choices |= learned or {}
    passes = [
        {"zoo": zoo, "design": design, "recipe": name, "budget": budget}
        | {key: round(float(value), DIGITS) for key, value in vars(choice).items()}
        for name, found in choices.items()
        for budget, choice in zip(PASSES, found, strict=True)
    ]
    partial = [
        {"zoo": zoo, "design": design, "recipe": name, **partial_facts(bench, name, each)}
        for name, each in shares.items()
    ]
    return {"passes": passes, "partial": partial}


def _on_all_images(bench: SoupBench) -> dict[str, list[Choice]]:
    """The recipes that run soups on all images, and those that need no budget."""
    most = max(PASSES)
    rules = RaceRules()
    num_raced = [rules.num_soups(budget) for budget in PASSES]
    several = int((bench.sizes > 1).sum())
    limits = {
        "radin": bench.num_soups,
        "radin_prior1": bench.num_soups,
        "safe": several,
        "safe_threshold1": several,
        "greedy": bench.num_models - 1,
        "top_k": bench.num_models - 1,
    }
    rows = {
        "radin": replay.radin(bench, most),
        "radin_prior1": replay.radin(bench, most, prior=1.0),
        "safe": replay.safe(bench, most),
        "safe_threshold1": replay.safe(bench, most, 1.0),
        "greedy": replay.greedy(bench, most),
        "top_k": replay.top_k(bench, most),
    }
    found = {
        name: [_choice(bench, [rows[name][b - 1]], min(b, limit)) for b in PASSES]
        for name, limit in limits.items()
    }
    raced = replay.safe(bench, max(num_raced))
    found["race_whole"] = [_choice(bench, [raced[m - 1]], min(m, several)) for m in num_raced]
    fixed = {"uniform": replay.uniform(bench), "best_single": replay.best_single(bench)}
    fixed["oracle"] = replay.oracle(bench)
    for name, row in fixed.items():
        found[name] = [_choice(bench, [row], float(name == "uniform"))] * len(PASSES)
    drawn = [replay.random(bench, most, seed) for seed in range(NUM_RANDOM_SEEDS)]
    found["random"] = [
        _choice(bench, [each[b - 1] for each in drawn], min(b, bench.num_soups)) for b in PASSES
    ]
    return found


def _choice(bench: SoupBench, rows: Sequence[int], spent: float) -> Choice:
    """The mean over the rows of a bench."""
    chosen = [int(row) for row in rows]
    val, test = (bench.soups(part)[chosen].mean().item() for part in ("val", "test"))
    return Choice(val, test, bench.sizes[chosen].double().mean().item(), spent)


class ShareDraws:
    """The first soups of an order, run on a share of the images, once for each draw of images.

    Args:
        bench: all soups.
        order: rows, the first to evaluate first.

    Attributes:
        rows: as many of them as the largest number of passes can pay for.
        draws: what each draw of images found.
    """

    def __init__(self, bench: SoupBench, order: np.ndarray) -> None:
        self.rows = order[: 2 + int(max(PASSES) / SHARE)]
        self.draws = [share_looks(bench, self.rows, seed=seed) for seed in range(NUM_SAMPLE_SEEDS)]


def _on_a_share(bench: SoupBench, recipe: str, share: ShareDraws) -> list[Choice]:
    """radin or safe on a share of the images: means over the draws."""
    return [
        _choice(
            bench,
            [choose(bench, recipe, share.rows, each.first(b).values) for each in share.draws],
            float(np.mean([each.first(b).costs.sum() for each in share.draws])),
        )
        for b in PASSES
    ]


def choose(bench: SoupBench, recipe: str, order: np.ndarray, values: np.ndarray) -> int:
    """The row that radin or safe returns when the first soups of its order have these values."""
    if recipe == "radin":
        return int(order[best_so_far(values)[-1]])
    single = replay.best_single(bench)
    known = [bench.val.accuracies().max().item(), *values]
    choice = safe_choices(known, lambda one, other: 0.0)[-1]
    return single if choice == 0 else int(order[choice - 1])


def _race(bench: SoupBench) -> list[Choice]:
    rows = replay.safe_order(bench)[: RaceRules().num_soups(max(PASSES))]
    candidates = bench.candidates[rows.tolist()]
    found = []
    for budget in PASSES:
        soups = [
            craft(bench.val, bench.evaluator(), budget, "race", candidates=candidates, seed=seed)
            for seed in range(NUM_SAMPLE_SEEDS)
        ]
        spent = float(np.mean([soup.forward_equivalents for soup in soups]))
        found.append(_choice(bench, [bench.row(soup.weights) for soup in soups], spent))
    return found


def _with_convex(bench: SoupBench, soup: OffGrid) -> dict[str, list[Choice]]:
    """The convex soup alone, and safe that evaluates it first."""
    rows = replay.safe_order(bench)[: max(PASSES)].tolist()
    single = replay.best_single(bench)
    looks = [_choice(bench, [row], 0) for row in (single, *rows)]
    alone = Choice(soup.val, soup.test, soup.size, 1)
    if soup.size > 1:  # one ingredient alone is the fallback already
        looks.insert(1, alone)
    found = []
    for budget in PASSES:
        tried = looks[: budget + 1]
        choice = safe_choices([look.val for look in tried], lambda one, other: 0.0)[-1]
        found.append(replace(tried[choice], spent=len(tried) - 1))
    return {"convex": [alone] * len(PASSES), "safe_convex": found}


def partial_facts(bench: SoupBench, recipe: str, share: ShareDraws) -> dict[str, float]:
    """How soups on a share of the images compare with the same soups on all images.

    Returns:
        Means over the draws: "same", in how many percent of the numbers of soups `NUM_SOUPS` the
        choice is the same; "as_good", where it has the same validation accuracy; "lost", points of
        test accuracy; "covered", percent of the 95% intervals that hold the accuracy on all images;
        "share" of the images, as far as it has grown; "cost", passes for each soup.
    """
    val, test = (bench.soups(part).numpy() for part in ("val", "test"))
    rows = share.rows[: max(NUM_SOUPS)]
    whole = val[rows]
    facts = []
    for draw in share.draws:
        looks = draw.take(len(rows))
        ours, theirs = (
            np.array([choose(bench, recipe, rows, values[:count]) for count in NUM_SOUPS])
            for values in (looks.values, whole)
        )
        some = looks.costs < 1
        held = np.abs(looks.values - whole)[some] <= 1.96 * looks.errors[some] + 1e-9
        facts.append(
            {
                "same": 100 * np.mean(ours == theirs),
                "as_good": 100 * np.mean(np.abs(val[ours] - val[theirs]) < 1e-9),
                "lost": np.mean(test[theirs] - test[ours]),
                "covered": 100 * np.mean(held) if some.any() else np.nan,
                "share": looks.share,
                "cost": looks.costs.mean(),
            }
        )
    return {key: _mean([fact[key] for fact in facts]) for key in facts[0]}


def _mean(values: list[float]) -> float:
    """The mean of those that are there: no interval is counted where all soups were run whole."""
    there = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(there)), DIGITS) if there else float("nan")


def measure_passes(zoo: MadeZoo, *, seconds: float = float("nan")) -> dict[str, list[Row]]:
    """All rows of one zoo, by table: "passes" and "partial".

    Args:
        zoo: of the collection.
        seconds: of processor time that making it took; not kept.
    """
    bench = zoo.bench()
    weights = convex(bench.val)
    val, test = zoo.accuracies(weights)[0].tolist()
    soup = OffGrid(val, test, int((weights > 0).sum()))
    return pass_tables(zoo.name, zoo.design.name, bench, soup, _learned(zoo, weights[0]))


def _learned(zoo: MadeZoo, start: Tensor) -> dict[str, list[Choice]]:
    """Learned soups by recipe, each with as many steps as each number of passes pays for."""
    split = zoo.splits["val"]
    found: dict[str, list[Choice]] = {name: [] for name in LEARNED_GRANULARITIES}
    with tempfile.TemporaryDirectory() as folder, single_thread():
        opened = zoo.open(Path(folder))
        for name, granularity in LEARNED_GRANULARITIES.items():
            for passes in PASSES:
                steps = steps_within(passes, len(split))
                soup = learn(
                    opened, split, steps, granularity=granularity, start=start, device="cpu"
                )
                val, test = zoo.accuracies_of(soup.state_dict())
                size = len(zoo.ingredients)
                found[name].append(Choice(val, test, size, soup.forward_equivalents))
    return found


def measure_passes_shipped(name: str) -> dict[str, list[Row]]:
    """The rows of a bench that comes with the module, without convex and learned soups."""
    return pass_tables(name, SHIPPED_DESIGN, SoupBench.load(name))
