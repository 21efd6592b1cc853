"""radin/cli/parser.py: every command from its arguments to what it prints and writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import radin
from helpers import files_below, save
from imagenet_tree import TOPS, put
from local_server import LocalServer
from packing import cifar_archive
from radin import SoupBench, Zoo
from radin.cli import commands, inputs, parser, tables, words
from radin.cli.parser import main
from radin.data.download.catalog import DATA_SETS, Archive
from radin.data.splits import Normalised
from radin.experiments.intervals import paired_interval, paired_metric_interval
from radin.experiments.model_soups import ingredients
from radin.experiments.notebook import load_benchmark
from radin.inference.batch_norm import refresh_batch_norm
from radin.ranking.named_metrics import find_metric
from radin.recipes.rules import RaceRules
from radin.soup.average import average_by_tensor

NETWORKS = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.GELU(), nn.Linear(8, num_classes))

def with_batch_norm():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(64, 3)
    )
"""
COUNTS = {"train": 12, "val": 20, "test": 30}


def draw(folder: Path, classes: str = "abc") -> None:
    """Images of 4 x 4 pixels whose class is their colour, with much noise."""
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for c, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(120, 90, (4, 4, 3)) + 40 * np.eye(3)[c % 3]
                Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(
                    folder / part / name / f"{i}.png"
                )


def train(
    model: nn.Module, split: torch.utils.data.Dataset, rate: float, seed: int
) -> dict[str, torch.Tensor]:
    """The state dict after a few steps of training."""
    images, labels = torch.stack([image for image, _ in split]), split.labels
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(model.train().parameters(), lr=rate)
    for _ in range(12):
        chosen = torch.randint(len(labels), (16,), generator=rng)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimiser.step()
    return model.state_dict()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder as a user has one: images, networks of their own, and two zoos."""
    folder = tmp_path_factory.mktemp("home")
    draw(folder / "images")
    (folder / "my_networks.py").write_text(NETWORKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        import my_networks

        split = radin.load_split(str(folder / "images"), "train")
        for name, build in (
            ("plain", lambda: my_networks.build(3)),
            ("normed", my_networks.with_batch_norm),
        ):
            torch.manual_seed(0)
            start = build().state_dict()
            save(start, folder / f"{name}.safetensors")
            for k in range(4):
                model = build()
                model.load_state_dict(start)
                save(
                    train(model, split, 0.1 * (k + 1), seed=k),
                    folder / name / f"model_{k}.safetensors",
                )
        yield folder


DATA = "--data imagenet-folder:images --size 4 --device cpu"
PLAIN = f"plain --model my_networks:build {DATA}"
NORMED = f"normed --model my_networks:with_batch_norm {DATA}"


def split_of(home: Path, part: str) -> radin.data.Split:
    return radin.load_split(str(home / "images"), part, size=4)


def zoo_of(home: Path, name: str = "plain") -> Zoo:
    import my_networks

    build = {"plain": lambda: my_networks.build(3), "normed": my_networks.with_batch_norm}[name]
    return Zoo.open(home / name, build, progress=False)


def run(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What a successful command prints."""
    capsys.readouterr()
    assert main(shlex.split(command)) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert all(
        len(line) <= tables.WIDTH for line in out.splitlines() if not line.startswith("wrote ")
    )
    return out


def refused(capsys: pytest.CaptureFixture[str], command: str, status: int = 1) -> str:
    """The last line on stderr of a refused command."""
    capsys.readouterr()
    if status == 2:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        assert left.value.code == 2
    else:
        assert main(shlex.split(command)) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert out == ""
    return err.strip().splitlines()[-1]


def table(out: str, first: str) -> list[list[str]]:
    """The rows under the line that starts with a word; cells are separated by two blanks."""
    lines = iter(out.splitlines())
    next(line for line in lines if line.startswith(first))
    rows = []
    for line in lines:
        if not line.strip():
            break
        rows.append(re.split(r" {2,}", line.strip()))
    return rows


# craft ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crafted(home):
    """What Python crafts from the same checkpoints."""
    zoo, val = zoo_of(home), split_of(home, "val")
    bank = radin.predict(zoo, val, device="cpu", progress=False)
    return zoo, bank, radin.craft(bank, radin.evaluator(zoo, val, "cpu"), budget=4, prior=0.5)


def test_craft_is_what_python_crafts(home, crafted, capsys, tmp_path):
    zoo, bank, soup = crafted
    out = run(
        capsys,
        f"craft {PLAIN} --budget 4 --prior 0.5 --test-part test "
        f"--out {tmp_path / 'soup.safetensors'}",
    )
    assert out.startswith("radin: 4 of 4 evaluations spent on val, 60 images\n")
    rows = table(out, "rank")
    assert [row[:2] for row in rows] == [
        [str(k + 1), f"{t.estimate:.2f}"] for k, t in enumerate(soup.trials)
    ]
    assert [row[2].rstrip(" *") for row in rows] == [f"{t.accuracy:.2f}" for t in soup.trials]
    winners = [k for k, row in enumerate(rows) if row[2].endswith("*")]
    assert [soup.trials[k].weights.tolist() for k in winners] == [soup.weights.tolist()]
    assert [int(row[3].split(":")[0]) for row in rows] == [
        int((t.weights > 0).sum()) for t in soup.trials
    ]
    report = str(radin.trust(bank, zoo, trials=soup.trials, progress=False))
    assert " ".join(report.split()) in " ".join(out.split())  # lines are wrapped
    state = load_file(tmp_path / "soup.safetensors")
    expected = radin.average(zoo, soup.weights)
    assert all(torch.equal(state[key], expected[key]) for key in zoo.keys())
    assert files_below(tmp_path) == ["soup.safetensors"]


def test_craft_compares_the_winner_image_by_image(home, crafted, capsys):
    zoo, bank, soup = crafted
    out = run(capsys, f"craft {PLAIN} --budget 4 --prior 0.5 --test-part test")
    best = int(bank.accuracies().argmax())
    for part, first in (("val", "on val, 60 images, which chose"), ("test", "on test, 90 images:")):
        rows = table(out, first)[1:]
        right = {}
        for name, weights in (
            ("winner", soup.weights),
            ("best", torch.eye(4)[best]),
            ("uniform", torch.ones(4) / 4),
        ):
            logits, labels = radin.soup_logits(zoo, weights, split_of(home, part), "cpu")
            right[name] = logits.argmax(1) == labels
        assert rows[0][-1] == f"{100 * right['winner'].double().mean():.2f}"
        assert len(rows) + rows[0][0].count(", the") == 3
        for row in rows[1:]:
            other = right["best" if row[0].startswith("best single (") else "uniform"]
            less, low, high = paired_interval(right["winner"], other)
            accuracy = f"{100 * other.double().mean():.2f}"
            assert row[1:] == [accuracy, f"{less:+.2f}", f"{low:+.2f} to {high:+.2f}"]


