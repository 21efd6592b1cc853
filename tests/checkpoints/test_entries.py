"""radin/checkpoints/entries.py: weights and their EMA are told apart in each library's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from helpers import build, save, state
from radin import Zoo
from radin.checkpoints.checkpoint import open_checkpoint
from radin.errors import CheckpointError

State = dict[str, Tensor]


def prefixed(prefix: str, tensors: State) -> State:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def same(found: object, tensors: State) -> bool:
    own = dict(found)
    return own.keys() == tensors.keys() and all(torch.equal(own[k], tensors[k]) for k in tensors)


def mmengine(raw: State, average: State) -> dict[str, object]:
    """What the EMAHook of mmengine leaves in a file: it swaps the two just before saving."""
    return {
        "meta": {"mmengine_version": "0.10.7", "epoch": 2, "cfg": "model = dict()"},
        "state_dict": average,
        "optimizer": {"state": {}, "param_groups": []},
        "ema_state_dict": {"steps": torch.tensor(7), **prefixed("module.", raw)},
    }


@pytest.mark.parametrize("with_build", [False, True])
def test_mmengine_keeps_the_ema_where_the_weights_usually_are(tmp_path, with_build):
    path = save(mmengine(state(0), state(1)), tmp_path / "epoch_2.pth")
    options = {"build": build} if with_build else {}
    zoo = Zoo.open(path, progress=False, **options)
    assert same(zoo[0], state(0))
    (note,) = zoo.notes
    assert "read its 'ema_state_dict', without the prefix 'module.'" in note
    assert "an EMA is there too, not read: 'state_dict'" in note
    averages = Zoo.open(path, ema=True, progress=False, **options)
    assert same(averages[0], state(1))
    assert averages.notes == [f"{path}: read its 'state_dict' (an EMA)"]


def test_an_mmengine_file_without_ema_is_ordinary(tmp_path):
    content = {"meta": {"mmengine_version": "0.10.7"}, "state_dict": state(0)}
    path = save(content, tmp_path / "a.pth")
    assert Zoo.open(path, progress=False).notes == [f"{path}: read its 'state_dict'"]


def test_the_same_entries_of_another_program_are_not_swapped(tmp_path):
    path = save({"state_dict": state(0), "ema_state_dict": state(1)}, tmp_path / "a.pth")
    assert same(open_checkpoint(path), state(0))
    assert same(open_checkpoint(path, ema=True), state(1))


def test_the_second_set_of_weights_of_mmcv_is_left_out_and_named(tmp_path):
    second = {f"ema_{key.replace('.', '_')}": tensor for key, tensor in state(1).items()}
    path = save(
        {"meta": {"mmcv_version": "1.7"}, "state_dict": state(0) | second}, tmp_path / "a.pt"
    )
    zoo = Zoo.open(path, build=build, progress=False)
    assert same(zoo[0], state(0))
    assert "without the keys 'ema_*', in which mmcv keeps a second set of weights" in zoo.notes[0]


def averaged_model() -> State:
    torch.manual_seed(0)
    model = build()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    return average.state_dict()


@pytest.mark.parametrize(
    ("ordinary", "ema"),
    [
        ("state_dict", "state_dict_ema"),  # timm
        ("model", "model_ema"),  # torchvision's references
        ("params", "params_ema"),  # BasicSR
        ("model", "ema_state"),  # detrex
        ("net", "net_ema"),
        ("model", "ema_weights"),
    ],
)
def test_the_ema_of_each_library_is_found_by_its_name(tmp_path, ordinary, ema):
    path = save({ordinary: state(0), ema: state(1), "epoch": 2}, tmp_path / "a.pth")
    zoo = Zoo.open(path, build=build, progress=False)
    assert same(zoo[0], state(0))
    assert f"an EMA is there too, not read: {ema!r}" in zoo.notes[0]
    assert same(Zoo.open(path, build=build, ema=True, progress=False)[0], state(1))


def test_an_ema_inside_its_entry(tmp_path):
    """As RT-DETR saves it, with a counter beside the state dict."""
    content = {"model": state(0), "ema": {"module": state(1), "updates": 30, "warmups": 9}}
    path = save(content, tmp_path / "a.pth")
    assert same(open_checkpoint(path), state(0))
    averages = open_checkpoint(path, ema=True)
    assert same(averages, state(1))
    assert averages.summary == "read its 'ema.module' (an EMA)"


def test_the_averaged_model_of_torch(tmp_path):
    average = averaged_model()
    path = save({"model": state(0), "model_ema": average}, tmp_path / "a.pth")
    zoo = Zoo.open(path, build=build, ema=True, progress=False)
    assert torch.equal(zoo[0]["1.weight"], average["module.1.weight"])
    assert "without its counter n_averaged" in zoo.notes[0]


@pytest.mark.parametrize("with_build", [False, True])
def test_the_averaged_model_of_torch_beside_a_plain_one(tmp_path, with_build):
    average = averaged_model()
    paths = [save(average, tmp_path / "swa.pth"), save(state(0), tmp_path / "plain.pth")]
    zoo = Zoo.open(paths, build=build if with_build else None, progress=False)
    assert sorted(zoo.keys()) == sorted(state(0))
    assert torch.equal(zoo[0]["1.weight"], average["module.1.weight"])
    assert zoo.notes == [
        f"{paths[0]}: read without the prefix 'module.', without its counter n_averaged"
    ]


@pytest.mark.parametrize("entry", ["module", "net", "params"])
def test_other_usual_entries_are_read_where_they_are_alone(tmp_path, entry):
    path = save({entry: state(0), "acc": 0.9, "epoch": 3}, tmp_path / "a.pth")
    assert same(open_checkpoint(path), state(0))
    both = save({entry: state(1), "state_dict": state(0)}, tmp_path / "b.pth")
    assert same(open_checkpoint(both), state(0))


def test_what_is_wrong_inside_an_entry_is_named(tmp_path):
    path = save({"state_dict": state(0) | {"gate": [1, 2]}, "epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"state_dict \(where 'gate' is a list\)"):
        open_checkpoint(path)


def test_tensors_beside_numbers_are_saved_as_the_message_says(tmp_path, monkeypatch):
    path: Path = save(state(0) | {"epoch": 3, "acc": 0.5}, tmp_path / "flat.pt")
    with pytest.raises(CheckpointError, match="not tensors: acc, epoch; save") as caught:
        open_checkpoint(path)
    way_out = str(caught.value).split(" alone: ")[1].rstrip(".")
    exec(way_out, {"torch": torch, "path": path, "checkpoint": torch.load(path)})
    assert same(open_checkpoint(path), state(0))
