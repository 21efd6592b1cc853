"""radin/checkpoints/rounded_copies.py: files that hold another one's weights in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import radin
from helpers import save, state
from radin.checkpoints.rounded_copies import PRECISIONS, rounded_copies

HALVES = (torch.float16, torch.bfloat16)


def network(seed: int) -> dict[str, Tensor]:
    return state(seed) | {"0.num_batches_tracked": torch.tensor(seed)}


def to(tensors: Mapping[str, Tensor], *dtypes: torch.dtype) -> dict[str, Tensor]:
    """The floating-point tensors rounded to one dtype after the other."""
    rounded = dict(tensors)
    for dtype in dtypes:
        rounded = {k: t.to(dtype) if t.is_floating_point() else t for k, t in rounded.items()}
    return rounded


def values(tensors: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {key: tensor.flatten().tolist() for key, tensor in tensors.items()}


def is_copy(copy: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> bool:
    """By every number of both, in every precision."""
    own = values(copy)
    plain = values(original)
    for precision in PRECISIONS:
        rounded = values(to(original, precision))
        if all(own[key] in (plain[key], rounded[key]) for key in own):
            return True
    return False


def save_way() -> st.SearchStrategy[tuple[torch.dtype, ...]]:
    """Through which dtypes a program saves a network."""
    dtypes = st.sampled_from((torch.float64, torch.float32, *HALVES))
    return st.lists(dtypes, min_size=1, max_size=2).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), save_way()), min_size=2, max_size=5))
def test_copies_are_those_of_a_look_at_every_number(files):
    states = [to(network(seed), torch.float64, *way) for seed, way in files]
    keys = [tuple((k, str(t.dtype), *t.flatten().tolist()) for k, t in s.items()) for s in states]
    fingerprints = [str(key) for key in keys]
    found = rounded_copies(states, fingerprints)
    for k, original in found.items():
        assert is_copy(states[k], states[original])
        assert fingerprints[k] != fingerprints[original]
    for k in range(len(states)):  # from each file, the links lead to one that is no copy
        for _ in states:
            k = found.get(k, k)
        assert k not in found
    named = {fingerprints[k] for k in {*found, *found.values()}}
    for k, each in enumerate(states):
        has_original = any(
            is_copy(each, other) and fingerprints[k] != fingerprints[j]
            for j, other in enumerate(states)
            if j != k
        )
        # A file that repeats another one is named, or stands for those that repeat it.
        assert has_original <= (fingerprints[k] in named)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_small_step_is_no_copy(dtype):
    """A fine-tune may be nearer than half precision is to single precision."""
    one = network(0)
    other = {k: t * (1 + 1e-6) if t.is_floating_point() else t for k, t in one.items()}
    assert rounded_copies([one, other], ["a", "b"]) == {}
    half = to(one, dtype)
    assert rounded_copies([half, one], ["a", "b"]) == {0: 1}
    half["3.bias"] = half["3.bias"].clone()
    half["3.bias"][-1] += 1
    assert rounded_copies([half, one], ["a", "b"]) == {}


def test_another_counter_is_another_checkpoint():
    one = network(0)
    half = to(one, torch.float16) | {"0.num_batches_tracked": torch.tensor(7)}
    assert rounded_copies([one, half], ["a", "b"]) == {}


def test_norms_in_single_precision_beside_matrices_in_half():
    one = network(0)
    half = to(one, torch.bfloat16) | {"1.bias": one["1.bias"]}
    assert rounded_copies([one, half], ["a", "b"]) == {1: 0}


def test_half_precision_that_was_saved_as_single_again():
    one = network(0)
    again = to(one, torch.float16, torch.float32)
    assert rounded_copies([again, one], ["a", "b"]) == {0: 1}


def test_a_zoo_and_families_name_it(tmp_path):
    save(network(0), tmp_path / "a.safetensors")
    save(to(network(0), torch.float16), tmp_path / "b.pt")
    save(network(1), tmp_path / "c.safetensors")
    with pytest.warns(UserWarning, match=r"precision: .*b\.pt holds the weights of .*a\.safe"):
        zoo = radin.Zoo.open(tmp_path, progress=False)
    assert any("copies in another precision" in note for note in zoo.notes)
    found = radin.families(tmp_path, progress=False)
    assert found.rounded == {1: 0}
    assert found.largest == [tmp_path / "a.safetensors"]
    assert "another precision: b.pt holds the weights of a.safetensors, rounded" in str(found)
