"""radin/experiments/bench/summary.py: two tables of a bench, against the numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from radin import SoupBench, craft
from radin.errors import BankError, ParameterError
from radin.experiments.bench import replay
from radin.experiments.bench.shifts import Shift
from radin.experiments.bench.summary import (
    averaging_gain,
    ensemble_gap,
    held_out_regret,
    how_made,
    planned_contrasts,
    rank_correlation,
    recipe_table,
    row_contrast,
    shift_contrast,
    shift_table,
    shift_title,
    sweep_table,
    task_cosines,
    zoo_facts,
)
from radin.experiments.intervals import mean_interval, paired_interval


@pytest.fixture(scope="module")
def bench() -> SoupBench:
    return SoupBench.load("cifar10-wild")


def test_each_row_is_what_the_recipe_returns(bench):
    table = recipe_table(bench)
    single = bench.row(craft(bench.val, bench.evaluator(), 1, "best_single").weights)
    for name, recipe, budget in (
        ("greedy, B = 4", "greedy", 4),
        ("radin, B = 1", "radin", 1),
        ("radin, B = 4", "radin", 4),
        ("uniform", "uniform", 1),
    ):
        soup = craft(bench.val, bench.evaluator(), budget, recipe, candidates=bench.candidates)
        row = bench.row(soup.weights)
        entry = table.loc[name]
        assert entry["test (%)"] == bench.soups("test")[row].item()
        assert entry["val (%)"] == bench.soups("val")[row].item()
        assert entry["ingredients"] == len(soup.members)
        expected = paired_interval(*bench.right("test", [row, single]))
        assert (entry["minus best single"], entry["low"], entry["high"]) == expected
    assert table.loc["oracle", "regret"] == 0
    more = recipe_table(bench, others={"the first": 0}).loc["the first"]
    assert more["test (%)"] == bench.soups("test")[0].item()
    assert math.isnan(table.loc["ensemble of all", "regret"])
    assert math.isnan(table.loc["best single", "low"])


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("size", [None, 1, 2, 5])
def test_the_gain_of_averaging_is_that_of_each_soup_less_its_members(bench, part, size):
    bank = bench.bank(part)
    singles = (bank.logits.argmax(-1) == bank.labels).double()
    gains = []
    for row, weights in enumerate(bench.candidates):
        members = weights.nonzero().flatten()
        if len(members) == size or (size is None and len(members) > 1):
            soup = bench.right(part, [row])[0].double()
            gains.append(100 * (soup - singles[members].mean(0)))
    found = averaging_gain(bench, part, size=size)
    assert torch.allclose(found, torch.stack(gains).mean(0), atol=1e-4)


def test_no_soup_no_gain(bench):
    with pytest.raises(ParameterError, match="no soup of 99 ingredients"):
        averaging_gain(bench, "val", size=99)


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_gap_is_that_of_soups_and_ensembles(bench, part):
    several = bench.sizes > 1
    expected = (bench.soups(part) - bench.ensembles(part))[several].mean().item()
    gap = ensemble_gap(bench, part)
    assert gap.shape == (bench.bank(part).num_images,)
    assert mean_interval(gap)[0] == pytest.approx(expected)
    none_right = torch.zeros(int(several.sum()), len(gap), dtype=torch.bool)
    lost = ensemble_gap(bench, part, soups=none_right).mean().item()
    assert lost == pytest.approx(-bench.ensembles(part)[several].mean().item())


def test_the_rank_correlation_is_that_of_the_means_and_has_an_interval(bench):
    several = bench.sizes > 1
    soups = bench.soups("test")[several]
    value, low, high = rank_correlation(bench)
    assert value == pytest.approx(spearmanr(bench.ensembles("val")[several], soups).statistic)
    assert low < value < high
    sizes = bench.sizes[:, None].expand(-1, bench.val.num_images)
    by_size = rank_correlation(bench, sizes)
    assert by_size[0] == pytest.approx(spearmanr(bench.sizes[several], soups).statistic)
    truth = bench.soups("test")[:, None].expand(-1, bench.val.num_images)
    assert rank_correlation(bench, truth)[0] == pytest.approx(1)
    assert rank_correlation(bench, truth)[2] <= 1


def test_how_a_zoo_was_made_is_in_its_manifest():
    bench = SoupBench.load("imagenet-100")
    made = how_made(bench)
    assert made["fine-tuned on"] == bench.manifest["made_with"]["device"]
    assert made["package"] == bench.manifest["pretraining"]["package"]
    assert made["minutes for all soups"] == round(bench.manifest["seconds"]["soups"] / 60)
    assert made["minutes for all ingredients"] > made["minutes for all soups"]


def test_the_sweep_has_a_row_for_each_ingredient():
    bench = SoupBench.load("imagenet-100")
    table = sweep_table(bench, {"lr": ".4f", "epochs": "d"})
    assert table.columns.tolist() == ["lr", "epochs", "val (%)", "test (%)"]
    for k, run in enumerate(bench.manifest["ingredients"]):
        test = 100 * (bench.test.logits[k].argmax(-1) == bench.test.labels).double().mean()
        assert table["lr"][k] == f"{run['lr']:.4f}"
        assert table["epochs"][k] == str(run["epochs"])
        assert table["test (%)"][k] == f"{test:.2f}"


def test_facts_are_those_of_the_tables(bench):
    facts = zoo_facts(bench)
    several = [row for row in range(bench.num_soups) if bench.sizes[row] > 1]
    gaps = [(bench.soups("test")[row] - bench.ensembles("test")[row]).item() for row in several]
    assert facts["gap"] == pytest.approx(sum(gaps) / len(gaps))
    expected = spearmanr(
        [bench.ensembles("val")[row] for row in several],
        [bench.soups("test")[row] for row in several],
    ).statistic
    assert facts["spearman"] == pytest.approx(expected)
    assert "cosine" not in facts  # this manifest does not know the weights


def test_facts_of_weights_come_from_the_manifest(bench):
    known = SoupBench(
        bench.val,
        bench.test,
        bench._tables["soups"],
        manifest={
            "task_vectors": [[4.0, 1.0], [1.0, 1.0]],
            "distances": [0.1, 0.3],
            "seconds": {"ingredients": [1.0, 2.0], "soups": 4.0},
        },
    )
    facts = zoo_facts(known)
    assert facts["cosine"] == pytest.approx(0.5)
    assert facts["distance"] == pytest.approx(20)
    assert facts["seconds"] == 7.0
    assert facts["best_single"] == torch.as_tensor(bench.test.accuracies()).max().item()


def test_planned_contrasts_are_those_of_the_recipes(bench):
    contrasts = planned_contrasts(bench)
    assert list(contrasts) == [
        f"RADIN − {rival}, B = {budget}" for budget in (1, 4) for rival in ("best single", "greedy")
    ]
    evaluate = bench.evaluator("val")
    rows = [
        bench.row(craft(bench.val, evaluate, recipe=recipe, budget=4).weights)
        for recipe in ("radin", "greedy")
    ]
    assert contrasts["RADIN − greedy, B = 4"] == paired_interval(*bench.right("test", rows))


def test_cosines_are_those_of_the_ingredients_that_are_left(bench):
    gram = [[4.0, 1.0, 0.0], [1.0, 1.0, 0.6], [0.0, 0.6, 9.0]]
    three = bench.subset([0, 1, 2])
    three.manifest |= {"task_vectors": gram, "distances": [0.1, 0.2, 0.3]}
    two = three.subset([2, 1])
    assert two.manifest["distances"] == [0.3, 0.2]
    assert task_cosines(two)[0].tolist() == pytest.approx([1, 0.2])
    assert task_cosines(three)[0].tolist() == pytest.approx([1, 0.5, 0])
    with pytest.raises(BankError, match="task vectors"):
        task_cosines(bench)


def shift(name: str, seed: int) -> Shift:
    generator = torch.Generator().manual_seed(seed)
    soups, ensembles = torch.rand(2, 3, 40, generator=generator) < 0.5
    return Shift(
        name=name,
        rows=torch.tensor([0, 2, 6]),
        soups=soups,
        ensembles=ensembles,
        labels=torch.zeros(40, dtype=torch.int64),
    )


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("val/report+noise3", "noise 3"),
        ("val/report+jpeg1", "jpeg 1"),
        ("cue-conflict", "cue conflict"),
        ("filled-silhouettes", "filled silhouettes"),
    ],
)
def test_shifted_test_sets_have_titles(name, title):
    assert shift_title(name) == title


def test_a_soup_that_was_not_evaluated_on_a_shift_has_no_accuracy():
    one = shift("val/report+noise1", 0)
    choices = {"single": (0, False), "elsewhere": (1, False), "ensemble": (6, True)}
    entry = shift_table({one.name: one}, choices).loc["noise 1"]
    assert entry["images"] == 40
    assert entry["single"] == one.accuracies([0]).item()
    assert entry["ensemble"] == one.accuracies([6], ensembles=True).item()
    assert math.isnan(entry["elsewhere"])


def test_contrasts_on_shifts_are_paired_over_images():
    one, other = shift("val/report+noise1", 0), shift("val/report+noise3", 1)
    soup, ensemble = (6, False), (6, True)
    assert shift_contrast([one], soup, ensemble) == paired_interval(one.soups[2], one.ensembles[2])
    both = paired_interval(
        torch.stack([one.soups[2], other.soups[2]], 1),
        torch.stack([one.ensembles[2], other.ensembles[2]], 1),
    )
    assert shift_contrast([one, other], soup, ensemble) == both
    assert shift_contrast([one, other], soup, (1, False)) is None
    assert shift_contrast([], soup, ensemble) is None


def test_a_contrast_of_rows_is_the_paired_interval_of_their_answers(bench):
    first, second = [3, 5, 9], [4, 4, 0]
    by_hand = paired_interval(bench.right("val", first).T, bench.right("val", second).T)
    assert row_contrast(bench, first, second, "val") == by_hand
    accuracies = bench.soups("test")
    middle = row_contrast(bench, first, second)[0]
    assert math.isclose(
        middle, (accuracies[first] - accuracies[second]).mean().item(), abs_tol=1e-4
    )


def test_the_held_out_regret_is_that_of_a_plain_loop(bench):
    zoos = replay.sub_zoos(bench, 3, most=6, seed=1)
    returned = [int(rows[replay.uniform(zoo)]) for zoo, rows in zoos]
    found = held_out_regret(bench, zoos, returned, halvings=3, seed=5)
    chance = np.random.default_rng(5)
    images = bench.test.num_images
    right = bench.right("test", range(bench.num_soups)).numpy()
    regrets = []
    for _ in range(3):
        order = chance.permutation(images)
        parts = order[: images // 2], order[images // 2 :]
        for chooses, measures in (parts, parts[::-1]):
            for (_, rows), row in zip(zoos, returned, strict=True):
                oracle = max(rows, key=lambda each: right[each, chooses].sum())
                gain = right[oracle, measures].mean() - right[row, measures].mean()
                regrets.append((len(regrets) // len(zoos), 100 * gain))
    by_half = [np.mean([g for k, g in regrets if k == half]) for half in range(6)]
    assert math.isclose(found, np.mean(by_half), abs_tol=1e-9)


def test_some_sub_zoos_are_a_sample_of_all(bench):
    everything = [rows.tolist() for _, rows in replay.sub_zoos(bench, 3)]
    some = replay.sub_zoos(bench, 3, most=4, seed=2)
    places = [everything.index(rows.tolist()) for _, rows in some]
    assert places == sorted(set(places))
    assert len(places) == 4
    for smaller, rows in some:
        assert torch.equal(smaller.soups("test"), bench.soups("test")[rows])
    again = replay.sub_zoos(bench, 3, most=4, seed=2)
    assert [rows.tolist() for _, rows in again] == [rows.tolist() for _, rows in some]