def test_a_winner_is_not_compared_with_itself(home, capsys):
    out = run(capsys, f"craft {PLAIN} --recipe uniform --budget 1")
    names = [row[0] for row in table(out, "on val")[1:]]
    assert names[0] == "winner, the uniform soup"
    assert names[1].startswith("best single (model_")
    out = run(capsys, f"craft {PLAIN} --recipe best_single --budget 1")
    names = [row[0] for row in table(out, "on val")[1:]]
    assert names[0].startswith("winner, the best single (model_")
    assert names[1:] == ["uniform soup"]
    assert "0 of 1 evaluations spent on val, 60 images; this recipe needs no evaluation" in out


@pytest.mark.parametrize("recipe", parser.CRAFT_RECIPES)
def test_every_recipe(home, capsys, recipe):
    out = run(capsys, f"craft {PLAIN} --recipe {recipe} --budget 3")
    assert out.startswith(f"{recipe}: ")
    assert (
        sum(row[2].endswith(" *") for row in table(out, "rank" if recipe == "radin" else "trial"))
        == 1
    )
    assert ("trust in the fast estimate" in out) == (recipe in ("radin", "safe"))


MY_DATA = """
import torch, radin
from torch.utils.data import DataLoader

def pairs(part):
    return [pair for pair in radin.load_split("images", part, root=".", size=4)]

def loader(part):
    return DataLoader(pairs(part), batch_size=7)

def shuffled(part):
    return DataLoader(pairs(part), shuffle=True)

def grey(part):
    return [(image.mean(0, keepdim=True), label) for image, label in pairs(part)]
"""


@pytest.mark.parametrize(
    ("option", "owner"),
    [
        ("--prior 0.5", "radin"),
        ("--free-singles", "radin"),
        ("--threshold 1", "safe"),
        ("--granularity block", "learned"),
        ("--start convex", "learned"),
        ("--holdout 0.2", "learned"),
    ],
)
def test_an_option_of_another_recipe_is_refused(home, capsys, option, owner):
    wanted = f"{option.split()[0]} is for --recipe {owner}, not for greedy"
    assert wanted in refused(capsys, f"craft {PLAIN} --recipe greedy {option}")


def test_images_of_a_function_of_one_s_own(home, capsys):
    (home / "my_data.py").write_text(MY_DATA)
    own = PLAIN.replace("imagenet-folder:images --size 4", "my_data:{}")
    wanted = run(capsys, f"rank {PLAIN} --top 3")
    for name in ("pairs", "loader"):
        assert run(capsys, f"rank {own.format(name)} --top 3") == wanted
    assert "make it with shuffle=False" in refused(capsys, f"rank {own.format('shuffled')}")
    assert "my_data has no function 'loaded'" in refused(capsys, f"rank {own.format('loaded')}")
    assert "--size is for images" in refused(capsys, f"rank {own.format('pairs')} --size 4")
    assert "channel" in refused(capsys, f"rank {own.format('grey')}")


def test_a_crafted_soup_as_json(home, capsys, tmp_path):
    out = tmp_path / "soup.safetensors"
    text = run(
        capsys, f"craft {PLAIN} --recipe radin --budget 3 --test-part test --json --out {out}"
    )
    found = json.loads(text)
    assert found["recipe"] == "radin"
    assert found["wrote"] == str(out)
    assert len(found["trials"]) == found["evaluations"] == 3
    assert found["value"] == max(trial["value"] for trial in found["trials"])
    assert [each["part"] for each in found["compared"]] == ["val", "test"]
    assert [each["chose_the_winner"] for each in found["compared"]] == [True, False]
    assert found["compared"][0]["value"] == pytest.approx(found["value"])
    for rival in found["compared"][1]["rivals"]:
        assert rival["low"] <= rival["winner_less_it"] <= rival["high"]
    assert found["trust"]["verdict"] in ("yes", "no")
    val = json.loads(run(capsys, f"evaluate {out} --model my_networks:build {DATA} --json"))
    assert val["parts"] == [{"part": "val", "images": 60, "value": pytest.approx(found["value"])}]


def test_soups_on_a_share_of_the_images(home, crafted, capsys):
    zoo, bank, _ = crafted
    out = run(capsys, f"craft {PLAIN} --recipe radin --budget 3 --share 0.8 --seed 2")
    val = split_of(home, "val")
    evaluate = radin.evaluator(zoo, val, "cpu", bank=bank, share=0.8, seed=2)
    soup = radin.craft(bank, evaluate, budget=3, seed=2)
    # How far the share grows follows from the networks, and so from the processor.
    first, *others = (trial.cost for trial in soup.trials)
    assert first == 1
    assert others == [Fraction(evaluate.partial.share).limit_denominator(60)] * len(others)
    spent = float(first + sum(others))
    assert out.startswith(
        f"radin: {len(soup.trials)} soups evaluated in {spent:.2f} of 3 forward passes on val, "
        "60 images"
    )
    assert [row[2:4] for row in table(out, "rank")] == [
        [f"{t.value:.2f}{' *' if t.value == soup.value else ''}", f"{t.standard_error:.2f}"]
        for t in soup.trials
    ]
    assert " ".join(evaluate.partial.report().split()) in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "recipe", "prior"),
    [("", "safe", 0.0), ("--prior 0.5", "radin", 0.5), ("--prior 0", "radin", 0.0)],
)
def test_without_a_name_it_is_safe_or_radin_with_its_options(
    home, crafted, capsys, options, recipe, prior
):
    zoo, bank, _ = crafted
    found = json.loads(run(capsys, f"craft {PLAIN} --budget 3 --json {options}"))
    soup = radin.craft(
        bank, radin.evaluator(zoo, split_of(home, "val"), "cpu"), 3, recipe, prior=prior
    )
    assert found["recipe"] == recipe
    assert found["value"] == pytest.approx(soup.value)
    assert found["trust"]["verdict"] in ("yes", "no")


def test_safe_says_why(home, crafted, capsys):
    zoo, bank, _ = crafted
    out = run(capsys, f"craft {PLAIN} --recipe safe --budget 2 --threshold 50")
    soup = radin.craft(
        bank, radin.evaluator(zoo, split_of(home, "val"), "cpu"), 2, "safe", threshold=50
    )
    assert len(soup.members) == 1
    assert soup.note.startswith("kept the best single: the ")
    assert soup.note in " ".join(out.split())


def test_a_soup_learned_tensor_by_tensor(home, crafted, capsys, tmp_path):
    zoo, bank, _ = crafted
    path = tmp_path / "soup.safetensors"
    options = "--recipe learned --granularity tensor --start convex --holdout 0.25 --budget 8"
    out = run(capsys, f"craft {PLAIN} {options} --out {path}")
    soup = radin.craft(
        bank,
        radin.evaluator(zoo, split_of(home, "val"), "cpu"),
        8,
        "learned",
        granularity="tensor",
        start="convex",
        holdout=0.25,
    )
    assert soup.tensor_weights is not None
    expected, found = average_by_tensor(zoo, soup.tensor_weights), load_file(path)
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    (winner, *rivals) = table(out, "on val")[1:]
    assert winner[:2] == ["winner", f"{soup.accuracy:.2f}"]
    assert len(rivals) == 2  # the winner is neither of them, whatever its mean weights are
    with safe_open(path, "pt") as file:
        provenance = json.loads(file.metadata()["radin"])
    assert [provenance[name] for name in ("granularity", "start", "holdout")] == [
        "tensor",
        "convex",
        0.25,
    ]
    assert provenance["tensor_weights"].keys() == soup.tensor_weights.keys()


