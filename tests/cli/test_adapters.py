"""`radin average`, `craft`, `rank` and `evaluate` with adapters of peft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import radin
from adapters import average_in_double, make_adapters, save_base
from radin.checkpoints.adapters import open_adapter
from radin.cli import main


def build() -> nn.Module:
    """A network for images of 3 x 4 x 4 and two classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, 2))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Adapters, their base, images and the module of the network, in the working folder."""
    monkeypatch.chdir(tmp_path)
    made = [
        {"r": 2, "lora_alpha": 4, "target_modules": ["1"]},
        {"r": 3, "lora_alpha": 16, "use_rslora": True, "target_modules": ["1", "3"]},
    ]
    merged = make_adapters(build, tmp_path / "runs", made)
    save_base(build, tmp_path / "base.safetensors")
    (tmp_path / "network_of_adapters.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, 2))\n"
    )
    rng = torch.Generator().manual_seed(0)
    for k in range(12):
        folder = tmp_path / "images" / "val" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (4, 4, 3), generator=rng, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{k}.png")
    return merged


NETWORK = ["--model", "network_of_adapters:build", "--size", "4", "--workers", "1"]
IMAGES = ["--data", "imagenet-folder:images"]


def check_merged(path, merged, p):
    expected = average_in_double(merged, p)
    for key, tensor in load_file(path).items():
        torch.testing.assert_close(tensor, expected[key].float(), rtol=2e-6, atol=2e-6)


def test_average_merged_into_the_base(files, capsys):
    arguments = "average runs --base base.safetensors --weights 0.25,0.75 --out soup.safetensors"
    assert main(arguments.split()) == 0
    assert capsys.readouterr().out == "wrote soup.safetensors, the average of 2 adapters\n"
    check_merged("soup.safetensors", files, [0.25, 0.75])


@pytest.mark.parametrize("base", [[], ["--base", "base.safetensors"]])
def test_copies_and_other_bases_are_said(files, capsys, base):
    shutil.copytree("runs/run_0", "runs/copy")
    for name, model in (("run_0", "org/small"), ("run_1", "org/large")):
        path = Path("runs", name, "adapter_config.json")
        settings = json.loads(path.read_text("utf-8")) | {"base_model_name_or_path": model}
        path.write_text(json.dumps(settings), "utf-8")
    main(["average", "runs", *base, "--out", "soup"])
    said = capsys.readouterr().err
    assert "name different base models" in said
    assert "holds the same weights as" in said


def name_base(*folders: str, base: str) -> None:
    for folder in folders:
        path = Path(folder, "adapter_config.json")
        settings = json.loads(path.read_text("utf-8")) | {"base_model_name_or_path": base}
        path.write_text(json.dumps(settings), "utf-8")


def test_a_base_that_cannot_be_checked_is_said_once(files, capsys):
    arguments = ["average", "runs", "--base", "base.safetensors", "--out", "soup.safetensors"]
    for named, said in ((), "run_0, runs/run_1 names"), (["runs/run_0"], "of runs/run_1 names"):
        name_base(*named, base="org/base")
        assert main([*arguments, "--force"]) == 0
        err = capsys.readouterr().err
        assert err.count("base not checked") == 1
        assert said in err
        assert "make sure that base.safetensors is what they were trained on" in err
    assert main(["average", "runs", "--out", "adapter"]) == 0
    assert "make sure that all of them were trained on one base" in capsys.readouterr().err
    Path("other").mkdir()
    named = {"org/Base": False, "base.safetensors": False, ".": False, "org/big": True}
    for name, is_said in (named | {"other": True}).items():
        name_base("runs/run_0", "runs/run_1", base=name)
        assert main([*arguments, "--force"]) == 0
        err = capsys.readouterr().err
        assert (f"the adapters name {name!r}" in err) == is_said
        assert err == "" or is_said


def test_one_adapter_is_merged_and_called_no_average(files, capsys):
    said = "which holds run_0 alone; an average takes two adapters or more\n"
    merged = ["average", "runs/run_0", "--base", "base.safetensors", "--out", "one.safetensors"]
    assert main(merged) == 0
    assert capsys.readouterr().out == f"wrote one.safetensors, {said}"
    check_merged("one.safetensors", files[:1], [1.0])
    assert main(["average", "runs/run_0", "--out", "again"]) == 0
    assert capsys.readouterr().out == f"wrote again, {said}"


@pytest.mark.parametrize("base", [[], ["--base", "base.safetensors"]])
def test_average_as_one_adapter(files, capsys, base):
    arguments = ["average", "runs/run_0", "runs/run_1", *base, "--out", "soup"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "wrote soup, the average of 2 adapters\n"
    zoo = radin.open_adapters("soup", "base.safetensors", build, progress=False)
    expected = average_in_double(files, [0.5, 0.5])
    for key, tensor in zoo[0].items():
        torch.testing.assert_close(tensor, expected[key].float(), rtol=2e-6, atol=2e-6)
    assert main(arguments) == 1
    assert "soup is not empty; give another --out, or --force" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0


def test_craft_rank_and_evaluate(files, capsys):
    with_base = ["--base", "base.safetensors", *NETWORK, *IMAGES]
    craft = ["craft", "runs", *with_base, "--budget", "2", "--out"]
    assert main([*craft, "soup.safetensors"]) == 0
    assert main([*craft, "adapter"]) == 0
    printed = capsys.readouterr()
    assert "wrote adapter" in printed.out
    assert "families" not in printed.err
    with safe_open(open_adapter("adapter").path, "pt") as file:
        header = json.loads(file.metadata()["radin"])
    assert header["recipe"] == "safe"
    check_merged("soup.safetensors", files, [each["weight"] for each in header["ingredients"]])
    assert main(["rank", "runs", *with_base, "--out", "best.yml"]) == 0
    assert "base.safetensors+runs/run_" in Path("best.yml").read_text("utf-8")
    capsys.readouterr()
    assert main(["evaluate", "adapter", *with_base]) == 0
    assert main(["evaluate", "soup.safetensors", *NETWORK, *IMAGES]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split(": ")[1] == second.split(": ")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("runs --out soup.safetensors", "LoRA adapters, which change another checkpoint"),
        ("runs --base base.safetensors --family 1 --out s.safetensors", "--family is for files"),
        ("runs --base base.safetensors --ema --out s.safetensors", "--ema is for checkpoints"),
        ("runs --ema --out soup", "--ema is for checkpoints"),
        ("runs --base base.safetensors --shard-size 1MB --out soup", "--shard-size cuts a merged"),
        ("runs --base no.safetensors --out s.safetensors", "no.safetensors: no such checkpoint"),
        ("runs --base base.safetensors --out base.safetensors", "base.safetensors exists"),
        ("base.safetensors --base base.safetensors --out soup", "no adapter of peft found there"),
        ("base.safetensors --out soup", "a soup is saved as .safetensors"),
    ],
)
def test_what_does_not_fit_is_refused(files, capsys, arguments, message):
    assert main(["average", *arguments.split()]) == 1
    assert message in capsys.readouterr().err


def test_a_soup_among_its_adapters_is_refused(files, capsys):
    assert main(["average", "runs", "--out", "soup"]) == 0
    for base in ([], ["--base", "base.safetensors"]):
        arguments = ["average", "runs/run_0", "runs/run_1", "soup", *base, "--out", "again"]
        assert main(arguments) == 1
        assert "soup is a soup of" in capsys.readouterr().err.replace(
            "/adapter_model.safetensors", ""
        )


def test_refreshed_batch_norm_is_no_adapter(files, capsys):
    arguments = ["craft", "runs", "--base", "base.safetensors", *NETWORK, *IMAGES, "--out", "soup"]
    assert main([*arguments, "--refresh-part", "train"]) == 1
    assert "--refresh-part measures batch norm" in capsys.readouterr().err
    assert main([*arguments, "--init", "base.safetensors"]) == 1
    assert "for adapters --base is that" in capsys.readouterr().err
