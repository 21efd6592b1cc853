"""Soups of adapters: the average of the networks that peft merges, merged or as one adapter."""

from __future__ import annotations

import json
import pickle
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import radin
from adapters import (
    ADAPTED,
    Layers,
    adapted_model,
    average_in_double,
    make_adapters,
    peft_library,
    save_adapted,
    save_base,
    start,
)
from radin.checkpoints.adapters import open_adapter
from radin.errors import CheckpointError, ParameterError
from radin.soup.average import average_many
from radin.soup.save import save_soups

SINGLE = {"rtol": 2e-6, "atol": 2e-6}


def same(soup: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(soup) == set(expected)
    for key, tensor in soup.items():
        torch.testing.assert_close(tensor, expected[key].to(tensor.dtype), **SINGLE, msg=key)


def load_in_peft(build, folder: Path) -> dict[str, Tensor]:
    """The base with an adapter of ours, merged by peft."""
    peft = peft_library()
    model = build()
    model.load_state_dict(start(build))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*missing adapter keys.*")
        warnings.filterwarnings("error", ".*unexpected.*")
        return peft.PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()


@st.composite
def zoos(draw: st.DrawFn) -> tuple[list[dict], list[float]]:
    """Settings of some adapters, and mixing weights."""
    count = draw(st.integers(1, 4))
    made = []
    for _ in range(count):
        modules = draw(st.lists(st.sampled_from(ADAPTED), min_size=1, unique=True))
        patterns = {
            name: draw(st.dictionaries(st.sampled_from(modules), st.integers(1, 5), max_size=2))
            for name in ("rank_pattern", "alpha_pattern")
        }
        made.append(
            {
                "r": draw(st.integers(1, 5)),
                "lora_alpha": draw(st.sampled_from([1, 2, 3, 16])),
                "use_rslora": draw(st.booleans()),
                "target_modules": modules,
                "modules_to_save": ["head"],
                **patterns,
            }
        )
    parts = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count).filter(any))
    return made, [part / sum(parts) for part in parts]


@settings(max_examples=25)
@given(zoos())
def test_the_soup_is_the_average_of_what_peft_merges(drawn):
    made, p = drawn
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        merged = make_adapters(Layers, folder / "runs", made)
        base = save_base(Layers, folder / "base.safetensors")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "duplicates")
            zoo = radin.open_adapters(folder / "runs", base, Layers, progress=False)
        expected = average_in_double(merged, p)
        for k, state in enumerate(merged):
            same(dict(zoo[k]), state)
        soup = radin.average(zoo, p)
        same(soup, expected)
        saved = load_file(radin.save_soup(zoo, p, folder / "soup.safetensors"))
        assert all(torch.equal(saved[key], soup[key]) for key in soup), "one soup, one set of bits"
        same(load_in_peft(Layers, radin.save_adapter(zoo, p, folder / "adapter")), expected)


def test_averaging_the_factors_apart_is_something_else(tmp_path):
    made = [{"r": 2, "target_modules": ["fc"]}] * 2
    merged = make_adapters(Layers, tmp_path, made)
    expected = average_in_double(merged, [0.5, 0.5])
    factors = [load_file(tmp_path / f"run_{k}" / "adapter_model.safetensors") for k in range(2)]
    mean = {key: (factors[0][key] + factors[1][key]) / 2 for key in factors[0]}
    up, down = (mean[f"base_model.model.fc.lora_{which}.weight"] for which in "BA")
    wrong = start(Layers)["fc.weight"] + 4 * up @ down  # alpha 8, r 2
    assert (wrong - expected["fc.weight"]).abs().max() > 0.01


@pytest.fixture
def three(tmp_path):
    """Three adapters of several ranks, their base, and what peft merges."""
    made = [
        {"r": 2, "lora_alpha": 4, "target_modules": ["fc", "embed"]},
        {"r": 3, "lora_alpha": 16, "use_rslora": True, "target_modules": ["fc", "conv2d"]},
        {"r": 1, "lora_alpha": 1, "target_modules": ["fc", "square", "point"]},
    ]
    merged = make_adapters(Layers, tmp_path / "runs", made)
    base = save_base(Layers, tmp_path / "base.safetensors")
    zoo = radin.open_adapters(tmp_path / "runs", base, Layers, progress=False)
    return zoo, merged, tmp_path


def test_many_soups_in_one_reading(three):
    zoo, merged, folder = three
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    paths = save_soups(zoo, rows, [folder / "a.safetensors", folder / "b.safetensors"])
    for row, soup, path in zip(rows, average_many(zoo, rows), paths, strict=True):
        same(soup, average_in_double(merged, row.tolist()))
        assert all(torch.equal(each, soup[key]) for key, each in load_file(path).items())


def test_a_soup_in_shards(three):
    zoo, merged, folder = three
    path = radin.save_soup(zoo, [0.2, 0.3, 0.5], folder / "s.safetensors", max_shard_size=600)
    opened = radin.Zoo.open(path, Layers, progress=False)
    same(dict(opened[0]), average_in_double(merged, [0.2, 0.3, 0.5]))


def test_on_the_line_from_the_base_to_the_soup(three):
    zoo, merged, _ = three
    p = [0.2, 0.3, 0.5]
    base = start(Layers)
    soup = average_in_double(merged, p)
    expected = {key: 0.75 * base[key].double() + 0.25 * soup[key] for key in base}
    same(radin.interpolate(zoo, p, 0.25), expected)


def test_a_change_to_a_soup_in_memory_changes_no_ingredient(three):
    zoo, merged, _ = three
    soup = radin.average(zoo, [1.0, 0.0, 0.0])
    for tensor in soup.values():
        tensor.zero_()
    same(dict(zoo[0]), merged[0])