def test_the_seconds_of_stage_2_are_told(home, capsys):
    line = r"\naveraging, reading and running these soups took \d+\.\d s\n"
    assert re.search(line, run(capsys, f"craft {PLAIN} --budget 2"))
    assert not re.search(line, run(capsys, f"craft {PLAIN} --recipe best_single --budget 2"))


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_race_chooses_its_images(home, crafted, capsys, share):
    zoo, bank, _ = crafted
    option = "" if share is None else f" --share {share}"
    out = run(capsys, f"craft {PLAIN} --recipe race --budget 3{option}")
    rules = RaceRules() if share is None else RaceRules(share=share)
    live = radin.evaluator(zoo, split_of(home, "val"), "cpu")
    soup = radin.craft(bank, live, 3, "race", race_rules=rules)
    words = " ".join(out.split())
    assert f"race: {soup.spent} on" in words
    assert soup.note in words
    assert len(table(out, "trial")) == len(soup.trials)


def test_a_soup_remembers_how_it_was_made(home, crafted, capsys, tmp_path):
    path = tmp_path / "new" / "soup.safetensors"
    run(capsys, f"craft {PLAIN} --budget 4 --prior 0.5 --seed 7 --out {path}")
    with safe_open(path, "pt") as file:
        provenance = json.loads(file.metadata()["radin"])
    assert [ingredient["name"] for ingredient in provenance["ingredients"]] == [
        f"model_{k}" for k in range(4)
    ]
    assert [i["weight"] for i in provenance["ingredients"]] == pytest.approx(
        crafted[2].weights.tolist()
    )
    expected = {
        "recipe": "radin",
        "budget": 4,
        "prior": 0.5,
        "seed": 7,
        "part": "val",
        "size": 4,
        "evaluations": 4,
    }
    expected |= {
        "model": "my_networks:build",
        "data": "imagenet-folder:images",
        "normalise": "none",
    }
    assert {name: provenance[name] for name in expected} == expected
    assert provenance["accuracy"] == crafted[2].accuracy


def test_a_soup_is_not_overwritten_unless_forced(home, capsys, tmp_path, monkeypatch):
    path = tmp_path / "soup.safetensors"
    path.write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(commands, "predict", lambda *_: pytest.fail("worked before it checked"))
        assert "soup.safetensors exists; give another --out, or --force" in refused(
            capsys, f"craft {PLAIN} --out {path}"
        )
        assert "a soup is saved as .safetensors" in refused(
            capsys, f"craft {PLAIN} --out {tmp_path / 'soup.pt'}"
        )
    assert path.read_text() == "mine"
    run(capsys, f"craft {PLAIN} --budget 1 --out {path} --force")
    assert len(load_file(path)) == 4


def test_a_soup_that_is_not_written_gives_a_note(home, capsys):
    assert main(shlex.split(f"craft {PLAIN} --budget 1")) == 0
    assert "the soup was not written; give --out" in capsys.readouterr().err


def test_checkpoints_may_be_files_a_glob_or_a_folder(home, capsys):
    rest = PLAIN.removeprefix("plain ")
    files = " ".join(f"plain/model_{k}.safetensors" for k in range(4))
    answers = {
        re.sub(r"took \d+\.\d s", "", run(capsys, f"craft {given} {rest} --budget 2"))
        for given in (files, "'plain/*.safetensors'", "plain")
    }
    assert len(answers) == 1


def test_the_initialisation_is_no_ingredient(home, capsys):
    out = run(capsys, f"craft {PLAIN} --init plain.safetensors --budget 1")
    assert "distance to the initialisation" in out


def test_batch_norm_is_measured_again(home, capsys, tmp_path):
    path = tmp_path / "soup.safetensors"
    run(capsys, f"craft {NORMED} --budget 2 --refresh-part train --test-part test --out {path}")
    zoo, train_split = zoo_of(home, "normed"), split_of(home, "train")
    bank = radin.predict(zoo, split_of(home, "val"), device="cpu", progress=False)
    soup = radin.craft(
        bank, radin.evaluator(zoo, split_of(home, "val"), "cpu", refresh=train_split), budget=2
    )
    expected, found = refresh_batch_norm(zoo, soup.weights, train_split, "cpu"), load_file(path)
    assert all(torch.equal(found[key], expected[key]) for key in zoo.keys())
    assert not torch.equal(
        found["1.running_mean"], radin.average(zoo, soup.weights)["1.running_mean"]
    )
    rest = NORMED.removeprefix("normed ")
    accuracy = radin.evaluator(zoo, split_of(home, "test"), "cpu")(expected)
    assert f"accuracy {accuracy:.2f}%" in run(capsys, f"evaluate {path} {rest} --part test")


def test_batch_norm_without_images_gives_a_warning(home, capsys, tmp_path, recwarn):
    for command in (f"craft {NORMED} --budget 1", "average normed"):
        assert (
            main(shlex.split(f"{command} --out {tmp_path / command.split()[0]}.safetensors")) == 0
        )
        assert "batch norm fit no soup; radin craft --refresh-part train" in capsys.readouterr().err
    assert not recwarn.list  # in terms of Python
    assert "no batch norm" in refused(capsys, f"craft {PLAIN} --refresh-part train")


