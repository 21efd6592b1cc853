"""radin/files.py: a file is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import errno
import math
import os
import weakref
from pathlib import Path

import pytest
import torch
from helpers import files_below, finish, random_bank, run_python, save, state, tiny_zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from radin import RadinError, save_soup
from radin.errors import ParameterError
from radin.files import atomic_path, cache_root, data_root, hash_text, update_hash, write_safetensors
from radin.finetune import save_checkpoint
from radin.models import DigitsNet


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_file_appears_only_at_the_end(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert files_below(tmp_path) == ["deep/er/file.txt"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ha")
            raise interruption

    with pytest.raises(interruption):
        write()
    assert path.read_text() == "old"
    assert files_below(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "tempfile.mkstemp"])
def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch, step):
    path = tmp_path / "file.txt"
    path.write_text("old")
    monkeypatch.setattr(step, full_disk)

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("new")

    with pytest.raises(RadinError, match=r"file\.txt: could not be written \(No space left on device\)"):
        write()
    assert path.read_text() == "old"
    assert files_below(tmp_path) == ["file.txt"]


def save_bank(folder: Path, path: Path) -> None:
    random_bank().save(path)


def save_a_soup(folder: Path, path: Path) -> None:
    save_soup(tiny_zoo(folder), [0.5, 0.5, 0], path)


def save_a_checkpoint(folder: Path, path: Path) -> None:
    save_checkpoint(DigitsNet(), path, {"lr": 1.0})


@pytest.mark.parametrize("write", [save_bank, save_a_soup, save_a_checkpoint])
@pytest.mark.parametrize("failure", [full_disk, KeyboardInterrupt])
def test_every_writer_leaves_nothing_when_it_fails_half_way(tmp_path, monkeypatch, write, failure):
    out = tmp_path / "out"

    def half_written(tensors: object, filename: Path, *_: object, **__: object) -> None:
        if Path(filename).name != "ignored":
            Path(filename).write_bytes(b"half")
        raise failure() if failure is KeyboardInterrupt else OSError(errno.ENOSPC, "No space left on device")

    tiny_zoo(tmp_path / "zoo")
    for module in ("bank", "finetune"):
        monkeypatch.setattr(f"radin.{module}.save_file", half_written)
    # A soup is written tensor by tensor; this one fails after the header.
    monkeypatch.setattr("radin.soup._mix_tensor", lambda *_: half_written(None, out / "ignored"))
    with pytest.raises((RadinError, KeyboardInterrupt)) as caught:
        write(tmp_path / "zoo", out / "file.safetensors")
    assert files_below(out) == []
    if failure is full_disk:
        assert str(out / "file.safetensors") in str(caught.value)


LIMITED = """
import resource, pathlib
from helpers import random_bank
from radin import RadinError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    random_bank(num_images=5000).save(pathlib.Path(sys.argv[1]) / "bank.safetensors")
except RadinError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="no limits on file sizes there")
def test_a_disk_that_really_refuses(tmp_path):
    said = finish(run_python(LIMITED, tmp_path))
    assert f"{tmp_path / 'bank.safetensors'}: could not be written" in said
    assert files_below(tmp_path) == []


