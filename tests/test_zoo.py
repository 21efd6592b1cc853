"""radin/zoo.py: whatever is wrong with a checkpoint is said before any work starts."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch
from helpers import build, save, save_states, state, tiny_zoo
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes
from torch import nn

from radin import Zoo
from radin.errors import CheckpointError, ParameterError
from radin.zoo import open_checkpoint

FORMATS = (".safetensors", ".pt")


def open_zoo(*paths: Path, **options: object) -> Zoo:
    return Zoo.open(paths, progress=False, **options)


def refusal(path: Path) -> str:
    """What radin says about a bad file beside a good one; it must name the file."""
    good = save(state(0), path.parent / "good" / "model.pt")
    with pytest.raises(CheckpointError) as caught:
        open_zoo(good, path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt"])
def test_the_same_weights_from_any_format(tmp_path, suffix):
    zoo = open_zoo(*save_states(tmp_path, state(0), state(1), suffix=suffix), build=build)
    assert len(zoo) == 2
    assert zoo.names == ["model_0", "model_1"]
    for key, tensor in state(1).items():
        assert torch.equal(zoo[1][key], tensor)
    assert zoo.fingerprints == open_zoo(*save_states(tmp_path / "again", state(0), state(1))).fingerprints


def test_a_file_from_before_torch_1_6(tmp_path):
    torch.save(state(0), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(open_checkpoint(tmp_path / "old.pt")["1.bias"], state(0)["1.bias"])


def test_natural_order_of_a_folder_and_a_glob(tmp_path):
    for number in (10, 2, 1):
        save(state(number), tmp_path / f"model_{number}.pt")
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    for place in (tmp_path, str(tmp_path), f"{tmp_path}/*.pt"):
        assert Zoo.open(place, progress=False).names == ["model_1", "model_2", "model_10"]


def test_one_file_is_a_zoo_of_one(tmp_path):
    assert len(Zoo.open(save(state(0), tmp_path / "one.pt"), progress=False)) == 1


def test_names_tell_equal_stems_apart(tmp_path):
    paths = [save(state(k), tmp_path / folder / "last.pt") for k, folder in enumerate("ab")]
    assert open_zoo(*paths).names == ["a/last", "b/last"]


def test_names_tell_equal_stems_of_one_folder_apart(tmp_path):
    names = open_zoo(save(state(0), tmp_path / "last.pt"), save(state(1), tmp_path / "last.safetensors")).names
    assert len(set(names)) == 2


def test_a_model_is_ready_for_use(tmp_path):
    zoo = tiny_zoo(tmp_path)
    model = zoo.model(1)
    assert not model.training
    assert torch.equal(model.state_dict()["3.bias"], state(1)["3.bias"])
    assert torch.equal(zoo.model(state(7)).state_dict()["3.bias"], state(7)["3.bias"])
    assert torch.equal(zoo.init["3.bias"], state(99)["3.bias"])
    with pytest.raises(ParameterError, match="build="):
        open_zoo(*zoo.paths).model(0)


def test_an_ingredient_is_a_mapping(tmp_path):
    ingredient = tiny_zoo(tmp_path)[0]
    assert sorted(ingredient) == sorted(state(0))
    assert len(ingredient) == len(state(0))
    assert "1.bias" in ingredient
    with pytest.raises(KeyError):
        ingredient["no such key"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_missing_file(tmp_path, suffix):
    assert "no such checkpoint" in refusal(tmp_path / f"model{suffix}")


@pytest.mark.parametrize("place", ["", "*.pt", "nowhere/*.safetensors"])
def test_nothing_found(tmp_path, place):
    with pytest.raises(CheckpointError, match="no checkpoint found there"):
        Zoo.open(f"{tmp_path}/{place}")


def test_no_files_given():
    with pytest.raises(CheckpointError, match="at least one ingredient"):
        Zoo.open([])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\0", b"half", b"hello, world\n" * 40])
def test_no_checkpoint_at_all(tmp_path, suffix, content):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_at_any_length(tmp_path, suffix):
    path = save(state(0), tmp_path / f"model{suffix}")
    whole = path.read_bytes()
    for length in {*range(0, len(whole), len(whole) // 25), len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert "again" in refusal(path), length


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_torch_files_are_not_taken_for_code(tmp_path, legacy):
    path = tmp_path / "model.pt"
    torch.save(state(0), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:-300])
    assert "truncated" in refusal(path)


def torch_bytes(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(state(0), buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


DAMAGED = {
    "model.safetensors": safetensors_bytes(state(0)),
    "model.pt": torch_bytes(legacy=False),
    "old.pt": torch_bytes(legacy=True),
}


@given(name=st.sampled_from(sorted(DAMAGED)), data=st.data())
@settings(max_examples=150, report_multiple_bugs=False, phases=[Phase.explicit, Phase.generate])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_file_is_read_or_refused_but_never_crashes(tmp_path_factory, name, data):
    content = bytearray(DAMAGED[name])
    for _ in range(data.draw(st.integers(1, 4))):
        # most damage falls on the pickle or the header, where it is worst
        position = data.draw(st.one_of(st.integers(0, 900), st.integers(0, len(content) - 1)))
        content[position % len(content)] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        open_zoo(path, build=build)
    except CheckpointError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(2)], "a list"),
        (torch.zeros(2), "a Tensor"),
        ({}, "no tensors"),
        ({"weights": {"w": torch.zeros(2)}, "epoch": 3}, "epoch, weights"),
        ({"state_dict": {"w": torch.zeros(2), "n": 1}, "epoch": 3}, "epoch, state_dict"),
        ({0: torch.zeros(2)}, "not tensors: 0"),
        ({"w": "text"}, "not tensors: w"),
    ],
)
def test_not_a_state_dict(tmp_path, content, said):
    message = refusal(save(content, tmp_path / "model.pt"))
    assert "not a state dict" in message
    assert said in message
    assert "save model.state_dict()" in message


def test_a_safetensors_file_without_tensors(tmp_path):
    path = save({}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no tensors"):
        open_zoo(path)


class Payload:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.marker, "it ran")


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_refused_and_never_runs(tmp_path, raw):
    path, marker = tmp_path / "model.pt", tmp_path / "marker"
    payload = {"w": torch.zeros(2), "x": Payload(marker)}
    if raw:
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path)
    assert "refused" in refusal(path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if not raw else pickle.loads(path.read_bytes())
    assert marker.exists()  # the payload is a live one: radin did refuse something


def test_a_whole_pickled_model_is_refused(tmp_path):
    message = refusal(save(nn.Linear(2, 2), tmp_path / "model.pt"))
    assert "refused" in message
    assert "save model.state_dict() instead of the model" in message


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite(tmp_path, suffix, value, dtype):
    tensors = {key: tensor.to(dtype) for key, tensor in state(1).items()}
    tensors["3.bias"][1] = value
    message = refusal(save(tensors, tmp_path / f"model{suffix}"))
    assert "3.bias holds 1 NaN or infinite weight;" in message


def test_init_is_checked_too(tmp_path):
    paths = save_states(tmp_path, state(0), state(1))
    tensors = state(2)
    tensors["1.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"init\.pt: 1\.bias holds 1 NaN"):
        open_zoo(*paths, init=save(tensors, tmp_path / "init.pt"))
    del tensors["1.bias"]
    with pytest.raises(CheckpointError, match=r"init\.pt: missing key 1\.bias"):
        open_zoo(*paths, init=save(tensors, tmp_path / "init.pt"))
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such checkpoint"):
        open_zoo(*paths, init=tmp_path / "gone.pt")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("with_build", [False, True])
def test_all_differences_are_listed_at_once_and_sorted(tmp_path, suffix, with_build):
    missing, extra, shape, kind = (state(seed) for seed in range(1, 5))
    del missing["3.weight"], missing["1.bias"]
    extra |= {"z": torch.zeros(1), "a": torch.zeros(1)}
    shape["1.weight"] = torch.zeros(6, 5)
    kind["3.bias"] = torch.zeros(3, dtype=torch.int64)
    paths = save_states(tmp_path, state(0), missing, extra, shape, kind, suffix=suffix)
    with pytest.raises(CheckpointError) as caught:
        open_zoo(*reversed(paths[1:]), paths[0], build=build) if with_build else open_zoo(*paths)
    heading, *lines = str(caught.value).splitlines()
    assert ("the model that build() returns" if with_build else str(paths[0])) in heading
    assert [line.strip() for line in lines] == [
        f"{paths[1]}: missing key 1.bias",
        f"{paths[1]}: missing key 3.weight",
        f"{paths[2]}: extra key a",
        f"{paths[2]}: extra key z",
        f"{paths[3]}: 1.weight has shape (6, 5), not (6, 4)",
        f"{paths[4]}: 3.bias is torch.int64, not torch.float32",
    ]


def test_precisions_may_differ(tmp_path):
    halves = {key: tensor.half() for key, tensor in state(1).items()}
    assert len(open_zoo(*save_states(tmp_path, state(0), halves), build=build)) == 2


def test_duplicates_are_found_across_formats(tmp_path):
    paths = [
        save(state(0), tmp_path / "a.safetensors"),
        save(state(1), tmp_path / "b.pt"),
        save(dict(reversed(state(0).items())), tmp_path / "c.pt"),
        save(state(1), tmp_path / "d.safetensors"),
    ]
    with pytest.raises(CheckpointError) as caught:
        open_zoo(*paths)
    for twin, first in ((paths[2], paths[0]), (paths[3], paths[1])):
        assert f"{twin} holds the same weights as {first}" in str(caught.value)


def test_the_same_file_twice(tmp_path):
    path = save(state(0), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="the same weights"):
        open_zoo(path, path)