def test_colours(home, capsys):
    zoo, val = zoo_of(home), split_of(home, "val")
    for arguments, mean, std in (
        ("--normalise imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("--mean 0.1,0.2,0.3 --std 1,2,3", (0.1, 0.2, 0.3), (1, 2, 3)),
        ("--normalise none", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ):
        bank = radin.predict(zoo, Normalised(val, mean, std), device="cpu", progress=False)
        best = int(bank.accuracies().argmax())
        line = f"best single: {bank.names[best]}, {bank.accuracies()[best]:.2f}%"
        assert line in run(capsys, f"rank {PLAIN} {arguments}")
    assert "--mean and --std belong together" in refused(capsys, f"rank {PLAIN} --mean 0.5,0.5,0.5")
    assert "std above 0" in refused(capsys, f"rank {PLAIN} --mean 0,0,0 --std 0,0,0")
    assert "'grey' is not a list of numbers" in refused(
        capsys, f"rank {PLAIN} --mean grey --std 1,1,1", 2
    )


def test_clip_models_are_shown_clip_colours(home):
    parse = parser.make_parser().parse_args
    base = "evaluate x --data imagenet-folder:images --model"
    for spec, more, clip in (
        ("open_clip:RN50", "", True),
        ("timm:a", "", False),
        ("open_clip:a", "none", False),
    ):
        options = parse(shlex.split(f"{base} {spec}" + (f" --normalise {more}" if more else "")))
        split = inputs.open_part(options, "val")
        assert isinstance(split, Normalised) == clip
        assert split[0][0].shape == (3, 224, 224)  # the size where none is given


def test_a_quick_look(home, capsys):
    zoo, val = zoo_of(home), split_of(home, "val")
    bank = radin.predict(zoo, val.take(9), device="cpu", progress=False)
    ranking = radin.rank(bank, radin.exhaustive(4), top=2)
    assert main(shlex.split(f"rank {PLAIN} --top 2 --images 9")) == 0
    out, err = capsys.readouterr()
    assert out.startswith("the first 2 of 15 candidates on val, 9 images, a quick look\n")
    assert "images, val: 9 of 60 images." in err
    assert [row[1] for row in table(out, "rank")] == [
        f"{ranking.estimates[k]:.2f}" for k in ranking.order
    ]
    out = run(capsys, f"craft {PLAIN} --budget 1 --test-part test --images 9")
    assert "1 of 1 evaluations spent on val, 9 images, a quick look" in out
    assert "\non test, 9 images, a quick look:\n" in out


def test_how_networks_run(home, capsys, tmp_path, monkeypatch):
    asked = []
    for name in ("predict", "evaluator", "soup_logits"):
        done = getattr(commands, name)
        monkeypatch.setattr(
            commands,
            name,
            lambda *args, done=done, **options: asked.append(options) or done(*args, **options),
        )
    path, options = tmp_path / "soup.safetensors", "--precision half --batch-size 7 --images 30"
    run(capsys, f"craft {PLAIN} --budget 1 {options} --workers 2 --out {path}")
    run(capsys, f"evaluate {path} {PLAIN.removeprefix('plain ')} {options} --workers 2")
    assert len(asked) >= 5
    how = {"half": True, "batch_size": 7, "device": "cpu", "workers": 2}
    assert all(how.items() <= each.items() for each in asked)
    with safe_open(path, "pt") as file:
        provenance = json.loads(file.metadata()["radin"])
    assert (provenance["precision"], provenance["images"]) == ("half", 30)
    asked.clear()
    run(capsys, f"rank {PLAIN}")
    assert [(each["half"], each["workers"]) for each in asked] == [(False, None)]


# The other commands -----------------------------------------------------------------------------


def test_rank(home, crafted, capsys):
    bank = crafted[1]
    out = run(capsys, f"rank {PLAIN} --top 3 --prior 1")
    ranking = radin.rank(bank, radin.exhaustive(4), 1.0, top=3)
    assert out.startswith("the first 3 of 15 candidates on val, 60 images\n")
    expected = [
        [str(k + 1), f"{ranking.estimates[i]:.2f}", f"{ranking.scores[i]:.2f}"]
        for k, i in enumerate(ranking.order)
    ]
    assert [row[:3] for row in table(out, "rank")] == expected


def test_ingredients_are_named_briefly():
    bank = radin.LogitBank(
        torch.zeros(30, 1, 2), torch.zeros(1, dtype=torch.int64), [f"m{k}" for k in range(30)]
    )
    weights = torch.ones(30)
    assert tables.describe_ingredients(bank, weights) == "30: all"
    weights[4] = 0
    assert tables.describe_ingredients(bank, weights) == "29: all but m4"
    assert tables.describe_ingredients(bank, torch.eye(30)[2]) == "1: m2"
    assert tables.describe_ingredients(bank, torch.eye(30)[2] + torch.eye(30)[7]) == "2: m2, m7"


def test_tables_have_a_maximum_width(capsys):
    tables.print_table(["rank", "ingredients"], [["1", "x" * 200], ["10", "short"]])
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) for line in lines] == [17, 100, 11]
    assert lines[1].endswith("xxx...")
    tables.print_table(["a", "b"], [["long", "1.00"], ["x", "10.00"]])
    assert capsys.readouterr().out == "a         b\nlong   1.00\nx     10.00\n"


def test_average(home, capsys, tmp_path):
    zoo, path = zoo_of(home), tmp_path / "soup.safetensors"
    assert "the average of 4 checkpoints" in run(capsys, f"average plain --out {path}")
    assert all(
        torch.equal(load_file(path)[key], radin.average(zoo, [0.25] * 4)[key]) for key in zoo.keys()
    )
    assert "exists; give another --out" in refused(capsys, f"average plain --out {path}")
    files = "plain/model_0.safetensors plain/model_3.safetensors"
    run(capsys, f"average {files} --weights 0.7,0.3 --out {path} --force")
    assert all(
        torch.equal(load_file(path)[key], radin.average(zoo, [0.7, 0, 0, 0.3])[key])
        for key in zoo.keys()
    )
    assert "must have shape (2,)" in refused(
        capsys, f"average {files} --weights 1 --out {tmp_path / 'a.safetensors'}"
    )
    assert "must sum to 1" in refused(
        capsys, f"average {files} --weights 1,1 --out {tmp_path / 'a.safetensors'}"
    )
    assert "required: --out" in refused(capsys, f"average {files}", 2)
    assert files_below(tmp_path) == ["soup.safetensors"]


def test_a_soup_in_shards(home, capsys, tmp_path):
    zoo, rest = zoo_of(home), PLAIN.removeprefix("plain ")
    index = tmp_path / "soup.safetensors.index.json"
    out = run(capsys, f"average plain --out {tmp_path / 'soup.safetensors'} --shard-size 1kB")
    assert out == f"wrote {index}, the average of 4 checkpoints\n"
    assert sum(name.endswith(".safetensors") for name in files_below(tmp_path)) > 1
    state = Zoo.open(index, progress=False)[0]
    assert all(torch.equal(state[key], radin.average(zoo, [0.25] * 4)[key]) for key in zoo.keys())
    accuracy = radin.evaluator(zoo, split_of(home, "val"), "cpu")([0.25] * 4)
    assert f"accuracy {accuracy:.2f}%" in run(capsys, f"evaluate {index} {rest}")
    for command in ("average plain", f"craft {PLAIN} --budget 1"):
        again = f"{command} --out {tmp_path / 'soup.safetensors'}"
        assert f"{index} exists; give another --out, or --force" in refused(capsys, again)
        assert "--shard-size must be a number of bytes or a text such as" in refused(
            capsys, f"{command} --out {tmp_path / 'other.safetensors'} --shard-size 2XB"
        )
    assert f"wrote {index}\n" in run(
        capsys,
        f"craft {PLAIN} --budget 1 --out {index.with_suffix('').with_suffix('')} "
        "--shard-size 1kB --force",
    )


def test_evaluate(home, capsys):
    rest = PLAIN.removeprefix("plain ")
    accuracy = radin.evaluator(zoo_of(home), split_of(home, "test"), "cpu")([0, 0, 1, 0])
    out = run(capsys, f"evaluate plain/model_2.safetensors {rest} --part test")
    assert out == f"model_2: accuracy {accuracy:.2f}% on test, 90 images\n"
    assert "give the file of one soup" in refused(capsys, f"evaluate plain {rest}")


