"""radin/experiments/model_soups/experiment.py: the full experiment, on drawings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from radin import load_split
from radin.data.imagenet import PARTS, TEST_SETS
from radin.errors import DataError, ParameterError
from radin.experiments.intervals import paired_interval
from radin.experiments.model_soups import experiment
from radin.experiments.model_soups.experiment import COMPARED, Experiment, run_experiment
from standin_images import NUM_TRAINED_CLASSES, VAL_IMAGES, keep_trained_classes, make_images
from standin_zoo import make_ingredients, small_builder

BUDGET = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("drawn") / "data", progress=False)


@pytest.fixture(scope="module")
def found(root, tmp_path_factory) -> Experiment:
    """The whole path on the classes that three small ingredients were trained on."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("zoo")
        patch.setenv("RADIN_CACHE", str(folder / "cache"))
        paths = make_ingredients(root, 3, quick=True, folder=folder, progress=False)
        patch.setattr(
            experiment, "load_split", lambda *given: keep_trained_classes(load_split(*given))
        )
        return run_experiment(
            root,
            budget=BUDGET,
            checkpoints=paths,
            build=small_builder(quick=True),
            device="cpu",
            progress=False,
        )


def test_recipes_choose_on_validation_within_their_budget(found):
    assert found.bank.logits.shape == (3, NUM_TRAINED_CLASSES * VAL_IMAGES, 1000)
    assert list(found.soups) == list(COMPARED)
    assert found.soups["radin"].evaluations <= BUDGET
    assert found.soups["greedy"].evaluations <= BUDGET
    assert found.soups["best_single"].evaluations == 0
    chance = 100 / NUM_TRAINED_CLASSES
    assert (found.bank.accuracies() > 2 * chance).all(), "drawings are told apart"


def test_every_test_set_has_an_answer_for_each_image(found):
    assert list(found.right) == [part for part in TEST_SETS if part != "val"]
    for part, by_recipe in found.right.items():
        assert list(by_recipe) == [*COMPARED, "ensemble"]
        for right in by_recipe.values():
            assert right.dtype == torch.bool
            assert right.shape == found.labels[part].shape == (NUM_TRAINED_CLASSES,)
    assert set(found.notes) == set(TEST_SETS)
    images = 6 * NUM_TRAINED_CLASSES
    assert repr(found) == f"Experiment(3 ingredients, {images} images of 6 test sets)"


def test_soups_of_the_same_members_have_the_same_answers(found):
    members = {recipe: tuple(soup.members) for recipe, soup in found.soups.items()}
    for by_recipe in found.right.values():
        for one in COMPARED:
            for other in COMPARED:
                if members[one] == members[other]:
                    assert torch.equal(by_recipe[one], by_recipe[other])


def test_the_table_and_the_contrasts_are_those_of_the_answers(found):
    table = found.table()
    assert list(table.index) == [*(PARTS[part].title for part in found.right), "shifts"]
    assert table.loc["ImageNetV2", "greedy"] == pytest.approx(
        100 * found.right["v2"]["greedy"].double().mean().item()
    )
    assert table.loc["shifts", "radin"] == pytest.approx(table["radin"].iloc[1:6].mean())
    assert len(found.shifted) == 5
    contrasts = found.contrasts()
    assert len(contrasts) == 6 + 4
    pooled = paired_interval(
        *(found.together(recipe, found.shifted) for recipe in ("radin", "ensemble"))
    )
    assert contrasts["shifted sets: RADIN − ensemble"] == pooled


def test_few_images_of_each_set_are_a_quick_look(root, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    paths = make_ingredients(root, 1, quick=True, folder=tmp_path, progress=False)
    asked = {}

    def fetch(ids, folder, *, progress):
        asked["ids"], asked["folder"] = ids, folder
        return paths

    monkeypatch.setattr(experiment, "fetch_ingredients", fetch)
    build = small_builder(quick=True)
    found = run_experiment(root, ids="0", num_images=3, build=build, device="cpu", progress=False)
    assert asked == {"ids": "0", "folder": root / "model-soups"}
    assert {len(labels) for labels in found.labels.values()} == {3}
    assert "3 of" in found.notes["val"]


def test_folders_are_checked_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(
        experiment, "fetch_ingredients", lambda *_, **__: pytest.fail("fetched too early")
    )
    with pytest.raises(DataError, match="7 of 7 parts of imagenet cannot be used"):
        run_experiment(tmp_path, progress=False)


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"prior": -1.0}, {"seed": -1}])
def test_impossible_numbers_stop_before_any_work(tmp_path, wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        run_experiment(tmp_path, **wrong)
