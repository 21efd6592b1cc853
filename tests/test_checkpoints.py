"""radin/checkpoints.py: shards, nested and prefixed state dicts are read as they are, and hostile files refused."""

from __future__ import annotations

import argparse
import json
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from helpers import build, save, save_states, state
from torch import Tensor, nn

from radin import Zoo, average
from radin.checkpoints import common_prefix, locate, open_checkpoint
from radin.errors import CheckpointError, ParameterError

INDEX = "model.safetensors.index.json"
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "module._orig_mod.", "model.backbone.module.")


def open_zoo(*paths: Path, **options: object) -> Zoo:
    return Zoo.open(paths, progress=False, **options)


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def save_shards(tensors: dict[str, Tensor], folder: Path, subfolder: str = "") -> Path:
    """Two shards and their index, as Hugging Face lays them out; returns the index."""
    keys = list(tensors)
    weight_map = {}
    for number, part in enumerate((keys[::2], keys[1::2]), start=1):
        name = f"{subfolder}model-0000{number}-of-00002.safetensors"
        save({key: tensors[key] for key in part}, folder / name)
        weight_map |= dict.fromkeys(part, name)
    return write_index(folder, weight_map)


def write_index(folder: Path, weight_map: object) -> Path:
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def weight_map(index: Path) -> dict[str, str]:
    return json.loads(index.read_text())["weight_map"]


def same(checkpoint: object, tensors: dict[str, Tensor]) -> bool:
    found = dict(checkpoint)
    return set(found) == set(tensors) and all(torch.equal(found[key], tensors[key]) for key in tensors)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_zoo(path)
    return str(caught.value)


# Shards


@pytest.mark.parametrize("subfolder", ["", "weights/"])
def test_shards_are_one_checkpoint(tmp_path, subfolder):
    index = save_shards(state(0), tmp_path, subfolder)
    for path in (index, tmp_path, str(tmp_path)):
        checkpoint = open_checkpoint(path)
        assert checkpoint.path == index
        assert same(checkpoint, state(0))
        assert checkpoint.finding == ""
    with pytest.raises(KeyError):
        open_checkpoint(index)["no such key"]


def test_shards_beside_files_and_folders(tmp_path):
    places = [save(state(0), tmp_path / "a.pt"), save_shards(state(1), tmp_path / "b").parent]
    zoo = open_zoo(*places, save_shards(state(2), tmp_path / "c"), build=build)
    assert zoo.names == ["a", "b/model", "c/model"]
    assert zoo.paths[1] == tmp_path / "b" / INDEX
    assert zoo.fingerprints == open_zoo(*save_states(tmp_path / "d", *map(state, range(3)))).fingerprints
    assert zoo.notes == []
    together = open_zoo(*save_states(tmp_path / "d", *map(state, range(3))))
    assert same(average(zoo, [0.2, 0.3, 0.5]), average(together, [0.2, 0.3, 0.5]))


def test_a_folder_or_glob_counts_shards_as_their_index(tmp_path):
    save_shards(state(0), tmp_path)
    save(state(1), tmp_path / "other.pt")
    for place in (tmp_path, f"{tmp_path}/*"):
        assert Zoo.open(place, progress=False).names == ["model", "other"]
    for k in range(2):
        save_shards(state(k), tmp_path / "runs" / f"run_{k}")
    assert Zoo.open(f"{tmp_path}/runs/*", progress=False).names == ["run_0/model", "run_1/model"]


def test_init_as_a_folder_of_shards_is_no_ingredient(tmp_path):
    init = save_shards(state(9), tmp_path / "init").parent
    paths = [*save_states(tmp_path, state(0), state(1)), init]
    zoo = open_zoo(*paths, build=build, init=init)
    assert len(zoo) == 2
    assert same(zoo.init, state(9))