def test_a_zoo_in_another_process_has_the_same_weights(three):
    zoo, merged, _ = three
    copy = pickle.loads(pickle.dumps(zoo.subset([2, 0])))
    assert copy.names == ["run_2", "run_0"]
    same(radin.average(copy, [0.5, 0.5]), average_in_double([merged[2], merged[0]], [0.5, 0.5]))


def test_the_summed_adapter_has_the_ranks_of_all(three):
    zoo, _, folder = three
    written = radin.save_adapter(zoo, [0.2, 0.3, 0.5], folder / "soup", provenance={"recipe": "x"})
    config = json.loads((written / "adapter_config.json").read_text("utf-8"))
    tensors = load_file(written / "adapter_model.safetensors")
    assert tensors["base_model.model.fc.lora_A.weight"].shape == (6, 8)
    assert config["rank_pattern"]["fc"] == config["alpha_pattern"]["fc"] == 6
    assert config["rank_pattern"]["embed"] == 2
    assert config["use_rslora"] is False
    with safe_open(written / "adapter_model.safetensors", "pt") as file:
        header = json.loads(file.metadata()["radin"])
    assert [each["weight"] for each in header["ingredients"]] == pytest.approx([0.2, 0.3, 0.5])
    assert header["recipe"] == "x"
    assert sorted(path.name for path in written.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_an_adapter_of_weight_zero_adds_no_rank(three):
    zoo, merged, folder = three
    written = radin.save_adapter(zoo, [0.0, 1.0, 0.0], folder / "soup")
    assert open_adapter(written).tensors["base_model.model.fc.lora_A.weight"].shape == (3, 8)
    same(load_in_peft(Layers, written), merged[1])


def test_adapters_without_their_base_become_one(three):
    _, merged, folder = three
    adapters = [open_adapter(folder / "runs" / f"run_{k}") for k in range(3)]
    radin.save_adapter(adapters, [0.2, 0.3, 0.5], folder / "soup")
    same(load_in_peft(Layers, folder / "soup"), average_in_double(merged, [0.2, 0.3, 0.5]))


def test_a_soup_replaces_an_old_one_whole(three):
    zoo, _, folder = three
    target = folder / "soup"
    target.mkdir()
    (target / "adapter_model.bin").write_bytes(b"old")
    radin.save_adapter(zoo, [1.0, 0.0, 0.0], target)
    radin.save_adapter(zoo, [0.0, 0.0, 1.0], target)
    assert (
        open_adapter(target).factors.keys()
        == open_adapter(folder / "runs" / "run_2").factors.keys()
    )


def test_half_precision_is_summed_in_single(tmp_path):
    merged = []
    for k in range(2):
        model = adapted_model(Layers, seed=k, r=3, target_modules=["fc"])
        merged.append(save_adapted(model, tmp_path / f"run_{k}"))
        path = tmp_path / f"run_{k}" / "adapter_model.safetensors"
        save_file({key: each.bfloat16() for key, each in load_file(path).items()}, path)
    adapters = [open_adapter(tmp_path / f"run_{k}") for k in range(2)]
    soup = load_file(radin.save_adapter(adapters, [0.3, 0.7], tmp_path / "soup") / path.name)
    assert {tensor.dtype for tensor in soup.values()} == {torch.float32}
    up, down = (soup[f"base_model.model.fc.lora_{which}.weight"].double() for which in "BA")
    exact = 0
    for p, adapter in zip((0.3, 0.7), adapters, strict=True):
        b, a = (
            adapter.tensors[f"base_model.model.fc.lora_{which}.weight"].double() for which in "BA"
        )
        exact += p * 8 / 3 * b @ a
    torch.testing.assert_close(up @ down, exact, **SINGLE)


def test_names_that_end_alike_keep_their_ranks(tmp_path):
    """peft finds the rank of a module by the end of its name."""

    def plain() -> nn.Module:
        return nn.ModuleDict(
            {
                "fc": nn.Linear(4, 4),
                "inner": nn.ModuleDict({"fc": nn.Linear(4, 5)}),
                "a": nn.ModuleDict({"inner": nn.ModuleDict({"fc": nn.Linear(4, 6)})}),
            }
        )

    made = [
        {"r": 1, "target_modules": ["fc"], "rank_pattern": {"a.inner.fc": 3}},
        {"r": 2, "target_modules": ["inner.fc"]},
        {"r": 4, "target_modules": "^fc$"},
    ]
    merged = make_adapters(plain, tmp_path / "runs", made)
    adapters = [open_adapter(tmp_path / "runs" / f"run_{k}") for k in range(3)]
    radin.save_adapter(adapters, [0.25, 0.25, 0.5], tmp_path / "soup")
    same(load_in_peft(plain, tmp_path / "soup"), average_in_double(merged, [0.25, 0.25, 0.5]))


def test_other_zoos_have_no_adapter(tmp_path):
    zoo = radin.Zoo.open(save_base(Layers, tmp_path / "base.safetensors"), progress=False)
    with pytest.raises(ParameterError, match=r"not of adapters.*radin\.save_soup"):
        radin.save_adapter(zoo, [1.0], tmp_path / "soup")


def test_adapters_of_two_tasks_are_not_one(tmp_path):
    make_adapters(Layers, tmp_path, [{"target_modules": ["fc"]}] * 2)
    path = tmp_path / "run_1" / "adapter_config.json"
    path.write_text(
        path.read_text("utf-8").replace('"task_type": null', '"task_type": "CAUSAL_LM"')
    )
    adapters = [open_adapter(tmp_path / f"run_{k}") for k in range(2)]
    with pytest.raises(CheckpointError, match="task_type is 'CAUSAL_LM', and None in"):
        radin.save_adapter(adapters, [0.5, 0.5], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()
