"""radin/inference/evaluate.py: evaluations by any metric, and networks for regression."""

from __future__ import annotations

import pytest
import torch
from sklearn import metrics as sk
from torch import nn
from torch.utils.data import TensorDataset

from helpers import save_states, tiny_split, tiny_zoo
from radin import Zoo, craft, evaluator, exhaustive, fast_estimate, predict, soup_logits
from radin.data.splits import ArraySplit
from radin.errors import DataError, ParameterError
from radin.inference.partial_logits import PartialLogits
from radin.ranking.named_metrics import find_metric

SPLIT = tiny_split(40)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize(
    "name", ["accuracy", "nll", "macro_f1", "balanced_accuracy", "calibration_error", "mean_iou"]
)
@pytest.mark.parametrize("batch_size", [7, 256])
def test_an_evaluation_is_the_metric_of_the_soups_logits(zoo, name, batch_size):
    evaluate = evaluator(zoo, SPLIT, "cpu", batch_size=batch_size, metric=name)
    rows = exhaustive(3)
    expected = [find_metric(name)(*soup_logits(zoo, row, SPLIT, "cpu")) for row in rows]
    assert evaluate.many(list(rows)) == pytest.approx(expected, rel=1e-5)
    assert evaluate(rows[4]) == pytest.approx(expected[4], rel=1e-5)
    assert evaluate.metric is find_metric(name)


def test_one_ingredient_has_the_value_of_the_bank(zoo):
    bank = predict(zoo, SPLIT, "cpu", cache=False, progress=False)
    for name in ("macro_f1", "nll", "top2_accuracy"):
        evaluate = evaluator(zoo, SPLIT, "cpu", metric=name)
        assert [evaluate(row) for row in torch.eye(3)] == pytest.approx(
            fast_estimate(bank, torch.eye(3), name).tolist()
        )


def test_a_function_sees_all_images_at_once(zoo):
    seen = []

    def kappa(outputs, labels):
        seen.append((tuple(outputs.shape), outputs.dtype, tuple(labels.shape)))
        return sk.cohen_kappa_score(labels, outputs.argmax(1))

    evaluate = evaluator(zoo, SPLIT, "cpu", batch_size=7, metric=kappa, higher_is_better=True)
    logits, labels = soup_logits(zoo, [0.5, 0.5, 0], SPLIT, "cpu")
    assert evaluate([0.5, 0.5, 0]) == sk.cohen_kappa_score(labels, logits.argmax(1))
    assert seen == [((40, 3), torch.float64, (40,))]
    with pytest.raises(ParameterError, match="larger or smaller numbers of kappa"):
        evaluator(zoo, SPLIT, "cpu", metric=kappa)


# Regression -------------------------------------------------------------------------------------


def regressors(folder, num_outputs: int = 1) -> Zoo:
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(nn.Linear(4, num_outputs).state_dict())
    return Zoo.open(save_states(folder, *states), lambda: nn.Linear(4, num_outputs), progress=False)


def points(num_outputs: int = 1, count: int = 30) -> TensorDataset:
    rng = torch.Generator().manual_seed(7)
    targets = 100 * torch.randn(count, num_outputs, generator=rng)
    targets = targets[:, 0] if num_outputs == 1 else targets
    return TensorDataset(torch.randn(count, 4, generator=rng), targets)


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("cached", [False, True])
def test_regression_from_networks_to_a_soup(tmp_path, num_outputs, cached):
    zoo, split = regressors(tmp_path / "zoo", num_outputs), points(num_outputs)
    cache = tmp_path / "cache" if cached else False
    options = {"cache": cache, "progress": False, "batch_size": 7}
    bank = predict(zoo, split, "cpu", **options)
    assert bank.has_targets
    assert torch.equal(bank.labels.float(), split.tensors[1]), "targets are not rounded"
    assert torch.equal(predict(zoo, split, "cpu", **options).labels, bank.labels)
    evaluate = evaluator(zoo, split, "cpu", batch_size=7, metric="mean_squared_error")
    targets = split.tensors[1].double().numpy()
    for weights in exhaustive(3):
        outputs, found = soup_logits(zoo, weights, split, "cpu")
        assert torch.equal(found, split.tensors[1])
        assert evaluate(weights) == pytest.approx(
            sk.mean_squared_error(targets.reshape(outputs.shape), outputs.double())
        )
    # A linear network's soup is its ensemble, so the estimate is the evaluation.
    torch.testing.assert_close(
        fast_estimate(bank, exhaustive(3), "mean_squared_error"),
        torch.tensor(evaluate.many(list(exhaustive(3))), dtype=torch.float64),
        rtol=1e-5,
        atol=0,
    )
    soup = craft(bank, evaluate, budget=2)
    assert soup.value == pytest.approx(min(evaluate.many(list(exhaustive(3)))), rel=1e-6)


def test_classes_and_numbers_are_not_mixed_up(tmp_path):
    zoo, split = regressors(tmp_path), points()
    with pytest.raises(ParameterError, match="accuracy needs classes as labels"):
        evaluator(zoo, split, "cpu")([1, 0, 0])
    classes = ArraySplit("tiny", "val", split.tensors[0], torch.zeros(30).long(), ["a"])
    with pytest.raises(ParameterError, match="mean_squared_error is for regression"):
        evaluator(zoo, classes, "cpu", metric="mean_squared_error")([1, 0, 0])
    bank = predict(zoo, split, "cpu", cache=False, progress=False)
    evaluate = evaluator(zoo, split, "cpu", metric="mean_squared_error")
    with pytest.raises(ParameterError, match="Learning by cross-entropy needs classes"):
        craft(bank, evaluate, 9, "learned")


def test_targets_of_a_split_in_memory_are_not_rounded():
    split = ArraySplit("a", "val", torch.zeros(2, 1, 1, 1), torch.tensor([0.25, 3.5]), ["a"])
    assert [label for _, label in split] == [0.25, 3.5]


@pytest.mark.parametrize("labels", [torch.zeros(4, 2, 2), torch.zeros(4, 2).long()])
def test_labels_that_are_neither(tmp_path, labels):
    split = TensorDataset(torch.zeros(4, 4), labels)
    with pytest.raises(DataError, match="labels must be whole numbers, one for each image, or"):
        predict(regressors(tmp_path), split, "cpu", cache=False, progress=False)


@pytest.mark.parametrize(
    "labels", [torch.tensor([3, 1]), torch.tensor([0.1, -2.5]), torch.tensor([[0.1, 1], [2, 3.5]])]
)
@pytest.mark.parametrize("in_file", [False, True])
def test_partial_logits_keep_labels_of_each_kind(tmp_path, labels, in_file):
    path = tmp_path / "a.rows" if in_file else None
    partial = PartialLogits(path, torch.float32)
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    partial.append(logits[:1], labels[:1])
    if in_file:
        partial.close()
        partial = PartialLogits(path, torch.float32)
        assert len(partial) == 1
    partial.append(logits[1:], labels[1:])
    found, kept = partial.read(2)
    assert torch.equal(found, logits)
    assert torch.equal(kept, labels.double() if labels.is_floating_point() else labels)
    partial.close()
