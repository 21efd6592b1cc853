"""radin/checkpoints/formats.py: shards, torch files and safetensors are read unchanged; damaged and
harmful ones are refused.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers import build, save, save_states, state
from radin import Zoo, average
from radin.checkpoints.checkpoint import locate, open_checkpoint
from radin.checkpoints.formats import INDEX_SUFFIX, TORCH_INDEX_SUFFIX
from radin.errors import CheckpointError

INDEX = "model.safetensors.index.json"
# Of Hugging Face: the names of the index and of the shards
KINDS = {".safetensors": INDEX, ".bin": "pytorch_model.bin.index.json"}
both_kinds = pytest.mark.parametrize("suffix", KINDS)


def open_zoo(*paths: Path, **options: object) -> Zoo:
    return Zoo.open(paths, progress=False, **options)


def save_shards(
    tensors: dict[str, Tensor], folder: Path, subfolder: str = "", suffix: str = ".safetensors"
) -> Path:
    """Two shards and their index, as Hugging Face lays them out; returns the index."""
    keys = list(tensors)
    weight_map = {}
    for number, part in enumerate((keys[::2], keys[1::2]), start=1):
        name = f"{subfolder}{shard(number, suffix)}"
        save({key: tensors[key] for key in part}, folder / name)
        weight_map |= dict.fromkeys(part, name)
    return write_index(folder, weight_map, suffix)


def shard(number: int, suffix: str) -> str:
    return f"{KINDS[suffix].split('.')[0]}-0000{number}-of-00002{suffix}"


def write_index(folder: Path, weight_map: object, suffix: str = ".safetensors") -> Path:
    path = folder / KINDS[suffix]
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def weight_map(index: Path) -> dict[str, str]:
    return json.loads(index.read_text())["weight_map"]


def same(checkpoint: object, tensors: dict[str, Tensor]) -> bool:
    found = dict(checkpoint)
    return set(found) == set(tensors) and all(
        torch.equal(found[key], tensors[key]) for key in tensors
    )


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_zoo(path)
    return str(caught.value)


# Shards


@both_kinds
@pytest.mark.parametrize("subfolder", ["", "weights/"])
def test_shards_are_one_checkpoint(tmp_path, subfolder, suffix):
    index = save_shards(state(0), tmp_path, subfolder, suffix)
    for path in (index, tmp_path, str(tmp_path)):
        checkpoint = open_checkpoint(path)
        assert checkpoint.path == index
        assert same(checkpoint, state(0))
        assert checkpoint.summary == ""
    with pytest.raises(KeyError):
        open_checkpoint(index)["no such key"]


def test_shards_beside_files_and_folders(tmp_path):
    paths = [save(state(0), tmp_path / "a.pt"), save_shards(state(1), tmp_path / "b").parent]
    zoo = open_zoo(*paths, save_shards(state(2), tmp_path / "c", suffix=".bin"), build=build)
    assert zoo.names == ["a", "model", "pytorch_model"]
    assert zoo.paths[1] == tmp_path / "b" / INDEX
    assert (
        zoo.fingerprints
        == open_zoo(*save_states(tmp_path / "d", *map(state, range(3)))).fingerprints
    )
    assert zoo.notes == []
    together = open_zoo(*save_states(tmp_path / "d", *map(state, range(3))))
    assert same(average(zoo, [0.2, 0.3, 0.5]), average(together, [0.2, 0.3, 0.5]))


@both_kinds
def test_a_folder_or_glob_counts_shards_as_their_index(tmp_path, suffix):
    save_shards(state(0), tmp_path, suffix=suffix)
    save(state(1), tmp_path / "z.pt")
    stem = KINDS[suffix].split(".")[0]
    for paths in (tmp_path, f"{tmp_path}/*"):
        assert Zoo.open(paths, progress=False).names == [stem, "z"]
    for k in range(2):
        save_shards(state(k), tmp_path / "runs" / f"run_{k}", suffix=suffix)
    assert Zoo.open(f"{tmp_path}/runs/*", progress=False).names == [
        f"run_0/{stem}",
        f"run_1/{stem}",
    ]


def test_init_as_a_folder_of_shards_is_no_ingredient(tmp_path):
    init = save_shards(state(9), tmp_path / "init").parent
    paths = [*save_states(tmp_path, state(0), state(1)), init]
    with pytest.warns(UserWarning, match="no common start"):
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
    paths = [
        save(state(0), tmp_path / "a.pt"),
        save_shards(state(0), tmp_path / "b", suffix=".bin"),
    ]
    with pytest.warns(UserWarning, match="holds the same weights as"):
        open_zoo(*paths)


def test_a_folder_must_hold_one_index(tmp_path):
    with pytest.raises(CheckpointError, match="holds none; give the checkpoint file itself"):
        open_zoo(tmp_path)
    save(state(0), tmp_path / "model.safetensors")  # where there is an index, that is meant
    save_shards(state(0), tmp_path)
    shutil.copy(tmp_path / INDEX, tmp_path / f"again.{INDEX}")
    with pytest.raises(CheckpointError, match=f"several: again.{INDEX}, {INDEX}"):
        locate(tmp_path)
    (tmp_path / f"again.{INDEX}").rename(
        tmp_path / KINDS[".bin"]
    )  # one checkpoint in two formats: which is meant?
    with pytest.raises(CheckpointError, match=f"several: {INDEX}, {KINDS['.bin']}"):
        locate(tmp_path)


@both_kinds
def test_a_missing_shard_is_named(tmp_path, suffix):
    index = save_shards(state(0), tmp_path, suffix=suffix)
    (tmp_path / shard(2, suffix)).unlink()
    message = refusal(index)
    assert str(index) in message
    assert f"missing shard {shard(2, suffix)!r}" in message


@both_kinds
def test_an_index_that_lies(tmp_path, suffix):
    index = save_shards(state(0), tmp_path, suffix=suffix)
    truth, second = weight_map(index), shard(2, suffix)
    write_index(tmp_path, truth | {"ghost": second}, suffix)
    message = refusal(index)
    assert f"{tmp_path / second}: does not hold what {index.name} says it does: ghost;" in message
    hidden = next(key for key, name in truth.items() if name == second)
    write_index(tmp_path, {key: name for key, name in truth.items() if key != hidden}, suffix)
    assert (
        f"{tmp_path / second}: holds what {index.name} does not say it does: {hidden};"
        in refusal(index)
    )
    write_index(tmp_path, dict.fromkeys(truth, second), suffix)
    assert "does not hold" in refusal(index)


def test_a_torch_shard_is_as_plain_as_a_file(tmp_path):
    index, second = save_shards(state(0), tmp_path, suffix=".bin"), tmp_path / shard(2, ".bin")
    for content, fault in (
        (nn.Linear(2, 2), "refused"),
        ({"state_dict": {"w": torch.zeros(2)}}, "not a state dict"),
        ([torch.zeros(2)], "holds a list"),
        (
            dict.fromkeys(torch.load(second), torch.zeros(2, device="meta")),
            "save it as a plain tensor",
        ),
        (
            dict.fromkeys(torch.load(second), torch.zeros(1).expand(10**6, 10**6)),
            "larger than the file",
        ),
    ):
        save(content, second)
        message = refusal(index)
        assert fault in message
        assert str(second) in message
        save_shards(state(0), tmp_path, suffix=".bin")


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
@both_kinds
def test_an_index_may_not_leave_its_folder_nor_name_other_formats(tmp_path, name, suffix):
    name = name.replace(".safetensors", suffix)
    save(state(0), tmp_path / f"x{suffix}")
    (tmp_path / "inside").mkdir()
    index = write_index(tmp_path / "inside", dict.fromkeys(state(0), name), suffix)
    message = refusal(index)
    assert message.startswith(f"{index}: refused, because it names {name!r}")


@pytest.mark.parametrize(
    "name", ["x" * 5000 + ".safetensors", "a\0b.safetensors", "\ud800.safetensors"]
)
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
@pytest.mark.parametrize("index_suffix", [INDEX_SUFFIX, TORCH_INDEX_SUFFIX])
def test_a_broken_index(tmp_path, content, index_suffix):
    path = tmp_path / f"model{index_suffix}"
    path.write_text(content)
    for paths in (path, str(tmp_path)):
        with pytest.raises(CheckpointError, match="make it again") as caught:
            Zoo.open(paths, progress=False)
        assert str(path) in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    assert "not JSON" in refusal(path)


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
    nested = save(
        {"state_dict": {f"model.{key}": t for key, t in tensors.items()}}, tmp_path / "b.pt"
    )
    shards = [save_shards(tensors, tmp_path / suffix, suffix=suffix) for suffix in KINDS]
    for path in (plain, nested, *shards):
        found = open_checkpoint(path).fit(tensors)
        assert same(found, tensors)
        assert all(found[key].dtype == tensors[key].dtype for key in tensors)
    with pytest.warns(UserWarning, match="the same weights"):
        open_zoo(plain, nested)
    assert open_zoo(plain).parameter_keys() == [
        key for key in open_zoo(plain).keys() if key not in ("count", "mask")
    ]


def test_tied_tensors_views_and_parameters(tmp_path):
    storage = torch.randn(6, 8)
    tensors = {
        "a": storage[:3],
        "b": storage[3:].T,
        "tied": storage[:3],
        "p": nn.Parameter(torch.ones(2)),
    }
    zoo = open_zoo(save({"model": tensors}, tmp_path / "a.pt"))
    assert same(zoo[0], tensors)
    assert not zoo[0]["p"].requires_grad
    apart = save(
        {key: tensor.detach().clone() for key, tensor in tensors.items()}, tmp_path / "b.pt"
    )
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


@pytest.mark.parametrize(
    "name",
    ["a.pt", "old.pt", "a.safetensors", *KINDS.values(), *(shard(1, suffix) for suffix in KINDS)],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_truncated_at_any_byte(tmp_path, name):
    save(
        {"state_dict": {f"model.{key}": t for key, t in state(0).items()}, "epoch": 1},
        tmp_path / "a.pt",
    )
    torch.save(state(0), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save(state(0), tmp_path / "a.safetensors")
    indices = {suffix: save_shards(state(0), tmp_path, suffix=suffix) for suffix in KINDS}
    path = tmp_path / name
    opened = (
        path
        if path.stem in ("a", "old")
        else indices[".bin" if "pytorch" in name else ".safetensors"]
    )
    open_zoo(opened, build=build)
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 11), *range(max(0, len(whole) - 30), len(whole))}:
        path.write_bytes(whole[:length])
        assert str(path) in refusal(opened), length


def test_pickled_code_in_a_shard_is_refused_and_never_runs(tmp_path):
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.write_text, (marker, "it ran")

    index, second = save_shards(state(0), tmp_path, suffix=".bin"), tmp_path / shard(2, ".bin")
    save(torch.load(second) | {"x": Payload()}, second)
    message = refusal(index)
    assert "refused" in message
    assert str(second) in message
    assert not marker.exists()
    torch.load(second, weights_only=False)
    assert marker.exists()  # the payload does run: radin refused something
