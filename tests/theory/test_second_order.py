"""radin/theory/second_order.py and weight_geometry.py, against loops and real soups."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import (
    build,
    mixing_weights,
    random_bank,
    save,
    save_states,
    state,
    tied_banks,
    tiny_split,
    tiny_zoo,
)
from radin import (
    LogitBank,
    Zoo,
    average,
    evaluator,
    exhaustive,
    fast_estimate,
    monte_carlo,
    predict,
    soup_logits,
)
from radin.data.splits import ArraySplit
from radin.errors import BankError, ParameterError
from radin.experiments.networks import DigitsNet
from radin.theory.second_order import (
    GAP_METHODS,
    corrected_estimate,
    corrected_logits,
    first_order_losses,
    loss_variance,
    pair_gaps,
)
from radin.theory.weight_geometry import gram_from_products, gram_matrix, spread, weight_products


def rows(num_models: int) -> st.SearchStrategy[Tensor]:
    return st.lists(mixing_weights(num_models), min_size=1, max_size=4).map(torch.stack)


def normalised(candidates: Tensor) -> list[list[float]]:
    p = candidates.double()
    return (p / p.sum(1, keepdim=True)).tolist()


# The bank alone -----------------------------------------------------------------------------------


def looped_variance(bank: LogitBank, candidates: Tensor) -> list[float]:
    """1/2 sum_k p_k E Var_Y[f_kY - f_bar_Y], in plain loops."""
    found = []
    for p in normalised(candidates):
        total = 0.0
        for i in range(bank.num_images):
            f = bank.logits[:, i].double()
            ensemble = sum(w * row for w, row in zip(p, f, strict=True))
            q = ensemble.softmax(0).tolist()
            for w, row in zip(p, f, strict=True):
                d = (row - ensemble).tolist()
                mean = sum(q_y * d_y for q_y, d_y in zip(q, d, strict=True))
                total += (
                    0.5 * w * sum(q_y * (d_y - mean) ** 2 for q_y, d_y in zip(q, d, strict=True))
                )
        found.append(total / bank.num_images)
    return found


# With larger logits the rounding of a tie between classes would change the softmax.
bounded_banks = tied_banks().map(lambda bank: LogitBank(bank.logits.clamp(-32, 32), bank.labels))


@given(data=st.data(), bank=bounded_banks)
@settings(max_examples=80)
def test_variance_equals_three_loops(data, bank):
    candidates = data.draw(rows(bank.num_models))
    found = loss_variance(bank, candidates)
    assert (found.dtype, found.shape) == (torch.float64, (len(candidates),))
    assert found.tolist() == pytest.approx(looped_variance(bank, candidates), rel=1e-9, abs=1e-10)


@given(data=st.data(), bank=bounded_banks)
@settings(max_examples=40)
def test_variance_ignores_a_number_added_to_all_classes(data, bank):
    """For any ingredient, on any image."""
    candidates, logits = data.draw(rows(bank.num_models)), bank.logits.float()
    count = bank.num_models * bank.num_images
    shift = torch.tensor(data.draw(st.lists(st.integers(-30, 30), min_size=count, max_size=count)))
    moved = LogitBank(logits.double() + shift.view(bank.num_models, -1, 1), bank.labels)
    expected = loss_variance(LogitBank(logits, bank.labels), candidates)
    # In single precision small logits are rounded when a number is added.
    assert loss_variance(moved, candidates).tolist() == pytest.approx(
        expected.tolist(), rel=1e-4, abs=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_variance_of_half_precision_is_that_of_the_same_numbers(dtype):
    bank = random_bank(4, 30, 5)
    half = LogitBank(bank.logits.to(dtype), bank.labels)
    whole = LogitBank(half.logits.float(), bank.labels)
    assert torch.equal(loss_variance(half, exhaustive(4)), loss_variance(whole, exhaustive(4)))
    assert half.logits.dtype == dtype


@pytest.mark.parametrize(("N", "n", "C"), [(1, 1, 2), (1, 5, 3), (2, 1, 2), (3, 1, 5), (2, 4, 1)])
def test_variance_of_the_smallest_banks(N, n, C):
    bank = random_bank(N, n, C)
    found = loss_variance(bank, exhaustive(N))
    assert found.tolist() == pytest.approx(looped_variance(bank, exhaustive(N)), abs=1e-13)
    assert found[:1].tolist() == pytest.approx([0.0], abs=1e-14)  # one ingredient does not vary


def test_variance_in_blocks(monkeypatch):
    bank, candidates = random_bank(5, 23, 4), monte_carlo(5, 20)
    whole = loss_variance(bank, candidates)
    for at_once in (1, 7 * 20 * 4, 10**9):
        monkeypatch.setattr("radin.theory.second_order._MAX_LOGITS", at_once)
        torch.testing.assert_close(loss_variance(bank, candidates), whole, rtol=1e-12, atol=1e-15)


def test_variance_is_mean_loss_minus_ensemble_loss_to_second_order():
    """The remainder falls with the cube of the scale."""
    rng = torch.Generator().manual_seed(0)
    agreed = torch.randn(1, 40, 6, generator=rng, dtype=torch.float64)
    apart = torch.randn(4, 40, 6, generator=rng, dtype=torch.float64)
    labels = torch.randint(6, (40,), generator=rng)
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    left, ratios = [], []
    for scale in (0.4, 0.2, 0.1):
        bank = LogitBank(agreed + scale * apart, labels)
        mean = (p.double() @ fast_estimate(bank, torch.eye(4), "nll")).item()
        gained = mean - fast_estimate(bank, p, "nll").item()
        ratios.append(loss_variance(bank, p).item() / gained)
        left.append(abs(loss_variance(bank, p).item() - gained))
    assert ratios[-1] == pytest.approx(1, abs=0.02)
    assert left[0] > 6 * left[1] > 36 * left[2]


# The weights --------------------------------------------------------------------------------------


def build_batch_norm() -> nn.Module:
    return DigitsNet(4, norm="batch")


def batch_norm_states(count: int) -> list[dict[str, Tensor]]:
    """Random state dicts with very different running statistics and counters."""
    states = []
    for seed in range(count):
        rng = torch.Generator().manual_seed(seed)
        states.append(
            {
                key: 100 * seed + 1 + torch.rand(t.shape, generator=rng)
                if "running" in key
                else torch.randn(t.shape, generator=rng)
                if t.is_floating_point()
                else torch.tensor(10**seed)
                for key, t in build_batch_norm().state_dict().items()
            }
        )
    return states


def flat(tensors: dict[str, Tensor]) -> Tensor:
    """All parameters in one row."""
    names = [name for name, _ in build_batch_norm().named_parameters()]
    return torch.cat([tensors[name].double().flatten() for name in names])


@pytest.fixture(scope="module", params=["init", "no init"])
def batch_norm_zoo(request, tmp_path_factory) -> tuple[Zoo, list[dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("zoo")
    start, *states = batch_norm_states(5)
    init = save(start, folder / "init.safetensors") if request.param == "init" else None
    zoo = Zoo.open(save_states(folder, *states), build_batch_norm, init=init, progress=False)
    return zoo, states + ([start] if init else [])


@pytest.mark.parametrize("at_once", [1, 3, 2**18])
def test_products_of_flat_parameters(batch_norm_zoo, monkeypatch, at_once):
    zoo, states = batch_norm_zoo
    if at_once == 1:
        zoo = Zoo.open(zoo.paths[:2], progress=False)  # one element at a time takes long
        states = states[:2]
    monkeypatch.setattr("radin.theory.weight_geometry._MAX_ELEMENTS", at_once)
    found = weight_products(zoo, progress=False)
    assert sorted(found) == sorted(name for name, _ in build_batch_norm().named_parameters())
    for key, product in found.items():
        vectors = torch.stack([tensors[key].double().flatten() for tensors in states])
        torch.testing.assert_close(product, vectors @ vectors.T)
    vectors = torch.stack([flat(tensors) for tensors in states])
    torch.testing.assert_close(sum(found.values()), vectors @ vectors.T)


def task_vectors(zoo: Zoo, states: list[dict[str, Tensor]]) -> Tensor:
    """(N, elements): around the initialisation, else around the mean."""
    vectors = torch.stack([flat(tensors) for tensors in states])
    return vectors - vectors.mean(0) if zoo.init is None else vectors[:-1] - vectors[-1]


def test_gram_of_flat_task_vectors(batch_norm_zoo):
    zoo, states = batch_norm_zoo
    vectors = task_vectors(zoo, states)
    torch.testing.assert_close(gram_matrix(zoo), vectors @ vectors.T)
    assert (gram_matrix(zoo).dtype, gram_matrix(zoo).shape) == (torch.float64, (4, 4))
    assert torch.equal(
        gram_matrix(zoo), gram_from_products(weight_products(zoo), with_init=zoo.init is not None)
    )


@given(data=st.data())
@settings(max_examples=30)
def test_spread_equals_its_definition(batch_norm_zoo, data):
    zoo, states = batch_norm_zoo
    candidates = data.draw(rows(4))
    found = spread(gram_matrix(zoo), candidates)
    vectors = task_vectors(zoo, states)
    expected = []
    for p in normalised(candidates):
        mean = sum(w * vector for w, vector in zip(p, vectors, strict=True))
        expected.append(
            sum(
                w * (vector - mean).square().sum().item()
                for w, vector in zip(p, vectors, strict=True)
            )
        )
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(
        expected, rel=1e-6, abs=1e-6 * vectors.square().sum(1).max().item()
    )


def test_no_spread_is_negative():
    same = torch.full((2, 2), 100.0, dtype=torch.float64)  # two equal task vectors of length 10
    assert spread(same, torch.tensor([[0.50004, 0.50004]])).tolist() == pytest.approx(
        [0.0], abs=1e-9
    )


def test_one_ingredient_has_products_and_no_spread(tmp_path):
    with_init = tiny_zoo(tmp_path, 1)
    without = Zoo.open(with_init.paths, build, progress=False)
    assert gram_matrix(without).tolist() == [[0.0]]
    moved = sum(
        (with_init[0][k].double() - with_init.init[k].double()).square().sum()
        for k in with_init.keys()
    )
    assert gram_matrix(with_init).tolist() == [[pytest.approx(moved.item())]]
    for zoo in (with_init, without):
        assert spread(gram_matrix(zoo), torch.ones(1, 1)).tolist() == [0.0]


def test_products_of_half_precision(tmp_path):
    half = [{key: t.half() for key, t in state(seed).items()} for seed in range(3)]
    zoo = Zoo.open(save_states(tmp_path, *half), progress=False)
    vectors = torch.stack(
        [torch.cat([t.double().flatten() for t in tensors.values()]) for tensors in half]
    )
    vectors = vectors - vectors.mean(0)
    torch.testing.assert_close(gram_matrix(zoo), vectors @ vectors.T)


# Pairs --------------------------------------------------------------------------------------------

NUM_IMAGES = 20
PAIRS = list(combinations(range(4), 2))


def near_zoo(folder: Path, size: float, num_models: int = 4, half: bool = False) -> Zoo:
    """Tiny networks at a distance from a common start."""
    start = state(99)
    states = [
        {k: start[k] + size * t for k, t in state(seed).items()} for seed in range(num_models)
    ]
    if half:
        start, *states = (
            {key: tensor.half() for key, tensor in tensors.items()} for tensors in (start, *states)
        )
    init = save(start, folder / "init.safetensors")
    return Zoo.open(save_states(folder, *states), build, init=init, progress=False)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return near_zoo(tmp_path_factory.mktemp("zoo"), 0.5)


@pytest.fixture(scope="module")
def bank(zoo) -> LogitBank:
    return predict(zoo, tiny_split(NUM_IMAGES), device="cpu", cache=False, progress=False)


@pytest.fixture(scope="module")
def gaps(zoo) -> dict[str, Tensor]:
    return {
        method: pair_gaps(zoo, tiny_split(NUM_IMAGES), method=method, device="cpu", progress=False)
        for method in GAP_METHODS
    }


def half_half(i: int, j: int, num_models: int = 4) -> Tensor:
    return torch.tensor([0.5 if k in (i, j) else 0.0 for k in range(num_models)])


def test_midpoints_are_soups_minus_ensembles(zoo, bank, gaps):
    assert (gaps["midpoints"].dtype, gaps["midpoints"].shape) == (torch.float32, (6, NUM_IMAGES, 3))
    for gap, (i, j) in zip(gaps["midpoints"], PAIRS, strict=True):
        soup, _ = soup_logits(zoo, half_half(i, j), tiny_split(NUM_IMAGES), device="cpu")
        torch.testing.assert_close(
            gap, soup - (bank.logits[i] + bank.logits[j]) / 2, rtol=1e-4, atol=1e-5
        )


def test_curvatures_are_the_limits_of_differences(zoo, gaps):
    """Around the uniform soup, in double precision."""
    uniform = {key: tensor.double() for key, tensor in average(zoo, [0.25] * 4).items()}
    model, images = build().double(), tiny_split(NUM_IMAGES).images.double()

    def logits(step: float, i: int, j: int) -> Tensor:
        model.load_state_dict(
            {k: t + step * (zoo[i][k].double() - zoo[j][k].double()) for k, t in uniform.items()}
        )
        with torch.no_grad():
            return model(images)

    h = 1e-2
    for gap, pair in zip(gaps["curvature"], PAIRS, strict=True):
        f = [logits(k * h, *pair) for k in range(-2, 3)]
        second = (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * h**2)
        torch.testing.assert_close(gap, (second / -8).float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", GAP_METHODS)
@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_batches_of_any_size(zoo, gaps, method, batch_size):
    again = pair_gaps(
        zoo, tiny_split(NUM_IMAGES), "cpu", method=method, batch_size=batch_size, progress=False
    )
    torch.testing.assert_close(again, gaps[method], rtol=1e-4, atol=1e-5)


def test_both_methods_agree_near_the_start(tmp_path):
    """The relative difference falls at least with the size of the steps."""
    distances = []
    for size in (0.2, 0.1, 0.05):
        near = near_zoo(tmp_path / str(size), size)
        curvature, midpoints = (
            pair_gaps(near, tiny_split(NUM_IMAGES), method=method, device="cpu", progress=False)
            for method in GAP_METHODS
        )
        distances.append(((curvature - midpoints).norm() / midpoints.norm()).item())
        ratio = (curvature * midpoints).sum() / midpoints.square().sum()
    assert ratio.item() == pytest.approx(1, abs=0.03)
    assert distances[2] < 0.75 * distances[1] < 0.75**2 * distances[0]
    assert distances[2] < 0.1


@pytest.mark.parametrize("method", GAP_METHODS)
def test_gaps_of_half_precision_checkpoints(tmp_path, method):
    split = tiny_split(6)
    half, whole = (near_zoo(tmp_path / str(half), 0.3, 3, half) for half in (True, False))
    found, expected = (
        pair_gaps(zoo, split, method=method, device="cpu", progress=False) for zoo in (half, whole)
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("method", GAP_METHODS)
def test_gaps_with_batch_norm(tmp_path, method):
    """Running statistics are averaged too; a counter has no effect."""
    states, rng = batch_norm_states(2), torch.Generator().manual_seed(0)
    for key, tensor in states[0].items():
        if tensor.is_floating_point():
            states[1][key] = tensor + 0.02 * torch.randn(tensor.shape, generator=rng)
    zoo = Zoo.open(save_states(tmp_path, *states), build_batch_norm, progress=False)
    images, labels = torch.randn(5, 1, 8, 8, generator=rng), torch.arange(5)
    split = ArraySplit("noise", "val", images, labels, [str(c) for c in range(10)])
    (found,) = pair_gaps(zoo, split, method=method, device="cpu", progress=False)
    bank = predict(zoo, split, device="cpu", cache=False, progress=False)
    soup, _ = soup_logits(zoo, half_half(0, 1, 2), split, device="cpu")
    expected = soup - bank.logits.mean(0)
    assert (found - expected).norm() < (1e-3 if method == "midpoints" else 0.1) * expected.norm()


@pytest.mark.parametrize("method", GAP_METHODS)
def test_one_ingredient_has_no_pairs(tmp_path, method):
    zoo, split = tiny_zoo(tmp_path, 1), tiny_split(5)
    found = pair_gaps(zoo, split, method=method, device="cpu", progress=False)
    assert found.shape == (0, 5, 3)


def test_impossible_methods(zoo):
    for method in ("midpoint", None, 3):
        with pytest.raises(ParameterError, match="method must be one of curvature, midpoints, not"):
            pair_gaps(zoo, tiny_split(), method=method, device="cpu", progress=False)
    with pytest.raises(ParameterError, match="batch_size must be a whole number of at least 1"):
        pair_gaps(zoo, tiny_split(), batch_size=0, progress=False)
    with pytest.raises(ParameterError, match="without build"):
        pair_gaps(Zoo.open(zoo.paths, progress=False), tiny_split(), progress=False)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_losses_to_first_order(zoo, batch_size):
    """Loss of the start, and slopes from central differences of the mean loss."""
    split = tiny_split(NUM_IMAGES)
    loss, slopes = first_order_losses(zoo, split, "cpu", batch_size=batch_size, progress=False)
    model, start = build().double(), {key: zoo.init[key].double() for key in zoo.keys()}

    def mean_loss(step: float, k: int) -> float:
        model.load_state_dict(
            {key: t + step * (zoo[k][key].double() - t) for key, t in start.items()}
        )
        with torch.no_grad():
            return F.cross_entropy(model(split.images.double()), split.labels).item()

    assert loss == pytest.approx(mean_loss(0, 0), rel=1e-5)
    expected = [(mean_loss(1e-4, k) - mean_loss(-1e-4, k)) / 2e-4 for k in range(4)]
    assert (slopes.dtype, slopes.tolist()) == (
        torch.float64,
        pytest.approx(expected, rel=1e-4, abs=1e-5),
    )


def test_losses_to_first_order_need_an_initialisation(zoo):
    with pytest.raises(ParameterError, match="without init"):
        first_order_losses(Zoo.open(zoo.paths, build, progress=False), tiny_split(), progress=False)


# Corrected estimates ------------------------------------------------------------------------------


def looped_logits(bank: LogitBank, gaps: Tensor, candidates: Tensor) -> Tensor:
    """Ensemble plus 4 p_k p_l times the gap of each pair, (M, n, C)."""
    found = []
    for p in normalised(candidates):
        logits = sum(w * f.double() for w, f in zip(p, bank.logits, strict=True))
        for gap, (k, j) in zip(gaps, combinations(range(len(p)), 2), strict=True):
            logits = logits + 4 * p[k] * p[j] * gap.double()
        found.append(logits)
    return torch.stack(found)


@given(data=st.data(), N=st.integers(1, 5), seed=st.integers(0, 100))
@settings(max_examples=40)
def test_corrected_estimates_equal_a_loop(data, N, seed):
    bank = random_bank(N, 9, 4, seed)
    rng = torch.Generator().manual_seed(seed)
    gaps = torch.randn(N * (N - 1) // 2, 9, 4, generator=rng)
    candidates = data.draw(rows(N))
    logits = looped_logits(bank, gaps, candidates)
    right = [100 * (one.argmax(1) == bank.labels).double().mean().item() for one in logits]
    assert corrected_estimate(bank, gaps, candidates).tolist() == pytest.approx(right)
    losses = [F.cross_entropy(one, bank.labels).item() for one in logits]
    assert corrected_estimate(bank, gaps, candidates, "nll").tolist() == pytest.approx(losses)


def test_corrected_logits_in_blocks(monkeypatch):
    bank, candidates = random_bank(4, 23, 5), exhaustive(4)
    gaps = torch.randn(6, 23, 5, generator=torch.Generator().manual_seed(0))
    expected = looped_logits(bank, gaps, candidates)
    whole = [corrected_estimate(bank, gaps, candidates, metric) for metric in ("accuracy", "nll")]
    for at_once, blocks in ((1, 23), (15 * 5 * 4, 6), (10**9, 1)):
        monkeypatch.setattr("radin.theory.second_order._MAX_LOGITS", at_once)
        parts = list(corrected_logits(bank, gaps, candidates))
        assert len(parts) == blocks
        assert [i for images, _ in parts for i in range(23)[images]] == list(range(23))
        torch.testing.assert_close(torch.cat([logits for _, logits in parts], 1), expected)
        for metric, one in zip(("accuracy", "nll"), whole, strict=True):
            torch.testing.assert_close(corrected_estimate(bank, gaps, candidates, metric), one)


def test_midpoints_give_the_accuracy_of_a_pairs_soup(zoo, bank, gaps):
    split = tiny_split(NUM_IMAGES)
    evaluate = evaluator(zoo, split, device="cpu")
    candidates = torch.stack([half_half(i, j) for i, j in PAIRS])
    found = corrected_estimate(bank, gaps["midpoints"], candidates)
    assert found.tolist() == pytest.approx([evaluate(p) for p in candidates])
    assert found.tolist() != pytest.approx(fast_estimate(bank, candidates).tolist()), (
        "a correction must be needed"
    )
    losses = [F.cross_entropy(*soup_logits(zoo, p, split, device="cpu")).item() for p in candidates]
    assert corrected_estimate(bank, gaps["midpoints"], candidates, "nll").tolist() == pytest.approx(
        losses, rel=1e-5
    )


@pytest.mark.parametrize("method", GAP_METHODS)
def test_the_estimate_of_one_ingredient_is_its_own(zoo, bank, gaps, method):
    evaluate = evaluator(zoo, tiny_split(NUM_IMAGES), device="cpu")
    found = corrected_estimate(bank, gaps[method], torch.eye(4))
    assert found.tolist() == pytest.approx([evaluate(p) for p in torch.eye(4)])
    assert found.tolist() == pytest.approx(bank.accuracies().tolist())
    alone = [F.cross_entropy(logits, bank.labels).item() for logits in bank.logits]
    assert corrected_estimate(bank, gaps[method], torch.eye(4), "nll").tolist() == pytest.approx(
        alone
    )


@pytest.mark.parametrize("method", GAP_METHODS)
def test_corrected_logits_are_nearer_to_soups(tmp_path, method):
    """Near the start, for any weights: second order leaves a tenth of the gap."""
    zoo, split = near_zoo(tmp_path, 0.1), tiny_split(NUM_IMAGES)
    bank = predict(zoo, split, device="cpu", cache=False, progress=False)
    gaps = pair_gaps(zoo, split, method=method, device="cpu", progress=False)
    candidates = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.0, 0.7, 0.3, 0.0], [0.25] * 4])
    ((_, corrected),) = corrected_logits(bank, gaps, candidates)
    for p, logits in zip(candidates, corrected, strict=True):
        soup = soup_logits(zoo, p, split, device="cpu")[0].double()
        ensemble = torch.tensordot(p.double(), bank.logits.double(), 1)
        assert (soup - logits).norm() < 0.2 * (soup - ensemble).norm()


@given(data=st.data(), N=st.integers(1, 5), seed=st.integers(0, 100), half=st.booleans())
@settings(max_examples=40)
def test_without_gaps_it_is_the_fast_estimate(data, N, seed, half):
    bank = random_bank(N, 9, 4, seed)
    if half:
        bank = LogitBank(bank.logits.half(), bank.labels)
    none, candidates = torch.zeros(N * (N - 1) // 2, 9, 4), data.draw(rows(N))
    for metric in ("accuracy", "nll"):
        torch.testing.assert_close(
            corrected_estimate(bank, none, candidates, metric),
            fast_estimate(bank, candidates, metric),
        )


@pytest.mark.parametrize("votes", [[2, -3, 1], [-1, -2, 2, -3, 4], [-2, -1, -1, -2, -1, 7]])
def test_without_gaps_a_tie_stays_a_tie(votes):
    """The votes for both classes sum to zero; class 0 is the label and wins."""
    N = len(votes)
    logits = torch.tensor([[[float(vote), 0.0]] for vote in votes])
    bank, uniform = LogitBank(logits, torch.tensor([0])), torch.full((1, N), 1 / N)
    assert fast_estimate(bank, uniform).item() == 100
    assert corrected_estimate(bank, torch.zeros(N * (N - 1) // 2, 1, 2), uniform).item() == 100


@pytest.mark.parametrize(
    "shape", [(5, 20, 3), (7, 20, 3), (6, 19, 3), (6, 20, 4), (6, 20), (0,), (6, 3, 20)]
)
def test_gaps_of_another_bank(shape):
    with pytest.raises(BankError, match=r"gaps must have shape \(6, 20, 3\), .* not \("):
        corrected_estimate(random_bank(4), torch.zeros(shape), exhaustive(4))


def test_impossible_values():
    bank, gaps = random_bank(3), torch.zeros(3, 20, 3)
    for metric in ("f1", None):
        with pytest.raises(ParameterError, match="metric must be one of accuracy, nll, not"):
            corrected_estimate(bank, gaps, exhaustive(3), metric)
    unfit: list[tuple[Tensor, str]] = [
        (torch.eye(4), r"shape \(M, 3\)"),
        (torch.eye(3)[0], r"shape \(M, 3\)"),
        (torch.zeros(0, 3), r"shape \(M, 3\)"),
        (torch.tensor([[2.0, -1.0, 0.0]]), "negative"),
        (torch.ones(1, 3), "sum to 3"),
    ]
    uses: list[Callable[[Tensor], object]] = [
        lambda candidates: corrected_estimate(bank, gaps, candidates),
        lambda candidates: loss_variance(bank, candidates),
        lambda candidates: spread(torch.eye(3).double(), candidates),
    ]
    for candidates, said in unfit:
        for use in uses:
            with pytest.raises(ParameterError, match=said):
                use(candidates)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("method", GAP_METHODS)
def test_the_gpu_gives_the_same_gaps(zoo, gaps, method):
    split = tiny_split(NUM_IMAGES)
    there = pair_gaps(zoo, split, method=method, device="cuda", progress=False)
    assert there.device.type == "cpu"
    torch.testing.assert_close(there, gaps[method], rtol=1e-3, atol=1e-4)
    loss, slopes = first_order_losses(zoo, split, device="cuda", progress=False)
    expected = first_order_losses(zoo, split, device="cpu", progress=False)
    assert loss == pytest.approx(expected[0], rel=1e-3)
    torch.testing.assert_close(slopes, expected[1], rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_bank_on_the_gpu(bank, gaps):
    candidates = exhaustive(4)
    moved = bank.to("cuda")
    torch.testing.assert_close(loss_variance(moved, candidates), loss_variance(bank, candidates))
    for metric in ("accuracy", "nll"):
        found = corrected_estimate(moved, gaps["midpoints"], candidates, metric)
        torch.testing.assert_close(
            found, corrected_estimate(bank, gaps["midpoints"], candidates, metric)
        )
