"""radin/soup/file_regions.py: a tensor is read from its file only if the file has its content."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from helpers import save
from radin.errors import CheckpointError
from radin.soup.file_regions import FileRegion, FileRegions

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells what is mapped where"
)

SIZE = 300_000  # numbers: more than the system maps at once


def mapped(path: Path) -> dict[str, Tensor]:
    tensors = {
        "a": torch.arange(float(SIZE)),
        "b": torch.arange(SIZE, 0, -1).half(),
        "c": torch.tensor(3),
    }
    save(tensors, path)
    if path.suffix == ".pt":
        return torch.load(path, mmap=True, weights_only=True)
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in tensors}


def content(region: FileRegion, start: int, size: int) -> bytes:
    target = np.zeros(size, np.uint8)
    region.read(start, target)
    return target.tobytes()


def resident(tensor: Tensor) -> int:
    """Bytes of memory in the mapping of a tensor."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            start, stop = (int(word, 16) for word in first.split("-"))
            inside = start <= tensor.data_ptr() < stop
        elif inside and first == "Rss:":
            return int(line.split()[1]) << 10
    raise AssertionError("not mapped")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_file_holds_what_the_tensor_does(tmp_path, suffix):
    tensors = mapped(tmp_path / f"a b{suffix}")
    with FileRegions() as regions:
        for tensor in tensors.values():
            region = regions.find(tensor)
            assert region.path == str(tmp_path / f"a b{suffix}")
            bytes_of = tensor.numpy().tobytes()
            assert content(region, 0, len(bytes_of)) == bytes_of
            assert content(region, len(bytes_of) // 2, 1) == bytes_of[len(bytes_of) // 2 :][:1]
        inner = regions.find(tensors["a"][1000:2000])
        assert content(inner, 0, 4) == tensors["a"][1000].numpy().tobytes()
        assert regions.find(tensors["a"].view(1000, 300).t()) is None


def test_memory_has_no_region(tmp_path):
    tensors = mapped(tmp_path / "a.pt")
    with FileRegions() as regions:
        for tensor in (
            torch.arange(float(SIZE)),
            torch.empty(SIZE),
            torch.zeros(0),
            *(t + 1 for t in tensors.values()),
        ):
            before = tensor.clone()
            assert regions.find(tensor) is None
            regions.release(tensor)
            assert torch.equal(tensor.nan_to_num(), before.nan_to_num())


def test_a_mapping_that_was_written_into_has_no_region(tmp_path):
    """What a program writes into a mapped tensor is its own, and the file does not have it."""
    tensors = mapped(tmp_path / "a.pt")
    tensors["a"][5] = -1
    with FileRegions() as regions:
        assert all(regions.find(tensor) is None for tensor in tensors.values())
        regions.release(tensors["a"])
    assert tensors["a"][5] == -1
    assert torch.load(tmp_path / "a.pt", weights_only=True)["a"][5] == 5


@pytest.mark.parametrize("change", ["another", "gone", "moved"])
def test_a_file_that_has_lost_its_name_is_not_read(tmp_path, change):
    tensors = mapped(tmp_path / "a.pt")
    before = tensors["a"].clone()
    if change == "another":
        save({"a": torch.zeros(SIZE)}, tmp_path / "b.pt")
        os.replace(tmp_path / "b.pt", tmp_path / "a.pt")
    elif change == "gone":
        (tmp_path / "a.pt").unlink()
    with FileRegions() as regions:
        if change == "moved":  # when its region is asked for, another file is there
            os.replace(tmp_path / "a.pt", tmp_path / "b.pt")
            save({"a": torch.zeros(SIZE)}, tmp_path / "a.pt")
        assert regions.find(tensors["a"]) is None
    assert torch.equal(tensors["a"], before)


def test_a_file_that_becomes_shorter_is_named(tmp_path):
    tensors = mapped(tmp_path / "a.pt")
    with FileRegions() as regions:
        region = regions.find(tensors["a"])
        os.truncate(tmp_path / "a.pt", 100_000)
        with pytest.raises(CheckpointError, match=r"a\.pt: has become shorter while it was read"):
            content(region, 0, 4 * SIZE)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    tensors = mapped(tmp_path / "a.pt")
    with FileRegions() as regions:
        region = regions.find(tensors["a"])
        monkeypatch.setattr("os.preadv", broken)
        with pytest.raises(CheckpointError, match=r"a\.pt: cannot be read \(Input/output error\)"):
            content(region, 0, 4)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_memory_is_let_go_of_and_comes_back(tmp_path, suffix):
    tensors = mapped(tmp_path / f"a{suffix}")
    total = tensors["a"].sum()
    assert resident(tensors["a"]) >= 4 * SIZE
    with FileRegions() as regions:
        regions.release(tensors["c"])  # and all that is mapped with it
    assert resident(tensors["a"]) == 0
    assert tensors["a"].sum() == total


def test_files_are_closed(tmp_path):
    tensors = mapped(tmp_path / "a.pt")
    before = os.listdir("/proc/self/fd")
    with FileRegions() as regions:
        assert {regions.find(tensor).descriptor for tensor in tensors.values()} == {
            regions.find(tensors["a"]).descriptor
        }
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    assert os.listdir("/proc/self/fd") == before


def test_systems_that_do_not_tell(tmp_path, monkeypatch):
    tensors = mapped(tmp_path / "a.pt")

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", refuse)
    regions = FileRegions()
    monkeypatch.undo()
    assert regions.find(tensors["a"]) is None
    regions.release(tensors["a"])