def test_evaluate_several_parts(home, capsys, monkeypatch):
    rest = PLAIN.removeprefix("plain ")
    out = run(capsys, f"evaluate plain/model_2.safetensors {rest} --part test,val,train")
    assert out.startswith("model_2 on imagenet-folder:images\n\n")
    rows = {row[0]: row[1:] for row in table(out, "part")}
    assert list(rows) == ["test", "val", "train"]
    for part, count in (("test", 90), ("val", 60), ("train", 36)):
        accuracy = radin.evaluator(zoo_of(home), split_of(home, part), "cpu")([0, 0, 1, 0])
        error = 100 * (accuracy / 100 * (1 - accuracy / 100) / count) ** 0.5
        assert rows[part] == [f"{accuracy:.2f}", f"{error:.2f}", str(count)]
    monkeypatch.setattr(
        commands, "open_zoo", lambda *_, **__: pytest.fail("worked before it checked")
    )
    one = f"evaluate plain/model_2.safetensors {rest}"
    assert "--part names 'val' twice" in refused(capsys, f"{one} --part val,test,val")
    assert main(shlex.split(f"{one} --part val,tset,vla")) == 1
    err = capsys.readouterr().err
    assert "has no part 'tset'" in err
    assert "has no part 'vla'" in err


@pytest.fixture
def imagenet(home, tmp_path, monkeypatch) -> Path:
    """The root of an ImageNet with one image in each class and two shifted test sets."""
    for part, of in (("test", "imagenet"), ("r", "imagenet_r"), ("a", "imagenet_a")):
        put(tmp_path / TOPS[part], radin.data.imagenet.wnids(of), 1)
    monkeypatch.setenv("RADIN_DATA", str(tmp_path))
    import my_networks

    torch.manual_seed(1)
    save(my_networks.build(1000).state_dict(), tmp_path / "soups" / "one.safetensors")
    save(my_networks.build(1000).state_dict(), tmp_path / "soups" / "two.safetensors")
    return tmp_path


WIDE = "--model my_networks:build --data imagenet --size 4 --device cpu"


def test_evaluate_on_imagenet_and_its_shifts(imagenet, capsys):
    import my_networks

    soup = imagenet / "soups" / "one.safetensors"
    assert main(shlex.split(f"evaluate {soup} {WIDE} --part r,test,a")) == 0
    out, err = capsys.readouterr()
    zoo = Zoo.open(soup, lambda: my_networks.build(1000), progress=False)
    rows = {row[0]: row[1:] for row in table(out, "part")}
    for part, count in (("test", 1000), ("r", 200), ("a", 200)):
        split = radin.load_split("imagenet", part, size=4)
        assert rows[part][0] == f"{radin.evaluator(zoo, split, 'cpu')([1.0]):.2f}"
        assert rows[part][-1] == str(count)
        assert f"note: imagenet, {part}: {split.note}." in err
    line = refused(capsys, f"evaluate {soup} {WIDE} --part v2,r")
    assert "imagenetv2-matched-frequency-format-val" in line


def test_craft_on_imagenet_with_a_shifted_test_part(imagenet, capsys):
    command = f"craft {imagenet / 'soups'} {WIDE} --part test --test-part r --budget 1 --images 50"
    out = run(capsys, command)
    assert "1 of 1 evaluations spent on test, 50 images, a quick look" in out
    assert "\non r, 50 images, a quick look:\n" in out


def test_imagenet_has_the_size_of_its_networks(imagenet):
    parse = parser.make_parser().parse_args
    command = "evaluate x --data imagenet --model open_clip:ViT-B-32-quickgelu --images 1"
    split = inputs.open_part(parse(shlex.split(command)), "r")
    assert isinstance(split, Normalised)
    assert split[0][0].shape == (3, 224, 224)
    assert (split.num_classes, split.num_logits) == (200, 1000)


# fetch ------------------------------------------------------------------------------------------


@pytest.fixture
def server(running, monkeypatch) -> LocalServer:
    """A server with small copies of CIFAR-10 and Model soups, and permission to download."""
    running.reset()
    archive = cifar_archive()
    running.files |= {"cifar.tar.gz": archive} | {
        f"model_{k}.pt": bytes([k]) * (1000 + k) for k in range(72)
    }
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("RADIN_OFFLINE", raising=False)
    monkeypatch.setattr(ingredients, "RELEASE_URL", running.url)
    monkeypatch.setattr(ingredients, "MIN_BYTES", 1000)
    archive_entry = Archive(
        f"{running.url}/cifar.tar.gz",
        len(archive),
        hashlib.sha256(archive).hexdigest(),
        ("train", "test"),
    )
    monkeypatch.setitem(
        DATA_SETS, "cifar10", dataclasses.replace(DATA_SETS["cifar10"], archives=(archive_entry,))
    )
    return running


