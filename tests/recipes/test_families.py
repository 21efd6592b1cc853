"""radin/recipes/families.py: which checkpoints belong together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import radin
from helpers import finish, run_python, save
from radin.errors import CheckpointError, ParameterError
from radin.recipes.families import (
    CUT,
    cluster,
    count_architectures,
    families_of_zoo,
    median_cosines,
)
from radin.theory.weight_geometry import cosines, distances, state_products

SHAPES = {
    "body.weight": (24, 16),
    "body.bias": (24,),
    "neck.weight": (16, 24),
    "head.weight": (5, 16),
}


def start(seed: int, classes: int = 5) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = SHAPES | {"head.weight": (classes, 16)}
    return {key: torch.randn(shape, generator=rng) for key, shape in shapes.items()}


def fine_tune(state: dict[str, Tensor], seed: int, size: float = 0.2) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1000 + seed)
    return {k: t + size * torch.randn(t.shape, generator=rng) for k, t in state.items()}


@pytest.fixture
def bag(tmp_path) -> Path:
    """Three fine-tunes of one start, two of another, another head, a duplicate, a damaged file."""
    one, two, other = start(0), start(1), start(2, classes=7)
    files = {
        "a0": fine_tune(one, 0),
        "a1": fine_tune(one, 1),
        "a2": {f"module.{key}": tensor for key, tensor in fine_tune(one, 2).items()},
        "a3": fine_tune(one, 0),
        "b0": fine_tune(two, 0),
        "b1": fine_tune(two, 1),
        "c0": other,
        "d0": start(3),
    }
    for name, state in files.items():
        save(state, tmp_path / f"{name}.{'pt' if name[0] == 'b' else 'safetensors'}")
    (tmp_path / "e0.pt").write_bytes(b"nothing")
    save(start(4) | {"body.bias": torch.full((24,), math.nan)}, tmp_path / "f0.pt")
    return tmp_path


def names(found: radin.Families, members: list[int]) -> list[str]:
    return [found.paths[k].stem for k in members]


def test_families_of_a_mixed_bag(bag):
    found = radin.families(bag, progress=False)
    assert [names(found, members) for members in found.families] == [
        ["a0", "a1", "a2", "a3"],
        ["b0", "b1"],
        ["c0"],
        ["d0"],
    ]
    assert [path.stem for path in found.largest] == ["a0", "a1", "a2"]
    assert [names(found, members) for members in found.duplicates] == [["a0", "a3"]]
    assert [path.stem for path in found.unreadable] == ["e0", "f0"]
    assert [names(found, [k]) for k, n in enumerate(found.architectures) if n] == [["c0"]]
    text = str(found)
    assert "family 4, 1 file: d0.safetensors (shares its start with no other file)" in text
    assert text.startswith("4 families in 10 files\nfamily 1, 4 files: a0.safetensors, a1")
    assert "duplicates: a3.safetensors holds the same weights as a0.safetensors" in text
    assert (
        "another architecture: c0.safetensors differs from a0.safetensors in 1 tensor: head.weight"
        in text
    )
    assert "f0.pt: body.bias holds 24 NaN" in text
    assert "e0.pt: " in text


def test_a_prefix_of_the_first_file_makes_no_difference(bag):
    files = [bag / f"{name}.safetensors" for name in ("a2", "a1", "a0")]
    found = radin.families(files, progress=False)
    assert found.families == [[0, 1, 2]]
    other = radin.families(files[::-1], progress=False)
    torch.testing.assert_close(found.cosines, other.cosines.flip(0, 1))


def test_cosines_and_distances_are_those_of_flat_tensors(bag):
    found = radin.families(sorted(bag.glob("[ab]*")), progress=False)
    opened = [radin.Zoo.open([path], progress=False)[0] for path in found.paths]
    states = [{key.removeprefix("module."): state[key] for key in state} for state in opened]
    for k, one in enumerate(states):
        for m, two in enumerate(states):
            values = []
            for key in ("body.weight", "neck.weight", "head.weight"):
                x, y = one[key].double().flatten(), two[key].double().flatten()
                values.append((x @ y / x.norm() / y.norm()).item())
            assert found.cosines[k, m].item() == pytest.approx(sorted(values)[1], abs=1e-12)
            flat = [torch.cat([s[key].double().flatten() for key in SHAPES]) for s in (one, two)]
            exact = (flat[0] - flat[1]).norm().item()
            assert found.distances[k, m].item() == pytest.approx(exact, abs=1e-5)
    twins = torch.tensor(found.duplicates[0])
    assert (found.distances[twins[:, None], twins] == 0).all()


def test_other_architectures_have_no_cosine(bag):
    found = radin.families(bag, progress=False)
    other = torch.tensor(found.architectures) != 0
    assert found.cosines[other][:, ~other].isnan().all()
    assert found.distances[~other][:, other].isnan().all()
    assert not found.cosines[~other][:, ~other].isnan().any()


@given(data=st.data(), count=st.integers(1, 7))
@settings(max_examples=60)
def test_clusters_are_those_of_plain_average_linkage(data, count):
    values = st.floats(-1, 1).map(lambda value: round(value, 3))
    similar = torch.eye(count, dtype=torch.float64)
    for k in range(count):
        for m in range(k):
            similar[k, m] = similar[m, k] = data.draw(values)
    found, tree = cluster(similar)
    assert sorted(k for members in found for k in members) == list(range(count))
    assert (tree is None) == (count == 1)
    groups = [[k] for k in range(count)]
    heights = []
    while len(groups) > 1:
        apart = {
            (a, b): np.mean([1 - similar[k, m].item() for k in groups[a] for m in groups[b]])
            for a in range(len(groups))
            for b in range(a)
        }
        height = min(apart.values())
        near = [pair for pair, value in apart.items() if abs(value - height) < 1e-9]
        if len(near) > 1:
            return  # ties may be joined in any order
        heights.append(height)
        if height > CUT + 1e-9:
            break
        (a, b) = near[0]
        groups[b] += groups.pop(a)
    if any(abs(height - CUT) < 1e-9 for height in heights):
        return
    assert sorted(map(sorted, found)) == sorted(map(sorted, groups))


@given(count=st.integers(1, 5), most=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_products_of_a_sample_are_those_of_the_first_elements(count, most, seed):
    states = [fine_tune(start(seed), k, 1.0) for k in range(count)]
    found = state_products(states, SHAPES, max_elements=most, progress=False)
    for key, product in found.items():
        rows = torch.stack([state[key].flatten()[:most].double() for state in states])
        torch.testing.assert_close(product, rows @ rows.T)
        torch.testing.assert_close(
            distances(product), torch.cdist(rows, rows), rtol=1e-5, atol=1e-6
        )
        normalised = rows / rows.norm(dim=1, keepdim=True)
        torch.testing.assert_close(cosines(product), normalised @ normalised.T)


def test_a_new_head_does_not_leave_the_family():
    one = start(0)
    states = [fine_tune(one, 0), fine_tune(one, 1) | {"head.weight": start(9)["head.weight"]}]
    products = state_products(states, SHAPES, progress=False)
    assert median_cosines(states[0], products)[0, 1] > 0.9


def test_the_sample_of_a_zoo_finds_the_same_families(bag):
    paths = [path for path in sorted(bag.glob("[abd]*")) if path.stem != "a3"]
    zoo = radin.Zoo.open(paths, progress=False)
    assert families_of_zoo(zoo) == [[0, 1, 2], [3, 4], [5]]


@pytest.mark.parametrize("num_layers", [1, 15, 16, 17, 40])
def test_a_sample_of_a_deep_network_is_small(tmp_path, monkeypatch, num_layers):
    rng = torch.Generator().manual_seed(0)
    for k in range(4):
        if k % 2 == 0:
            one = {f"{i}.weight": torch.randn(200, 100, generator=rng) for i in range(num_layers)}
        save(fine_tune(one, k), tmp_path / f"{k}.pt")
    zoo = radin.Zoo.open(tmp_path, progress=False)
    sampled = []

    def record(states, keys, *, max_elements, progress):
        sampled.append((len(keys), max_elements))
        return state_products(states, keys, max_elements=max_elements, progress=progress)

    monkeypatch.setattr("radin.recipes.families.state_products", record)
    assert families_of_zoo(zoo) == [[0, 1], [2, 3]]
    ((num_keys, max_elements),) = sampled
    assert min(num_layers, 8) <= num_keys <= 16
    assert max_elements < 20_000


def test_architectures_are_counted_without_weights(bag):
    assert count_architectures(bag) == 2
    assert count_architectures([bag / "a0.safetensors", bag / "b0.pt"]) == 1


def test_a_family_that_moved_far_apart_is_told(tmp_path):
    one = start(0)
    for k in range(3):
        save(fine_tune(one, k, 1.0), tmp_path / f"{k}.pt")
    found = radin.families(tmp_path, progress=False)
    assert found.families == [[0, 1, 2]]
    lowest = found.cosines.min().item()
    assert 0.2 < lowest < 0.65
    assert f"2.pt (smallest cosine {lowest:.2f}, they have moved far apart)" in str(found)


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("run_1", "run_2"):
        save(start(0), tmp_path / folder / "model.pt")
    found = radin.families(sorted(tmp_path.glob("*/model.pt")), progress=False)
    assert found.names == ["run_1/model.pt", "run_2/model.pt"]
    assert "run_2/model.pt holds the same weights as run_1/model.pt" in str(found)


def test_choose(bag):
    found = radin.families(bag, progress=False)
    assert [path.stem for path in found.choose("largest")] == ["a0", "a1", "a2"]
    assert [path.stem for path in found.choose("2")] == ["b0", "b1"]
    for wrong in ("0", "5", "-1", "small", "", "²"):
        with pytest.raises(ParameterError, match="from 1 to 4"):
            found.choose(wrong)


def test_nothing_to_read(bag):
    with pytest.raises(CheckpointError, match="e0.pt"):
        radin.families([bag / "e0.pt"], progress=False)
    with pytest.raises(CheckpointError, match="f0.pt: body.bias holds 24 NaN"):
        radin.families([bag / "f0.pt"], progress=False)
    save({"steps": torch.tensor(3)}, bag / "g0.pt")
    with pytest.raises(CheckpointError, match="g0.pt: holds no floating-point weights"):
        radin.families([bag / "g0.pt"], progress=False)
    alone = radin.families([bag / "a0.safetensors"], progress=False)
    assert (alone.families, alone.tree) == ([[0]], None)


def test_dtypes_may_differ(tmp_path):
    one = start(0)
    halves = {key: tensor.half() for key, tensor in fine_tune(one, 1).items()}
    save(fine_tune(one, 0), tmp_path / "a.pt")
    save(halves, tmp_path / "b.pt")
    found = radin.families(tmp_path, progress=False)
    assert found.families == [[0, 1]]


MEMORY = """
import threading, time
import radin

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

def watch():
    while not done:
        peaks.append(anonymous())
        time.sleep(0.002)

radin.families(sys.argv[2], progress=False)  # what is imported and compiled is not counted
before, peaks, done = anonymous(), [], []
thread = threading.Thread(target=watch)
thread.start()
found = radin.families(sys.argv[1], progress=False)
done.append(True)
thread.join()
print(len(found.paths), max(peaks) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells memory so")
def test_memory_does_not_hold_all_files(tmp_path):
    """Sixteen files of 16 MiB; pages that are mapped from them are not counted."""
    rng = torch.Generator().manual_seed(0)
    for k in range(16):
        tensors = {f"w{i}": torch.randn(1024, 1024, generator=rng) for i in range(4)}
        save(tensors, tmp_path / "large" / f"{k}.safetensors")
        save(start(k), tmp_path / "small" / f"{k}.safetensors")
    said = finish(run_python(MEMORY, tmp_path / "large", tmp_path / "small")).split()
    assert said[0] == "16"
    assert float(said[1]) < 128  # MiB; all files together are 256
