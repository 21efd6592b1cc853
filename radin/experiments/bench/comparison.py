"""Recipes side by side on soup benches: one call from functions to a table with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from radin.errors import MAX_SEED, ParameterError, check_integer, check_seed
from radin.experiments.bench.bench import SoupBench
from radin.experiments.collection.analysis import mean_interval
from radin.experiments.intervals import Interval, in_words, paired_interval
from radin.recipes.craft import craft, find_recipe
from radin.recipes.functions import RecipeFunction, name_of

if TYPE_CHECKING:
    import pandas as pd

Bench = SoupBench | str | Path
Compared = str | RecipeFunction | Mapping[str, Any]  # a name, a function, or options of craft


@dataclass(frozen=True)
class _Result:
    """What one recipe returned on one zoo with one budget."""

    evaluations: int
    size: int
    val: float
    test: float
    regret: float
    right: Tensor  # (n,) boolean, on the test images


def compare(
    benches: Bench | Sequence[Bench] | Mapping[str, Bench],
    recipes: Mapping[str, Compared] | Sequence[str | RecipeFunction],
    budgets: int | Sequence[int] = 4,
    *,
    against: str = "radin",
    sub_zoos: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Run recipes on soup benches and say how far each is ahead of one of them, with intervals.

    Args:
        benches: one bench, or several; a name such as "cifar10" or a file is loaded. Where a bench
            holds a sample of the soups, a recipe has the candidates of
            `SoupBench.candidates_for`, unless it brings its own.
        recipes: by the names of the table: a recipe of `radin.craft` by its name, a function of
            your own (see `radin.recipes.functions`), or a dictionary of options of `radin.craft`,
            such as {"recipe": "radin", "prior": 1.0}. Or a list of names and functions.
        budgets: B, one or several.
        against: the recipe that the others are compared with. It is added where it is missing.
        sub_zoos: run on all zoos of so many ingredients of each bench instead of the whole one.
        seed: of random choices; the k-th zoo takes `seed` + k.

    Returns:
        One row for each recipe and budget, with means over the zoos, where each bench counts the
        same: "evaluations" spent, "ingredients" of the soup, its accuracies "val (%)" and
        "test (%)", "regret", and test accuracy "minus RECIPE" that it is compared with, in points,
        with its 95% interval "low" to "high" and what that says, "verdict". "ahead (%)" and
        "behind (%)" are shares of the
        "zoos". "interval over" says what the sample is: "images" for one bench, whose ingredients
        are taken as they are, and "zoos" for several. Sub-zoos of one bench share ingredients and
        images, so they count as one zoo.

    Raises:
        ParameterError: an unknown recipe or option, no bench, or an impossible number.
        BankError: an unknown bench, or one without the soups' answers to single images.
        OffGridError: a recipe returns or evaluates a soup that the bench does not hold.

    >>> import radin
    >>> def better_half(bank, ledger):
    ...     better = bank.accuracies() > bank.accuracies().median()
    ...     return better / better.sum()
    >>> table = radin.compare("cifar10", {"mine": better_half, "greedy": "greedy"}, budgets=4)
    >>> table[["recipe", "test (%)", "minus radin", "low", "high"]].round(2)
       recipe  test (%)  minus radin   low  high
    0   radin     82.03          NaN   NaN   NaN
    1    mine     82.04         0.01 -0.38  0.40
    2  greedy     81.96        -0.07 -0.46  0.32
    """
    import pandas as pd

    opened = _open(benches)
    options = _options_by_name(recipes, against)
    numbers = [budgets] if isinstance(budgets, int) else list(budgets)
    numbers = [check_integer("budget", budget, minimum=1) for budget in numbers]
    seed = check_seed(seed)
    zoos = [list(_zoos_of(bench, sub_zoos)) for bench in opened]
    total = len(numbers) * len(options) * sum(map(len, zoos))
    table = []
    with tqdm(total=total, desc="recipes", delay=3, leave=False) as bar:

        def results_of(name: str, budget: int) -> list[list[_Result]]:
            """For each bench what the recipe returns on each of its zoos."""
            found = []
            for bench, members in zip(opened, zoos, strict=True):
                each = enumerate(members, start=seed)
                found.append(
                    [_run(bench, m, options[name], budget, k, bar.update) for k, m in each]
                )
            return found

        for budget in numbers:
            base = results_of(against, budget)
            for name in options:
                found = base if name == against else results_of(name, budget)
                table.append({"recipe": name, "budget": budget} | _row(found, base, against))
    return pd.DataFrame(table)


