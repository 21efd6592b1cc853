"""radin/cli/family_options.py: `radin families` and the option --family."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import radin
from helpers import save
from radin.cli import main


def start(seed: int, classes: int = 5) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"body": (24, 16), "neck": (16, 24), "head": (classes, 16)}
    return {f"{key}.weight": torch.randn(shape, generator=rng) for key, shape in shapes.items()}


def fine_tune(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1000 + seed)
    return {k: t + 0.2 * torch.randn(t.shape, generator=rng) for k, t in state.items()}


@pytest.fixture
def bag(tmp_path, monkeypatch) -> Path:
    """Two families and a duplicate in a folder, and another architecture beside it."""
    for k in range(3):
        save(fine_tune(start(0), k), tmp_path / f"bag/a{k}.safetensors")
    save(fine_tune(start(0), 0), tmp_path / "bag/a3.safetensors")
    for k in range(2):
        save(fine_tune(start(1), k), tmp_path / f"bag/b{k}.safetensors")
    save(start(2, classes=7), tmp_path / "other.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], command: str) -> tuple[str, str]:
    """What a successful command prints, and its notes."""
    capsys.readouterr()
    assert main(shlex.split(command)) == 0, capsys.readouterr().err
    return capsys.readouterr()


def test_the_table(bag, capsys):
    out, _ = run(capsys, "families bag --plot tree.png")
    found = radin.families("bag", progress=False)
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()[1:7]]
    assert [row[:2] for row in rows] == [
        [found.paths[k].name, str(n)] for n, each in enumerate(found.families, 1) for k in each
    ]
    nearest = {row[0]: row[2:4] for row in rows}
    assert nearest["a0.safetensors"] == ["a3.safetensors", "1.000"]
    k, m = (next(i for i, p in enumerate(found.paths) if p.stem == name) for name in ("b0", "b1"))
    assert nearest["b0.safetensors"] == ["b1.safetensors", f"{found.cosines[k, m]:.3f}"]
    assert "The largest family has 3 different files" in out
    assert "duplicates: a3.safetensors holds the same weights as a0.safetensors" in out
    assert out.endswith("wrote tree.png\n")
    assert Path("tree.png").read_bytes().startswith(b"\x89PNG")


def test_one_family_and_no_family(bag, capsys):
    out, _ = run(capsys, "families bag/b0.safetensors bag/b1.safetensors")
    assert out.endswith("All files share a start: they can be averaged.\n")
    out, _ = run(capsys, "families bag/b0.safetensors bag/a1.safetensors")
    assert out.endswith("No two different files share a start, so there is nothing to average.\n")


def averaged(path: str) -> Tensor:
    return load_file(path)["body.weight"]


def test_without_the_option_all_files_are_taken_with_a_note(bag, capsys):
    _, err = run(capsys, "average bag --out soup.safetensors")
    assert "these files are of 2 families that share no start: a0, a1, a2 and 1 more; b0, b1" in err
    assert "--family largest" in err
    everything = torch.stack([load_file(p)["body.weight"] for p in Path("bag").iterdir()])
    torch.testing.assert_close(averaged("soup.safetensors"), everything.mean(0))
    _, err = run(capsys, "average bag --family all --out soup.safetensors --force")
    assert "families" not in err
    _, err = run(capsys, "average bag/a0.safetensors bag/a1.safetensors --out s.safetensors")
    assert err == ""


@pytest.mark.parametrize(("family", "names"), [("largest", "a0 a1 a2"), ("2", "b0 b1")])
def test_the_option_takes_a_family_and_says_so(bag, capsys, family, names):
    out, err = run(capsys, f"average bag --family {family} --out soup.safetensors")
    files = [f"{name}.safetensors" for name in names.split()]
    assert f"--family {family}: took {len(files)} files, {', '.join(files)}." in err
    aside = {path.name for path in Path("bag").iterdir()} - set(files)
    assert all(name in err.split("left aside: ")[1] for name in aside)
    expected = torch.stack([load_file(f"bag/{name}")["body.weight"] for name in files]).mean(0)
    torch.testing.assert_close(averaged("soup.safetensors"), expected)
    assert out == f"wrote soup.safetensors, the average of {len(files)} checkpoints\n"


def test_several_architectures_are_refused_with_the_way_out(bag, capsys):
    files = "bag/a0.safetensors bag/a1.safetensors other.safetensors"
    capsys.readouterr()
    assert main(shlex.split(f"average {files} --out s.safetensors")) == 1
    way_out = "largest takes the largest family, and radin families tells which belong together."
    assert capsys.readouterr().err.rstrip().endswith(way_out)
    _, err = run(capsys, f"average {files} --family largest --out s.safetensors")
    assert "left aside: other.safetensors" in err
    out, _ = run(capsys, f"families {files}")
    assert "another architecture: other.safetensors differs from a0.safetensors in 1 tensor" in out


def test_a_family_that_is_not_there(bag, capsys):
    capsys.readouterr()
    assert main(shlex.split("average bag --family 3 --out s.safetensors")) == 1
    assert "is \"largest\" or a number from 1 to 2, not '3'" in capsys.readouterr().err
    assert not Path("s.safetensors").exists()


def test_a_family_of_one_is_no_soup(bag, capsys):
    files = "bag/a0.safetensors bag/a3.safetensors bag/b0.safetensors"
    capsys.readouterr()
    for family in ("largest", "2"):
        assert main(shlex.split(f"average {files} --family {family} --out s.safetensors")) == 1
        assert "it holds no weights but those of bag/" in capsys.readouterr().err
    assert not Path("s.safetensors").exists()


def test_one_checkpoint_is_called_no_average(bag, capsys):
    said = "wrote s.safetensors, which holds a0 alone; an average takes two checkpoints or more\n"
    Path("bag/empty").mkdir()
    for given in ("bag/a0.safetensors", "'bag/a0*'", "'bag/[ae]*[0y]*'"):
        out, _ = run(capsys, f"average {given} --out s.safetensors --force")
        assert out == said
    _, err = run(capsys, "average 'bag/[ae]*[0y]*' --out s.safetensors --force")
    assert "left aside, 1 folder without a checkpoint: empty" in err


def test_a_copy_in_half_precision_is_named_and_left_out(bag, capsys):
    halves = {key: tensor.half() for key, tensor in load_file("bag/b1.safetensors").items()}
    save(halves, bag / "bag/b2.safetensors")
    out, _ = run(capsys, "families bag")
    assert "another precision: b2.safetensors holds the weights of b1.safetensors" in out
    _, err = run(capsys, "average bag --family 2 --out s.safetensors")
    assert "--family 2: took 2 files, b0.safetensors, b1.safetensors." in err
    _, err = run(
        capsys,
        "average bag/b0.safetensors bag/b1.safetensors bag/b2.safetensors --out t.safetensors",
    )
    assert "bag/b2.safetensors holds the weights of bag/b1.safetensors" in err


def test_adapters_have_no_families(bag, capsys):
    for k in range(2):
        folder = bag / f"adapters/run_{k}"
        save(
            {"base_model.model.body.lora_A.weight": torch.ones(1, 1)},
            folder / "adapter_model.safetensors",
        )
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    capsys.readouterr()
    for given in ("adapters", "'adapters/*'", "adapters/run_0 adapters/run_1"):
        assert main(shlex.split(f"families {given}")) == 1
        message = capsys.readouterr().err
        assert "run_0/adapter_model.safetensors: a LoRA adapter, and families are" in message
        assert "--base" not in message
    assert main(shlex.split("average adapters bag --out s.safetensors")) == 1
    assert (
        "it holds 2 LoRA adapters: run_0, run_1; give this folder alone, and the base of the "
        "adapters by --base."
    ) in capsys.readouterr().err


def test_craft_takes_a_family(bag, capsys, monkeypatch):
    """The networks are as small as the files: images of 4 x 4 pixels."""
    import numpy as np
    from PIL import Image

    (bag / "my_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.body = nn.Linear(16, 24, bias=False)\n"
        "        self.neck = nn.Linear(24, 16, bias=False)\n"
        "        self.head = nn.Linear(16, num_classes, bias=False)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.neck(self.body(x.mean(1).flatten(1)).relu()))\n"
        "def build(num_classes):\n"
        "    return Net(num_classes)\n"
    )
    rng = np.random.default_rng(0)
    for c in "vwxyz":
        (bag / "images/val" / c).mkdir(parents=True)
        for k in range(3):
            pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(bag / "images/val" / c / f"{k}.png")
    monkeypatch.syspath_prepend(bag)
    network = "--model my_net:build --data imagenet-folder:images --size 4 --device cpu"
    out, err = run(capsys, f"craft bag {network} --budget 2 --family largest")
    assert "--family largest: took 3 files, a0.safetensors, a1.safetensors, a2.safetensors." in err
    assert not re.search(r"\bb[01]\b", out)
    _, err = run(capsys, f"rank bag {network} --top 2")
    assert "these files are of 2 families" in err
