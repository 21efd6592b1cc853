"""radin/ranking/named_metrics.py: fast estimates by any metric are those of one ensemble each."""

from __future__ import annotations

import math
import pickle
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor

from helpers import exact_ensemble, mixing_weights, random_bank, tied_banks
from radin import LogitBank, Metric, exhaustive, fast_estimate, rank
from radin.errors import BankError, ParameterError
from radin.ranking import gpu_kernels
from radin.ranking import rank as rank_module
from radin.ranking.named_metrics import (
    ACCURACY,
    METRICS,
    NUM_CALIBRATION_BINS,
    class_weighted_accuracy,
    find_metric,
)
from radin.ranking.projection import Projection

CLASS_METRICS = ("macro_f1", "balanced_accuracy", "mean_iou")
CLASS_WEIGHTS = (0.5, 2.0, 0.0, 3.0)


def answers_of(bank: LogitBank, weights: Tensor) -> list[int]:
    """The ensemble's classes, from fractions; the lowest class wins a tie."""
    return [row.index(max(row)) for row in exact_ensemble(bank, weights)]


def reference(name: str, labels: list[int], answers: list[int]) -> float:
    """The metric by scikit-learn, in percent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "macro_f1":
            return 100 * sk.f1_score(labels, answers, average="macro", zero_division=0)
        if name == "mean_iou":
            return 100 * sk.jaccard_score(labels, answers, average="macro", zero_division=0)
        return 100 * sk.balanced_accuracy_score(labels, answers)


@st.composite
def banks_with_candidates(draw: st.DrawFn) -> tuple[LogitBank, Tensor]:
    bank = draw(tied_banks())
    if draw(st.booleans()):
        return bank, exhaustive(bank.num_models)
    rows = draw(st.lists(mixing_weights(bank.num_models), min_size=1, max_size=6))
    return bank, torch.stack(rows)


# Counts for each class --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASS_METRICS)
@given(case=banks_with_candidates())
@settings(max_examples=40)
def test_counts_for_each_class_are_exact_with_ties_everywhere(name, case):
    bank, candidates = case
    labels = bank.labels.tolist()
    found = fast_estimate(bank, candidates, name)
    assert found.dtype == torch.float64
    expected = [reference(name, labels, answers_of(bank, p)) for p in candidates]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@given(case=banks_with_candidates())
@settings(max_examples=50)
def test_class_weights_are_weights_of_images(case):
    bank, candidates = case
    weights = CLASS_WEIGHTS[: bank.num_classes]
    of_images = np.array(weights)[bank.labels.numpy()]
    metric = class_weighted_accuracy(weights)
    if not of_images.sum():
        with pytest.raises(ParameterError, match="has no image to count"):
            fast_estimate(bank, candidates, metric)
        return
    labels = bank.labels.tolist()
    expected = [
        100 * sk.accuracy_score(labels, answers_of(bank, p), sample_weight=of_images)
        for p in candidates
    ]
    assert fast_estimate(bank, candidates, metric).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kernels", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("rows", [None, 20])
@pytest.mark.parametrize("name", CLASS_METRICS)
def test_many_classes_and_images_agree_with_the_loop(name, rows, dtype, kernels, monkeypatch):
    """Rare classes, several rivals, and classes that only some ensembles answer with."""
    rng = torch.Generator().manual_seed(3)
    labels = (torch.rand(200, generator=rng) ** 3 * 20).long()
    shared = torch.randn(200, 20, generator=rng)
    shared[torch.arange(200), labels] += 2
    logits = (shared + 0.8 * torch.randn(5, 200, 20, generator=rng)).to(dtype)
    bank = LogitBank(logits, labels)
    candidates = exhaustive(5)
    if rows is not None:
        p = torch.rand(rows, 5, generator=rng)
        candidates = p / p.sum(1, keepdim=True)
    if kernels == "gpu":
        monkeypatch.setattr("radin.ranking.margins.kernels_for", lambda bank: gpu_kernels)
    expected = [
        reference(
            name, labels.tolist(), torch.einsum("k,knc->nc", p, logits.double()).argmax(1).tolist()
        )
        for p in candidates.double()
    ]
    assert fast_estimate(bank, candidates, name).tolist() == pytest.approx(expected, abs=1e-9)


@given(bank=tied_banks(), data=st.data(), name=st.sampled_from(CLASS_METRICS))
@settings(max_examples=40)
def test_the_table_of_all_subsets_and_candidates_one_by_one_agree(bank, data, name):
    N = bank.num_models
    masks = data.draw(st.lists(st.integers(1, 2**N - 1), min_size=1, max_size=8))
    subsets = exhaustive(N)[[mask - 1 for mask in masks]]
    found = []
    for table_rows, unused in ((0, "count_every_subset"), (2**30, "count_candidates")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rank_module, "_TABLE_ROWS_PER_CANDIDATE", table_rows)
            patch.setattr(rank_module, unused, None)
            found.append(fast_estimate(bank, subsets, name).tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", [*CLASS_METRICS, "accuracy", "top2_accuracy", "nll"])
def test_the_sum_over_candidates_and_the_function_of_one_are_one_metric(name):
    bank = random_bank(4, 60, 5)
    candidates = exhaustive(4)
    alone = [
        find_metric(name)(torch.tensordot(p, bank.logits.double(), 1), bank.labels)
        for p in (candidates.double() / candidates.double().sum(1, keepdim=True))
    ]
    assert fast_estimate(bank, candidates, name).tolist() == pytest.approx(alone, abs=1e-9)


def test_no_ensemble_is_formed_for_counts(monkeypatch):
    for unused in ("one_by_one", "mean_over_images"):
        monkeypatch.setattr(rank_module, unused, None)
    for name in CLASS_METRICS:
        assert fast_estimate(random_bank(), exhaustive(3), name).shape == (7,)


@pytest.mark.parametrize("name", [*CLASS_METRICS, "nll", "calibration_error", "top2_accuracy"])
def test_a_projection_comes_after_the_average(name):
    plain = random_bank(3, 30, 4)
    projection = Projection([[0, 2], [1], [3]], 4)
    bank = LogitBank(plain.logits, plain.labels.clamp(max=2), projection=projection)
    candidates = exhaustive(3)
    expected = [
        find_metric(name)(projection(torch.tensordot(p, plain.logits.double(), 1)), bank.labels)
        for p in (candidates.double() / candidates.double().sum(1, keepdim=True))
    ]
    assert fast_estimate(bank, candidates, name).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("weights", [[1, 2], [1, -1, 1], [0, 0, 0], [1, math.inf, 1], [1] * 4])
def test_impossible_class_weights(weights):
    with pytest.raises(ParameterError, match="class_weights"):
        fast_estimate(random_bank(), exhaustive(3), class_weighted_accuracy(weights))


# Means over images ------------------------------------------------------------------------------


@given(case=banks_with_candidates(), k=st.integers(1, 3))
@settings(max_examples=25)
def test_top_k_is_exact_with_ties_everywhere(case, k):
    bank, candidates = case
    expected = []
    for p in candidates:
        rows = exact_ensemble(bank, p)
        best_first = [sorted(range(len(row)), key=lambda c, row=row: -row[c]) for row in rows]
        hits = sum(
            label in order[:k]
            for order, label in zip(best_first, bank.labels.tolist(), strict=True)
        )
        expected.append(float(Fraction(100 * hits, bank.num_images)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with k classes all are right
        found = fast_estimate(bank, candidates, f"top{k}_accuracy").tolist()
        alone = [
            find_metric(f"top{k}_accuracy")(
                torch.tensordot(p.double(), bank.logits.double(), 1), bank.labels
            )
            for p in candidates
        ]
    assert found == pytest.approx(expected, abs=1e-9)
    # The function of one ensemble is scikit-learn's; fractions of the weights may break its ties.
    if bool((candidates > 0).sum(1).eq(1).all()):
        assert alone == pytest.approx(expected, abs=1e-9)


def test_top_1_is_the_accuracy():
    bank = random_bank(4, 50, 6)
    assert torch.equal(
        fast_estimate(bank, exhaustive(4), "top1_accuracy"), fast_estimate(bank, exhaustive(4))
    )


def test_as_many_classes_as_k_compare_nothing():
    with pytest.warns(UserWarning, match="top3_accuracy of 3 classes is 100.00% for every model"):
        found = fast_estimate(random_bank(), exhaustive(3), "top3_accuracy")
    assert found.tolist() == [100.0] * 7


# Targets ----------------------------------------------------------------------------------------


def bank_of_targets(num_models: int, num_images: int, width: int, seed: int = 0) -> LogitBank:
    rng = torch.Generator().manual_seed(seed)
    outputs = torch.randn(num_models, num_images, width, generator=rng)
    targets = torch.randn(num_images, width, generator=rng, dtype=torch.float64)
    return LogitBank(outputs, targets[:, 0] if width == 1 else targets)


@given(
    num_models=st.integers(1, 5),
    num_images=st.integers(1, 9),
    width=st.integers(1, 3),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, 1e3, -1e4]),
    data=st.data(),
)
@settings(max_examples=50)
def test_the_squared_error_of_every_ensemble(num_models, num_images, width, seed, offset, data):
    plain = bank_of_targets(num_models, num_images, width, seed)
    bank = LogitBank(plain.logits + offset, plain.labels + offset)
    rows = data.draw(st.lists(mixing_weights(num_models), min_size=1, max_size=5))
    candidates = torch.cat([torch.stack(rows), exhaustive(num_models)])
    expected = []
    for p in candidates.double():
        outputs = torch.tensordot(p / p.sum(), bank.logits.double(), 1)
        targets = bank.labels.reshape(num_images, width)
        expected.append(sk.mean_squared_error(targets, outputs))
    found = fast_estimate(bank, candidates, "mean_squared_error").tolist()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert rank(bank, candidates, metric="mean_squared_error").order[0] in [
        i for i, value in enumerate(found) if value == pytest.approx(min(found), rel=1e-9)
    ]


def test_the_error_of_an_ensemble_is_the_mean_error_less_the_spread():
    """Krogh and Vedelsby's identity, which the estimate rests on."""
    bank = bank_of_targets(4, 50, 1)
    singles = fast_estimate(bank, torch.eye(4), "mean_squared_error")
    (found,) = fast_estimate(bank, torch.full((1, 4), 0.25), "mean_squared_error").tolist()
    spread = bank.logits.double().var(0, correction=0).mean().item()
    assert found == pytest.approx(singles.mean().item() - spread)