def _open(benches: Bench | Sequence[Bench] | Mapping[str, Bench]) -> list[SoupBench]:
    if isinstance(benches, SoupBench | str | Path):
        benches = [benches]
    each = list(benches.values() if isinstance(benches, Mapping) else benches)
    if not each:
        raise ParameterError("compare needs a bench; give one, such as 'cifar10'.")
    return [bench if isinstance(bench, SoupBench) else SoupBench.load(bench) for bench in each]


def _options_by_name(
    recipes: Mapping[str, Compared] | Sequence[str | RecipeFunction], against: str
) -> dict[str, dict[str, Any]]:
    """The options of `craft` by the name of the table; the one compared with comes first."""
    if isinstance(recipes, str) or callable(recipes):
        recipes = [recipes]
    if not isinstance(recipes, Mapping):
        names = [recipe if isinstance(recipe, str) else name_of(recipe) for recipe in recipes]
        if len(set(names)) < len(names):
            raise ParameterError(
                f"Two recipes have one name in {names}; give a dictionary from names to recipes."
            )
        recipes = dict(zip(names, recipes, strict=True))
    given = {against: against} | dict(recipes) if against not in recipes else dict(recipes)
    options = {
        name: dict(recipe) if isinstance(recipe, Mapping) else {"recipe": recipe}
        for name, recipe in given.items()
    }
    for each in options.values():  # before anything runs
        find_recipe(each.get("recipe", "radin"))
    return {against: options[against]} | options


def _zoos_of(bench: SoupBench, size: int | None) -> Iterator[tuple[int, ...]]:
    """The members of the zoos: all ingredients, or each choice of `size` of them."""
    if size is None:
        yield tuple(range(bench.num_models))
        return
    check_integer("sub_zoos", size, minimum=1)
    if not bench.is_complete:
        raise ParameterError(f"sub_zoos needs a bench that holds all soups, not {bench!r}.")
    if size > bench.num_models:
        raise ParameterError(
            f"sub_zoos must be at most {bench.num_models}, the ingredients of {bench!r}, "
            f"not {size}."
        )
    yield from combinations(range(bench.num_models), size)


def _run(
    whole: SoupBench,
    members: tuple[int, ...],
    options: dict[str, Any],
    budget: int,
    seed: int,
    done: Callable[[], Any],
) -> _Result:
    """One recipe on the zoo of some ingredients of a bench."""
    is_whole = len(members) == whole.num_models
    bench = whole if is_whole else whole.subset(members)
    defaults: dict[str, Any] = {"seed": seed % (MAX_SEED + 1)}
    defaults["candidates"] = bench.candidates_for(options.get("recipe", "radin"))
    soup = craft(bench.val, bench.evaluator("val"), budget, **(defaults | options))
    row = bench.row(soup.weights)
    done()
    return _Result(
        evaluations=soup.evaluations,
        size=len(soup.members),
        val=bench.soups("val")[row].item(),
        test=bench.soups("test")[row].item(),
        regret=bench.regret(soup.weights),
        right=bench.right("test", [row])[0],
    )


def _row(found: list[list[_Result]], base: list[list[_Result]], against: str) -> dict[str, Any]:
    """The means of one recipe, and its difference to the one that it is compared with.

    Each bench counts the same, however many sub-zoos it has.
    """
    pairs = [list(zip(*of_bench, strict=True)) for of_bench in zip(found, base, strict=True)]

    def share(is_so: Callable[[float], bool]) -> float:
        return 100 * _mean([_mean([is_so(a.test - b.test) for a, b in each]) for each in pairs])

    titles = {
        "evaluations": "evaluations",
        "ingredients": "size",
        "val (%)": "val",
        "test (%)": "test",
        "regret": "regret",
    }
    entry: dict[str, Any] = {
        title: _mean([_mean([getattr(each, name) for each in of_bench]) for of_bench in found])
        for title, name in titles.items()
    }
    if found is base:
        difference: Interval = (math.nan, math.nan, math.nan)
    elif len(found) == 1:
        difference = _over_images(found[0], base[0])
    else:
        leads = [_mean([a.test - b.test for a, b in each]) for each in pairs]
        difference = mean_interval(np.array(leads))
    entry |= dict(zip((f"minus {against}", "low", "high"), difference, strict=True))
    return entry | {
        "verdict": "" if found is base else in_words(difference),
        "ahead (%)": share(lambda lead: lead > 0),
        "behind (%)": share(lambda lead: lead < 0),
        "zoos": sum(map(len, found)),
        "interval over": "images" if len(found) == 1 else "zoos",
    }


def _over_images(found: list[_Result], base: list[_Result]) -> Interval:
    """The mean difference on the zoos of one bench; the images are the sample."""
    one, other = (torch.stack([each.right for each in results], 1) for results in (found, base))
    if len(found) == 1:
        return paired_interval(one[:, 0], other[:, 0])
    return paired_interval(one, other)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