def test_shards_through_links_as_in_hugging_face_s_cache(tmp_path):
    index = save_shards(state(0), tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in index.parent.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert same(open_checkpoint(tmp_path / "snapshot"), state(0))


def test_the_same_weights_in_shards_are_a_duplicate(tmp_path):
    paths = [save(state(0), tmp_path / "a.pt"), save_shards(state(0), tmp_path / "b")]
    with pytest.raises(CheckpointError, match="holds the same weights as"):
        open_zoo(*paths)


def test_a_folder_must_hold_one_index(tmp_path):
    save(state(0), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds none; give the checkpoint file itself"):
        open_zoo(tmp_path)
    save_shards(state(0), tmp_path)
    shutil.copy(tmp_path / INDEX, tmp_path / f"again.{INDEX}")
    with pytest.raises(CheckpointError, match=f"several: again.{INDEX}, {INDEX}"):
        locate(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    index = save_shards(state(0), tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    message = refusal(index)
    assert str(index) in message
    assert "missing shard 'model-00002-of-00002.safetensors'" in message


def test_an_index_that_lies(tmp_path):
    index = save_shards(state(0), tmp_path)
    truth = weight_map(index)
    second = "model-00002-of-00002.safetensors"
    write_index(tmp_path, truth | {"ghost": second})
    message = refusal(index)
    assert f"{tmp_path / second}: does not hold what {INDEX} says it does: ghost;" in message
    hidden = next(key for key, name in truth.items() if name == second)
    write_index(tmp_path, {key: name for key, name in truth.items() if key != hidden})
    assert f"{tmp_path / second}: holds what {INDEX} does not say it does: {hidden};" in refusal(index)
    write_index(tmp_path, dict.fromkeys(truth, second))
    assert "does not hold" in refusal(index)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "a/../../x.safetensors",
        "/x.safetensors",
        "C:\\x.safetensors",
        "C:x.safetensors",
        "..\\x.safetensors",
        "x.pt",
        "",
    ],
)
def test_an_index_may_not_leave_its_folder_nor_name_other_formats(tmp_path, name):
    save(state(0), tmp_path / "x.safetensors")
    (tmp_path / "inside").mkdir()
    index = write_index(tmp_path / "inside", dict.fromkeys(state(0), name))
    message = refusal(index)
    assert message.startswith(f"{index}: refused, because it names {name!r}")


@pytest.mark.parametrize("name", ["x" * 5000 + ".safetensors", "a\0b.safetensors", "\ud800.safetensors"])
def test_an_index_with_impossible_names(tmp_path, name):
    assert "missing shard" in refusal(write_index(tmp_path, dict.fromkeys(state(0), name)))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"w": 1}}',
        "[" * 100_000,
    ],
)
def test_a_broken_index(tmp_path, content):
    path = tmp_path / INDEX
    path.write_text(content)
    for place in (path, str(tmp_path)):
        with pytest.raises(CheckpointError, match="make it again") as caught:
            Zoo.open(place, progress=False)
        assert str(path) in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    assert "not JSON" in refusal(path)


# Nested state dicts


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_state_dict"])
def test_a_nested_state_dict_is_found(tmp_path, entry):
    beside = {"epoch": 3, "loss": 0.25, "args": {"lr": 1e-3, "names": ["a"], "on": True, "none": None}}
    beside |= {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "best": torch.tensor(81.0)}
    path = save({**beside, entry: OrderedDict(state(0))}, tmp_path / "a.ckpt")
    assert same(open_checkpoint(path), state(0))
    zoo = open_zoo(path, build=build)
    assert zoo.notes == [f"{path}: read its {entry!r}"]


@pytest.mark.parametrize("entry", ["ema", "state_dict_ema", "model_ema"])
def test_an_ema_alone_is_read_and_beside_an_ordinary_one_it_is_said(tmp_path, entry):
    alone = save({entry: state(1), "epoch": 1}, tmp_path / "alone.pth")
    both = save({entry: state(1), "state_dict": state(0)}, tmp_path / "both.pth")
    assert same(open_checkpoint(alone), state(1))
    assert same(open_checkpoint(both), state(0))
    assert open_zoo(alone, both).notes == [
        f"{alone}: read its {entry!r} (an EMA; there is no ordinary state dict)",
        f"{both}: read its 'state_dict'; an EMA is there too, not read: {entry!r}",
    ]


