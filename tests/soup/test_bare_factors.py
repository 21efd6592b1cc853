"""radin/soup/bare_factors.py: files of LoRA factors, and the nearest adapter of their rank."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from radin.cli import main
from radin.errors import CheckpointError
from radin.soup.bare_factors import holds_bare_factors, nearest_adapter

DOWN = "base_model.model.layer.q.lora_A.weight"
UP = "base_model.model.layer.q.lora_B.weight"


def factors(seed: int, rank: int = 2, inputs: int = 7, outputs: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        DOWN: torch.randn(rank, inputs, generator=generator),
        UP: torch.randn(outputs, rank, generator=generator),
    }


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**16),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 6),
    st.lists(st.floats(0, 1), min_size=1, max_size=4).filter(lambda w: sum(w) > 0.1),
)
def test_it_is_the_truncated_svd_of_the_average_of_products(seed, rank, inputs, outputs, weights):
    files = [factors(seed + k, rank, inputs, outputs) for k in range(len(weights))]
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    average = sum(s * f[UP].double() @ f[DOWN].double() for s, f in zip(shares, files, strict=True))
    u, values, v = torch.linalg.svd(average, full_matrices=False)
    expected = (u[:, :rank] * values[:rank]) @ v[:rank]
    found = nearest_adapter(files, shares)
    product = found.tensors[UP].double() @ found.tensors[DOWN].double()
    assert found.tensors[UP].shape == files[0][UP].shape
    assert found.tensors[DOWN].shape == files[0][DOWN].shape
    # A tie of two singular values leaves the product open, but not its distance.
    distance = (product - average).norm()
    assert distance <= (expected - average).norm() + 1e-4 * (1 + average.norm())
    if average.norm() > 1e-3:
        assert found.missed == pytest.approx((distance / average.norm()).item(), abs=1e-3)


def test_adapters_that_share_a_factor_are_averaged_exactly():
    files = [factors(k) for k in range(3)]
    for each in files[1:]:
        each[DOWN] = files[0][DOWN]
    found = nearest_adapter(files, [0.2, 0.3, 0.5])
    assert found.missed < 1e-6


def test_other_files_are_none():
    one = factors(0)
    assert holds_bare_factors(one)
    assert not holds_bare_factors({})
    assert not holds_bare_factors({**one, "head.weight": torch.zeros(2, 2)})
    assert not holds_bare_factors({DOWN: one[DOWN]})
    assert not holds_bare_factors({**one, UP: one[UP][:, :1]})


def test_files_of_other_shapes_are_named():
    with pytest.raises(CheckpointError, match="file 1 of the adapters has other factors"):
        nearest_adapter([factors(0), factors(1, rank=3)], [0.5, 0.5])


@pytest.fixture
def adapters(tmp_path):
    for k in range(3):
        (tmp_path / f"run_{k}").mkdir()
        save_file(factors(k), tmp_path / f"run_{k}" / "adapter_model.safetensors")
    return tmp_path


def test_the_command_says_what_it_did(adapters, capsys):
    files = [str(adapters / f"run_{k}" / "adapter_model.safetensors") for k in range(3)]
    out = adapters / "soup.safetensors"
    assert main(["average", *files, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "LoRA adapters without adapter_config.json" in printed.err
    tensors = load_file(out)
    expected = nearest_adapter([load_file(path) for path in files], [1 / 3] * 3)
    assert torch.equal(tensors[UP], expected.tensors[UP])
    assert f"misses {100 * expected.missed:.1f}% of the average" in printed.err
    with safe_open(out, "pt") as file:
        header = json.loads(file.metadata()["radin"])
    assert [each["name"] for each in header["ingredients"]] == files
    assert header["missed"] == pytest.approx(expected.missed)


def test_with_settings_beside_the_exact_soup_is_asked_for(adapters, capsys):
    files = [str(adapters / f"run_{k}" / "adapter_model.safetensors") for k in range(3)]
    for k in range(3):
        settings_ = {"peft_type": "LORA", "r": 2, "lora_alpha": 2 + k, "target_modules": ["q"]}
        (adapters / f"run_{k}" / "adapter_config.json").write_text(json.dumps(settings_))
    assert main(["average", *files, "--out", str(adapters / "soup.safetensors")]) == 1
    assert "LoRA" in capsys.readouterr().err
    assert not (adapters / "soup.safetensors").exists()