def fetched(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What a successful fetch prints; a path may be longer than the widest table."""
    capsys.readouterr()
    assert main(shlex.split(command)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_fetch_ingredients(server, capsys, tmp_path):
    folder = tmp_path / "model-soups"
    size = f"{(3 * 1000 + 0 + 1 + 43) / 1e6:.2f} MB"
    assert fetched(capsys, f"fetch model-soups --ids 0-1,43 --to {tmp_path}") == (
        f"model-soups: 3 files, 3 of them new, {size}, in {folder}\n"
    )
    assert "model_43.pt" in files_below(folder)
    out = fetched(capsys, f"fetch model-soups --ids 0-2 --to {tmp_path}")
    assert out.startswith("model-soups: 3 files, 1 of them new, ")
    assert len(server.asked) == 4
    (folder / "model_1.pt").write_bytes(b"mine")
    line = refused(capsys, f"fetch model-soups --ids 0-2 --to {tmp_path}")
    assert line.startswith(
        f"error: {folder / 'model_1.pt'}: it has 4 bytes, and hashes.json says 1001. Remove it and"
    )
    assert f"radin {line.split('run: radin ')[1]}" == "radin fetch model-soups --ids 1"


def test_fetch_a_data_set(server, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_DATA", str(tmp_path))
    out = fetched(capsys, "fetch cifar10")
    assert re.fullmatch(
        rf"cifar10: 240 files, 240 of them new, [0-9.]+ MB, in {tmp_path / 'cifar10'}\n", out
    )
    assert fetched(capsys, "fetch cifar10") == out.replace("240 of them", "0 of them")
    assert len(server.asked) == 1


def test_fetch_errors(server, capsys, tmp_path, monkeypatch):
    assert "argument NAME: invalid choice: 'cifar100'" in refused(capsys, "fetch cifar100", 2)
    assert "--ids chooses among the ingredients of model-soups" in refused(
        capsys, "fetch cifar10 --ids 3"
    )
    assert "'0-99' names no ingredients" in refused(
        capsys, f"fetch model-soups --ids 0-99 --to {tmp_path}"
    )
    assert files_below(tmp_path) == []
    assert "its source has no file that a program could download" in refused(
        capsys, f"fetch pacs --to {tmp_path}"
    )
    monkeypatch.setenv("RADIN_OFFLINE", "1")
    assert "RADIN_OFFLINE forbids" in refused(capsys, f"fetch model-soups --to {tmp_path}")
    assert "RADIN_OFFLINE forbids" in refused(capsys, f"fetch cifar10 --to {tmp_path}")


# Keys, and benches ------------------------------------------------------------------------------


def test_keys_that_the_network_lacks(home, capsys, tmp_path):
    for k in range(2):
        save({**zoo_of(home)[k], "text.weight": torch.ones(2)}, tmp_path / f"model_{k}.safetensors")
    rest = PLAIN.removeprefix("plain ")
    assert main(shlex.split(f"rank {tmp_path} {rest}")) == 0
    assert "skipped 1 key that the model does not have" in capsys.readouterr().err
    assert main(shlex.split(f"rank {tmp_path} {rest} --unused error")) == 1
    assert "extra key text.weight" in capsys.readouterr().err
    one = f"evaluate {tmp_path / 'model_0.safetensors'} {rest}"
    assert main(shlex.split(one)) == 1  # in a single file all keys are alike everywhere
    assert main(shlex.split(f"{one} --unused skip")) == 0


def test_bench(capsys):
    out = run(capsys, "bench cifar10 --budget 8")
    bench = SoupBench.load("cifar10")
    rows = {row[0]: row[1:] for row in table(out, "recipe")}
    assert list(rows) == [
        "oracle",
        "radin, prior 0",
        "radin, prior 1",
        "safe",
        "greedy",
        "top_k",
        "uniform",
        "best_single",
        "random",
    ]
    assert rows["oracle"][-2:] == [f"{bench.oracle[1]:.2f}", "0.00"]
    soup = radin.craft(bench.val, bench.evaluator("val"), 8, prior=1.0)
    regret = bench.regret(soup.weights)
    numbers = [f"{soup.accuracy:.2f}", f"{bench.oracle[1] - regret:.2f}", f"{regret:.2f}"]
    assert rows["radin, prior 1"] == ["8", str(len(soup.members)), *numbers]
    entry = load_benchmark("live_recipes")["entries"]["cifar10: by tensor, B = 10"]
    learned = " ".join(out.partition("\n\nlearned ")[2].split())
    assert f"test {sum(entry['test']) / 2:.2f}, " in learned
    assert f"{entry['minus_best_subset'][0]:+.2f} (" in learned
    assert "points from the oracle, for 10 forward-equivalents" in learned
    assert "learned" not in run(capsys, "bench pacs-photo --budget 2")
    message = refused(capsys, "bench cifar11")
    assert "Unknown bench 'cifar11': did you mean cifar10? Shipped are " in message
    assert "cifar10, cifar10-wild, " in message
    assert "budget must be a whole number of at least 1, not 0" in refused(
        capsys, "bench cifar10 --budget 0"
    )


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--budget 0", "error: --budget must be a whole number of at least 1, not 0."),
        ("--batch-size 0", "error: --batch-size must be a whole number of at least 1, not 0."),
        ("--prior -1", "prior must be a finite number of at least 0"),
        ("--prior nan", "prior must be a finite number of at least 0"),
        ("--share 0", "share must be a number above 0 and at most 1"),
        ("--share 30", "share must be a number above 0 and at most 1"),
        ("--threshold -1", "threshold must be a finite number of at least 0"),
        ("--holdout 1", "holdout must be a number of at least 0 and below 1"),
        ("--seed -1", "seed must be a whole number of at least 0"),
        ("--device tpu9", "--device tpu9 is not available here"),
        ("--size 0", "size must be a whole number"),
        ("--images 0", "error: --images must be a whole number of at least 1, not 0."),
        ("--workers 0", "error: --workers must be a whole number of at least 1, not 0."),
        ("--part holdout", "has no part 'holdout'; it has"),
        ("--test-part tset", "has no part 'tset'"),
        ("--test-part val", "--part, which chooses, is 'val'"),
        ("--refresh-part val", "--part, which chooses, is 'val'"),
        ("--refresh-part test --test-part test", "--test-part and --refresh-part are both 'test'"),
        (
            "--data imagenet-folder:imagse",
            "imagse: no such folder; --data imagenet-folder:PATH needs PATH/<part>",
        ),
        ("--data flowers", "Unknown data set 'flowers'"),
        ("--data imagenet-folder:plain", "has no part 'val'; its domains are no folders at all"),
        ("--model my_networks:bulid", "my_networks has no function 'bulid'; nearest is build"),
        ("--model timm:resnet5O", "timm has no model 'resnet5O'; nearest are resnet50"),
        ("--model resnet", "'resnet' names no model"),
        ("--init plain/none.pt", "none.pt"),
        ("--size 8", "shape"),
    ],
)
def test_impossible_values_give_one_message(home, capsys, monkeypatch, change, message):
    if "--size 8" not in change:
        monkeypatch.setattr(
            commands, "predict", lambda *_, **__: pytest.fail("worked before it checked")
        )
    line = refused(capsys, f"craft {PLAIN} {change}")
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("craft {} --bugdet 4", "unrecognized arguments: --bugdet 4"),
        ("craft {} --budg 4", "unrecognized arguments: --budg 4"),  # no abbreviations
        ("craft {} --budget four", "argument --budget: invalid int value: 'four'"),
        ("craft {} --recipe raidn", "invalid choice: 'raidn'"),
        ("craft {} --recipe ensemble", "invalid choice: 'ensemble'"),  # no soup to write
        ("craft {} --normalise clipp", "invalid choice: 'clipp'"),
        ("rank {} --budget 4", "unrecognized arguments: --budget 4"),
        ("rank {} --precision double", "invalid choice: 'double'"),
        ("average plain --out soup.safetensors --images 4", "unrecognized arguments: --images 4"),
        ("fetch", "required: NAME"),
        ("crfat {}", "invalid choice: 'crfat'"),
        ("craft plain --data digits", "required: --model"),
        ("bench", "required: NAME"),
        ("", "required: COMMAND"),
    ],
)
def test_wrong_usage(home, capsys, command, message):
    assert message in refused(capsys, command.format(PLAIN), 2)


def test_checkpoints_that_are_not_there(home, capsys):
    rest = PLAIN.removeprefix("plain ")
    assert "plian: no checkpoint found there" in refused(capsys, f"craft plian {rest}")
    missing = refused(capsys, f"craft plain/model_0.safetensors plain/model_9.safetensors {rest}")
    assert "plain/model_9.safetensors" in missing
    assert refused(capsys, f"evaluate none.safetensors {rest}").startswith(
        "error: none.safetensors"
    )


def test_checkpoints_of_another_network(home, capsys):
    capsys.readouterr()
    assert (
        main(
            shlex.split(
                f"craft {PLAIN.replace('my_networks:build', 'my_networks:with_batch_norm')}"
            )
        )
        == 1
    )
    assert (
        "error: Ingredients must have one architecture, but these differ from the model"
        in capsys.readouterr().err
    )


def test_parts_of_other_classes(home, capsys, tmp_path):
    draw(tmp_path / "images")
    (tmp_path / "images" / "train").rename(tmp_path / "aside")
    (tmp_path / "images" / "test" / "c").rename(tmp_path / "images" / "d")
    command = PLAIN.replace("imagenet-folder:images", f"imagenet-folder:{tmp_path / 'images'}")
    line = refused(capsys, f"craft {command} --test-part d")
    assert "has other classes than" in line or "no class folders" in line


def test_a_device_out_of_memory(home, capsys, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(commands, "predict", full)
    assert (
        refused(capsys, f"rank {PLAIN}")
        == "error: the device is out of memory; give a smaller --batch-size."
    )


# The command itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(parser.COMMANDS))
def test_help_has_an_example_that_parses(capsys, name):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    example = capsys.readouterr().out.split("example:\n")[1].strip()
    assert example.startswith(f"radin {name} ")
    assert len(example) <= 120
    options = parser.make_parser().parse_args(shlex.split(example)[1:])
    assert options.command == name
    assert callable(parser.command_function(name))


def test_the_advice_names_recipes_and_options_that_exist():
    named = re.findall(r"^  (\w+)  ", parser.RECIPE_ADVICE, re.M)
    assert named == ["safe", "learned", "greedy", "radin"]
    assert set(named) <= set(parser.CRAFT_RECIPES)
    assert set(re.findall(r"--[\w-]+", parser.RECIPE_ADVICE)) <= set(parser.OPTIONS)


def test_the_parser_s_words_are_those_of_the_module():
    from radin.experiments.model_soups.results import MODEL_SOUPS
    from radin.recipes.learned import LIVE_RECIPES, STARTS
    from radin.recipes.mixture import GRANULARITIES
    from radin.recipes.race import IMAGE_RECIPES

    assert [*words.RECIPE_NAMES, "ensemble"] == list(radin.RECIPES)  # an ensemble is not a soup
    assert list(words.IMAGE_RECIPE_NAMES) == list(IMAGE_RECIPES)
    assert list(words.LIVE_RECIPE_NAMES) == list(LIVE_RECIPES)
    assert words.GRANULARITIES == GRANULARITIES
    assert words.STARTS == STARTS
    assert list(words.DATA_SET_NAMES) == list(DATA_SETS)
    assert list(words.COLOUR_NAMES) == list(inputs.COLOURS)
    assert words.MODEL_SOUPS == MODEL_SOUPS


def test_the_command_has_an_entry_point(root):
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["radin"] == "radin.cli:main"


def in_a_shell(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from radin.cli import main; sys.exit(main())"
    start = f"{shlex.quote(sys.executable)} -c '{code}'"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("radin", start, 1)],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_a_shell_in_the_folder_of_the_networks(home):
    done = in_a_shell(f"radin rank {PLAIN} --top 2", home)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bars where nobody sees them
    assert "the first 2 of 15 candidates" in done.stdout
    assert (
        in_a_shell("radin rank plain --model my_networks:build --data nothing", home).returncode
        == 1
    )
    assert in_a_shell("radin rank", home).returncode == 2


def test_a_pipe_that_is_closed(home):
    done = in_a_shell(f"radin rank {PLAIN} --top 15 | true", home)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a-file/soup.safetensors", "cannot be written (Not a directory)"),
        ("a.safetensors", "is a folder; give --out"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    home, capsys, tmp_path, monkeypatch, out, message
):
    monkeypatch.setattr(
        commands, "predict", lambda *_, **__: pytest.fail("the budget would be spent first")
    )
    (tmp_path / "a-file").write_text("")
    (tmp_path / "a.safetensors").mkdir()
    assert main(f"craft {PLAIN} --out {tmp_path / out} --force".split()) == 1
    assert message in capsys.readouterr().err.replace("File exists", "Not a directory")


# Paths ------------------------------------------------------------------------------------------


def test_tilde_in_every_option_that_takes_a_path(home, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RADIN_CACHE", "~/my cache")
    monkeypatch.chdir(tmp_path)
    rest = "--model my_networks:build --data imagenet-folder:~/images --size 4 --device cpu"
    out = run(
        capsys, f"craft '~/plain/*' {rest} --out=~/out/s.safetensors --init=~/plain.safetensors"
    )
    assert f"wrote {home}/out/s.safetensors" in out
    assert list((home / "my cache" / "banks").iterdir())
    run(capsys, f"evaluate ~/out/s.safetensors {rest}")
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_another_user_or_of_none_is_no_traceback(home, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(home / "plain" / "model_0.safetensors", tmp_path / "~backup.safetensors")
    run(capsys, "average ~backup.safetensors --out a.safetensors")
    monkeypatch.setattr("os.path.expanduser", str)
    line = refused(capsys, "average ~backup.safetensors --out ~/a.safetensors")
    assert line.startswith("error: ~/a.safetensors: this user has no home folder")


@pytest.mark.parametrize("length", [200, 240, 255, 300])
def test_an_output_s_name_that_is_too_long_is_refused_before_any_work(
    home, capsys, tmp_path, monkeypatch, length
):
    monkeypatch.setattr(commands, "open_with_notes", lambda *_, **__: pytest.fail("worked first"))
    name = "b" * (length - len(".safetensors")) + ".safetensors"
    if length > 200:
        line = refused(capsys, f"average plain --out {tmp_path / name}")
        assert "cannot be written (File name too long)" in line
    else:
        monkeypatch.undo()
        monkeypatch.chdir(home)
        run(capsys, f"average plain --out {tmp_path / name}")


def test_names_that_are_no_utf_8_are_escaped_and_no_traceback(home, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    bad = os.fsdecode(b"b\xe4r")
    shutil.copytree(home / "images", tmp_path / bad)
    (tmp_path / bad / "val" / "a").rename(tmp_path / bad / "val" / bad)
    (tmp_path / bad / "test" / "a").rename(tmp_path / bad / "test" / bad)
    (tmp_path / bad / "train" / "a").rename(tmp_path / bad / "train" / bad)
    run(capsys, f"rank plain --model my_networks:build --data 'imagenet-folder:{tmp_path / bad}' "
        "--size 4 --device cpu")  # fmt: skip
    shutil.copy(home / "plain" / "model_0.safetensors", tmp_path / f"{bad}.safetensors")
    capsys.readouterr()
    assert (
        main(["average", str(tmp_path / f"{bad}.safetensors"), "--out", "never.safetensors"]) == 1
    )
    assert "b\\udce4r.safetensors: its name is not UTF-8; rename" in capsys.readouterr().err
    out = str(tmp_path / f"{bad}-soup.safetensors")
    assert main(["average", "plain", "--out", out]) == 0
    assert Path(out).is_file()


def test_what_is_left_aside_is_said_once(home, capsys, tmp_path):
    shutil.copytree(home / "plain", tmp_path / "runs")
    save({"state": {}}, tmp_path / "runs" / "optimizer.pt")
    run(capsys, f"average {tmp_path}/runs --out {tmp_path}/runs/soup.safetensors")
    capsys.readouterr()
    assert main(["average", f"{tmp_path}/runs", "--out", f"{tmp_path}/again.safetensors"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "left aside, 1 file of a training program beside the weights: optimizer.pt",
        "left aside, 1 file that radin wrote itself: soup.safetensors",
    ]
    first, second = (
        load_file(tmp_path / name) for name in ("runs/soup.safetensors", "again.safetensors")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_one_ingredient_is_nothing_to_choose(home, capsys):
    options = PLAIN.removeprefix("plain ")
    note = "note: model_2 is the only ingredient, so there is nothing to choose.\n"
    for command in ("rank", "craft"):
        capsys.readouterr()
        assert main(shlex.split(f"{command} plain/model_2.safetensors {options}")) == 0
        assert note in capsys.readouterr().err


def test_a_soup_in_a_glob_without_quotation_marks_is_refused(home, capsys, tmp_path):
    shutil.copytree(home / "plain", tmp_path / "runs")
    run(capsys, f"average {tmp_path}/runs --out {tmp_path}/runs/soup.safetensors")
    given = " ".join(map(str, sorted((tmp_path / "runs").iterdir())))
    line = refused(capsys, f"average {given} --out {tmp_path}/again.safetensors")
    assert "soup.safetensors is a soup of " in line
    assert line.endswith("leave them out, or give the glob in quotation marks.")


def test_the_same_images_under_another_name_cannot_choose_and_report(home, capsys, tmp_path):
    shutil.copytree(home / "images", tmp_path / "images")
    (tmp_path / "images" / "report").symlink_to("val")
    command = PLAIN.replace("imagenet-folder:images", f"imagenet-folder:{tmp_path}/images")
    assert "share 60 images" in refused(capsys, f"craft {command} --test-part report")


def test_a_working_folder_that_is_gone_is_no_traceback(home, capsys, monkeypatch):
    def gone() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("os.getcwd", gone)
    assert refused(capsys, f"rank {PLAIN}") == (
        "error: the working folder: could not be used (No such file or directory)."
    )


# By another metric ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["macro_f1", "nll", "top2_accuracy", "calibration_error"])
def test_rank_by_a_metric(home, crafted, capsys, name):
    bank = crafted[1]
    metric = find_metric(name)
    out = run(capsys, f"rank {PLAIN} --top 3 --metric {name}")
    ranking = radin.rank(bank, radin.exhaustive(4), top=3, metric=name)
    expected = [
        [str(k + 1), metric.text(ranking.estimates[i]), metric.text(ranking.scores[i])]
        for k, i in enumerate(ranking.order)
    ]
    assert [row[:3] for row in table(out, "rank")] == expected
    singles = radin.fast_estimate(bank, torch.eye(4), name)
    best = singles.max() if metric.higher_is_better else singles.min()
    assert f", {name} {metric.text_with_unit(best.item())}. Estimates" in out


@pytest.mark.parametrize("name", ["macro_f1", "nll"])
def test_craft_by_a_metric(home, crafted, capsys, tmp_path, name):
    zoo, bank, _ = crafted
    metric = find_metric(name)
    val, test = split_of(home, "val"), split_of(home, "test")
    soup = radin.craft(bank, radin.evaluator(zoo, val, "cpu", metric=name), budget=3)
    path = tmp_path / "soup.safetensors"
    options = f"--recipe radin --budget 3 --metric {name} --test-part test"
    out = run(capsys, f"craft {PLAIN} {options} --out {path}")
    rows = table(out, "rank")
    assert [row[2].rstrip(" *") for row in rows] == [metric.text(t.value) for t in soup.trials]
    (winner,) = [k for k, row in enumerate(rows) if row[2].endswith("*")]
    assert soup.trials[winner].value == soup.value
    outputs, labels = radin.soup_logits(zoo, soup.weights, test, "cpu")
    uniform, _ = radin.soup_logits(zoo, [0.25] * 4, test, "cpu")
    less, low, high = paired_metric_interval(metric, outputs, uniform, labels)
    rows = {row[0]: row[1:] for row in table(out, "on test, 90 images:")[1:]}
    assert metric.text(metric(outputs, labels)) in {row[0] for row in rows.values()}
    if "uniform soup" in rows:
        digits = "+.2f" if metric.is_percentage else "+.6g"
        difference, first, last = (f"{number:{digits}}" for number in (less, low, high))
        value = metric.text(metric(uniform, labels))
        assert rows["uniform soup"] == [value, difference, f"{first} to {last}"]
    with safe_open(path, "pt") as file:
        provenance = json.loads(file.metadata()["radin"])
    assert provenance["metric"] == name
    assert provenance[name] == soup.value


def test_evaluate_by_a_metric(home, capsys):
    rest = PLAIN.removeprefix("plain ")
    one = f"evaluate plain/model_2.safetensors {rest}"
    value = {
        (name, part): radin.evaluator(zoo_of(home), split_of(home, part), "cpu", metric=name)(
            [0, 0, 1, 0]
        )
        for name in ("macro_f1", "nll")
        for part in ("val", "test")
    }
    out = run(capsys, f"{one} --part test --metric macro_f1")
    assert out == f"model_2: macro_f1 {value['macro_f1', 'test']:.2f}% on test, 90 images\n"
    out = run(capsys, f"{one} --part test --metric nll")
    assert out == f"model_2: nll {value['nll', 'test']:.6g} nats on test, 90 images\n"
    rows = table(run(capsys, f"{one} --part val,test --metric nll"), "part")
    assert rows == [
        ["val", f"{value['nll', 'val']:.6g}", "60"],
        ["test", f"{value['nll', 'test']:.6g}", "90"],
    ]


def test_bench_by_a_metric(capsys):
    out = run(capsys, "bench cifar10 --budget 4 --metric nll")
    bench = SoupBench.load("cifar10")
    rows = {row[0]: row[1:] for row in table(out, "recipe")}
    assert "radin, prior 1" not in rows
    assert rows["oracle"][-2] == f"{bench.soups('test', 'nll').min().item():.6g}"
    soup = radin.craft(bench.val, bench.evaluator(metric="nll"), 4)
    assert rows["radin, prior 0"][2] == f"{soup.value:.6g}"
    assert rows["radin, prior 0"][-1] == f"{bench.regret(soup.weights, metric='nll'):.6g}"
    assert "does not hold the logits of its soups" in refused(
        capsys, "bench cifar10 --metric macro_f1"
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("rank", "metric must be one of accuracy, nll, macro_f1"),
        ("craft", "metric must be one of accuracy, nll, macro_f1"),
    ],
)
def test_an_unknown_metric_is_refused_before_any_work(home, capsys, monkeypatch, command, message):
    monkeypatch.setattr(commands, "predict", lambda *_, **__: pytest.fail("worked"))
    monkeypatch.setattr(commands, "open_part", lambda *_, **__: pytest.fail("worked"))
    assert message in refused(capsys, f"{command} {PLAIN} --metric F1")


def test_metrics_that_do_not_fit_are_refused_before_any_work(home, capsys, monkeypatch):
    monkeypatch.setattr(commands, "open_zoo", lambda *_, **__: pytest.fail("worked"))
    for command in ("rank", "craft"):
        assert "prior is a bonus in percentage points, and nll is no percentage" in refused(
            capsys, f"{command} {PLAIN} --metric nll --prior 1"
        )
    evaluate = f"evaluate plain/model_2.safetensors {PLAIN.removeprefix('plain ')}"
    for command in (f"rank {PLAIN}", f"craft {PLAIN}", evaluate):
        assert "mean_squared_error is for regression, and these labels are classes" in refused(
            capsys, f"{command} --metric mean_squared_error"
        )