@pytest.mark.parametrize("entries", [("state_dict", "model"), ("ema", "model_ema")])
def test_several_candidates_are_refused(tmp_path, entries):
    path = save({entry: state(k) for k, entry in enumerate(entries)}, tmp_path / "a.pt")
    message = refusal(path)
    assert f"{path}: holds several state dicts, {entries[0]!r}, {entries[1]!r}" in message
    assert f"torch.save(checkpoint[{entries[0]!r}], path)" in message


def test_an_entry_of_another_name_is_left_to_the_user(tmp_path):
    message = refusal(save({"weights": state(0)}, tmp_path / "a.pt"))
    assert "here torch.save(checkpoint['weights'], path)" in message


def test_a_dict_that_holds_itself_ends(tmp_path):
    loop: dict[str, object] = {"epoch": 1}
    loop["state_dict"] = loop
    assert "not a state dict" in refusal(save(loop, tmp_path / "a.pt"))
    loop["model"] = state(0)
    assert same(open_checkpoint(save(loop, tmp_path / "b.pt")), state(0))


@pytest.mark.parametrize("content", [nn.Linear(2, 2), argparse.Namespace(lr=1)])
def test_objects_beside_a_nested_state_dict_are_refused_by_name(tmp_path, content):
    message = refusal(save({"state_dict": state(0), "args": content}, tmp_path / "a.pt"))
    assert "refused" in message
    assert f"{type(content).__module__}.{type(content).__qualname__}" in message


# Prefixes


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off_where_the_model_fits_without(tmp_path, suffix, prefix):
    path = save(prefixed(prefix, state(0)), tmp_path / f"a{suffix}")
    plain = save(state(1), tmp_path / f"b{suffix}")
    zoo = open_zoo(path, plain, build=build)
    assert same(zoo[0], state(0))
    assert zoo.keys() == list(zoo[0])
    assert set(zoo.parameter_keys()) == set(state(0))
    assert same(zoo.model(0).state_dict(), state(0))
    assert zoo.notes == [f"{path}: read less the prefix {prefix!r}"]
    bare = save_states(tmp_path / "bare", state(0), state(1))
    assert zoo.fingerprints == open_zoo(*bare).fingerprints


@pytest.mark.parametrize("first", [0, 1, 2])
def test_without_a_model_the_file_with_the_barest_keys_is_the_reference(tmp_path, first):
    paths = [
        save(prefixed(prefix, state(k)), tmp_path / f"{k}.pt")
        for k, prefix in enumerate(("", "module.", "model.module."))
    ]
    zoo = open_zoo(*paths[first:], *paths[:first])
    assert all(set(zoo[k]) == set(state(0)) for k in range(3))
    assert len(zoo.notes) == 2


def test_a_prefix_that_all_files_have_is_kept_without_a_model(tmp_path):
    zoo = open_zoo(*save_states(tmp_path, prefixed("module.", state(0)), prefixed("module.", state(1))))
    assert set(zoo.keys()) == set(prefixed("module.", state(0)))
    assert zoo.notes == []


def test_a_prefix_that_the_model_has_is_kept(tmp_path):
    def wrapped() -> nn.Module:
        return nn.Sequential(OrderedDict(model=build()))

    path = save(prefixed("module.model.", state(0)), tmp_path / "a.pt")
    zoo = open_zoo(path, save(prefixed("model.", state(1)), tmp_path / "b.pt"), build=wrapped)
    assert set(zoo.keys()) == set(prefixed("model.", state(0)))
    assert zoo.notes == [f"{path}: read less the prefix 'module.'"]


def test_the_init_may_be_nested_and_prefixed_too(tmp_path):
    init = save({"state_dict": prefixed("model.", state(9))}, tmp_path / "init.ckpt")
    zoo = open_zoo(*save_states(tmp_path, state(0), state(1)), init=init)
    assert same(zoo.init, state(9))
    assert zoo.notes == [f"{init}: read its 'state_dict', less the prefix 'model.'"]


def test_files_with_one_finding_share_a_note(tmp_path):
    contents = [{"state_dict": prefixed("model.", state(k)), "epoch": k} for k in range(3)]
    paths = [save(content, tmp_path / f"{k}.ckpt") for k, content in enumerate(contents)]
    assert open_zoo(*paths, build=build).notes == [
        f"{paths[0]} and 2 more: read its 'state_dict', less the prefix 'model.'"
    ]


