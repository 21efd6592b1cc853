"""radin/inference/evaluate.py: evaluations, several in one pass, and refreshed batch norm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import nn

import radin
from helpers import Listed, build, mixing_weights, save_states, tiny_split, tiny_zoo
from radin import Zoo, average, evaluator, predict, soup_logits
from radin.data.splits import ArraySplit
from radin.errors import BankError, DataError, ParameterError
from radin.inference.batch_norm import refresh_batch_norm

SPLIT = tiny_split(20)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


@given(weights=mixing_weights(3))
@settings(max_examples=30)
def test_an_evaluation_is_the_accuracy_of_the_averaged_model(zoo, weights):
    model = build()
    p = (weights.double() / weights.double().sum()).tolist()
    model.load_state_dict(
        {key: sum(w * zoo[k][key].double() for k, w in enumerate(p)) for key in zoo.keys()}
    )
    with torch.no_grad():
        logits = model(SPLIT.images)
    right = [
        row.index(max(row)) == y
        for row, y in zip(logits.tolist(), SPLIT.labels.tolist(), strict=True)
    ]
    assert evaluator(zoo, SPLIT, device="cpu", batch_size=7)(weights) == pytest.approx(
        5 * sum(right)
    )
    found, labels = soup_logits(zoo, weights, SPLIT, device="cpu", batch_size=7)
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, SPLIT.labels)


def test_evaluations_do_not_depend_on_those_before(zoo):
    evaluate = evaluator(zoo, SPLIT, device="cpu")
    rows = [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [0.5, 0.5, 0], [1, 0, 0]]
    assert [evaluate(row) for row in rows] == [
        evaluator(zoo, SPLIT, device="cpu")(row) for row in rows
    ]


def test_evaluating_one_ingredient_is_its_accuracy_in_the_bank(zoo):
    bank, evaluate = (
        predict(zoo, SPLIT, "cpu", cache=False, progress=False),
        evaluator(zoo, SPLIT, device="cpu"),
    )
    assert [evaluate(row) for row in torch.eye(3)] == bank.accuracies().tolist()


def test_an_evaluator_shows_what_it_evaluates(zoo):
    evaluate = evaluator(zoo, SPLIT, device="cpu", batch_size=7)
    assert evaluate.zoo is zoo
    assert evaluate.split is SPLIT
    assert (evaluate.device, evaluate.batch_size) == (torch.device("cpu"), 7)


def test_a_state_dict_is_evaluated_like_its_mixing_weights(zoo):
    evaluate, weights = evaluator(zoo, SPLIT, device="cpu"), [0.5, 0.2, 0.3]
    averaged = average(zoo, weights)
    assert evaluate(averaged) == evaluate(weights)
    for one, other in zip(
        soup_logits(zoo, averaged, SPLIT), soup_logits(zoo, weights, SPLIT), strict=True
    ):
        assert torch.equal(one, other)


def test_state_dicts_that_do_not_fit(zoo):
    good = average(zoo, [1, 0, 0])
    missing = {key: tensor for key, tensor in good.items() if key != "1.bias"}
    for wrong in (missing, good | {"1.bias": torch.zeros(7)}, good | {"more": torch.zeros(1)}):
        for use in (evaluator(zoo, SPLIT), lambda state: soup_logits(zoo, state, SPLIT)):
            with pytest.raises(ParameterError, match="does not fit the zoo.*(1.bias|more)"):
                use(wrong)


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm1d(3)
    )


def normed_zoo(folder: Path) -> Zoo:
    """Two networks with batch norm, whose running statistics have nothing to do with any images."""
    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        states.append({key: tensor + seed for key, tensor in normed().state_dict().items()})
    return Zoo.open(save_states(folder, *states), normed, progress=False)


def test_refreshed_statistics_are_those_that_the_soup_sees(tmp_path):
    """Two batches of ten; the second layer sees what the first one normalises by its batch."""
    zoo, weights = normed_zoo(tmp_path), [0.25, 0.75]
    found = refresh_batch_norm(zoo, weights, SPLIT, device="cpu", batch_size=10)
    averaged = average(zoo, weights)
    assert list(found) == zoo.keys()
    chosen = torch.randperm(20, generator=torch.Generator().manual_seed(0)).split(10)
    model = zoo.model(averaged)
    means, variances = [[], []], [[], []]
    for order in chosen:
        x = SPLIT.images[order]
        for position, layer in enumerate(model):
            if position in (1, 4):
                channels = x.transpose(0, 1).flatten(1)
                means[position // 4].append(channels.mean(1))
                variances[position // 4].append(channels.var(1))
                layer = layer.train()
            x = layer(x)
    for norm, name in enumerate(("1", "4")):
        torch.testing.assert_close(found[f"{name}.running_mean"], torch.stack(means[norm]).mean(0))
        torch.testing.assert_close(
            found[f"{name}.running_var"], torch.stack(variances[norm]).mean(0)
        )
        assert found[f"{name}.num_batches_tracked"] == 2
    for key in zoo.keys():
        if "running" not in key and "num_batches" not in key:
            assert torch.equal(found[key], averaged[key])


@pytest.mark.parametrize("batch_size", [7, 256])
def test_refreshed_soups_are_evaluated_like_others(tmp_path, batch_size):
    zoo = normed_zoo(tmp_path)
    first, again, listed = (
        refresh_batch_norm(zoo, soup, split, device="cpu", batch_size=batch_size)
        for soup, split in (
            ([0.5, 0.5], SPLIT),
            (average(zoo, [0.5, 0.5]), SPLIT),
            ([0.5, 0.5], Listed(SPLIT)),
        )
    )
    for key in zoo.keys():
        assert torch.equal(first[key], again[key])
        assert torch.equal(first[key], listed[key])
    model = normed()
    model.load_state_dict(first)
    with torch.no_grad():
        torch.testing.assert_close(
            soup_logits(zoo, first, SPLIT, device="cpu")[0], model.eval()(SPLIT.images)
        )
    assert 0 <= evaluator(zoo, SPLIT, device="cpu")(first) <= 100


def test_a_folder_sorted_by_class_bends_no_statistics(tmp_path):
    """In a folder's order, batches of one class each would hide the distance between classes."""
    images = torch.cat([tiny_split(20, seed).images + 10 * seed for seed in range(2)])
    split = ArraySplit("tiny", "train", images, torch.arange(2).repeat_interleave(20), ["a", "b"])
    zoo = normed_zoo(tmp_path)
    whole, batched = (
        refresh_batch_norm(zoo, [1, 0], split, device="cpu", batch_size=size) for size in (40, 20)
    )
    torch.testing.assert_close(whole["1.running_var"], batched["1.running_var"], rtol=0.15, atol=0)


