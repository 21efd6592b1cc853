"""radin/checkpoints/inspection.py: broken, duplicate and unrelated files are named."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import radin.checkpoints.inspection
from helpers import build, save, save_states, state
from radin import Zoo
from radin.checkpoints.inspection import MAX_UNRELATED_COSINE, _is_finite
from radin.errors import CheckpointError
from radin.files import update_hash

State = dict[str, Tensor]


def opened(folder: Path, init: State, *states: State, **options: object) -> Zoo:
    paths = save_states(folder, *states)
    return Zoo.open(paths, init=save(init, folder / "init.pt"), progress=False, **options)


def near(start: State, size: float, seed: int = 1) -> State:
    """A state at a random step from a start, `size` times as long as each tensor."""
    rng = torch.Generator().manual_seed(seed)
    moved = dict(start)
    for key, t in start.items():
        if t.is_floating_point():
            moved[key] = t + size * torch.randn(t.shape, generator=rng) * t.square().mean().sqrt()
    return moved


def deep(seed: int = 0) -> State:
    """The state dict of six layers and a head, with biases and statistics of batch norm."""
    rng = torch.Generator().manual_seed(seed)
    layers = {f"{k}.weight": torch.randn(16, 12, generator=rng) for k in range(6)}
    layers |= {f"{k}.bias": 5 + 0.01 * torch.randn(12, generator=rng) for k in range(6)}
    layers |= {
        "norm.running_mean": torch.randn(12, generator=rng),
        "norm.running_var": torch.ones(12),
    }
    return layers | {"steps": torch.tensor(seed), "head.weight": torch.randn(10, 12, generator=rng)}


# Distances and cosines ---------------------------------------------------------------------------


def vector(tensors: State) -> Tensor:
    keys = [
        key for key in sorted(tensors) if "running" not in key and tensors[key].is_floating_point()
    ]
    return torch.cat([tensors[key].double().flatten() for key in keys])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_distances_and_cosines_are_those_of_the_parameters_alone(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(
        "radin.checkpoints.inspection._ELEMENTS_PER_PIECE", 7
    )  # pieces that divide no tensor
    start = deep()
    states = [near(start, size) | {"steps": torch.tensor(3)} for size in (0.01, 0.3, 2.0)]
    states = [
        {key: t.to(dtype) if t.is_floating_point() else t for key, t in each.items()}
        for each in states
    ]
    states[0]["norm.running_mean"] = torch.full((12,), 1e3, dtype=dtype)
    zoo = opened(tmp_path, start, *states)
    there = vector(start)
    for k, each in enumerate(states):
        here = vector(each)
        assert zoo.distances[k].item() == pytest.approx(
            ((here - there).norm() / there.norm()).item(), rel=1e-9
        )
        assert zoo.cosines[k].item() == pytest.approx(
            (here @ there / here.norm() / there.norm()).item(), rel=1e-9
        )
    assert zoo.distances.dtype == zoo.cosines.dtype == torch.float64
    assert zoo.notes == []


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4),
    st.floats(0.125, 8),
)
def test_distance_and_cosine_of_multiples(tmp_path_factory, numbers, factor):
    start = {"w": torch.tensor(numbers, dtype=torch.float64).reshape(2, 2)}
    zoo = opened(tmp_path_factory.getbasetemp() / "multiples", start, {"w": factor * start["w"]})
    if start["w"].any():
        assert zoo.cosines[0].item() == pytest.approx(1)
        assert zoo.distances[0].item() == pytest.approx(abs(factor - 1), abs=1e-12)
    else:
        assert (zoo.cosines[0].item(), zoo.distances[0].item()) == (1, 0)


def test_an_initialisation_of_zeros(tmp_path):
    zoo = opened(
        tmp_path, {"w": torch.zeros(2, 2)}, {"w": torch.ones(2, 2)}, {"w": torch.zeros(2, 2)}
    )
    assert zoo.distances.tolist() == [float("inf"), 0]
    assert zoo.cosines.tolist() == [1, 1]


def test_without_an_initialisation_nothing_is_compared(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo = Zoo.open(save_states(tmp_path, state(0), state(1)), progress=False)
    assert zoo.distances is None
    assert zoo.cosines is None
    assert zoo.notes == []


def test_whole_numbers_alone(tmp_path):
    zoo = opened(tmp_path, {"n": torch.tensor(1)}, {"n": torch.tensor(2)})
    assert (zoo.distances.tolist(), zoo.cosines.tolist()) == ([0], [1])


# Strangers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.01, 0.5, 1.0])
def test_fine_tunes_are_related(tmp_path, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            opened(tmp_path, deep(), *(near(deep(), size, seed) for seed in range(3))).notes == []
        )


@pytest.mark.parametrize("members", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_unrelated_ingredients_are_named_in_one_warning(tmp_path, members):
    start = deep()
    states = [deep(k + 5) if k in members else near(start, 0.1, k) for k in range(3)]
    with pytest.warns(UserWarning, match="no common start") as caught:
        zoo = opened(tmp_path, start, *states)
    (warning,) = caught
    assert warning.filename == __file__
    message = str(warning.message)
    assert zoo.notes == [message]
    assert [k for k in range(3) if str(zoo.paths[k]) in message] == list(members)
    assert str(tmp_path / "init.pt") in message
    assert (
        zoo.cosines[list(members)].max() > MAX_UNRELATED_COSINE
    )  # biases near 1 are alike in any two networks


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("change", ["new", "scaled"])
def test_with_another_head_an_ingredient_is_still_related(tmp_path, change, size):
    start = deep()
    one = near(start, 0.1)
    one["head.weight"] = size * (deep(9) if change == "new" else one)["head.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo = opened(tmp_path, start, one)
    assert zoo.notes == []
    if (change, size) == ("new", 30.0):
        assert zoo.cosines[0] < MAX_UNRELATED_COSINE  # the head is most of the length


def test_another_head_on_a_network_of_two_layers(tmp_path):
    start, one = state(9), near(state(9), 0.1)
    one["3.weight"] = -30 * one["3.weight"]
    assert opened(tmp_path, start, one).notes == []


def test_units_in_another_order_make_an_unrelated_ingredient(tmp_path):
    """The same function with its hidden units shuffled: no average with it is of use."""
    rng = torch.Generator().manual_seed(0)
    start = {
        "a": torch.randn(32, 16, generator=rng),
        "b": torch.randn(10, 32, generator=rng),
        "scale": torch.ones(32),
    }
    order = torch.randperm(32, generator=rng)
    with pytest.warns(UserWarning, match="no common start"):
        opened(
            tmp_path,
            start,
            {"a": start["a"][order], "b": start["b"][:, order], "scale": torch.ones(32)},
        )


def test_an_ingredient_that_is_the_initialisation_is_noted(tmp_path):
    moved = near(state(9), 0.1)
    single = opened(tmp_path / "one", state(9), moved, state(9))
    path = tmp_path / "one" / "model_1.safetensors"
    assert single.notes == [
        f"distance 0: {path} is the initialisation {tmp_path / 'one' / 'init.pt'} itself"
    ]
    assert single.distances[1] == 0 < single.distances[0]
    assert single.cosines[1] == pytest.approx(1)


# One reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_sum_finds_everything_that_is_not_finite(dtype, value):
    largest = torch.finfo(dtype).max
    for numbers in ([largest] * 100, [largest, -largest], [0.0] * 7, [5e-324]):
        tensor = torch.tensor(numbers, dtype=dtype)
        assert _is_finite(tensor)
        for index in (0, -1):
            broken = tensor.clone()
            broken[index] = value
            assert not _is_finite(broken)
    assert not _is_finite(torch.tensor([float("inf"), float("-inf")], dtype=dtype))


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_first_bad_file_is_named_in_any_order_of_reading(tmp_path, threads, monkeypatch):
    states = [state(k) for k in range(8)]
    for k in (2, 3, 6):
        states[k]["3.bias"][0] = float("nan")
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    paths = save_states(tmp_path, *states)
    for order in (paths, paths[::-1]):
        with pytest.raises(CheckpointError) as caught:
            Zoo.open(order, progress=False)
        first = next(path for path in order if path in (paths[2], paths[3], paths[6]))
        assert str(caught.value).startswith(f"{first}: 3.bias holds 1 NaN")
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("radin-inspection")
    ]


@pytest.mark.parametrize("threads", [1, 3, 50])
def test_results_do_not_depend_on_the_threads(tmp_path, threads, monkeypatch):
    start = deep()
    states = [near(start, 0.1, seed) for seed in range(6)]
    alone = opened(tmp_path, start, *states)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    zoo = opened(tmp_path, start, *states)
    assert zoo.fingerprints == alone.fingerprints
    assert torch.equal(zoo.distances, alone.distances)
    assert torch.equal(zoo.cosines, alone.cosines)


def test_each_tensor_is_read_once(tmp_path, monkeypatch):
    read = []

    def counting(digest: object, key: str, tensor: Tensor) -> None:
        read.append(key)
        update_hash(digest, key, tensor)

    monkeypatch.setattr(radin.checkpoints.inspection, "update_hash", counting)
    leftover = {"text": torch.ones(2)}
    opened(
        tmp_path,
        state(9),
        *(near(state(9), 0.1, k) | leftover for k in range(3)),
        build=build,
        unused="skip",
    )
    assert sorted(read) == sorted([*state(0)] * 4 + ["text"] * 3)


def test_halves_among_singles_whole_numbers_and_tied_tensors(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.register_buffer("steps", torch.tensor(0))
            self.register_buffer("mask", torch.ones(2, dtype=torch.bool))

    def tied(seed: int) -> State:
        torch.manual_seed(seed)
        return dict(Tied().state_dict())

    start = tied(0)
    states = [near(start, 0.1, seed) for seed in range(4)]
    for seed, one in enumerate(states):
        one |= {"steps": torch.tensor(seed), "second.weight": one["first.weight"]}
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    states = [
        {key: t.to(kind) if t.is_floating_point() else t for key, t in one.items()}
        for one, kind in zip(states, kinds, strict=True)
    ]
    init = save(start, tmp_path / "init.pt")
    zoo = Zoo.open(save_states(tmp_path, *states, suffix=".pt"), Tied, init=init, progress=False)
    assert zoo.notes == []
    assert zoo.distances.tolist() == pytest.approx([0.1] * 4, rel=0.5)
    for k, kind in enumerate(kinds):
        assert zoo[k]["first.weight"].dtype == kind
        assert zoo.model(k).steps == k
        assert torch.equal(zoo.model(k).first.weight, states[k]["first.weight"].float())
    assert zoo.parameter_keys() == [key for key in start if start[key].is_floating_point()]
