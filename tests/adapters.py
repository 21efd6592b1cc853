"""What the tests of adapters share: files that peft itself writes, from tiny random networks."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests use no network

Build = Callable[[], nn.Module]


def peft_library() -> Any:
    """peft itself, or a skipped test where it is not installed."""
    return pytest.importorskip("peft", reason="peft, which writes these files, is not installed")


class Layers(nn.Module):
    """One layer of each kind that peft can adapt, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.fc = nn.Linear(8, 6)
        self.square = nn.Linear(6, 6)
        self.conv1d = nn.Conv1d(4, 6, 3)
        self.conv2d = nn.Conv2d(4, 6, (3, 2))
        self.point = nn.Conv2d(4, 6, 1)
        self.grouped = nn.Conv2d(4, 8, 3, groups=2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(6, 3)


ADAPTED = ["embed", "fc", "square", "conv1d", "conv2d", "point"]


def start(build: Build, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of the common base."""
    torch.manual_seed(seed)
    return {key: tensor.clone() for key, tensor in build().state_dict().items()}


def save_base(build: Build, path: Path) -> Path:
    save_file({key: each.contiguous() for key, each in start(build).items()}, path)
    return path


def adapted_model(build: Build, *, seed: int = 1, **settings: Any) -> Any:
    """The base with a random LoRA adapter of peft, as after a training."""
    peft = peft_library()
    model = build()
    model.load_state_dict(start(build))
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(**{"init_lora_weights": False} | settings)
        )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape) / 4)
    return adapted


def save_adapted(model: Any, folder: Path, *, safe: bool = True) -> dict[str, Tensor]:
    """Write an adapter as peft does, and return the state dict that peft merges it into.

    Files that begin with `init_lora_weights=False` are as those of any training: the setting says
    how the factors began.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, safe_serialization=safe)
        if not safe:  # newer versions of peft write safetensors alone
            to_torch_file(folder)
        merged = model.merge_and_unload()
    return {key: tensor.detach().clone() for key, tensor in merged.state_dict().items()}


def to_torch_file(folder: Path) -> None:
    from safetensors.torch import load_file

    path = folder / "adapter_model.safetensors"
    if path.exists():
        torch.save(load_file(path), folder / "adapter_model.bin")
        path.unlink()


def make_adapters(
    build: Build, folder: Path, settings: Sequence[dict[str, Any]]
) -> list[dict[str, Tensor]]:
    """Adapters run_0, run_1, ... in a folder; returns the state dicts merged by peft."""
    return [
        save_adapted(adapted_model(build, seed=k + 1, **each), folder / f"run_{k}")
        for k, each in enumerate(settings)
    ]


def average_in_double(states: Sequence[dict[str, Tensor]], p: Sequence[float]) -> dict[str, Tensor]:
    """The soup of full checkpoints, by a plain loop."""
    return {
        key: sum(w * state[key].double() for w, state in zip(p, states, strict=True))
        for key in states[0]
    }


def change_settings(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), "utf-8")