def test_a_path_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(RadinError, match="taken: could not be written"):
        random_bank().save(tmp_path / "taken")


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
def test_files_can_be_read_by_those_whom_the_umask_admits(tmp_path):
    old = os.umask(0o027)
    try:
        path = random_bank().save(tmp_path / "bank.safetensors")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_roots_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RADIN_DATA", str(tmp_path / "data"))
    assert (cache_root(), data_root()) == (tmp_path / "cache", tmp_path / "data")
    for name in ("RADIN_CACHE", "RADIN_DATA"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("XDG_CACHE_HOME" if os.name != "nt" else "LOCALAPPDATA", str(tmp_path))
    assert (cache_root(), data_root()) == (tmp_path / "radin", tmp_path / "radin" / "data")


def digest(name: str, tensor: torch.Tensor) -> str:
    import hashlib

    found = hashlib.sha256()
    update_hash(found, name, tensor)
    return found.hexdigest()


def test_hashes_tell_apart_what_is_not_the_same():
    zeros = torch.zeros(2, 3)
    others = [zeros.view(3, 2), zeros.half(), zeros.int(), zeros + 1, zeros[:0], torch.tensor(0.0), zeros.bool()]
    hashes = [digest("a", zeros), digest("b", zeros), *(digest("a", other) for other in others)]
    assert len(set(hashes)) == len(hashes)
    assert hash_text("ab", "c") != hash_text("a", "bc") != hash_text("abc")


def test_hashes_do_not_see_how_a_tensor_lies_in_memory():
    tensor = state(0)["1.weight"]
    assert digest("a", tensor) == digest("a", tensor.t().contiguous().t())
    assert digest("a", tensor) == digest("a", tensor.clone().requires_grad_())


def test_a_kept_file_survives_what_reads_it(tmp_path):
    path = save(state(0), tmp_path / "a.safetensors")
    before = path.read_bytes()
    zoo = tiny_zoo(tmp_path / "zoo")
    save_soup(zoo, [1 / 3] * 3, path)
    assert path.read_bytes() != before
    assert files_below(tmp_path) == [
        "a.safetensors",
        "zoo/init.safetensors",
        *(f"zoo/model_{k}.safetensors" for k in range(3)),
    ]


KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8]


@given(st.data())
@settings(max_examples=60)
def test_streamed_files_are_those_of_safetensors(tmp_path_factory, data):
    """Byte for byte: any mixture of kinds and shapes, empty tensors and single numbers among them."""
    folder = tmp_path_factory.mktemp("streamed")
    names = data.draw(st.lists(st.text("ab.é_", min_size=1, max_size=6), unique=True, min_size=1, max_size=6))
    shapes = st.lists(st.integers(0, 3), max_size=3)
    tensors = {
        name: torch.arange(math.prod(shape)).reshape(shape).to(kind)
        for name in names
        for shape, kind in [(data.draw(shapes), data.draw(st.sampled_from([*KINDS, torch.bool])))]
    }
    metadata = data.draw(st.sampled_from([{}, {"radin": '{"a": "\u00e9", "b": 1}'}]))
    save_file(tensors, folder / "theirs.safetensors", metadata=metadata or None)
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(folder / "ours.safetensors", layout, tensors.__getitem__, metadata)
    assert (folder / "ours.safetensors").read_bytes() == (folder / "theirs.safetensors").read_bytes()


def test_streamed_files_hold_one_tensor_at_a_time(tmp_path):
    alive: list[weakref.ref[torch.Tensor]] = []

    def make(key: str) -> torch.Tensor:
        assert sum(reference() is not None for reference in alive) <= 1  # the one before may not be let go yet
        tensor = torch.full((1000,), float(key))
        alive.append(weakref.ref(tensor))
        return tensor

    layout = {str(k): (torch.float32, (1000,)) for k in range(20)}
    write_safetensors(tmp_path / "file.safetensors", layout, make, {})
    assert len(alive) == 20
    for key, tensor in load_file(tmp_path / "file.safetensors").items():
        assert (tensor == float(key)).all()


def test_streamed_files_refuse_what_they_cannot_hold(tmp_path):
    path = tmp_path / "file.safetensors"
    with pytest.raises(ParameterError, match="w: torch.complex128 has no name in safetensors"):
        write_safetensors(path, {"w": (torch.complex128, (1,))}, lambda _: torch.zeros(1), {})
    with pytest.raises(ParameterError, match=r"w is torch.float32 of shape \(2,\), not as laid out"):
        write_safetensors(path, {"w": (torch.float32, (1,))}, lambda _: torch.zeros(2), {})
    assert files_below(tmp_path) == []
