"""book/inputs.md: its section on adapters runs as written, in order, on files of peft."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
from safetensors.torch import load_file

import radin
from adapters import Layers, average_in_double, make_adapters, save_base
from radin.checkpoints.adapters import open_adapter
from radin.cli import main

BLOCK = re.compile(r"^```(python|bash|text)\n(.*?)^```", re.M | re.S)


@pytest.fixture
def section(root) -> list[tuple[str, str]]:
    """The blocks of the section on adapters."""
    text = (root / "book" / "inputs.md").read_text("utf-8")
    return BLOCK.findall(text.partition("(inputs-adapters)=")[2])


def test_the_section_on_adapters(section, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = [{"r": r, "target_modules": ["fc", "conv2d", "embed"]} for r in (1, 2, 4)]
    merged = make_adapters(Layers, tmp_path / "adapters", made)
    (tmp_path / "base").mkdir()
    save_base(Layers, tmp_path / "base" / "model.safetensors")
    names: dict[str, object] = {"build": Layers}
    assert [kind for kind, _ in section] == ["bash", "text", "bash", "text", "python"]
    for kind, text in section:
        if kind == "python":
            exec(compile(text, "inputs.md", "exec"), names)
        elif kind == "bash":
            program, *arguments = shlex.split(text)
            assert program == "radin"
            assert main(arguments) == 0
        else:
            assert capsys.readouterr().out == text
    expected = average_in_double(merged, [0.5, 0.3, 0.2])
    again = radin.open_adapters("soup_again", "base", Layers, progress=False)
    for state in (names["soup"], load_file("merged.safetensors"), again[0]):
        for key, tensor in state.items():
            torch.testing.assert_close(tensor, expected[key].float(), rtol=2e-6, atol=2e-6)
    assert len(open_adapter("soup").tensors["base_model.model.fc.lora_A.weight"]) == 1 + 2 + 4
