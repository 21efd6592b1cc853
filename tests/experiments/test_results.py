"""radin/experiments/model_soups/: the published results are read, checked and summarised."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radin.data import imagenet
from radin.errors import DataError, ParameterError
from radin.experiments.intervals import standard_error
from radin.experiments.model_soups.analysis import (
    GREEDY_SOUP,
    SHIFTED_SETS,
    VALIDATION,
    greedy_log,
    greedy_order,
    neighbours,
    rank_correlations,
    summary,
    ties,
)
from radin.experiments.model_soups.results import (
    TEST_SETS,
    PublishedResults,
    load_results,
    shipped_results,
)

INDIVIDUAL = "individual_model_results.jsonl"
HYPERPARAMETERS = "hparam_info.json"
NAMES = [f"model_{number}" for number in range(72)]


def row(name: str, seed: int) -> dict[str, object]:
    """Made-up results of one model, as the authors write them."""
    rng = np.random.default_rng(seed)
    return {"model_name": name} | {
        each: int(rng.integers(n // 2, n)) / n for each, n in TEST_SETS.items()
    }


def made_up() -> dict[str, str]:
    """The five files with made-up content."""
    files = {
        INDIVIDUAL: "".join(json.dumps(row(name, seed)) + "\n" for seed, name in enumerate(NAMES))
    }
    for seed, name in enumerate(("uniform_soup", "greedy_soup", "ensemble"), start=72):
        files[f"{name}_results.jsonl"] = json.dumps(row(name, seed)) + "\n"
    knobs = {"aug": None, "wd": 0.1, "lr": 1e-5, "mix": 0, "smoothing": 0.2, "epochs": 4}
    table = {name: {**knobs, "epochs": k} for k, name in enumerate(NAMES)} | {
        NAMES[0]: {"info": "the start"}
    }
    return files | {HYPERPARAMETERS: json.dumps(table)}


@pytest.fixture
def fakes(tmp_path) -> Path:
    """A folder with made-up files in place of the published ones."""
    for name, text in made_up().items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_tables(fakes):
    results = load_results(fakes)
    assert list(results.ingredients.index) == NAMES
    assert list(results.soups.index) == ["uniform", "greedy", "ensemble"]
    assert list(results.ingredients.columns) == list(results.soups.columns) == list(TEST_SETS)
    for name, soup, seed in (
        ("uniform_soup", "uniform", 72),
        ("greedy_soup", "greedy", 73),
        ("ensemble", "ensemble", 74),
    ):
        expected = row(name, seed)
        assert results.soups.loc[soup].to_dict() == {
            each: 100 * expected[each] for each in TEST_SETS
        }
    for k in (0, 5, 71):
        expected = row(NAMES[k], k)
        assert results.ingredients.loc[NAMES[k]].to_dict() == {
            each: 100 * expected[each] for each in TEST_SETS
        }
    assert list(results.hyperparameters.index) == NAMES
    assert results.hyperparameters.iloc[0].isna().all()
    assert results.hyperparameters["epochs"].iloc[1:].tolist() == list(range(1, 72))
    assert results.hyperparameters["lr"].iloc[7] == 1e-5


def test_the_test_sets_are_those_that_split_by_name():
    titles = {
        imagenet.PARTS[part].title: imagenet.PARTS[part].num_images for part in imagenet.TEST_SETS
    }
    assert titles == TEST_SETS


# Files ------------------------------------------------------------------------------------------


def test_the_published_files_come_with_the_module():
    shipped = {path.name for path in shipped_results().iterdir()}
    assert shipped == {*made_up(), "README.md"}
    assert list(load_results().ingredients.index) == NAMES


def test_a_missing_file_is_named(fakes):
    (fakes / HYPERPARAMETERS).unlink()
    with pytest.raises(DataError, match=r"hparam_info\.json: could not be read"):
        load_results(fakes)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            INDIVIDUAL,
            lambda text: text.split("\n", 1)[1],
            r"individual_model_results\.jsonl: 71 lines, not 72",
        ),
        (
            INDIVIDUAL,
            lambda text: text.replace("model_3", "model_4", 1),
            "line 4 is not the result of model_3 on ImageNet2p",
        ),
        (
            INDIVIDUAL,
            lambda text: text.replace("ObjectNet", "ObjectNot", 1),
            "line 1 is not the result of model_0",
        ),
        (INDIVIDUAL, lambda text: text.replace("}", "", 1), "not JSON"),
        (
            INDIVIDUAL,
            lambda text: "[]" + text[text.index("\n") :],
            "line 1 is not the result of model_0",
        ),
        (
            "ensemble_results.jsonl",
            lambda _: with_value(1.0001),
            "ensemble has 1.0001 on ImageNetA, which is no share of its",
        ),
        ("ensemble_results.jsonl", lambda _: with_value(-1 / 7500), "no share of its 7500 images"),
        (
            "ensemble_results.jsonl",
            lambda _: with_value(0.50001),
            "0.50001 on ImageNetA, which is no share of its 7500",
        ),
        ("ensemble_results.jsonl", lambda _: with_value("0.5"), "'0.5' on ImageNetA"),
        ("ensemble_results.jsonl", lambda _: with_value(True), "True on ImageNetA"),
        ("ensemble_results.jsonl", lambda _: with_value(float("nan")), "nan on ImageNetA"),
        (
            HYPERPARAMETERS,
            lambda text: text.replace("model_71", "model_72"),
            "does not describe model_0 .. model_71",
        ),
        (HYPERPARAMETERS, lambda _: "[1]", "does not describe model_0"),
        (
            HYPERPARAMETERS,
            lambda text: text.replace('"lr"', '"LR"', 1),
            "model_1 lacks one of aug, lr, wd, mix",
        ),
        (
            HYPERPARAMETERS,
            lambda text: text.replace('"lr": 1e-05', '"lr": "fast"', 1),
            "model_1 has a hyper-parameter",
        ),
        (
            HYPERPARAMETERS,
            lambda text: text.replace('"wd": 0.1', '"wd": -0.1', 1),
            "model_1 has a hyper-parameter",
        ),
    ],
)
def test_impossible_results_are_refused(fakes, name, change, message):
    (fakes / name).write_text(change((fakes / name).read_text()))
    with pytest.raises(DataError, match=message) as caught:
        load_results(fakes)
    assert str(fakes / name) in str(caught.value)


def with_value(value: object) -> str:
    return json.dumps(row("ensemble", 0) | {"ImageNetA": value}) + "\n"


# Analysis --------------------------------------------------------------------------------------


def table(columns: dict[str, list[float]]) -> pd.DataFrame:
    """Ingredients a, b, c, ... with these accuracies."""
    count = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[chr(ord("a") + k) for k in range(count)])


@given(st.integers(0, 50), st.integers(1, 50))
def test_the_standard_error_is_that_of_the_mean_of_the_answers(right, wrong):
    answers = np.repeat([1.0, 0.0], [right, wrong])
    expected = 100 * answers.std() / np.sqrt(len(answers))
    assert standard_error(100 * answers.mean(), len(answers)) == pytest.approx(expected, abs=1e-9)


def test_standard_errors():
    assert standard_error(50, 10_000) == pytest.approx(0.5)
    assert standard_error(np.array([0.0, 50.0, 100.0]), 100) == pytest.approx([0, 5, 0])
    for accuracy, count in ((101, 5), (-1, 5), (float("nan"), 5), (50, 0), (50, 1.5)):
        with pytest.raises(ParameterError):
            standard_error(accuracy, count)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_greedy_tries_the_best_first_and_ties_in_order(counts):
    ingredients = table({VALIDATION: [float(count) for count in counts]})
    expected = sorted(range(len(counts)), key=lambda k: (-counts[k], k))
    assert greedy_order(ingredients) == [ingredients.index[k] for k in expected]
    found = neighbours(ingredients)
    assert found.index.tolist() == list(range(1, len(counts)))
    assert found["ingredient"].tolist() == [ingredients.index[k] for k in expected[1:]]
    gaps = [counts[better] - counts[worse] for better, worse in pairwise(expected)]
    assert found["gap"].tolist() == gaps
    assert found["standard_error"].tolist() == standard_error(found["accuracy"], 26_000).tolist()


def test_ties_have_the_same_accuracy_on_every_test_set():
    ingredients = table({"ImageNet2p": [80, 70, 80, 70, 80], "ImageNet": [75, 60, 76, 60, 75]})
    assert ties(ingredients) == [["a", "e"], ["b", "d"]]
    assert ties(ingredients[["ImageNet2p"]]) == [["a", "c", "e"], ["b", "d"]]
    assert ties(ingredients.iloc[:3]) == []


def test_rank_correlations_are_spearmans():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    ingredients = table({each: rng.integers(0, 6, 12).tolist() for each in TEST_SETS})
    assert rank_correlations(ingredients).to_numpy() == pytest.approx(
        spearmanr(ingredients.to_numpy()).statistic
    )
    assert list(rank_correlations(ingredients).columns) == list(TEST_SETS)


def test_the_summary(fakes):
    results = load_results(fakes)
    best = max(NAMES, key=lambda name: results.ingredients.loc[name, VALIDATION])
    found = summary(results)
    assert list(found.index) == [
        "initialisation",
        f"best single ({best})",
        "uniform soup",
        "greedy soup",
        "uniform ensemble",
    ]
    assert found.loc["initialisation"].drop("shifts").equals(results.ingredients.loc["model_0"])
    assert found.loc[f"best single ({best})"].drop("shifts").equals(results.ingredients.loc[best])
    assert found.loc["uniform ensemble"].drop("shifts").equals(results.soups.loc["ensemble"])
    for name in found.index:
        assert found.loc[name, "shifts"] == pytest.approx(
            fmean(found.loc[name, each] for each in SHIFTED_SETS)
        )
    assert len(SHIFTED_SETS) == 5


def test_the_log_of_greedy():
    log = greedy_log()
    assert log.index.tolist() == list(range(1, 72))
    best = 100 * 21_595 / 26_000
    for accuracy, before, accepted in log[["accuracy", "best_before", "accepted"]].itertuples(
        index=False
    ):
        assert before == best
        assert accepted == (accuracy > best)
        best = max(best, accuracy)
    assert log.index[log["accepted"]].tolist() == [1, 10, 16, 17]
    assert log["soup_size"].iloc[-1] == len(GREEDY_SOUP) == 5


# What was published -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> PublishedResults:
    return load_results()


def test_the_published_figures(real):
    assert summary(real)[["ImageNet2p", "ImageNet", "shifts"]].round(2).to_dict("index") == {
        "initialisation": {"ImageNet2p": 78.08, "ImageNet": 75.57, "shifts": 47.15},
        "best single (model_43)": {"ImageNet2p": 83.05, "ImageNet": 80.39, "shifts": 47.97},
        "uniform soup": {"ImageNet2p": 82.70, "ImageNet": 79.97, "shifts": 51.58},
        "greedy soup": {"ImageNet2p": 83.98, "ImageNet": 81.03, "shifts": 50.86},
        "uniform ensemble": {"ImageNet2p": 83.81, "ImageNet": 81.19, "shifts": 50.88},
    }
    assert (
        ties(real.ingredients) == ties(real.ingredients[[VALIDATION]]) == [["model_4", "model_5"]]
    )
    assert real.hyperparameters.loc["model_4"].equals(real.hyperparameters.loc["model_5"])


def test_neighbours_are_closer_than_one_standard_error(real):
    close = neighbours(real.ingredients)
    assert (close["gap"] < close["standard_error"]).sum() == 68
    assert close["standard_error"].between(0.23, 0.26).all()


def test_the_log_of_greedy_ends_in_the_published_soup(real):
    log, order = greedy_log(), greedy_order(real.ingredients)
    assert log["accuracy"].max() == pytest.approx(real.soups.loc["greedy", VALIDATION], abs=1e-9)
    accepted = log.index[log["accepted"]]
    assert tuple(order[test] for test in (0, *accepted)) == GREEDY_SOUP
