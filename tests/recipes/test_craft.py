"""radin/recipes/craft.py: recipes spend what they may, and choose what they should."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import radin
from helpers import (
    build,
    exact_accuracy,
    mixing_weights,
    random_bank,
    save_states,
    state,
    tied_banks,
    tiny_split,
    tiny_zoo,
)
from radin import (
    RECIPES,
    LogitBank,
    Soup,
    SoupBench,
    Trial,
    Zoo,
    convex,
    craft,
    evaluator,
    exhaustive,
    fast_estimate,
    monte_carlo,
    predict,
    rank,
)
from radin.errors import ParameterError
from radin.inference.evaluate import LiveEvaluator
from radin.recipes.learned import (
    BATCH_SIZE,
    LIVE_RECIPES,
    learn,
    steps_within,
    training_cost,
)
from radin.recipes.selection import JUDGED
from radin.recipes.trust import checks_of_trials
from radin.recipes.trust_report import Trust
from radin.soup.average import average_by_tensor

SPENDERS = ("radin", "random", "greedy")


class Counting:
    """An evaluator that keeps its arguments and returns `answer(number of the call, weights)`."""

    def __init__(self, answer: Callable[[int, Tensor], float]) -> None:
        self.answer = answer
        self.asked: list[Tensor] = []

    def __call__(self, weights: Tensor) -> float:
        self.asked.append(weights.clone())
        answer = self.answer(len(self.asked), weights)
        weights.fill_(-7)  # a careless evaluator
        return answer


ANSWERS: dict[str, Callable[[int, Tensor], float]] = {
    "always the same": lambda call, weights: 50.0,
    "ever better": lambda call, weights: min(100.0, float(call)),
    "ever worse": lambda call, weights: max(0.0, 100.0 - call),
    "none is right": lambda call, weights: 0.0,
    "all are right": lambda call, weights: 100.0,
    "by the weights": lambda call, weights: 100 * weights.max().item(),
}


@given(
    bank=tied_banks(),
    recipe=st.sampled_from(sorted(RECIPES)),
    budget=st.integers(1, 40),
    answer=st.sampled_from(sorted(ANSWERS)),
    prior=st.sampled_from([0, 1, 50]),
    seed=st.integers(0, 5),
    data=st.data(),
)
@settings(max_examples=150)
def test_the_ledger_is_kept(bank, recipe, budget, answer, prior, seed, data):
    evaluate = Counting(ANSWERS[answer])
    rows = st.lists(mixing_weights(bank.num_models), min_size=1, max_size=8).map(torch.stack)
    candidates = data.draw(st.one_of(st.none(), rows))
    soup = craft(bank, evaluate, budget, recipe, candidates=candidates, prior=prior, seed=seed)

    assert len(evaluate.asked) <= budget
    assert soup.evaluations == len(evaluate.asked) == sum(trial.evaluated for trial in soup.trials)
    assert soup.forward_equivalents == soup.evaluations
    paid = [trial for trial in soup.trials if trial.evaluated]
    for call, (trial, asked) in enumerate(zip(paid, evaluate.asked, strict=True), start=1):
        assert torch.equal(trial.weights, asked)
        assert trial.accuracy == ANSWERS[answer](call, asked)
    for trial in soup.trials:
        assert trial.weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert trial.weights.min() >= 0
        assert trial.estimate == pytest.approx(float(exact_accuracy(bank, trial.weights)), abs=1e-9)
        if not trial.evaluated:
            assert trial.accuracy == trial.estimate
    assert any(
        torch.equal(soup.weights, t.weights) and soup.accuracy == t.accuracy for t in soup.trials
    )
    assert soup.members == [k for k, weight in enumerate(soup.weights.tolist()) if weight > 0]
    if recipe in ("radin", "random"):
        exist = (
            len(set(map(tuple, candidates.tolist())))
            if candidates is not None
            else 2**bank.num_models - 1
        )
        assert soup.evaluations == min(budget, exist)
        assert soup.accuracy == max(trial.accuracy for trial in soup.trials)


@given(
    bank=tied_banks(),
    recipe=st.sampled_from(sorted(RECIPES)),
    seed=st.integers(0, 5),
    budget=st.integers(1, 6),
)
@settings(max_examples=60)
def test_the_same_seed_gives_the_same_soup(bank, recipe, seed, budget):
    one, other = (
        craft(bank, Counting(ANSWERS["by the weights"]), budget, recipe, seed=seed)
        for _ in range(2)
    )
    assert torch.equal(one.weights, other.weights)
    assert one.accuracy == other.accuracy
    assert [trial.weights.tolist() for trial in one.trials] == [
        trial.weights.tolist() for trial in other.trials
    ]


def test_another_seed_gives_another_draw():
    drawn = [
        craft(random_bank(5), lambda weights: 1.0, 4, "random", seed=seed).trials
        for seed in range(5)
    ]
    assert len({str([trial.weights.tolist() for trial in trials]) for trials in drawn}) == 5


@given(
    order=st.permutations(range(3)),
    recipe=st.sampled_from(["radin", "greedy", "uniform", "best_single", "ensemble"]),
    seed=st.integers(0, 40),
    budget=st.integers(1, 4),
)
@settings(max_examples=30)
def test_permuting_the_ingredients_permutes_the_weights(order, recipe, seed, budget):
    bank = random_bank(3, 400, seed=seed)
    estimates = rank(bank, exhaustive(3)).estimates
    assume(len(set(estimates.tolist())) == 7)  # ties are broken by bitmask, which is no invariant
    worth = torch.tensor([0.2, 0.5, 0.7])
    permuted = LogitBank(bank.logits[list(order)], bank.labels)
    there = craft(bank, lambda weights: 90 * float(weights @ worth), budget, recipe)
    back = craft(permuted, lambda weights: 90 * float(weights @ worth[list(order)]), budget, recipe)
    assert torch.equal(there.weights[list(order)], back.weights)
    assert there.accuracy == pytest.approx(back.accuracy)


@given(bank=tied_banks(), prior=st.sampled_from([0, 1, 50]), budget=st.integers(1, 10))
@settings(max_examples=50)
def test_radin_evaluates_the_head_of_the_ranking(bank, prior, budget):
    candidates = exhaustive(bank.num_models)
    soup = craft(bank, lambda weights: 100 * float(weights[0]), budget, prior=prior)
    head = candidates[rank(bank, candidates, prior).order[:budget]]
    assert torch.equal(torch.stack([trial.weights for trial in soup.trials]), head)
    assert torch.equal(soup.weights, head[head[:, 0].argmax()])  # the better ranked of equals


def test_a_single_ingredient_is_free_where_the_bank_answers_for_it():
    """The first of the ranking is an ingredient, which the paper pays for and the bank holds."""
    bank = bank_with_accuracies(6, 5)
    asked = []

    def evaluate(weights):
        asked.append(weights.tolist())
        return 60.0

    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    soup = craft(bank, evaluate, 1, candidates=candidates)
    assert asked == [[1.0, 0.0]]
    asked.clear()
    soup = craft(bank, evaluate, 1, candidates=candidates, free_singles=True)
    assert asked == [[0.25, 0.75]]
    assert [trial.evaluated for trial in soup.trials] == [False, False, True]
    assert soup.evaluations == 1
    assert soup.weights.tolist() == [1.0, 0.0]  # of equals the better ranked one
    alone = craft(bank, evaluate, 3, candidates=candidates[:2], free_singles=True)
    assert alone.evaluations == 0
    assert "needs no evaluation" in alone.note


def bank_with_accuracies(*right: int) -> LogitBank:
    """Ten images of class 0; ingredient k has the first right[k] of them right."""
    logits = torch.zeros(len(right), 10, 2)
    for k, count in enumerate(right):
        logits[k, :count, 0] = logits[k, count:, 1] = 1
    return LogitBank(logits, torch.zeros(10, dtype=torch.int64))


def members(soup: Soup) -> list[list[int]]:
    return [(trial.weights > 0).nonzero().flatten().tolist() for trial in soup.trials]


def test_greedy_by_hand():
    """Order by accuracy is 2, 0, 3, 1: 0 helps, 3 harms and goes, 1 does no harm and stays."""
    worth = {(0, 2): 75.0, (0, 2, 3): 74.0, (0, 1, 2): 75.0}
    bank = bank_with_accuracies(6, 4, 7, 5)
    soup = craft(bank, lambda w: worth[tuple((w > 0).nonzero().flatten().tolist())], 10, "greedy")
    assert members(soup) == [[2], [0, 2], [0, 2, 3], [0, 1, 2]]
    assert [trial.evaluated for trial in soup.trials] == [False, True, True, True]
    assert soup.members == [0, 1, 2]
    assert (soup.accuracy, soup.evaluations) == (75.0, 3)
    cut = craft(bank, lambda w: worth[tuple((w > 0).nonzero().flatten().tolist())], 2, "greedy")
    assert members(cut) == [[2], [0, 2], [0, 2, 3]]
    assert cut.members == [0, 2]


def test_greedy_keeps_its_best_single_when_all_additions_harm():
    soup = craft(bank_with_accuracies(6, 4, 7, 5), lambda weights: 69.9, 10, "greedy")
    assert (soup.members, soup.accuracy, soup.evaluations) == ([2], 70.0, 3)


@pytest.mark.parametrize("num_images", [3, 6, 7, 11, 20, 29, 50, 100, 300, 500, 747])
def test_greedy_keeps_an_addition_that_changes_nothing(tmp_path, num_images):
    """Ingredients that agree on every image: all soups are equally accurate, so none does harm."""
    last = {"3.weight": 1.0, "3.bias": 1.0}
    states = [
        {key: (1 + k / 8) * t if key in last else t for key, t in state(0).items()}
        for k in range(3)
    ]
    zoo, split = (
        Zoo.open(save_states(tmp_path, *states), build, progress=False),
        tiny_split(num_images),
    )
    bank = predict(zoo, split, device="cpu", cache=False, progress=False)
    assert bank.logits.argmax(-1).unique(dim=0).shape[0] == 1
    soup = craft(bank, evaluator(zoo, split, device="cpu"), 2, "greedy")
    assert soup.members == [0, 1, 2]


def test_uniform_best_single_and_ensemble():
    bank = bank_with_accuracies(6, 4, 7, 5)
    uniform = craft(bank, lambda weights: 42.0, 1, "uniform")
    assert uniform.weights.tolist() == [0.25] * 4
    assert (uniform.accuracy, uniform.evaluations) == (42.0, 1)
    single = craft(bank, lambda weights: 42.0, 1, "best_single")
    assert single.weights.tolist() == [0, 0, 1, 0]
    assert (single.accuracy, single.evaluations) == (70.0, 0)
    ensemble = craft(bank, lambda weights: 42.0, 1, "ensemble")
    assert ensemble.weights.tolist() == [0.25] * 4
    assert ensemble.evaluations == 0
    assert ensemble.accuracy == float(exact_accuracy(bank, ensemble.weights))
    assert "not a soup" in ensemble.note


def test_all_recipes_agree_on_a_zoo_of_one():
    bank = bank_with_accuracies(6)
    for recipe in RECIPES:
        soup = craft(bank, lambda weights: 60.0, 3, recipe)
        assert (soup.weights.tolist(), soup.accuracy) == ([1.0], 60.0), recipe


def test_a_large_zoo_gets_monte_carlo_candidates():
    bank = random_bank(16, 10)
    soup = craft(bank, lambda weights: 50.0, 3)
    drawn = monte_carlo(16, 2**13 - 1, seed=0)
    assert torch.equal(
        torch.stack([t.weights for t in soup.trials]), drawn[rank(bank, drawn).order[:3]]
    )


@pytest.mark.parametrize("recipe", [*SPENDERS, "uniform", "best_single"])
def test_a_note_names_a_budget_beyond_use(recipe):
    soup = craft(random_bank(3), lambda weights: 50.0, 50, recipe)
    assert soup.budget == 50
    assert f"{50 - soup.evaluations} of the budget" in soup.note
    assert soup.note in str(soup)


@pytest.mark.parametrize("recipe", SPENDERS)
def test_a_budget_in_use_needs_no_note(recipe):
    soup = craft(random_bank(3), lambda weights: 50.0, 2, recipe)
    assert soup.note == ""
    assert "2 of 2 evaluations" in str(soup)


def never(weights: Tensor) -> float:
    raise AssertionError("nothing may be evaluated")


@pytest.mark.parametrize("budget", [0, -1, 1.5, 2.0, True, "4", None, float("nan")])
@pytest.mark.parametrize("recipe", sorted(RECIPES | LIVE_RECIPES))
def test_impossible_budgets(budget, recipe):
    with pytest.raises(ParameterError, match="budget must be a whole number of at least 1, not"):
        craft(random_bank(), never, budget, recipe)


@pytest.mark.parametrize("recipe", ["Radin", "", None, 3])
def test_unknown_recipes(recipe):
    with pytest.raises(
        ParameterError, match="Unknown recipe .* choose one of radin, safe, greedy, top_k"
    ):
        craft(random_bank(), never, 1, recipe)


@pytest.mark.parametrize("prior", [float("nan"), "x", -1, None])
@pytest.mark.parametrize("recipe", sorted(RECIPES | LIVE_RECIPES))
def test_impossible_priors(prior, recipe):
    with pytest.raises(ParameterError, match="prior"):
        craft(random_bank(), never, 1, recipe, prior=prior)


@pytest.mark.parametrize("recipe", sorted(RECIPES | LIVE_RECIPES))
def test_candidates_of_another_zoo(recipe):
    with pytest.raises(ParameterError, match=r"shape \(M, 3\).*\(15, 4\)"):
        craft(random_bank(3), never, 1, recipe, candidates=exhaustive(4))


@pytest.mark.parametrize("seed", [-1, 1.5, "x"])
def test_seeds_that_are_none(seed):
    with pytest.raises(ParameterError, match="seed"):
        craft(random_bank(3), never, 1, "random", seed=seed)


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -0.1, 100.1, None, "x"])
@pytest.mark.parametrize("recipe", [*SPENDERS, "uniform"])
def test_an_evaluation_that_is_no_accuracy(answer, recipe):
    with pytest.raises(ParameterError, match="must return an accuracy in percent"):
        craft(random_bank(), lambda weights: answer, 2, recipe)


def test_numpy_budgets_are_budgets():
    soup = craft(random_bank(), lambda weights: np.float32(50), np.int64(2))
    assert (soup.budget, soup.accuracy) == (2, 50.0)
    assert craft(random_bank(), lambda weights: torch.tensor(50), 1).accuracy == 50.0


# Recipes that need the networks ------------------------------------------------------------------

NUM_IMAGES = 100


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def bank(zoo) -> LogitBank:
    return predict(zoo, tiny_split(NUM_IMAGES), device="cpu", cache=False, progress=False)


def test_no_recipe_is_of_both_kinds():
    assert LIVE_RECIPES
    assert not set(RECIPES) & set(LIVE_RECIPES)


@given(budget=st.integers(1, 12), batch_size=st.integers(1, 150), seed=st.integers(0, 3))
@settings(max_examples=15)
def test_learned_keeps_its_budget(zoo, bank, budget, batch_size, seed):
    evaluate = evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu", batch_size=batch_size)
    soup = craft(bank, evaluate, budget, "learned", seed=seed)
    assert soup.evaluations == len(soup.trials) == 1
    assert soup.accuracy == evaluate(soup.weights)
    assert soup.weights.sum().item() == pytest.approx(1, abs=1e-6)
    assert soup.forward_equivalents <= budget
    size = min(batch_size, BATCH_SIZE)
    steps = next(k for k in range(10_000) if training_cost(k + 1, NUM_IMAGES, size) > budget - 1)
    assert soup.forward_equivalents == pytest.approx(
        1 + float(training_cost(steps, NUM_IMAGES, size))
    )
    if steps == 0:
        assert soup.weights.tolist() == pytest.approx([1 / 3] * 3)
        assert "too small a budget for one gradient step" in soup.note
        return
    found = learn(zoo, evaluate.split, steps, batch_size=size, seed=seed, device="cpu")
    assert torch.equal(soup.weights, found.weights)
    assert "on training" in str(soup)
    assert "too small" not in soup.note


@pytest.mark.parametrize("granularity", ["block", "tensor"])
def test_a_soup_learned_part_by_part(zoo, bank, granularity):
    evaluate = evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu")
    soup = craft(bank, evaluate, 7, "learned", granularity=granularity)
    assert soup.tensor_weights is not None
    assert soup.tensor_weights["1.weight"].tolist() != soup.tensor_weights["3.weight"].tolist()
    same_block = torch.equal(soup.tensor_weights["1.weight"], soup.tensor_weights["1.bias"])
    assert same_block == (granularity == "block")
    assert soup.accuracy == evaluate(average_by_tensor(zoo, soup.tensor_weights))
    parts = {"block": ["1.bias", "3.bias"], "tensor": list(soup.tensor_weights)}[granularity]
    mean = torch.stack([soup.tensor_weights[key] for key in parts]).mean(0)
    torch.testing.assert_close(soup.weights, mean)
    assert soup.forward_equivalents == 7
    whole = craft(bank, evaluate, 7, "learned")
    assert whole.tensor_weights is None


def test_the_average_by_tensor_needs_weights_for_each(zoo):
    with pytest.raises(ParameterError, match="no mixing weights for 1.bias, 1.weight"):
        average_by_tensor(zoo, {"3.weight": torch.ones(3) / 3, "3.bias": torch.ones(3) / 3})


def test_learned_starts_from_the_convex_point(zoo, bank):
    evaluate = evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu", batch_size=32)
    (start,) = convex(bank)
    assert not torch.allclose(start, torch.full((3,), 1 / 3).double(), atol=0.05)
    soup = craft(bank, evaluate, 1, "learned", start="convex")
    assert torch.equal(soup.weights, start)
    assert "so this is the convex soup; 2 is enough" in soup.note
    stepped = craft(bank, evaluate, 4, "learned", start="convex")
    found = learn(zoo, evaluate.split, 4, start=start, device="cpu")
    assert torch.equal(stepped.weights, found.weights)


@given(budget=st.integers(1, 12), holdout=st.sampled_from([0.01, 0.2, 0.5]))
@settings(max_examples=10, deadline=None)
def test_images_held_out_are_paid_for(zoo, bank, budget, holdout):
    evaluate = evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu", batch_size=10)
    soup = craft(bank, evaluate, budget, "learned", holdout=holdout)
    held_out = round(holdout * NUM_IMAGES)
    steps = steps_within(budget - 1, NUM_IMAGES, 10, held_out)
    if steps == 0:
        assert soup.forward_equivalents == 1
        return
    found = learn(zoo, evaluate.split, steps, holdout=holdout, batch_size=10, device="cpu")
    assert torch.equal(soup.weights, found.weights)
    cost = training_cost(len(found.losses), NUM_IMAGES, 10, held_out)
    assert soup.forward_equivalents == float(1 + cost) <= budget
    assert ("learning stopped after" in soup.note) == (len(found.losses) < steps)


def test_impossible_options_of_learned(bank):
    for name, value in (("granularity", "layer"), ("start", "greedy"), ("holdout", 1)):
        with pytest.raises(ParameterError, match=f"{name} must be"):
            craft(bank, never, 3, **{name: value})


def test_the_seconds_of_evaluations(zoo, bank, monkeypatch):
    """Those of soups that are run together are shared; what the bank answers takes none."""
    clock = iter([100.0, 106.0])
    monkeypatch.setattr("radin.recipes.ledger.time.perf_counter", lambda: next(clock))
    soup = craft(bank, evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu"), 3, "safe")
    assert [trial.seconds for trial in soup.trials] == [0, 2, 2, 2]
    assert soup.seconds == 6


def test_the_budget_that_a_note_asks_for_is_enough(zoo, bank):
    evaluate = evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu", batch_size=BATCH_SIZE)
    assert "; 2 is enough" in craft(bank, evaluate, 1, "learned").note
    assert craft(bank, evaluate, 2, "learned").note == ""


def test_a_zoo_of_one_needs_no_learning(tmp_path):
    zoo, split = tiny_zoo(tmp_path, 1), tiny_split()
    bank = predict(zoo, split, device="cpu", cache=False, progress=False)
    soup = craft(bank, evaluator(zoo, split, device="cpu"), 9, "learned")
    assert (soup.weights.tolist(), soup.accuracy) == ([1.0], bank.accuracies().item())
    assert (soup.evaluations, soup.forward_equivalents) == (1, 1.0)
    assert "8 of the budget are left" in soup.note


@pytest.mark.parametrize("recipe", sorted(LIVE_RECIPES))
def test_live_recipes_say_that_a_look_up_is_not_enough(zoo, bank, recipe):
    bench = SoupBench.build(
        zoo, tiny_split(), tiny_split(part="test"), device="cpu", cache=False, progress=False
    )
    for evaluate, its_bank in ((bench.evaluator("val"), bench.val), (never, bank)):
        with pytest.raises(
            ParameterError, match=r"real networks and images.*radin\.evaluator\(zoo, split\)"
        ):
            craft(its_bank, evaluate, 5, recipe)


@pytest.mark.parametrize("recipe", sorted(LIVE_RECIPES))
def test_live_recipes_refuse_a_bank_of_something_else(zoo, recipe):
    evaluate = evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu")
    for other in (random_bank(4, NUM_IMAGES), random_bank(3, 7)):
        with pytest.raises(
            ParameterError, match=f"The bank holds .* evaluate has 3 and {NUM_IMAGES}"
        ):
            craft(other, evaluate, 5, recipe)


def test_learned_on_a_counting_evaluator(zoo, bank):
    """Anything with the attributes of a live evaluator will do; it is called once."""
    evaluate = Counting(ANSWERS["always the same"])
    evaluate.zoo = zoo
    evaluate.split = tiny_split(NUM_IMAGES)
    with pytest.raises(ParameterError, match="real networks and images"):
        craft(bank, evaluate, 3, "learned")
    evaluate.device = torch.device("cpu")
    evaluate.batch_size = 32
    evaluate.refresh = None
    evaluate.many = lambda soups: [evaluate(soup) for soup in soups]
    assert isinstance(evaluate, LiveEvaluator)
    soup = craft(bank, evaluate, 3, "learned")
    assert len(evaluate.asked) == soup.evaluations == 1
    assert soup.accuracy == 50.0


def test_which_evaluators_are_live(zoo):
    split = tiny_split(NUM_IMAGES)
    assert isinstance(evaluator(zoo, split, device="cpu"), LiveEvaluator)
    bench = SoupBench.load("cifar10")
    for other in (bench.evaluator(), never, Counting(ANSWERS["always the same"])):
        assert not isinstance(other, LiveEvaluator)


@pytest.mark.parametrize(
    ("value", "recipe", "message"),
    [
        (1.0, "radin", "must be True or False, not 1.0"),
        ("no", "radin", "must be True or False, not 'no'"),
        (True, "greedy", "is for the recipe radin, not for greedy"),
        (True, "safe", "is for the recipe radin, not for safe"),
    ],
)
def test_free_singles_are_true_or_false_and_of_radin(value, recipe, message):
    with pytest.raises(ParameterError, match=message):
        craft(random_bank(3), lambda weights: 0.0, 2, recipe, free_singles=value)


# Trust --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - set(JUDGED)))
def test_who_does_not_rank_needs_no_trust(recipe):
    soup = craft(random_bank(3), lambda weights: 0.0, 2, recipe)
    assert soup.trust is None
    assert "trust" not in str(soup)


@pytest.mark.parametrize("recipe", JUDGED)
def test_who_ranks_is_judged_by_its_evaluated_soups(recipe):
    bank = random_bank(3)
    soup = craft(bank, lambda weights: 40.0, 3, recipe)
    assert soup.trust is not None
    soups = [trial for trial in soup.trials if (trial.weights > 0).sum() > 1]
    apart = [trial.estimate - trial.value for trial in soups]
    (check,) = [each for each in soup.trust.checks if "less accuracy over" in each.name]
    assert check.value == pytest.approx(sum(apart) / len(apart))


def test_learned_needs_no_trust(zoo, bank):
    soup = craft(bank, evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu"), 1, "learned")
    assert soup.trust is None
    assert "trust" not in str(soup)


def test_the_short_report_reads_no_checkpoint(zoo, bank, monkeypatch):
    """It is made of the trials alone, once, and is part of the record."""
    evaluate = evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu")
    rows = exhaustive(3)
    monkeypatch.setattr(Zoo, "__getitem__", lambda *_: pytest.fail("a checkpoint was read"))
    monkeypatch.setattr(type(evaluate), "many", lambda self, soups: [50.0] * len(soups))
    soup = craft(bank, evaluate, 7)
    assert soup.trust is soup.trust
    assert str(soup) == str(soup)
    estimates = fast_estimate(bank, rows)
    trials = [
        Trial(row, estimate.item(), 50.0) for row, estimate in zip(rows, estimates, strict=True)
    ]
    order = rank(bank, rows).order.tolist()
    assert soup.trust == Trust(tuple(checks_of_trials(bank, [trials[k] for k in order])))


def test_a_soup_of_unrelated_networks_says_so(zoo, bank):
    soup = craft(bank, lambda weights: 10.0, 3)
    assert soup.trust.verdict == "no"
    first, second, *rest = str(soup).splitlines()
    assert first.startswith("radin: validation accuracy ")
    assert second == (
        "do not trust the fast estimate here "
        "(print radin.trust(bank, zoo, trials=soup) for all checks):"
    )
    assert rest == [f"- {advice}" for advice in soup.trust.advice]
    assert "is no match for the best ingredient" in rest[0]
    live = craft(bank, evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu"), 3)
    whole = radin.trust(bank, zoo, trials=live, progress=False)
    assert whole.verdict == "no"
    assert "next to nothing in common" in whole.advice[0]
    assert set(live.trust.checks) <= set(whole.checks)
    good = craft(bank, lambda weights: 90.0, 3)
    assert good.trust.verdict == "yes"
    assert len(str(good).splitlines()) == 1


@pytest.mark.parametrize(("name", "verdict"), [("cifar10", "yes"), ("cifar10-wild", "no")])
def test_trust_in_the_shipped_zoos(name, verdict):
    bench = SoupBench.load(name)
    soup = craft(bench.val, bench.evaluator(), 4)
    assert soup.trust.verdict == verdict
    assert len(str(soup).splitlines()) == (1 if verdict == "yes" else 2 + len(soup.trust.advice))
    assert ("is no match for the best ingredient" in str(soup)) is (verdict == "no")
    assert craft(bench.val, bench.evaluator(), 4, "greedy").trust is None


def test_a_soup_is_a_plain_record():
    soup = craft(random_bank(2), lambda weights: 50.0, 1, "uniform")
    assert [f.name for f in fields(soup)] == [
        "recipe",
        "weights",
        "value",
        "trials",
        "evaluations",
        "forward_equivalents",
        "budget",
        "note",
        "trust",
        "metric",
        "tensor_weights",
    ]
    assert soup.accuracy == soup.value == 50.0
    assert "logits" not in repr(soup)


def test_trust_in_a_zoo_of_one():
    soup = craft(bank_with_accuracies(6), lambda weights: 60.0, 1)
    assert (soup.trust.verdict, soup.trust.checks) == ("yes", ())
    assert len(str(soup).splitlines()) == 1


def test_a_soup_travels_with_its_report():
    bench = SoupBench.load("cifar10-wild")
    soup = craft(bench.val, bench.evaluator(), 4)
    pickled = pickle.dumps(soup)
    assert len(pickled) < 20_000  # no bank, no evaluator
    fresh = pickle.loads(pickled)
    assert torch.equal(fresh.weights, soup.weights)
    assert fresh.accuracy == soup.accuracy
    assert fresh.trust == soup.trust
    assert str(copy.deepcopy(soup)) == str(fresh) == str(soup)
