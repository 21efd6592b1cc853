"""radin/experiments/zoos/finetuned.py: the shipped zoos, made again with small networks."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial

import pytest
import torch

from helpers import files_below
from radin import SoupBench, evaluator, exhaustive
from radin.data.splits import ArraySplit
from radin.errors import ParameterError
from radin.experiments.bench.tabulate import evaluate_soups
from radin.experiments.networks import SmallResNet
from radin.experiments.zoos import finetuned, plans, starts, train

QUICK = {
    "epochs": 2,
    "warmup": 0.1,
    "augment": 0.2,
    "flip": 0.5,
    "colour": 0.0,
    "erase": 0.0,
    "noise": 0.0,
}
QUICK |= {"lr": 1e-2, "weight_decay": 1e-2, "label_smoothing": 0.0, "mixup": 0.0}
TINY = plans.ZooPlan(
    data="toy",
    start_part="pretrain",
    tune_part="finetune",
    val_part="val",
    test_part="test",
    start=QUICK,
    sweep=partial(plans.photo_sweep, rates=(1e-3, 1e-2), epochs=(1, 2), floors=(0.0, 0.5)),
    num_models=3,
)


def coloured(name: str, part: str, size: int | None) -> ArraySplit:
    """Photos whose class is their colour, with noise."""
    rng = torch.Generator().manual_seed(len(part) + 10 * len(name))
    labels = torch.arange(60) % 3
    images = torch.randn(60, 3, 16, 16, generator=rng) + 2 * torch.eye(3)[labels][:, :, None, None]
    return ArraySplit(name, part, images, labels, ["red", "green", "blue"])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The toy plan instead of the photos, networks of four channels a group, one process."""
    folder = tmp_path_factory.mktemp("photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuned, "_load_in_memory", coloured)
        patch.setattr(starts, "WIDTHS", (8, 16))
        patch.setattr(finetuned, "WIDTHS", (8, 16))
        patch.setattr(starts, "_tiny_imagenet", lambda: coloured("tiny-imagenet", "train", 32))
        patch.setattr(starts, "PRETRAINING", QUICK)
        patch.setitem(plans.PLANS, "toy", TINY)
        patch.setattr(finetuned, "CPU_PROCESSES", 1)  # other processes would not see these changes
        patch.setenv("RADIN_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def shipped(home):
    return finetuned.ship("toy", home / "toy", device="cpu", progress=False)


def test_a_zoo_starts_from_one_head(home, shipped):
    zoo = SoupBench.load(home / "toy").zoo()
    assert len(zoo) == 3
    assert len(set(zoo.fingerprints)) == 3
    assert zoo.init is not None
    for k in range(3):
        assert all(tensor.dtype == torch.float16 for tensor in (zoo[k][key] for key in zoo.keys()))
        assert not torch.equal(zoo[k]["head.weight"], zoo.init["head.weight"])


def test_what_is_shipped_is_what_was_evaluated(home, shipped):
    found = SoupBench.load(home / "toy")
    assert found.val.logits.dtype == torch.float16
    for part in ("val", "test"):
        live = evaluator(found.zoo(), coloured("toy", part, None), device="cpu")
        assert found.soups(part).tolist() == [live(weights) for weights in exhaustive(3)]
        assert torch.equal(found.soups(part), shipped.soups(part))


def test_the_manifest_says_how_it_was_made(home, shipped):
    manifest = json.loads((home / "toy" / "manifest.json").read_text())
    assert manifest["ingredients"] == plans.photo_sweep(
        3, 0, rates=(1e-3, 1e-2), epochs=(1, 2), floors=(0.0, 0.5)
    )
    assert manifest["start"] == QUICK
    assert manifest["data"]["images"] == {"val": 60, "test": 60}
    assert sorted(manifest["files"]) == sorted(set(files_below(home / "toy")) - {"manifest.json"})


def test_the_pretrained_network_is_shipped_and_found_again(home, shipped, monkeypatch):
    assert (home / "pretrained.safetensors").is_file()
    monkeypatch.setattr(starts, "shipped_root", lambda: home)
    monkeypatch.setattr(
        "radin.experiments.zoos.train.train", lambda *_, **__: pytest.fail("trained again")
    )
    assert (
        finetuned.pretrained_checkpoint(torch.device("cpu"), progress=False)
        == home / "pretrained.safetensors"
    )
    monkeypatch.setattr(starts, "PRETRAINING", QUICK | {"lr": 1e-3})
    with pytest.raises(pytest.fail.Exception):  # another recipe: the shipped network is not its own
        finetuned.pretrained_checkpoint(torch.device("cpu"), progress=False)


def test_a_second_call_trains_nothing(home, shipped, monkeypatch):
    monkeypatch.setattr(
        "radin.experiments.zoos.train.train", lambda *_, **__: pytest.fail("trained again")
    )
    monkeypatch.setattr(
        "radin.experiments.bench.tabulate.evaluate_soups",
        lambda *_, **__: pytest.fail("evaluated again"),
    )
    before = {name: (home / "toy" / name).read_bytes() for name in files_below(home / "toy")}
    finetuned.ship("toy", home / "toy", device="cpu", progress=False)
    assert before == {
        name: (home / "toy" / name).read_bytes() for name in files_below(home / "toy")
    }


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("run", "soup"), [(1, 1), (2, 5), (3, 7), (5, 13)])
def test_a_bench_whose_making_is_killed_twice_ends_in_the_same_bench(
    home, shipped, tmp_path, monkeypatch, run, soup
):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    train_whole = train.train
    trained = []
    evaluated = []

    def dying_in_a_run(*arguments: object, **options: object) -> object:
        trained.append(1)
        if len(trained) == run:
            options["after_epoch"] = lambda epoch: (_ for _ in ()).throw(KilledError)
        return train_whole(*arguments, **options)

    def dying_among_soups(*arguments: object, **options: object) -> object:
        evaluated.append(int((arguments[2] > 0).sum()))
        if len(evaluated) == soup:
            raise KilledError
        return evaluate_soups(*arguments, **options)

    monkeypatch.setattr(train, "train", dying_in_a_run)
    monkeypatch.setattr("radin.experiments.bench.tabulate.evaluate_soups", dying_among_soups)
    monkeypatch.setattr("radin.experiments.bench.tabulate.SAVE_INTERVAL_SECONDS", -1)
    for _ in range(2):
        with pytest.raises(KilledError):
            finetuned.ship("toy", tmp_path / "toy", device="cpu", progress=False)
        assert not (tmp_path / "toy" / "manifest.json").exists()
    again = finetuned.ship("toy", tmp_path / "toy", device="cpu", progress=False)
    assert (
        sum(size > 1 for size in evaluated) <= 9  # eight soups of several, one of them twice
    )
    for part in ("val", "test"):
        assert torch.equal(again.bank(part).logits, shipped.bank(part).logits)
        assert torch.equal(again.right(part, range(7)), shipped.right(part, range(7)))
        for metric in ("accuracy", "nll"):
            assert torch.equal(again.soups(part, metric), shipped.soups(part, metric))
            assert torch.equal(again.ensembles(part, metric), shipped.ensembles(part, metric))
    assert SoupBench.load(tmp_path / "toy").zoo().fingerprints == shipped.zoo().fingerprints


def test_an_edited_sweep_trains_again_what_it_changes(home, shipped, tmp_path, monkeypatch):
    def edited(num_models: int, seed: int) -> list[dict[str, float]]:
        runs = TINY.sweep(num_models, seed)
        return [runs[0], *({**run, "mixup": 0.3} for run in runs[1:])]

    shutil.copytree(home / "cache", tmp_path / "cache")
    shutil.copytree(home / "toy", tmp_path / "toy")
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(plans.PLANS, "toy", dataclasses.replace(TINY, sweep=edited))
    again = finetuned.ship("toy", tmp_path / "toy", device="cpu", progress=False)
    same = [
        a == b for a, b in zip(again.zoo().fingerprints, shipped.zoo().fingerprints, strict=True)
    ]
    assert same == [True, False, False]
    manifest = json.loads((tmp_path / "toy" / "manifest.json").read_text())
    assert [run["mixup"] for run in manifest["ingredients"]][1:] == [0.3, 0.3]


def test_shipping_fewer_leaves_nothing_of_the_larger_zoo(home, shipped, tmp_path):
    shutil.copytree(home / "toy", tmp_path / "toy")
    finetuned.ship("toy", tmp_path / "toy", num_models=2, device="cpu", progress=False)
    listed = set(SoupBench.load(tmp_path / "toy").manifest["files"])
    assert set(files_below(tmp_path / "toy")) == listed | {"manifest.json"}
    assert "ingredient_02.safetensors" not in listed


def test_fewer_ingredients_begin_the_same(home, shipped, tmp_path):
    finetuned.ship("toy", tmp_path / "fewer", num_models=2, device="cpu", progress=False)
    fewer = SoupBench.load(tmp_path / "fewer")
    assert fewer.zoo().fingerprints == shipped.zoo().fingerprints[:2]
    assert torch.equal(fewer.soups("test"), shipped.soups("test")[:3])


def test_the_head_is_fitted_and_the_body_does_not_change():
    torch.manual_seed(0)
    model, split = SmallResNet(3, widths=(8, 16)), coloured("toy", "train", None)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    finetuned.fit_head(model, split)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]) != key.startswith("head.")
    assert (model(split.images).argmax(1) == split.labels).float().mean() > 0.9
    features = model.features(split.images).detach()
    model.head.weight.grad = model.head.bias.grad = None
    loss = torch.nn.functional.cross_entropy(model.head(features), split.labels)
    (loss + finetuned.HEAD_WEIGHT_DECAY * model.head.weight.square().sum()).backward()
    assert model.head.weight.grad.abs().max() < 1e-3  # at the minimum