def test_a_bank_of_targets_is_stored(tmp_path):
    bank = bank_of_targets(3, 5, 2)
    again = LogitBank.load(bank.save(tmp_path / "bank.safetensors"))
    assert again.has_targets
    assert torch.equal(again.labels, bank.labels)
    assert torch.equal(again.logits, bank.logits)
    assert repr(again) == "LogitBank(3 ingredients, 5 images, 2 outputs)"


def test_targets_that_cannot_be_used():
    outputs = torch.zeros(2, 3, 1)
    with pytest.raises(BankError, match="targets of 1 image are NaN or infinite.*is image 1"):
        LogitBank(outputs, torch.tensor([0.0, math.nan, 1.0]))
    with pytest.raises(BankError, match="hold no number"):
        LogitBank(outputs, torch.zeros(3, 0))
    with pytest.raises(BankError, match=r"Labels must be 3 .*of shape \(3, 1, 1\)"):
        LogitBank(outputs, torch.zeros(3, 1, 1))
    with pytest.raises(BankError, match=r"Labels must be 3 .*of shape \(2,\)"):
        LogitBank(outputs, torch.zeros(2))
    with pytest.raises(BankError, match="For regression, give targets in floating point"):
        LogitBank(outputs, torch.tensor([3, 1, 2]))
    with pytest.raises(ParameterError, match="A bank of targets needs one logit"):
        LogitBank(outputs, torch.zeros(3), projection=Projection([[0]], 1))


