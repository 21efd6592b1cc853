"""radin/checkpoints/not_averaged.py, factors.py: what has no average is never chosen silently."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import prune

from helpers import save, save_states
from radin import Zoo, average, save_soup
from radin.checkpoints.dtypes import WHOLE_NUMBERS
from radin.checkpoints.factors import find_products
from radin.checkpoints.names import COUNTERS
from radin.checkpoints.not_averaged import exact_hash, is_counter
from radin.errors import CheckpointError

State = dict[str, Tensor]


def open_zoo(*paths: Path, **options: object) -> Zoo:
    return Zoo.open(paths, progress=False, **options)


def opened(folder: Path, *states: State, **options: object) -> Zoo:
    return open_zoo(*save_states(folder, *states), **options)


def weights(seed: int) -> State:
    return {"w": torch.randn(3, generator=torch.Generator().manual_seed(seed))}


# Whole numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WHOLE_NUMBERS)
def test_whole_numbers_that_differ_are_refused_by_name(tmp_path, dtype):
    states = [weights(k) | {"packed": torch.tensor([1, 0, 1]).to(dtype)} for k in range(3)]
    zoo = opened(tmp_path / "same", *states)
    assert torch.equal(average(zoo, [0.2, 0.3, 0.5])["packed"], states[0]["packed"])
    states[1]["packed"] = torch.tensor([1, 1, 1]).to(dtype)
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, *states)
    message = str(caught.value)
    odd, first = (tmp_path / f"model_{k}.safetensors" for k in (1, 0))
    assert f"packed ({dtype}) in {odd} is not what it is in {first}" in message
    assert "save them in half or single precision" in message
    assert " w " not in message


def test_the_initialisation_is_compared_too(tmp_path):
    states = [weights(k) | {"mask": torch.tensor([True, False])} for k in range(2)]
    init = save(weights(5) | {"mask": torch.tensor([True, True])}, tmp_path / "init.pt")
    with pytest.raises(CheckpointError, match=r"mask \(torch.bool\) in .*init\.pt is not what"):
        opened(tmp_path, *states, init=init)


def test_whole_numbers_of_another_width_agree_where_their_values_do(tmp_path):
    ids = torch.arange(4)
    states = [weights(k) | {"ids": ids.to(dtype)} for k, dtype in enumerate(WHOLE_NUMBERS[1:])]
    opened(tmp_path, *states)


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=5),
    st.lists(st.integers(0, 1), min_size=1, max_size=5),
    st.sampled_from(WHOLE_NUMBERS),
    st.sampled_from(WHOLE_NUMBERS),
)
def test_the_hash_is_of_the_values(one, other, dtype, other_dtype):
    hashed = exact_hash(torch.tensor(one).to(dtype))
    assert (hashed == exact_hash(torch.tensor(other).to(other_dtype))) == (one == other)


def test_the_largest_whole_numbers_are_not_mistaken_for_negative_ones():
    huge = torch.tensor([2**64 - 1], dtype=torch.uint64)
    assert exact_hash(huge) != exact_hash(torch.tensor([-1]))
    assert exact_hash(huge) == exact_hash(huge.clone())
    assert exact_hash(torch.zeros(2, 3, dtype=torch.int8)) != exact_hash(torch.zeros(3, 2).long())


@pytest.mark.parametrize("name", sorted(COUNTERS))
def test_counters_may_differ_and_come_from_the_heaviest(tmp_path, name):
    states = [weights(k) | {f"norm.{name}": torch.tensor(k)} for k in range(3)]
    zoo = opened(tmp_path, *states)
    assert zoo.notes == []
    assert average(zoo, [0.2, 0.5, 0.3])[f"norm.{name}"] == 1


def test_a_counter_is_one_number():
    assert is_counter("a.num_batches_tracked", torch.tensor(3))
    assert is_counter("step", torch.tensor([3]))
    assert not is_counter("step", torch.tensor([3, 4]))
    assert not is_counter("a.zero_point", torch.tensor(3))


def test_another_single_number_that_differs_is_noted(tmp_path):
    states = [weights(k) | {"queue_pointer": torch.tensor([k])} for k in range(2)]
    zoo = opened(tmp_path, *states)
    (note,) = zoo.notes
    assert "differs between the files: queue_pointer (torch.int64); a soup takes it" in note
    assert average(zoo, [0.4, 0.6])["queue_pointer"] == 1


@pytest.mark.parametrize("name", ["zero_point", "bits"])
def test_a_number_of_a_quantised_weight_may_not_differ(tmp_path, name):
    states = [weights(k) | {f"layer.{name}": torch.tensor(k)} for k in range(2)]
    with pytest.raises(CheckpointError, match=rf"layer\.{name} .torch.int64. in .* is not what"):
        opened(tmp_path, *states)


# Products ----------------------------------------------------------------------------------------


def adapter(seed: int, a: str, b: str) -> State:
    rng = torch.Generator().manual_seed(seed)
    return {a: torch.randn(2, 5, generator=rng), b: torch.randn(4, 2, generator=rng)}


ADAPTER_KEYS = [
    ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"),
    ("base_model.model.q.lora_A.default.weight", "base_model.model.q.lora_B.default.weight"),
    ("q.lora_A", "q.lora_B"),
    ("lora_unet_mid_q.lora_down.weight", "lora_unet_mid_q.lora_up.weight"),
    ("unet.q.processor.to_q_lora.down.weight", "unet.q.processor.to_q_lora.up.weight"),
    ("q.lora_embedding_A", "q.lora_embedding_B"),
    ("q.hada_w1_a", "q.hada_w1_b"),
    ("q.lokr_w1", "q.lokr_w2"),
]


@pytest.mark.parametrize(("a", "b"), ADAPTER_KEYS)
def test_factors_of_adapters_are_not_averaged_apart(tmp_path, a, b):
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, adapter(0, a, b), adapter(1, a, b))
    assert "1 LoRA adapter cannot be averaged factor by factor" in str(caught.value)
    assert "merge_and_unload" in str(caught.value)
    assert len(opened(tmp_path / "one", adapter(0, a, b))) == 1


@pytest.mark.parametrize("shared", [0, 1])
def test_adapters_that_share_a_factor_average_exactly(tmp_path, shared):
    a, b = ADAPTER_KEYS[0]
    states = [adapter(seed, a, b) for seed in range(3)]
    for each in states:
        each[(a, b)[shared]] = states[0][(a, b)[shared]]
    p = [0.2, 0.3, 0.5]
    soup = average(opened(tmp_path, *states), p)
    expected = sum(p[k] * each[b].double() @ each[a].double() for k, each in enumerate(states))
    torch.testing.assert_close(soup[b].double() @ soup[a].double(), expected, rtol=1e-5, atol=1e-5)


def test_other_names_are_no_adapters(tmp_path):
    assert find_products({"flora.weight": torch.ones(2), "exploration.a": torch.ones(2)}) == []
    opened(tmp_path, {"flora.weight": torch.ones(2)}, {"flora.weight": torch.zeros(2)})


def pruned(seed: int, amount: float) -> State:
    torch.manual_seed(seed)
    layer = nn.Linear(6, 4)
    prune.l1_unstructured(layer, "weight", amount)
    return {key: tensor.clone() for key, tensor in layer.state_dict().items()}


def test_masks_of_pruned_weights_that_differ_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"1 pruned weight cannot .*: weight; .*prune.remove"):
        opened(tmp_path, pruned(0, 0.3), pruned(1, 0.5))
    one, other = pruned(0, 0.3), pruned(1, 0.3)
    other["weight_mask"] = one["weight_mask"]
    soup = average(opened(tmp_path, one, other), [0.5, 0.5])
    expected = (one["weight_orig"] + other["weight_orig"]) / 2 * one["weight_mask"]
    torch.testing.assert_close(soup["weight_orig"] * soup["weight_mask"], expected)


@pytest.mark.parametrize("scale", ["q.weight_scale", "q.weight_scale_inv", "q.scale_weight"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_weights_with_scales_that_differ_are_refused(tmp_path, scale, dtype):
    def scaled(seed: int, factor: float) -> State:
        weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
        return {"q.weight": weight, scale: torch.tensor([factor]), "norm.scale": torch.ones(2)}

    with pytest.raises(CheckpointError, match="1 scaled 8-bit weight cannot .*: q.weight; "):
        opened(tmp_path, scaled(0, 1.0), scaled(1, 2.0))
    assert len(opened(tmp_path, scaled(0, 1.0), scaled(1, 1.0))) == 2


# Extra state -------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """Multiplies by a number that only its extra state holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layer(x)

    def get_extra_state(self) -> object:
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def scaled_states(*scales: object) -> list[State]:
    states = []
    for seed, scale in enumerate(scales):
        torch.manual_seed(seed)
        model = Scaled()
        model.scale = scale
        states.append(model.state_dict())
    return states


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_models_have_the_extra_state_of_their_files(tmp_path, nested, prefix):
    states = scaled_states(3.0, 3.0)
    stored = [{prefix + key: value for key, value in each.items()} for each in states]
    paths = [
        save({"state_dict": each, "epoch": 1} if nested else each, tmp_path / f"{k}.pt")
        for k, each in enumerate(stored)
    ]
    zoo = open_zoo(*paths, build=Scaled)
    assert "_extra_state" not in zoo.keys()
    assert any("left out of the average: the extra state of 1 module" in note for note in zoo.notes)
    soup = average(zoo, [0.5, 0.5])
    for one in (1, soup):
        for copy in (True, False):
            assert zoo.model(one, copy=copy).scale == 3.0
    torch.testing.assert_close(
        soup["layer.weight"], (states[0]["layer.weight"] + states[1]["layer.weight"]) / 2
    )
    written = load_file(save_soup(zoo, [0.5, 0.5], tmp_path / "soup.safetensors"))
    assert sorted(written) == ["layer.bias", "layer.weight"]
    assert open_zoo(tmp_path / "soup.safetensors", build=Scaled).model(0).scale == 1.0


def test_extra_state_that_differs_is_refused_where_the_model_needs_it(tmp_path):
    paths = [save(each, tmp_path / f"{k}.pt") for k, each in enumerate(scaled_states(1.0, 2.0))]
    with pytest.raises(CheckpointError, match="The extra state _extra_state differs between"):
        open_zoo(*paths, build=Scaled)
    assert any("_extra_state" in note for note in open_zoo(*paths).notes)


def test_extra_state_that_is_not_read_is_refused_where_the_model_needs_it(tmp_path):
    (each,) = scaled_states(argparse.Namespace(a=1))
    path = save(each, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="or holds objects that are not read"):
        open_zoo(path, build=Scaled)
    assert len(open_zoo(path)) == 1


def test_extra_state_that_is_a_tensor_is_no_weight(tmp_path):
    extra = [torch.tensor([k], dtype=torch.uint8) for k in range(2)]
    states = [weights(k) | {"fp8._extra_state": extra[k]} for k in range(2)]
    zoo = opened(tmp_path, *states)
    assert zoo.keys() == ["w"]
    assert "fp8._extra_state" in zoo.notes[0]