def test_longer_sweeps_begin_with_shorter_ones_and_keep_their_bounds():
    for name, plan in plans.PLANS.items():
        runs = plan.sweep(200, plan.seed)
        assert runs[:3] == plan.sweep(3, plan.seed), name
        assert len({run["lr"] for run in runs}) == 200
        assert all(run["epochs"] >= 1 and 0 < run["lr"] < 0.1 for run in runs)


def test_plans_that_share_a_folder_share_their_sweep():
    by_start: dict[tuple[object, ...], list[plans.ZooPlan]] = {}
    for plan in plans.PLANS.values():
        key = (plan.data, plan.size, plan.network, plan.start_part, plan.tune_part, plan.seed)
        by_start.setdefault(key, []).append(plan)
    assert any(len(found) > 1 for found in by_start.values())
    for found in by_start.values():
        assert len({repr(plan.sweep(20, plan.seed)) for plan in found}) == 1


def test_a_mixed_sweep_holds_every_paradigm_in_pairs():
    runs = plans.PLANS["banking77-mixed"].sweep(10, 7)
    assert [plans.paradigm_of(run) for run in runs] == [
        paradigm for paradigm in plans.PARADIGMS for _ in range(2)
    ]


def test_unknown_names():
    with pytest.raises(
        ParameterError,
        match="Unknown zoo 'cifar100'; it must be one of cifar10, cifar10-wild, pacs-",
    ):
        finetuned.finetuned_zoo("cifar100")