def test_no_statistics_to_refresh(tmp_path):
    for make in (
        build,
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, track_running_stats=False)),
    ):
        zoo = Zoo.open(save_states(tmp_path, make().state_dict()), make, progress=False)
        with pytest.raises(
            ParameterError, match="Sequential has no batch norm with running statistics; evaluate"
        ):
            refresh_batch_norm(zoo, [1], SPLIT)


class FrozenNorm(nn.Sequential):
    """A network that keeps some of its batch norm in evaluation mode, as some are fine-tuned."""

    def __init__(self, *frozen: int) -> None:
        super().__init__(*normed())
        self.frozen = frozen

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        for k in self.frozen:
            self[k].eval()
        return self


def test_frozen_statistics_stay_as_they_are(tmp_path):
    paths = normed_zoo(tmp_path).paths
    zoo = Zoo.open(paths, lambda: FrozenNorm(1), progress=False)
    averaged = average(zoo, [0.5, 0.5])
    found = refresh_batch_norm(zoo, [0.5, 0.5], SPLIT, device="cpu")
    for kind in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(found[f"1.{kind}"], averaged[f"1.{kind}"])
    assert not torch.equal(found["4.running_mean"], averaged["4.running_mean"])
    zoo = Zoo.open(paths, lambda: FrozenNorm(1, 4), progress=False)
    with pytest.raises(ParameterError, match="FrozenNorm keeps its batch norm in evaluation mode"):
        refresh_batch_norm(zoo, [0.5, 0.5], SPLIT, device="cpu")


