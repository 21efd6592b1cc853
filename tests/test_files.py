"""radin/files.py: a file is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from helpers import files_below, finish, random_bank, run_python, save, state, tiny_zoo

from radin import RadinError, save_soup
from radin.files import atomic_path, cache_root, data_root, hash_text, update_hash
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
        Path(filename).write_bytes(b"half")
        raise failure() if failure is KeyboardInterrupt else OSError(errno.ENOSPC, "No space left on device")

    tiny_zoo(tmp_path / "zoo")
    for module in ("bank", "soup", "finetune"):
        monkeypatch.setattr(f"radin.{module}.save_file", half_written)
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
