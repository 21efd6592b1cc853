"""radin/soup.py: the average is the average, whatever the precision, the order and the kind of number."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import build, mixing_weights, save, save_states, state, tiny_split, tiny_zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from radin import Zoo, average, interpolate, save_soup
from radin.errors import ParameterError
from radin.predict import refresh_batch_norm
from radin.soup import check_weights
from radin.zoo import open_checkpoint

N = 4


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"), N)


def open_states(folder, *states: dict[str, Tensor], suffix: str = ".safetensors", init=None) -> Zoo:
    return Zoo.open(save_states(folder, *states, suffix=suffix), progress=False, init=init)


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


@given(weights=mixing_weights(N))
@settings(max_examples=50)
def test_average_is_the_weighted_mean(zoo, weights):
    p = [Fraction(w) for w in weights.tolist()]
    for key, tensor in average(zoo, weights).items():
        assert tensor.dtype == torch.float32
        columns = zip(*(zoo[k][key].flatten().tolist() for k in range(N)), strict=True)
        exact = [float(sum(w * Fraction(x) for w, x in zip(p, column, strict=True)) / sum(p)) for column in columns]
        assert np.allclose(tensor.flatten().numpy(), exact, rtol=1e-6, atol=1e-7)


@given(p=mixing_weights(N), q=mixing_weights(N), share=st.floats(0, 1))
@settings(max_examples=50)
def test_average_is_linear(zoo, p, q, share):
    p, q = p.double() / p.double().sum(), q.double() / q.double().sum()
    both, one, other = average(zoo, share * p + (1 - share) * q), average(zoo, p), average(zoo, q)
    for key, tensor in both.items():
        torch.testing.assert_close(tensor, share * one[key] + (1 - share) * other[key], rtol=1e-5, atol=1e-6)


@given(weights=mixing_weights(N), order=st.permutations(range(N)))
@settings(max_examples=50)
def test_average_does_not_depend_on_the_order_of_ingredients(zoo, weights, order):
    shuffled = Zoo.open([zoo.paths[k] for k in order], build, progress=False)
    for key, tensor in average(shuffled, weights[list(order)]).items():
        torch.testing.assert_close(tensor, average(zoo, weights)[key], rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_soup_of_one_is_the_ingredient_bit_for_bit(tmp_path, dtype):
    values = torch.tensor([0.0, -0.0, 1.1, -1.1, torch.finfo(dtype).max, torch.finfo(dtype).tiny], dtype=dtype)
    zoo = open_states(tmp_path, {"w": values}, {"w": values + 1})
    soup = average(zoo, [1, 0])["w"]
    assert soup.dtype == dtype
    assert torch.equal(soup, values)
    assert soup.signbit().tolist() == values.signbit().tolist(), "minus zero became zero"


def test_a_soup_of_one_does_not_share_memory_with_the_ingredient(tmp_path):
    zoo = open_states(tmp_path, {"w": torch.ones(2), "i": torch.ones(2, dtype=torch.int64)})
    for key, tensor in average(zoo, [1]).items():
        tensor.zero_()
        assert zoo[0][key].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (torch.float16, [2048.0, 1.0, 1.0, 2.0]),  # 512 + 0.25 is 512 in half precision
        (torch.bfloat16, [1024.0, 8.0, 8.0, 8.0]),
        (torch.float32, [2.0**26, 1.0, 1.0, 14.0]),
    ],
)
def test_sums_run_in_double(tmp_path, dtype, values):
    states = [{"w": torch.tensor([value], dtype=dtype), "id": torch.tensor(k)} for k, value in enumerate(values)]
    zoo = open_states(tmp_path, *states)
    exact = torch.tensor([float(sum(map(Fraction, values)) / N)], dtype=torch.float64).to(dtype)
    assert torch.equal(average(zoo, [0.25] * N)["w"], exact)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_whole_numbers_are_copied_from_the_heaviest_ingredient(tmp_path, dtype, suffix):
    states = [
        {"w": torch.ones(1) * k, "counter": torch.tensor(k % 2, dtype=dtype), "ids": torch.arange(k, k + 3).to(dtype)}
        for k in range(3)
    ]
    zoo = open_states(tmp_path, *states, suffix=suffix)
    for heaviest, weights in ((0, [0.5, 0.3, 0.2]), (1, [0.3, 0.4, 0.3]), (2, [0.2, 0.2, 0.6])):
        soup = average(zoo, weights)
        assert same_bits(soup["counter"], states[heaviest]["counter"])
        assert same_bits(soup["ids"], states[heaviest]["ids"])


def test_large_counters_stay_exact(tmp_path):
    counter = torch.tensor(2**53 + 1)
    zoo = open_states(tmp_path, {"w": torch.zeros(1), "c": counter}, {"w": torch.ones(1), "c": counter})
    assert average(zoo, [0.5, 0.5])["c"].item() == 2**53 + 1


def test_mixed_precisions_give_one_dtype_whatever_the_order(tmp_path):
    states = [{"w": torch.ones(2)}, {"w": torch.zeros(2, dtype=torch.float16)}]
    there = average(open_states(tmp_path / "there", *states), [0.5, 0.5])["w"]
    back = average(open_states(tmp_path / "back", *reversed(states)), [0.5, 0.5])["w"]
    assert there.dtype == back.dtype


def test_parameters_saved_with_their_gradients_make_a_plain_soup(tmp_path):
    zoo = open_states(tmp_path, *({k: t.requires_grad_() for k, t in state(s).items()} for s in (0, 1)), suffix=".pt")
    assert not any(tensor.requires_grad for tensor in average(zoo, [0.5, 0.5]).values())
    save_soup(zoo, [0.5, 0.5], tmp_path / "soup.safetensors")


def test_buffers_that_lie_transposed_can_be_saved(tmp_path):
    states = [{"w": torch.ones(2, 3).t() * k, "ids": torch.arange(6).view(2, 3).t()} for k in range(2)]
    zoo = open_states(tmp_path, *states, suffix=".pt")
    save_soup(zoo, [0.5, 0.5], tmp_path / "soup.safetensors")
    with safe_open(tmp_path / "soup.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("ids"), states[0]["ids"])
        assert torch.equal(file.get_tensor("w"), torch.full((3, 2), 0.5))


def test_a_saved_soup_is_the_soup_and_says_where_it_came_from(zoo, tmp_path):
    weights = [0.5, 0.25, 0.25, 0]
    path = save_soup(zoo, weights, tmp_path / "soup.safetensors", {"recipe": "radin", "budget": 4})
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["radin"])
        for key, tensor in average(zoo, weights).items():
            assert same_bits(file.get_tensor(key), tensor)
    assert header["recipe"] == "radin"
    assert header["budget"] == 4
    assert [each["weight"] for each in header["ingredients"]] == weights
    assert [each["name"] for each in header["ingredients"]] == zoo.names
    assert [each["sha256"] for each in header["ingredients"]] == zoo.fingerprints


def test_a_saved_soup_can_be_an_ingredient(zoo, tmp_path):
    path = save_soup(zoo, [0.5, 0.5, 0, 0], tmp_path / "soup.safetensors")
    assert len(Zoo.open([*zoo.paths, path], build, progress=False)) == N + 1


def test_a_soup_has_one_format(zoo, tmp_path):
    with pytest.raises(ParameterError, match=r"soup\.pt: a soup is saved as \.safetensors"):
        save_soup(zoo, [0.25] * N, tmp_path / "soup.pt")
    assert list(tmp_path.iterdir()) == []


@given(weights=mixing_weights(N), amount=st.floats(0, 1))
@settings(max_examples=50)
def test_interpolation_is_a_straight_line(zoo, weights, amount):
    soup = average(zoo, weights)
    for key, tensor in interpolate(zoo, weights, amount).items():
        torch.testing.assert_close(tensor, zoo.init[key] + amount * (soup[key] - zoo.init[key]), rtol=1e-5, atol=1e-6)


def test_ends_of_the_interpolation(zoo):
    weights = torch.full((N,), 1 / N)
    start, end, soup = interpolate(zoo, weights, 0), interpolate(zoo, weights, 1), average(zoo, weights)
    for key in zoo.keys():
        assert torch.equal(start[key], zoo.init[key])
        assert torch.equal(end[key], soup[key])


@pytest.mark.parametrize("amount", [-0.01, 1.01, float("nan"), float("inf")])
def test_amounts_outside_the_line_are_refused(zoo, amount):
    with pytest.raises(ParameterError, match="amount must lie between 0"):
        interpolate(zoo, [0.25] * N, amount)


def test_interpolation_needs_the_initialisation(tmp_path):
    with pytest.raises(ParameterError, match="without init"):
        interpolate(open_states(tmp_path, state(0)), [1], 0.5)


NOT_MIXING_WEIGHTS = [
    ([0.5, 0.5], r"shape \(4,\).*\(2,\)"),
    ([[0.25] * 4], r"shape \(4,\).*\(1, 4\)"),
    (1.0, r"shape \(4,\).*\(\)"),
    ([], r"shape \(4,\).*\(0,\)"),
    ([1.5, -0.5, 0, 0], r"not be negative; the smallest here is -0\.5"),
    ([1, 1, 0, 0], "sum to 2.*Divide"),
    ([0.0] * 4, "sum to 0"),
    ([0.25, 0.25, 0.25, 0.2], r"sum to 0\.95"),
    ([float("nan"), 1, 0, 0], "NaN or infinity"),
    ([float("inf"), 0, 0, 0], "NaN or infinity"),
]


@pytest.mark.parametrize(("weights", "said"), NOT_MIXING_WEIGHTS)
def test_weights_outside_the_simplex_are_refused(zoo, tmp_path, weights, said):
    for use in (
        lambda: average(zoo, weights),
        lambda: interpolate(zoo, weights, 0.5),
        lambda: save_soup(zoo, weights, tmp_path / "soup.safetensors"),
    ):
        with pytest.raises(ParameterError, match=said):
            use()
    assert list(tmp_path.iterdir()) == []


def test_rows_of_weights_are_checked_one_by_one():
    assert check_weights(torch.eye(3), 3, rows=True).shape == (3, 3)
    with pytest.raises(ParameterError, match=r"sum to 2\b"):
        check_weights([[1, 0], [1, 1], [0, 1]], 2, rows=True)
    with pytest.raises(ParameterError, match=r"shape \(M, 3\)"):
        check_weights(torch.zeros(0, 3), 3, rows=True)


@pytest.mark.parametrize("weights", [torch.full((3,), 1 / 3), torch.full((72,), 1 / 72), torch.full((1000,), 1e-3)])
def test_rounding_is_no_reason_to_refuse(weights):
    check_weights(weights, len(weights))


def test_save_soup_does_not_touch_the_ingredients(zoo, tmp_path):
    before = [path.read_bytes() for path in zoo.paths]
    save_soup(zoo, [0.25] * N, tmp_path / "soup.safetensors")
    assert [path.read_bytes() for path in zoo.paths] == before
    assert save(state(0), tmp_path / "x.safetensors").read_bytes() == before[0]


def test_a_soup_with_batch_norm_is_saved_with_its_own_statistics(tmp_path):
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))

    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        states.append({key: tensor + seed for key, tensor in network().state_dict().items()})
    zoo = Zoo.open(save_states(tmp_path / "zoo", *states), network, progress=False)
    with pytest.warns(UserWarning, match="averaged running statistics of batch norm, which fit no soup"):
        save_soup(zoo, [0.5, 0.5], tmp_path / "stale.safetensors")
    refreshed = refresh_batch_norm(zoo, [0.5, 0.5], tiny_split(30), device="cpu")
    path = save_soup(zoo, [0.5, 0.5], tmp_path / "fresh.safetensors", state=refreshed)
    for key, tensor in open_checkpoint(path).items():
        torch.testing.assert_close(tensor, refreshed[key])