def test_a_prefix_before_some_keys_stays(tmp_path):
    tensors = prefixed("module.", state(0)) | {"n_averaged": torch.tensor(3)}
    with pytest.raises(CheckpointError, match=r"extra key n_averaged"):
        open_zoo(save(tensors, tmp_path / "a.pt"), build=build)


def test_differences_are_told_by_the_keys_less_their_prefix(tmp_path):
    tensors = prefixed("module.", state(0))
    del tensors["module.3.bias"]
    path = save(tensors, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        open_zoo(path, build=build)
    assert str(caught.value).splitlines()[1:] == [f"  {path}: missing key 3.bias"]


def test_the_same_weights_under_another_prefix_are_a_duplicate(tmp_path):
    paths = save_states(tmp_path, state(0), prefixed("module.", state(0)), suffix=".pt")
    for options in ({}, {"build": build}):
        with pytest.raises(CheckpointError, match="holds the same weights as"):
            open_zoo(*paths, **options)


def test_prefixes_taken_off_one_after_another_are_all_said(tmp_path):
    checkpoint = open_checkpoint(save(prefixed("module.model.", state(0)), tmp_path / "a.pt"))
    twice = checkpoint.fit(prefixed("model.", state(0))).fit(state(0))
    assert twice.finding == "read less the prefix 'module.model.'"
    assert same(twice, state(0))


def test_common_prefix_ends_on_hostile_keys():
    assert common_prefix(["a." * 200_000], ["x"]) == ""
    assert common_prefix([".", ".."], [""]) == "."  # ends, and at worst something is then found missing
    assert common_prefix([], ["x"]) == ""
    assert common_prefix(["a." * 9 + "w"], ["w"]) == ""
    assert common_prefix(["model.w", "model.b"], ["w", "b", "c"]) == "model."


# Keys that the model does not have


def with_text(seed: int, text: float = 1.0) -> dict[str, Tensor]:
    return state(seed) | {"text.weight": torch.full((3, 2), text), "text.scale": torch.tensor(text)}


def test_unused_keys_are_an_error_unless_skipped(tmp_path):
    paths = save_states(tmp_path, with_text(0), with_text(1))
    with pytest.raises(CheckpointError, match=r'extra key text\.weight\n  unused="skip" leaves out the extra keys'):
        open_zoo(*paths, build=build)
    zoo = open_zoo(*paths, build=build, unused="skip")
    assert same(zoo[1], state(1))
    assert set(zoo.keys()) == set(state(0))
    assert zoo.fingerprints == open_zoo(*save_states(tmp_path / "bare", state(0), state(1))).fingerprints
    said = "skipped 2 keys that the model does not have, the same in every file: text.scale, text.weight"
    assert zoo.notes == [f"{paths[0]} and 1 more: {said}"]
    zoo.model(average(zoo, [0.5, 0.5]))


def test_unused_keys_under_a_prefix_in_a_nested_file(tmp_path):
    paths = [save({"model": prefixed("module.", with_text(k))}, tmp_path / f"{k}.pt") for k in range(2)]
    zoo = open_zoo(*paths, build=build, unused="skip")
    assert same(zoo[0], state(0))
    assert [note.partition(": ")[2].split()[0] for note in zoo.notes] == ["read", "skipped"]


def not_there() -> dict[str, Tensor]:
    return {key: tensor for key, tensor in with_text(1).items() if key != "text.scale"}


@pytest.mark.parametrize(
    "second",
    [
        with_text(1) | {"text.scale": torch.tensor(2.0)},
        with_text(1) | {"text.scale": torch.tensor(1).double()},
        not_there(),
    ],
)
def test_unused_keys_that_differ_are_an_error(tmp_path, second):
    paths = save_states(tmp_path, with_text(0), second)
    with pytest.raises(CheckpointError) as caught:
        open_zoo(*paths, build=build, unused="skip")
    assert f"{paths[0]}: extra key text.scale, which is not the same in every file" in str(caught.value)
    assert "text.weight" not in str(caught.value)


def test_an_init_need_not_have_the_unused_keys_but_may_not_differ_in_them(tmp_path):
    paths = save_states(tmp_path, with_text(0), with_text(1))
    bare, other = save(state(9), tmp_path / "bare.pt"), save(with_text(9, text=2.0), tmp_path / "other.pt")
    assert same(open_zoo(*paths, build=build, init=bare, unused="skip").init, state(9))
    with pytest.raises(CheckpointError, match="not the same in every file"):
        open_zoo(*paths, build=build, init=other, unused="skip")


def test_other_words_for_unused(tmp_path):
    path = save(state(0), tmp_path / "a.pt")
    for word in ("ignore", "", None, True):
        with pytest.raises(ParameterError, match='unused must be "error" or "skip"'):
            open_zoo(path, build=build, unused=word)
    with pytest.raises(ParameterError, match="needs build="):
        open_zoo(path, unused="skip")


# Kinds of tensors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_kinds_of_tensors_come_back_as_they_are(tmp_path, dtype):
    tensors = {
        "half": torch.randn(3, 4).to(dtype),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 5),
    }
    plain = save(tensors, tmp_path / "a.safetensors")
    nested = save({"state_dict": prefixed("model.", tensors)}, tmp_path / "b.pt")
    for path in (plain, nested, save_shards(tensors, tmp_path / "c")):
        found = open_checkpoint(path).fit(tensors)
        assert same(found, tensors)
        assert all(found[key].dtype == tensors[key].dtype for key in tensors)
    with pytest.raises(CheckpointError, match="the same weights"):
        open_zoo(plain, nested)
    assert open_zoo(plain).parameter_keys() == [key for key in open_zoo(plain).keys() if key not in ("count", "mask")]