def test_the_command(home, shipped, capsys):
    finetuned.main(["toy", "--out", str(home), "--device", "cpu"])
    assert f"{home / 'toy'}: SoupBench(3 ingredients, 7 soups)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        finetuned.main(["toy", "--out", str(home), "--num-models", "0"])
    assert refused.value.code == 1
    assert "num_models must be a whole number of at least 1" in capsys.readouterr().err


def test_the_command_trains_again_and_compares(home, shipped, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(finetuned.SoupBench, "load", lambda name: shipped)
    finetuned.main(["toy", "--again", "1,0", "--out", str(tmp_path), "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["ingredient 0", "ingredient 1", "their soup"]
    assert all("the same answer on 100.0% of the images" in line for line in lines[:2])
    for wrong in (["--again", "a"], ["--again", "0"]):
        out = [] if wrong == ["--again", "0"] else ["--out", str(tmp_path)]
        with pytest.raises(SystemExit):
            finetuned.main(["toy", *wrong, *out])
    assert "needs --out FOLDER" in capsys.readouterr().err


def test_a_look_on_validation_is_what_the_bench_says_there(home, shipped, capsys, monkeypatch):
    parts = []

    def seen(name: str, part: str, size: int | None) -> ArraySplit:
        parts.append(part)
        return coloured(name, part, size)

    monkeypatch.setattr(finetuned, "_load_in_memory", seen)
    finetuned.main(["toy", "--look", "2", "--device", "cpu"])
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["start", "ingredient 0", "ingredient 1", "soup", "ensemble"]
    assert "test" not in parts
    row = shipped.row_of([0, 1])
    assert float(lines["soup"].rstrip("%")) == pytest.approx(
        shipped.soups("val")[row].item(), abs=0.01
    )
    ensembles = shipped.ensembles("val")
    assert float(lines["ensemble"].rstrip("%")) == pytest.approx(ensembles[row].item(), abs=0.01)
    for k in (0, 1):
        alone = float(lines[f"ingredient {k}"].rstrip("%"))
        assert alone == pytest.approx(shipped.val.accuracies()[k].item(), abs=0.01)
    with pytest.raises(ParameterError, match="num_models must be a whole number of at least 2"):
        finetuned.look_on_validation("toy", 1)


def test_ingredients_trained_again_are_those_of_the_bench(home, shipped, tmp_path):
    found = finetuned.reproduce(
        "toy", [0, 2], tmp_path / "again", bench=shipped, device="cpu", progress=False
    )
    assert found.same_answers == [100, 100]
    for again, before in [*found.accuracies, found.soup]:
        assert again == before
    with pytest.raises(ParameterError, match="ingredients 0 to 2; name some of them"):
        finetuned.reproduce("toy", [3], tmp_path, bench=shipped, progress=False)