def test_images_that_cannot_refresh(tmp_path):
    zoo = normed_zoo(tmp_path)
    with pytest.raises(DataError, match="empty; a split needs at least one image"):
        refresh_batch_norm(
            zoo, [1, 0], ArraySplit("tiny", "train", SPLIT.images[:0], SPLIT.labels[:0], ["a"])
        )
    wide = ArraySplit(
        "wide", "train", torch.zeros(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64), ["a"]
    )
    with pytest.raises(DataError, match=r"cannot predict images of shape \(1, 9, 9\)"):
        refresh_batch_norm(zoo, [1, 0], wide)


def test_an_evaluator_that_refreshes(tmp_path):
    zoo, weights, training = normed_zoo(tmp_path), [0.75, 0.25], tiny_split(50, seed=5)
    evaluate = evaluator(zoo, SPLIT, device="cpu", refresh=training)
    assert evaluate(weights) == evaluator(zoo, SPLIT, device="cpu")(
        refresh_batch_norm(zoo, weights, training)
    )
    assert evaluate.refresh is training
    with pytest.raises(ParameterError, match="no batch norm"):
        evaluator(tiny_zoo(tmp_path / "plain"), SPLIT, refresh=training)


def test_several_soups_in_one_pass(zoo):
    split, evaluate = Listed(SPLIT), evaluator(zoo, SPLIT, device="cpu", batch_size=7)
    rows = [[1, 0, 0], [0.5, 0.5, 0], average(zoo, [0, 0.5, 0.5]), [0.2, 0.3, 0.5]]
    assert evaluator(zoo, split, device="cpu", batch_size=7).many(rows) == [
        evaluate(row) for row in rows
    ]
    assert split.asked == list(range(20))
    assert evaluate.many([]) == []


def test_soups_that_memory_does_not_hold_together(zoo, monkeypatch):
    rows = list(torch.eye(3))
    expected = evaluator(zoo, SPLIT, device="cpu").many(rows)
    monkeypatch.setattr("radin.inference.evaluate.network_memory_bytes", lambda: 1)
    split = Listed(SPLIT)
    assert evaluator(zoo, split, device="cpu").many(rows) == expected
    assert split.asked == 3 * list(range(20))


@pytest.mark.parametrize("recipe", ["radin", "random"])
def test_recipes_that_know_their_soups_evaluate_them_in_one_pass(zoo, recipe):
    split = Listed(SPLIT)
    bank = predict(zoo, SPLIT, "cpu", cache=False, progress=False)
    soup = radin.craft(bank, evaluator(zoo, split, device="cpu"), budget=4, recipe=recipe)
    assert split.asked == list(range(20))
    assert soup.evaluations == 4
    one_by_one = evaluator(zoo, SPLIT, device="cpu").__call__
    alone = radin.craft(bank, one_by_one, budget=4, recipe=recipe)
    for here, there in zip(soup.trials, alone.trials, strict=True):
        assert torch.equal(here.weights, there.weights)
        assert (here.estimate, here.accuracy) == (there.estimate, there.accuracy)


def test_a_network_that_gives_nan_has_no_accuracy(tmp_path):
    class Overflowing(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * torch.inf

    zoo = Zoo.open(
        save_states(tmp_path, build().state_dict()), lambda: Overflowing(*build()), progress=False
    )
    for use in (
        evaluator(zoo, SPLIT, device="cpu"),
        lambda p: soup_logits(zoo, p, SPLIT, device="cpu"),
    ):
        with pytest.raises(BankError, match="The network gives NaN or infinite logits"):
            use([1.0])
