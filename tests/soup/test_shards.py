"""radin/soup/shards.py: the files are those that safetensors and Hugging Face write."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from huggingface_hub import load_state_dict_from_file, save_torch_state_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from helpers import tiny_zoo
from radin import average, save_soup
from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.formats import read_index
from radin.errors import ParameterError
from radin.soup.shards import (
    FileLayout,
    TensorSpecs,
    checkpoint_layout,
    file_layout,
    parse_size,
    write_at,
)

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
]


def specs_of(tensors: dict[str, Tensor]) -> TensorSpecs:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def write(layout: FileLayout, tensors: dict[str, Tensor]) -> None:
    with open(layout.path, "wb", buffering=0) as file:
        for name, start in reversed(layout.starts.items()):  # the order does not matter
            write_at(file, start, tensors[name].reshape(-1))
        write_at(file, 0, layout.header)
    assert layout.path.stat().st_size == layout.num_bytes


@given(st.data())
@settings(max_examples=60)
def test_files_are_those_of_safetensors(tmp_path_factory, data):
    """Byte for byte, for any dtypes and shapes, with empty tensors and scalars."""
    folder = tmp_path_factory.mktemp("files")
    names = data.draw(
        st.lists(st.text("ab.é_", min_size=1, max_size=6), unique=True, min_size=1, max_size=6)
    )
    shapes = st.lists(st.integers(0, 3), max_size=3)
    tensors = {
        name: torch.arange(math.prod(shape)).reshape(shape).to(dtype)
        for name in names
        for shape, dtype in [(data.draw(shapes), data.draw(st.sampled_from([*DTYPES, torch.bool])))]
    }
    metadata = data.draw(st.sampled_from([{}, {"radin": '{"a": "\u00e9", "b": 1}'}]))
    save_file(tensors, folder / "theirs.safetensors", metadata=metadata or None)
    write(file_layout(folder / "ours.safetensors", specs_of(tensors), metadata), tensors)
    assert (folder / "ours.safetensors").read_bytes() == (
        folder / "theirs.safetensors"
    ).read_bytes()


def test_dtypes_without_a_name_are_refused():
    with pytest.raises(ParameterError, match="w: torch.complex128 has no name in safetensors"):
        file_layout(Path("a.safetensors"), {"w": (torch.complex128, (1,))}, {})


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), max_bytes=st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_shards_are_those_of_hugging_face(tmp_path_factory, sizes, max_bytes):
    """Names, contents and index, for tensors larger than a shard, too."""
    ours, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    tensors = {f"w{i}": torch.arange(float(size)) + i for i, size in enumerate(sizes)}
    save_torch_state_dict(
        tensors, theirs, filename_pattern="soup{suffix}.safetensors", max_shard_size=max_bytes
    )
    layout = checkpoint_layout(
        ours / "soup.safetensors", specs_of(tensors), {"format": "pt"}, max_shard_size=max_bytes
    )
    for file in layout.files:
        write(file, tensors)
    if layout.index_bytes:
        layout.path.write_bytes(layout.index_bytes)
    assert sorted(path.name for path in ours.iterdir()) == sorted(
        path.name for path in theirs.iterdir()
    )
    for path in ours.iterdir():
        if path.suffix == ".json":
            assert json.loads(path.read_text()) == json.loads((theirs / path.name).read_text())
        else:
            assert path.read_bytes() == (theirs / path.name).read_bytes()
    for key, tensor in open_checkpoint(layout.path).items():
        assert torch.equal(tensor, tensors[key])
    for file in layout.files:
        for key, tensor in load_state_dict_from_file(file.path).items():
            assert torch.equal(tensor, tensors[key])


def test_a_file_that_is_large_enough_needs_no_index():
    specs = {"a": (torch.float32, (2,)), "b": (torch.float32, (3,))}
    path = Path("x/soup.safetensors")
    for max_bytes in (None, 20, 1 << 40):
        layout = checkpoint_layout(path, specs, {}, max_shard_size=max_bytes)
        assert layout.path == Path("x/soup.safetensors")
        assert [file.path for file in layout.files] == [layout.path]
        assert layout.index_bytes == b""
        assert layout.stale() == []
    assert len(checkpoint_layout(path, specs, {}, max_shard_size=19).files) == 2


def test_what_an_index_of_the_same_name_had_is_stale(tmp_path):
    specs = dict.fromkeys("abcd", (torch.float32, (1,)))
    index = tmp_path / "soup.safetensors.index.json"
    layout = checkpoint_layout(tmp_path / "soup.safetensors", specs, {}, max_shard_size=8)
    assert layout.path == index
    assert layout.stale() == []
    old = {"a": "soup-00001-of-00002.safetensors", "b": "soup-00001-of-00004.safetensors"}
    index.write_text(json.dumps({"weight_map": old}))
    assert layout.stale() == [index, tmp_path / "soup-00001-of-00004.safetensors"]
    for hostile in (
        "../precious.safetensors",
        "/precious.safetensors",
    ):  # an index names no file outside its folder
        index.write_text(json.dumps({"weight_map": {"a": hostile}}))
        assert layout.stale() == [index]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (12345, 12345),
        ("7B", 7),
        ("2GB", 2_000_000_000),
        ("1.5 kb", 1500),
        (" 3MiB ", 3 << 20),
        ("1TiB", 1 << 40),
        ("0.5GiB", 1 << 29),
    ],
)
def test_sizes(text, size):
    assert parse_size("max_shard_size", text) == size


@pytest.mark.parametrize(
    "wrong", [0, -1, 1.5, True, None, "", "GB", "2", "2 G", "-2GB", "2XB", "1e3MB", "0.1B", "0GB"]
)
def test_what_is_no_size_is_refused(wrong):
    with pytest.raises(
        ParameterError, match='max_shard_size must be a number of bytes or a text such as "2GB"'
    ):
        parse_size("max_shard_size", wrong)


def test_one_name_never_holds_two_soups(tmp_path):
    """Shards replace one file, one file replaces shards, and other files stay."""
    zoo, path = tiny_zoo(tmp_path / "zoo", 2), tmp_path / "soup.safetensors"
    (tmp_path / "other.safetensors").write_bytes(b"another's")
    single = {"soup.safetensors", "other.safetensors"}
    for _ in range(2):
        assert save_soup(zoo, [0.5, 0.5], path) == path
        assert {each.name for each in tmp_path.iterdir() if each.is_file()} == single
        index = save_soup(zoo, [0.1, 0.9], path, max_shard_size=100)
        named = set(read_index(index).values()) | {index.name, "other.safetensors"}
        assert {each.name for each in tmp_path.iterdir() if each.is_file()} == named
        for key, tensor in open_checkpoint(path).items():  # by the name that was asked for
            assert torch.equal(tensor, average(zoo, [0.1, 0.9])[key])