def test_tied_tensors_views_and_parameters(tmp_path):
    storage = torch.randn(6, 8)
    tensors = {"a": storage[:3], "b": storage[3:].T, "tied": storage[:3], "p": nn.Parameter(torch.ones(2))}
    zoo = open_zoo(save({"model": tensors}, tmp_path / "a.pt"))
    assert same(zoo[0], tensors)
    assert not zoo[0]["p"].requires_grad
    apart = save({key: tensor.detach().clone() for key, tensor in tensors.items()}, tmp_path / "b.pt")
    assert open_zoo(apart).fingerprints == zoo.fingerprints


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.zeros(2, device="meta")])
def test_tensors_without_plain_data_are_refused(tmp_path, tensor):
    assert "save it as a plain tensor" in refusal(save({"w": tensor}, tmp_path / "a.pt"))


def test_one_number_that_poses_as_terabytes_is_refused(tmp_path):
    path = save({"w": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pt")
    assert "w of shape (1000000, 1000000) is larger than the file" in refusal(path)


@pytest.mark.parametrize("key", ["\ud800", "w"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn, torch.complex64])
def test_odd_names_and_numbers_are_read_or_refused(tmp_path, key, dtype):
    path = save({key: torch.ones(3).to(dtype)}, tmp_path / "a.pt")
    try:
        open_zoo(path)
    except CheckpointError as error:
        assert str(path) in str(error)


# Damage


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", INDEX, "model-00001-of-00002.safetensors"])
def test_truncated_at_any_byte(tmp_path, name):
    save({"state_dict": prefixed("model.", state(0)), "epoch": 1}, tmp_path / "a.pt")
    save(state(0), tmp_path / "a.safetensors")
    index = save_shards(state(0), tmp_path)
    path = tmp_path / name
    opened = index if name.startswith("model") else path
    open_zoo(opened, build=build)
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 37), *range(max(0, len(whole) - 30), len(whole))}:
        path.write_bytes(whole[:length])
        assert str(path) in refusal(opened), length


def test_pickled_code_in_a_nested_checkpoint_is_refused_and_never_runs(tmp_path):
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.write_text, (marker, "it ran")

    path = save({"state_dict": state(0), "hyper_parameters": Payload()}, tmp_path / "a.ckpt")
    assert "refused" in refusal(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the payload is a live one: radin did refuse something
