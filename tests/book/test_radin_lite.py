"""The small `radin` of the page does what the module does: same answers, same choices, same errors.

book/_static/recipes/radin_lite.py and page_bench.py against radin, on random small banks with many
ties and on the shipped benches of the page.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import page_bench
import radin
import radin_lite
from radin.experiments.intervals import paired_interval
from radin.ranking.candidates import check_weights
from recipe_page import BENCHES, write_bench

RECIPES = ("radin", "greedy", "top_k")


@st.composite
def banks(draw: st.DrawFn) -> tuple[radin.LogitBank, radin_lite.LogitBank]:
    """One bank for each, in half precision, with ties between classes and between ingredients."""
    N = draw(st.integers(1, 5))
    n = draw(st.integers(1, 12))
    C = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([2, 5, 4000]))
    logits = (rng.integers(-steps, steps + 1, (N, n, C)) / 8).astype(np.float16)
    labels = rng.integers(0, C, n)
    module = radin.LogitBank(torch.from_numpy(logits), torch.from_numpy(labels))
    return module, radin_lite.LogitBank(logits, labels)


@st.composite
def accuracies(draw: st.DrawFn, rows: int) -> list[float]:
    """Values of all soups, few of them different."""
    return draw(st.lists(st.sampled_from([80.0, 82.5, 250 / 3]), min_size=rows, max_size=rows))


def looking_up(values: list[float]) -> Callable[[Any], float]:
    """An evaluator for both: the value of a subset by its bitmask."""
    return lambda weights: values[sum(2**k for k, w in enumerate(weights) if w > 0) - 1]


@given(banks())
def test_estimates_are_the_same(both):
    module, lite = both
    rows = radin.exhaustive(module.num_models)
    assert np.array_equal(radin_lite.exhaustive(module.num_models), rows.numpy())
    assert np.array_equal(lite.accuracies(), module.accuracies().numpy())
    found = radin_lite.fast_estimate(lite, rows.numpy())
    assert np.array_equal(found, radin.fast_estimate(module, rows).numpy())
    nll = radin_lite.fast_estimate(lite, rows.numpy(), metric="nll")
    assert nll == pytest.approx(radin.fast_estimate(module, rows, metric="nll").numpy(), abs=1e-9)


@given(banks(), st.integers(0, 1000))
def test_estimates_of_other_weights_are_the_same(both, seed):
    """Quarters have exact sums, so that a tie is a tie in both."""
    module, lite = both
    drawn = np.random.default_rng(seed).multinomial(
        4, np.ones(lite.num_models) / lite.num_models, 9
    )
    found = radin_lite.fast_estimate(lite, drawn / 4)
    assert np.array_equal(found, radin.fast_estimate(module, torch.from_numpy(drawn / 4)).numpy())


@given(banks(), st.sampled_from([0.0, 0.5, 3.0]), st.integers(1, 9), st.integers(0, 99))
def test_rankings_are_the_same(both, prior, top, seed):
    module, lite = both
    every = radin.exhaustive(module.num_models)
    drawn = every[np.random.default_rng(seed).integers(0, len(every), 12)]  # with repeats
    for rows in (every, drawn):
        expected = radin.rank(module, rows, prior=prior)
        found = radin_lite.rank(lite, rows.numpy(), prior=prior)
        assert found.order.tolist() == expected.order.tolist()
        assert np.array_equal(found.scores, expected.scores.numpy())
        first = radin_lite.rank(lite, rows.numpy(), prior=prior, top=top).order
        assert first.tolist() == radin.rank(module, rows, prior=prior, top=top).order.tolist()


@given(st.integers(1, 8), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_draws_are_the_same(N, M, seed):
    found = radin_lite.monte_carlo(N, M, seed=seed)
    assert np.array_equal(found, radin.monte_carlo(N, M, seed=seed).numpy())


def check_same_soup(found: radin_lite.Soup, expected: radin.Soup) -> None:
    assert found.weights == pytest.approx(expected.weights.numpy(), abs=1e-7)
    assert found.accuracy == expected.accuracy
    assert found.evaluations == expected.evaluations
    for lite, module in zip(found.trials, expected.trials, strict=True):
        assert lite.weights == pytest.approx(module.weights.numpy(), abs=1e-7)
        assert (lite.estimate, lite.value) == (module.estimate, module.value)
        assert lite.evaluated == module.evaluated


@given(st.data(), banks(), st.integers(1, 33))
def test_recipes_choose_the_same_soup(data, both, budget):
    module, lite = both
    evaluate = looking_up(data.draw(accuracies(2**lite.num_models - 1)))
    for recipe in RECIPES:
        check_same_soup(
            radin_lite.craft(lite, evaluate, budget, recipe),
            radin.craft(module, evaluate, budget, recipe),
        )


@given(st.data(), banks(), st.integers(1, 6), st.integers(0, 999))
def test_functions_are_run_by_the_same_rules(data, both, budget, seed):
    """One that looks, spends and returns at random, too much and nonsense included."""
    module, lite = both
    N = lite.num_models
    evaluate = looking_up(data.draw(accuracies(2**N - 1)))
    rows = radin.exhaustive(N).numpy()

    def any_recipe(bank: Any, ledger: Any) -> Any:
        dice = np.random.default_rng(seed)
        for _ in range(dice.integers(0, 7)):
            p = rows[dice.integers(len(rows))]
            if dice.random() < 0.3:
                ledger.look(p)
            else:
                ledger.spend(p)
        if dice.random() < 0.1:
            ledger.budget = 99
        assert ledger.left + ledger.spent == ledger.budget
        answers = [rows[dice.integers(len(rows))], [0.5] * N, None]
        return answers[dice.choice(3, p=[0.8, 0.1, 0.1])]

    results = []
    for craft, bank in ((radin.craft, module), (radin_lite.craft, lite)):
        try:
            results.append(craft(bank, evaluate, budget, any_recipe))
        except (radin.RadinError, radin_lite.RadinError) as error:
            results.append((type(error).__name__, str(error)))
    expected, found = results
    if isinstance(expected, tuple):
        assert found == expected
    else:
        check_same_soup(found, expected)


@pytest.mark.parametrize(
    "weights",
    [[0.5, 0.6], [1.5, -0.5], [np.nan, 1.0], [1.0], [], [[0.5, 0.5]], [1, 0], [0.25, 0.75]],
)
def test_weights_are_checked_in_the_same_words(weights):
    answers = []
    for check in (check_weights, radin_lite.check_weights):
        try:
            answers.append(check(weights, 2).tolist())
        except ValueError as error:
            answers.append(str(error))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("budget", [0, -1, 2.5])
def test_an_impossible_budget_is_refused(budget):
    bank = radin_lite.LogitBank(np.zeros((2, 3, 2)), np.zeros(3))
    with pytest.raises(radin_lite.ParameterError, match="budget must be a whole number"):
        radin_lite.craft(bank, lambda p: 50.0, budget)


def test_every_name_is_a_name_of_the_module():
    """What a recipe of the page may use is there in the module, with the same arguments."""
    public = [
        name
        for name, value in vars(radin_lite).items()
        if getattr(value, "__module__", "") == radin_lite.__name__ and name in radin.__all__
    ]
    assert {"craft", "exhaustive", "fast_estimate", "rank", "monte_carlo"} <= set(public)
    for name in ("craft", "exhaustive", "fast_estimate", "rank", "monte_carlo"):
        ours = inspect.signature(getattr(radin_lite, name)).parameters
        theirs = inspect.signature(getattr(radin, name)).parameters
        assert set(ours) <= set(theirs), name
        for argument in ours:
            assert ours[argument].default == theirs[argument].default, (name, argument)
            assert ours[argument].kind == theirs[argument].kind, (name, argument)


# ---------------------------------------------------------------- the benches of the page


@pytest.fixture(scope="module", params=BENCHES)
def benches(request, tmp_path_factory) -> tuple[radin.SoupBench, page_bench.SoupBench]:
    module = radin.SoupBench.load(request.param)
    path: Path = tmp_path_factory.mktemp("benches") / "bench.npz"
    write_bench(module, path)
    with path.open("rb") as file:
        return module, page_bench.SoupBench.read(file)


def test_a_bench_of_the_page_is_the_shipped_one(benches):
    module, lite = benches
    assert np.array_equal(lite.soup_val, module.soups("val").numpy())
    assert np.array_equal(lite.soup_test, module.soups("test").numpy())
    rows = module.candidates
    estimates = radin_lite.fast_estimate(lite.val, rows.numpy())
    assert np.array_equal(estimates, module.ensembles("val").numpy())
    dice = np.random.default_rng(0)
    for i, j in dice.integers(0, len(rows), (20, 2)):
        assert lite.row(rows[i].numpy()) == i
        assert lite.regret(rows[i].numpy()) == pytest.approx(module.regret(rows[i]), abs=1e-9)
        expected = paired_interval(*module.right("test", [int(i), int(j)]))
        found = lite.difference(rows[i].numpy(), rows[j].numpy())
        assert found == pytest.approx(expected, abs=1e-12)


def test_recipes_choose_the_same_soup_on_it(benches):
    module, lite = benches
    for recipe in RECIPES:
        for budget in (1, 4, 40):
            found = radin_lite.craft(lite.val, lite.evaluator(), budget, recipe)
            expected = radin.craft(module.val, module.evaluator(), budget, recipe)
            check_same_soup(found, expected)


def test_a_soup_off_the_grid_is_refused_in_the_same_words(benches):
    module, lite = benches
    weights = np.eye(lite.num_models)[0] * 0.75 + 0.25 / lite.num_models
    with pytest.raises(radin.errors.OffGridError) as theirs:
        module.row(weights)
    with pytest.raises(radin_lite.OffGridError) as ours:
        lite.row(weights)
    assert str(ours.value) == str(theirs.value)
