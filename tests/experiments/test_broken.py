"""radin/experiments/zoos/broken.py: each zoo is broken as it says and in no other way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers import files_below
from radin import Zoo, average, digits_zoo, load_split, predict, soup_logits
from radin.errors import ParameterError
from radin.experiments.networks import DigitsNet
from radin.experiments.zoos import broken, digits, train
from radin.experiments.zoos.broken import KINDS, broken_zoo
from radin.inference.batch_norm import refresh_batch_norm

QUICK = {"quick": True, "device": "cpu", "progress": False}
TRAINED = ("rate", "initialisation", "batch_norm", "heads")
IMAGES = load_split("digits", "val").images[:200]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A cache in which a quick zoo of two of each kind was made without any disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RADIN_CACHE", str(folder))
        for kind in KINDS:
            broken_zoo(kind, 2, **QUICK)
    return folder


@pytest.fixture(autouse=True)
def _cache(home, monkeypatch) -> None:
    monkeypatch.setenv("RADIN_CACHE", str(home))


def contents(cache: Path) -> dict[str, bytes]:
    return {name: (cache / name).read_bytes() for name in files_below(cache)}


def answers(zoo: Zoo, k: int) -> Tensor:
    with torch.no_grad():
        return zoo.model(k).double()(IMAGES.double())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_zoo_that_is_found_again(home, kind, monkeypatch):
    before = contents(home)
    monkeypatch.setattr(digits, "train", lambda *_, **__: pytest.fail("trained again"))
    zoo = broken_zoo(kind, 2, **QUICK)
    assert zoo.names == ["ingredient_00", "ingredient_01"]
    assert zoo.init is not None
    assert zoo.model(zoo.init)(IMAGES).shape == zoo.model(0)(IMAGES).shape == (200, 10)
    assert contents(home) == before


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", TRAINED)
def test_a_stopped_run_continues_to_the_same_bytes(home, tmp_path, monkeypatch, kind):
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    (folder,) = (tmp_path / "zoos").glob(f"broken-{kind}-*")
    whole = contents(tmp_path)
    shutil.rmtree(folder)
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    torch.manual_seed(12345)  # the caller's own randomness is not ours
    trained = []

    def stop(*args: object, **kwargs: object) -> object:
        trained.append(1)
        if len(trained) == 2:
            raise KilledError
        return train.train(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(digits, "train", stop)
        with pytest.raises(KilledError):
            broken_zoo(kind, 2, **QUICK)
    assert 0 < len(whole) - len(contents(tmp_path)) < len(files_below(home / "zoos" / folder.name))
    assert contents(tmp_path).items() <= whole.items()
    broken_zoo(kind, 2, **QUICK)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("kind", ["permuted", "sharp"])
def test_damaged_and_missing_ingredients_are_made_again(home, tmp_path, monkeypatch, kind):
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    whole = contents(tmp_path)
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    first, second = broken_zoo(kind, 2, **QUICK).paths
    second.write_bytes(second.read_bytes()[:100])
    os.remove(first)
    broken_zoo(kind, 2, **QUICK)
    assert contents(tmp_path) == whole


def test_the_healthy_zoo_is_the_embedded_one():
    assert broken_zoo("healthy", 2, **QUICK).paths == digits_zoo(2, **QUICK).paths


@pytest.mark.parametrize("kind", ["rate", "permuted", "heads", "sharp"])
def test_these_share_the_healthy_initialisation(kind):
    init, healthy = broken_zoo(kind, 2, **QUICK).init, digits_zoo(2, **QUICK).init
    assert all(torch.equal(init[key], healthy[key]) for key in healthy)


def test_permuted_ingredients_compute_the_same_function():
    healthy, zoo = digits_zoo(2, **QUICK), broken_zoo("permuted", 2, **QUICK)
    assert zoo.fingerprints[0] == healthy.fingerprints[0]
    torch.testing.assert_close(answers(zoo, 1), answers(healthy, 1), rtol=1e-12, atol=1e-12)
    for key in zoo.keys():
        there, back = zoo[1][key], healthy[1][key]
        if key != "head.bias":  # the classes stay where they are
            assert not torch.equal(there, back)
        assert torch.equal(there.flatten().sort().values, back.flatten().sort().values)


@pytest.mark.parametrize("width", [4, 8])
def test_every_permutation_keeps_the_function(width):
    torch.manual_seed(0)
    for draw in range(5):
        model = DigitsNet(width).double()
        with torch.no_grad():
            for parameter in model.parameters():  # norms begin at 1 and 0, in every order
                parameter.add_(0.3 * torch.randn_like(parameter))
            before = model(IMAGES[:20].double())
            broken._permute(model, torch.Generator().manual_seed(draw))
            torch.testing.assert_close(model(IMAGES[:20].double()), before, rtol=1e-10, atol=1e-10)


def test_channels_that_are_normalised_together_stay_together():
    order = broken._shuffled_channels(torch.nn.GroupNorm(4, 32), torch.Generator().manual_seed(0))
    assert order.sort().values.tolist() == list(range(32))
    assert all(len(set(group.tolist())) == 1 for group in (order // 8).view(4, 8))


def test_the_least_accurate_ingredient_gives_the_same_answers_with_far_larger_logits():
    healthy, zoo = digits_zoo(2, **QUICK), broken_zoo("sharp", 2, **QUICK)
    worst = (
        predict(healthy, load_split("digits", "val"), device="cpu", progress=False)
        .accuracies()
        .argmin()
    )
    for k in range(2):
        factor = broken.SHARP_FACTOR if k == worst else 1.0
        torch.testing.assert_close(
            answers(zoo, k), factor * answers(healthy, k), rtol=1e-5, atol=1e-4
        )
        assert torch.equal(answers(zoo, k).argmax(1), answers(healthy, k).argmax(1))


def test_batch_norm_is_repaired_by_new_statistics():
    zoo = broken_zoo("batch_norm", 2, **QUICK)
    assert any(key.endswith("running_var") for key in zoo.keys())
    weights = torch.full((2,), 0.5)
    split = load_split("digits", "val")
    repaired = refresh_batch_norm(zoo, weights, load_split("digits", "train"), device="cpu")
    stale = average(zoo, weights)
    assert all(
        torch.equal(repaired[key], stale[key])
        for key in zoo.keys()
        if "running" not in key and "num" not in key
    )
    assert not torch.allclose(
        *(soup_logits(zoo, soup, split, device="cpu")[0] for soup in (repaired, stale))
    )


def test_ingredients_of_separate_initialisations_share_nothing():
    zoo = broken_zoo("initialisation", 2, **QUICK)
    a, b = (zoo[k]["body.6.weight"].flatten() for k in range(2))
    assert torch.cosine_similarity(a, b, dim=0).abs() < 0.1
    assert torch.cosine_similarity(a, zoo.init["body.6.weight"].flatten(), dim=0) > 0.5


@pytest.mark.parametrize("kind", ["heads", "permuted"])
def test_another_seed_is_another_zoo(tmp_path, monkeypatch, kind):
    zoo = broken_zoo(kind, 2, **QUICK)
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    other = broken_zoo(kind, 2, seed=1, **QUICK)
    assert zoo.paths[0].parent.name != other.paths[0].parent.name
    assert not set(zoo.fingerprints) & set(other.fingerprints)


def test_unknown_kinds_are_answered_with_those_that_exist():
    with pytest.raises(
        ParameterError, match="kind must be one of healthy, rate, .*sharp, not 'cold'"
    ):
        broken_zoo("cold", **QUICK)
    for wrong in (None, ["rate"]):
        with pytest.raises(ParameterError, match="kind must be one of"):
            broken_zoo(wrong, **QUICK)


@pytest.mark.parametrize(("name", "value"), [("num_models", 0), ("seed", -1), ("device", "tpu")])
def test_impossible_requests(name, value):
    with pytest.raises(ParameterError, match=name):
        broken_zoo("permuted", **{**QUICK, name: value})


def test_every_kind_says_in_one_sentence_what_is_wrong():
    for text in KINDS.values():
        assert text[0].isupper()
        assert text.endswith(".")
        assert ". " not in text