def test_labels_of_the_wrong_kind():
    targets = bank_of_targets(3, 5, 1)
    for name in ("accuracy", "macro_f1", "nll", "top1_accuracy", "calibration_error"):
        with pytest.raises(ParameterError, match=f"{name} needs classes as labels.*labels.long"):
            fast_estimate(targets, exhaustive(3), name)
    with pytest.raises(ParameterError, match="mean_squared_error is for regression.*classes"):
        fast_estimate(random_bank(3), exhaustive(3), "mean_squared_error")
    with pytest.raises(ParameterError, match="there are 1 outputs and 2 targets for each image"):
        fast_estimate(
            LogitBank(targets.logits, torch.zeros(5, 2)), exhaustive(3), "mean_squared_error"
        )
    with pytest.raises(ParameterError, match="An accuracy needs classes as labels"):
        targets.accuracies()


# Calibration ------------------------------------------------------------------------------------


def in_double(candidates: Tensor) -> Tensor:
    """Mixing weights that sum to 1 in double precision, too, as an estimate takes them."""
    weights = candidates.double()
    return weights / weights.sum(1, keepdim=True)


def expected_calibration_error(outputs: Tensor, labels: Tensor) -> float:
    """By its definition: bins of confidence, closed on the right, weighted by their images."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(outputs.double().softmax(1).tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        number = max(0, math.ceil(confidence * NUM_CALIBRATION_BINS) - 1)
        bins.setdefault(number, []).append((confidence, row.index(confidence) == label))
    total = 0.0
    for held in bins.values():
        mean_confidence = sum(confidence for confidence, _ in held) / len(held)
        accuracy = sum(right for _, right in held) / len(held)
        total += len(held) / len(labels) * abs(accuracy - mean_confidence)
    return 100 * total


@given(
    seed=st.integers(0, 10**6),
    num_images=st.integers(1, 60),
    scale=st.sampled_from([0.01, 1.0, 5.0, 100.0]),
)
@settings(max_examples=50)
def test_the_calibration_error_is_its_definition(seed, num_images, scale):
    plain = random_bank(3, num_images, 4, seed)
    bank = LogitBank(plain.logits * scale, plain.labels)
    expected = [
        expected_calibration_error(torch.tensordot(p, bank.logits.double(), 1), bank.labels)
        for p in in_double(exhaustive(3))
    ]
    found = fast_estimate(bank, exhaustive(3), "calibration_error").tolist()
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_the_calibration_error_where_all_answers_are_right_or_wrong(label):
    bank = LogitBank(torch.tensor([[[2.0, 0.0]] * 3]), torch.full((3,), label))
    confidence = 100 / (1 + math.exp(-2))
    (found,) = fast_estimate(bank, torch.ones(1, 1), "calibration_error").tolist()
    assert found == pytest.approx(100 - confidence if label == 0 else confidence)


# Functions and directions -----------------------------------------------------------------------


def kappa(outputs: Tensor, labels: Tensor) -> float:
    return sk.cohen_kappa_score(labels, outputs.argmax(1))


def test_a_function_of_outputs_and_labels():
    bank = random_bank(3, 40, 4)
    expected = [
        kappa(torch.tensordot(p, bank.logits.double(), 1), bank.labels)
        for p in in_double(exhaustive(3))
    ]
    metric = Metric("kappa", kappa, higher_is_better=True)
    for found in (
        fast_estimate(bank, exhaustive(3), kappa),
        fast_estimate(bank, exhaustive(3), kappa, higher_is_better=True),
        fast_estimate(bank, exhaustive(3), metric),
    ):
        assert found.tolist() == pytest.approx(expected)
    best = rank(bank, exhaustive(3), metric=metric).order[0]
    assert expected[best] == max(expected)
    worst = rank(bank, exhaustive(3), metric=kappa, higher_is_better=False)
    assert expected[worst.order[0]] == min(expected)
    assert not worst.metric.higher_is_better


class Torchmetric:
    """As torchmetrics has them: an object that is called and knows its direction."""

    higher_is_better = False

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs, labels)


def test_an_object_that_knows_its_direction():
    bank = random_bank(3, 40, 4)
    found = rank(bank, exhaustive(3), metric=Torchmetric())
    assert found.order.tolist() == rank(bank, exhaustive(3), metric="nll").order.tolist()
    assert found.metric.name == "Torchmetric"


@pytest.mark.parametrize("name", ["nll", "calibration_error"])
def test_where_smaller_is_better_the_smallest_comes_first(name):
    bank = random_bank(5, 40, 4)
    ranking = rank(bank, exhaustive(5), metric=name)
    in_order = ranking.estimates[ranking.order]
    assert (in_order.diff() >= 0).all()
    assert torch.equal(ranking.estimates, fast_estimate(bank, exhaustive(5), name))
    assert ranking.metric is METRICS[name]


def test_the_bonus_of_the_prior_helps_in_both_directions():
    bank = random_bank(4, 40, 4)
    sizes = (exhaustive(4) > 0).sum(1).double()
    for name, sign in (("macro_f1", 1), ("calibration_error", -1)):
        ranking = rank(bank, exhaustive(4), prior=2.0, metric=name)
        torch.testing.assert_close(ranking.scores - ranking.estimates, sign * 2.0 * sizes / 4)
        assert rank(bank, exhaustive(4), prior=1e6, metric=name).order[0] == 14


def test_the_prior_needs_a_percentage():
    bank = random_bank(3)
    for metric in ("nll", Metric("kappa", kappa, higher_is_better=True)):
        with pytest.raises(ParameterError, match="prior is a bonus in percentage points, and "):
            rank(bank, exhaustive(3), prior=0.5, metric=metric)
        assert len(rank(bank, exhaustive(3), prior=0.0, metric=metric).order) == 7


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1.0, 1e12, 1e200])
def test_numbers_of_any_size_are_compared(scale):
    values = np.array([1.0, 1.0 + 1e-6, 1.0 + 1e-14, -1.0]) * scale
    larger = Metric("score", kappa, higher_is_better=True).comparable(values)
    assert larger[1] > larger[0] == larger[2] > larger[3]
    smaller = Metric("loss", kappa, higher_is_better=False).comparable(values)
    assert smaller[1] < smaller[0] == smaller[2] < smaller[3]
    assert Metric("loss", kappa, higher_is_better=False).comparable([0.0, 0.0]).tolist() == [0, 0]


def test_metrics_that_are_none():
    bank, candidates = random_bank(3), exhaustive(3)
    with pytest.raises(ParameterError, match="larger or smaller numbers of kappa better"):
        rank(bank, candidates, metric=kappa)
    with pytest.raises(ParameterError, match="given for nll, whose smaller numbers are better"):
        rank(bank, candidates, metric="nll", higher_is_better=True)
    with pytest.raises(ParameterError, match="higher_is_better must be True or False, not 'yes'"):
        rank(bank, candidates, metric=kappa, higher_is_better="yes")
    with pytest.raises(ParameterError, match="metric must be a name, a Metric or a function"):
        rank(bank, candidates, metric=3)
    for name in ("top0_accuracy", "top_accuracy", "F1", ""):
        with pytest.raises(ParameterError, match="metric must be one of accuracy, nll"):
            fast_estimate(bank, candidates, name)


@pytest.mark.parametrize(
    "answer", [math.nan, math.inf, "0.5", None, 1j, torch.zeros(2), [1.0], np.array([1.0, 2.0])]
)
def test_a_function_that_returns_no_number(answer):
    with pytest.raises(ParameterError, match="must return a <lambda> a finite number"):
        fast_estimate(random_bank(3), exhaustive(3), lambda outputs, labels: answer)


@pytest.mark.parametrize("answer", [-3, 250.5, np.float32(0.5), torch.tensor(7.0), Fraction(1, 4)])
def test_a_function_that_returns_any_real_number(answer):
    found = fast_estimate(random_bank(3), exhaustive(3), lambda outputs, labels: answer)
    assert found.tolist() == [float(answer)] * 7


@pytest.mark.parametrize("name", [*METRICS, "top3_accuracy"])
def test_metrics_are_found_equal_and_travel_to_other_processes(name):
    metric = find_metric(name)
    assert find_metric(metric) is metric
    assert metric == find_metric(name) == pickle.loads(pickle.dumps(metric))
    assert str(metric) == name
    assert find_metric("top2_accuracy") != find_metric("top4_accuracy")
    assert class_weighted_accuracy([1, 2]) == class_weighted_accuracy((1.0, 2.0))
    assert class_weighted_accuracy([1, 2]) != class_weighted_accuracy([2, 1])


def test_texts():
    nll = METRICS["nll"]
    assert (ACCURACY.text_with_unit(82.876), nll.text_with_unit(0.51234567)) == (
        "82.88%",
        "0.512346 nats",
    )
    assert (ACCURACY.unit_of_differences, nll.unit_of_differences) == (" in points", " in nats")
    assert (ACCURACY.gain(3, 1), nll.gain(3, 1)) == (2, -2)
