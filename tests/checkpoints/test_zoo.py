"""radin/checkpoints/zoo.py: faults of checkpoints are reported before any work starts."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path

import cloudpickle
import joblib
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes
from torch import nn

from helpers import build, save, save_states, state, tiny_zoo
from radin import Zoo, average
from radin.checkpoints.checkpoint import open_checkpoint
from radin.errors import CheckpointError, ParameterError

FORMATS = (".safetensors", ".pt")


def open_zoo(*paths: Path, **options: object) -> Zoo:
    return Zoo.open(paths, progress=False, **options)


def refusal(path: Path) -> str:
    """The error for a bad file beside a good one; it must name the file."""
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
    assert (
        zoo.fingerprints
        == open_zoo(*save_states(tmp_path / "again", state(0), state(1))).fingerprints
    )


def test_a_file_from_before_torch_1_6(tmp_path):
    torch.save(state(0), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(open_checkpoint(tmp_path / "old.pt")["1.bias"], state(0)["1.bias"])


def test_natural_order_of_a_folder_and_a_glob(tmp_path):
    for number in (10, 2, 1):
        save(state(number), tmp_path / f"model_{number}.pt")
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    for paths in (tmp_path, str(tmp_path), f"{tmp_path}/*.pt"):
        assert Zoo.open(paths, progress=False).names == ["model_1", "model_2", "model_10"]


def test_one_file_is_a_zoo_of_one(tmp_path):
    assert len(Zoo.open(save(state(0), tmp_path / "one.pt"), progress=False)) == 1


def test_names_tell_equal_stems_apart(tmp_path):
    paths = [save(state(k), tmp_path / folder / "last.pt") for k, folder in enumerate("ab")]
    assert open_zoo(*paths).names == ["a/last", "b/last"]


def test_names_tell_equal_stems_of_one_folder_apart(tmp_path):
    names = open_zoo(
        save(state(0), tmp_path / "last.pt"), save(state(1), tmp_path / "last.safetensors")
    ).names
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


@pytest.mark.parametrize("pattern", ["", "*.pt", "nowhere/*.safetensors"])
def test_nothing_found(tmp_path, pattern):
    with pytest.raises(CheckpointError, match="no checkpoint found there"):
        Zoo.open(f"{tmp_path}/{pattern}")


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
    ("content", "fault"),
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
def test_not_a_state_dict(tmp_path, content, fault):
    message = refusal(save(content, tmp_path / "model.pt"))
    assert "not a state dict" in message
    assert fault in message
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
    assert marker.exists()  # the payload does run: radin refused something


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


@pytest.mark.parametrize("with_build", [False, True])
def test_a_head_for_other_classes_is_named_with_the_way_out(tmp_path, with_build):
    def other(classes: int, seed: int) -> dict[str, torch.Tensor]:
        rng = torch.Generator().manual_seed(seed)
        head = {"3.weight": torch.randn(classes, 6, generator=rng), "3.bias": torch.zeros(classes)}
        return state(seed) | head

    paths = save_states(tmp_path, state(0), other(10, 1), other(10, 2))
    with pytest.raises(CheckpointError) as caught:
        open_zoo(*paths, build=build if with_build else None)
    lines = str(caught.value).splitlines()[1:]
    way_out = (
        "build the model with num_classes=10, or leave those files out"
        if with_build
        else "leave out one kind"
    )
    assert [line.strip() for line in lines] == [
        *(
            f"{path}: {key} has shape {there}, not {here}"
            for path in paths[1:]
            for key, there, here in (("3.bias", (10,), (3,)), ("3.weight", (10, 6), (3, 6)))
        ),
        f"a head for 10 classes does not fit one for 3: {way_out}",
    ]
    narrow = state(3) | {
        "1.weight": torch.zeros(5, 4),
        "1.bias": torch.zeros(5),
        "3.weight": torch.zeros(3, 5),
    }
    with pytest.raises(CheckpointError) as caught:  # another width is no other head
        open_zoo(paths[0], save(narrow, tmp_path / "narrow.pt"))
    assert "a head for" not in str(caught.value)


# Duplicates --------------------------------------------------------------------------------------


def test_duplicates_are_found_across_formats_and_warned_of_once(tmp_path):
    paths = [
        save(state(0), tmp_path / "a.safetensors"),
        save(state(1), tmp_path / "b.pt"),
        save(dict(reversed(state(0).items())), tmp_path / "c.pt"),
        save(state(1), tmp_path / "d.safetensors"),
    ]
    with pytest.warns(UserWarning, match="duplicates") as caught:
        zoo = open_zoo(*paths)
    (warning,) = caught
    assert warning.filename == __file__  # the caller of Zoo.open
    for duplicate, first in ((paths[2], paths[0]), (paths[3], paths[1])):
        assert f"{duplicate} holds the same weights as {first}" in str(warning.message)
    assert zoo.notes == [str(warning.message)]
    assert len(zoo) == 4
    assert zoo.fingerprints == [zoo.fingerprints[0], zoo.fingerprints[1]] * 2
    for key, tensor in average(zoo, [0.25] * 4).items():  # each weighs as often as it is there
        torch.testing.assert_close(tensor, (state(0)[key] + state(1)[key]) / 2)


def test_the_same_file_twice(tmp_path):
    path = save(state(0), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="the same weights"):
        assert len(open_zoo(path, path)) == 2


def test_no_warning_of_weights_that_nearly_agree(tmp_path):
    almost = state(0)
    almost["3.bias"][0] = torch.nextafter(almost["3.bias"][0], torch.tensor(9.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_zoo(*save_states(tmp_path, state(0), almost)).notes == []


# Small copies of the published ingredients -------------------------------------------------------


class SmallClip(nn.Module):
    """The keys of the published classifiers: the image tower of a model that also had a text tower,
    and a head.
    """

    def __init__(self) -> None:
        super().__init__()
        visual = nn.Sequential(
            OrderedDict(conv1=nn.Conv2d(3, 4, 2, bias=False), ln_post=nn.LayerNorm(4))
        )
        visual.proj = nn.Parameter(torch.zeros(4, 4))
        self.model = nn.ModuleDict({"visual": visual})
        self.classification_head = nn.Linear(4, 5)


LEFTOVERS = (
    "positional_embedding",
    "text_projection",
    "logit_scale",
    "token_embedding.weight",
    "ln_final.weight",
    "ln_final.bias",
)


def published(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    states = {
        key: torch.randn(tensor.shape, generator=rng)
        for key, tensor in SmallClip().state_dict().items()
    }
    text = {
        f"model.{key}": torch.full((3, 2), 0.5) if "." in key else torch.tensor(2.0)
        for key in LEFTOVERS
    }
    return text | states


def test_published_files_open_and_their_leftovers_are_skipped(tmp_path):
    paths = save_states(tmp_path, *map(published, range(4)), suffix=".pt")
    zoo = open_zoo(*paths, build=SmallClip, unused="skip")
    assert set(zoo.keys()) == set(SmallClip().state_dict())
    assert len(zoo.notes) == 1
    assert zoo.notes[0].startswith(
        f"{paths[0]} and 3 more: skipped 6 keys that the model does not have"
    )
    assert all(f"model.{key}" in zoo.notes[0] for key in LEFTOVERS)
    assert torch.equal(
        zoo.model(3, copy=False).model["visual"].proj, published(3)["model.visual.proj"]
    )


@pytest.mark.parametrize("odd", [0, 2])
def test_a_leftover_that_differs_in_one_file_is_named_with_it(tmp_path, odd):
    states = [published(k) for k in range(4)]
    states[odd]["model.ln_final.weight"][1, 1] += 1e-6
    paths = save_states(tmp_path, *states, suffix=".pt")
    with pytest.raises(CheckpointError) as caught:
        open_zoo(*paths, build=SmallClip, unused="skip")
    like = paths[0 if odd else 1]
    assert str(caught.value).splitlines()[1:] == [
        f"  model.ln_final.weight in {paths[odd]} is not what it is in {like} and 2 more"
    ]


def test_the_published_duplicates(tmp_path):
    paths = save_states(tmp_path, *(published(min(k, 2)) for k in range(4)), suffix=".pt")
    with pytest.warns(UserWarning, match=r"model_3\.pt holds the same weights as .*model_2\.pt"):
        zoo = open_zoo(*paths, build=SmallClip, unused="skip")
    assert len(zoo) == 4
    assert [note.split()[3] for note in zoo.notes[:1]] == ["more:"]


# Pickled zoos, and subsets -----------------------------------------------------------------------


def sent(zoo: Zoo) -> Zoo:
    return pickle.loads(pickle.dumps(zoo))


@pytest.fixture
def many(tmp_path) -> Zoo:
    """Checkpoints read in every way: plain, nested under a prefix, beside an EMA, shards."""
    leftover = {"text": torch.ones(2)}
    ema = {f"ema.{key}": tensor for key, tensor in state(7).items()}
    contents = [
        (state(0) | leftover, "a.safetensors"),
        (
            {
                "state_dict": {
                    f"module.{key}": tensor for key, tensor in (state(1) | leftover).items()
                }
            },
            "b.ckpt",
        ),
        (state(2) | leftover | ema, "c.pt"),
    ]
    paths = [save(content, tmp_path / name) for content, name in contents]
    keys = list(state(3) | leftover)
    for number, part in enumerate((keys[:2], keys[2:])):
        save({key: (state(3) | leftover)[key] for key in part}, tmp_path / "d" / f"{number}.bin")
    where = {key: f"{int(key not in keys[:2])}.bin" for key in keys}
    (tmp_path / "d" / "m.bin.index.json").write_text(json.dumps({"weight_map": where}))
    init = save({"model": state(9)}, tmp_path / "init.pt")
    with pytest.warns(UserWarning, match="no common start"):
        return open_zoo(*paths, tmp_path / "d", build=build, init=init, unused="skip")


def test_a_pickled_zoo_is_the_same_zoo_and_small(many):
    there = sent(many)
    assert len(pickle.dumps(many)) < 20_000
    for name in ("paths", "names", "fingerprints", "notes", "build"):
        assert getattr(there, name) == getattr(many, name)
    assert torch.equal(there.distances, many.distances)
    assert torch.equal(there.cosines, many.cosines)
    assert there.keys() == many.keys()
    for k in range(4):
        assert list(there[k]) == list(many[k])
        assert all(torch.equal(there[k][key], state(k)[key]) for key in many.keys())
        assert all(
            torch.equal(mine, its)
            for mine, its in zip(
                there.model(k).parameters(), many.model(k).parameters(), strict=True
            )
        )
    assert all(torch.equal(there.init[key], state(9)[key]) for key in many.keys())
    assert sent(there).parameter_keys() == many.parameter_keys()
    assert repr(there) == repr(many)


def test_an_unpickled_zoo_opens_no_file_before_it_needs_one(many, monkeypatch):
    there = sent(many)
    monkeypatch.setattr("radin.checkpoints.checkpoint.open_file", None)
    assert len(there) == 4
    assert there.keys() == many.keys()
    assert there.subset([1, 2]).names == many.names[1:3]
    with pytest.raises(TypeError):
        there[0]["1.bias"]


def test_an_unpickled_zoo_hashes_nothing_again(many, monkeypatch):
    there = sent(many)
    monkeypatch.setattr("radin.checkpoints.inspection.update_hash", None)
    assert torch.equal(there[2]["1.bias"], state(2)["1.bias"])


def test_a_pickled_zoo_opened_by_relative_paths(tmp_path, monkeypatch):
    save_states(tmp_path, state(0), state(1))
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Zoo.open("*.safetensors", progress=False))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(pickle.loads(data)[1]["1.bias"], state(1)["1.bias"])


@pytest.mark.parametrize(
    "name",
    ["a.safetensors", "b.ckpt", "c.pt", "d/m.bin.index.json", "d/0.bin", "d/1.bin", "init.pt"],
)
@pytest.mark.parametrize("what", ["gone", "longer", "touched"])
def test_files_that_have_changed_are_refused_by_name(many, tmp_path, name, what):
    data, path = pickle.dumps(many), tmp_path / name
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    if what == "gone":
        path.unlink()
    elif what == "longer":
        path.write_bytes(path.read_bytes() + b" ")
        os.utime(path, ns=times)
    else:
        os.utime(path, ns=(times[0], times[1] + 1_000_000))
    there = pickle.loads(data)
    ingredient = there.init if name == "init.pt" else there["abcd".index(name[0])]
    with pytest.raises(CheckpointError) as caught:
        ingredient["1.bias"]
    assert str(caught.value).startswith(
        f"{path}: {'is gone' if what == 'gone' else 'has changed'} since it was checked"
    )
    others = [k for k in range(4) if there[k] is not ingredient]
    assert all(torch.equal(there[k]["1.bias"], state(k)["1.bias"]) for k in others)


def test_a_build_without_a_name_goes_through_cloudpickle(tmp_path):
    width = 6
    zoo = open_zoo(
        *save_states(tmp_path, state(0)),
        build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.Tanh(), nn.Linear(6, 3)),
    )
    there = cloudpickle.loads(cloudpickle.dumps(zoo))
    assert torch.equal(there.model(0)[1].bias, state(0)["1.bias"])


def test_a_zoo_goes_to_worker_processes(many):
    def inspect(zoo: Zoo, k: int) -> tuple[int, float]:
        return os.getpid(), zoo.model(k).state_dict()["1.bias"].sum().item()

    pieces = joblib.Parallel(n_jobs=2, backend="loky")(
        joblib.delayed(inspect)(many, k) for k in range(4)
    )
    assert os.getpid() not in {pid for pid, _ in pieces}
    assert [total for _, total in pieces] == [state(k)["1.bias"].sum().item() for k in range(4)]


def test_a_subset_is_a_view(many, monkeypatch):
    monkeypatch.setattr("radin.checkpoints.inspection.update_hash", None)
    part = many.subset([2, 0])
    assert len(part) == 2
    assert part.names == [many.names[2], many.names[0]]
    assert part.paths == [many.paths[2], many.paths[0]]
    assert part.fingerprints == [many.fingerprints[2], many.fingerprints[0]]
    assert part.distances.tolist() == many.distances[[2, 0]].tolist()
    assert part.cosines.tolist() == many.cosines[[2, 0]].tolist()
    assert part[0] is many[2]
    assert part.init is many.init
    assert part.build is build
    assert part.notes == many.notes
    part.notes.append("mine")
    assert "mine" not in many.notes
    assert len(many) == 4
    assert sent(part.subset(torch.tensor([1]))).names == ["a"]
    assert many.subset(range(4)).names == many.names


@pytest.mark.parametrize("indices", [[], [4], [-1], [0, 0], [0.0], [True], ["0"]])
def test_impossible_subsets(many, indices):
    with pytest.raises(ParameterError, match="ind(ex|ices)"):
        many.subset(indices)


def test_a_subset_without_init(tmp_path):
    zoo = open_zoo(*save_states(tmp_path, state(0), state(1)))
    assert zoo.distances is zoo.cosines is None
    assert zoo.subset([1]).distances is None
