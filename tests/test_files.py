"""radin/files.py: a file is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import files_below, finish, random_bank, run_python, save, state, tiny_zoo
from radin import LogitBank, RadinError, SoupBench, load_split, save_soup
from radin.errors import BankError, ParameterError
from radin.experiments.networks import DigitsNet
from radin.experiments.zoos.train import save_checkpoint
from radin.files import (
    atomic_files,
    atomic_path,
    cache_root,
    data_root,
    describe_unreadable,
    expand_path,
    hash_text,
    reserve,
    store_folder,
    update_hash,
)
from radin.soup.save import save_soups


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

    with pytest.raises(
        RadinError, match=r"file\.txt: could not be written \(No space left on device\)"
    ):
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
        raise (
            failure()
            if failure is KeyboardInterrupt
            else OSError(errno.ENOSPC, "No space left on device")
        )

    tiny_zoo(tmp_path / "zoo")
    for module in ("ranking.bank", "experiments.zoos.train"):
        monkeypatch.setattr(f"radin.{module}.save_file", half_written)
    # A soup is written piece by piece; this one fails after the header.
    monkeypatch.setattr(
        "radin.soup.save.mix_blocks", lambda *_: half_written(None, out / "ignored")
    )
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


@pytest.fixture(autouse=True)
def outside_a_clone(tmp_path, monkeypatch):
    monkeypatch.setattr("radin.files.CLONE", tmp_path / "site-packages")


def test_what_make_has_trained_is_found_without_a_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("RADIN_CACHE", raising=False)
    monkeypatch.setattr("radin.files.CLONE", tmp_path)
    kept = tmp_path / "_build" / "cache"
    kept.mkdir(parents=True)
    assert cache_root() != kept  # a folder of that name in a place that is no clone
    (tmp_path / "Makefile").touch()
    assert cache_root() == kept
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"


def test_the_roots_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RADIN_DATA", str(tmp_path / "data"))
    assert (cache_root(), data_root()) == (tmp_path / "cache", tmp_path / "data")
    for name in ("RADIN_CACHE", "RADIN_DATA"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("XDG_CACHE_HOME" if os.name != "nt" else "LOCALAPPDATA", str(tmp_path))
    assert (cache_root(), data_root()) == (tmp_path / "radin", tmp_path / "radin" / "data")


def test_tilde_is_the_home_folder_wherever_a_path_is_given(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RADIN_CACHE", "~/cache")
    monkeypatch.setenv("RADIN_DATA", "~/data")
    assert (cache_root(), data_root(), data_root("~/x")) == (
        home / "cache",
        home / "data",
        home / "x",
    )
    assert store_folder("~/store", "banks") == home / "store"
    monkeypatch.setenv("RADIN_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert cache_root() == home / "xdg" / "radin"
    assert random_bank().save("~/bank.safetensors") == home / "bank.safetensors"
    assert LogitBank.load("~/bank.safetensors").num_models == 3
    zoo = tiny_zoo(home / "zoo")
    assert save_soup(zoo, [1.0, 0, 0], "~/soup.safetensors") == home / "soup.safetensors"
    assert save_soups(zoo, [[0, 1.0, 0]], ["~/2.safetensors"]) == [home / "2.safetensors"]
    with pytest.raises(BankError, match=f"{home}/none.safetensors"):
        SoupBench.load("~/none.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]  # and no folder "~"


def test_only_a_leading_tilde_is_a_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    for text in ("~backup.pt", "a/~/b", "./~/b", "$HOME/a", "a~", ""):
        assert expand_path(text) == Path(text)
    assert expand_path("~") == Path("/home/ann")
    assert expand_path(Path("~/a")) == Path("/home/ann/a")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number without an entry in /etc/passwd."""
    for name in ("HOME", "XDG_CACHE_HOME", "RADIN_CACHE", "RADIN_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", os.fspath)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_way_out_is_named(tmp_path):
    with pytest.raises(ParameterError, match="no home folder .* set RADIN_CACHE to a folder"):
        cache_root()
    with pytest.raises(ParameterError, match="RADIN_DATA to the folder of the data sets"):
        data_root()
    with pytest.raises(ParameterError, match="~/a: this user has no home folder"):
        expand_path("~/a")
    with pytest.raises(RadinError, match="no home folder"):
        load_split("cifar10", "test")
    assert data_root(tmp_path) == tmp_path
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(RadinError, match="no images in this class"):
        load_split(str(tmp_path), "val")  # a whole path needs no home


def test_why_a_path_cannot_be_read(tmp_path):
    path = tmp_path / "a"
    path.write_text("")
    assert describe_unreadable(path) == describe_unreadable(tmp_path) == ""
    assert describe_unreadable(tmp_path / "b") == "No such file or directory"
    assert describe_unreadable(path / "c") == "Not a directory"
    assert describe_unreadable(tmp_path / ("x" * 300)) == "File name too long"
    assert describe_unreadable(Path("a\0b")) == "no file can have this name"
    os.mkfifo(tmp_path / "pipe")
    assert describe_unreadable(tmp_path / "pipe") == ""  # without waiting for somebody who writes


def digest(name: str, tensor: torch.Tensor) -> str:
    import hashlib

    found = hashlib.sha256()
    update_hash(found, name, tensor)
    return found.hexdigest()


def test_hashes_tell_apart_what_is_not_the_same():
    zeros = torch.zeros(2, 3)
    others = [
        zeros.view(3, 2),
        zeros.half(),
        zeros.int(),
        zeros + 1,
        zeros[:0],
        torch.tensor(0.0),
        zeros.bool(),
    ]
    hashes = [digest("a", zeros), digest("b", zeros), *(digest("a", other) for other in others)]
    assert len(set(hashes)) == len(hashes)
    assert hash_text("ab", "c") != hash_text("a", "bc") != hash_text("abc")


def test_names_that_are_no_utf_8_have_hashes_of_their_own():
    names = [os.fsdecode(name) for name in (b"b\xe4r", b"b\xe5r", "b\u00e4r".encode())]
    assert len({hash_text(name) for name in names}) == 3
    assert hash_text("b\u00e4r") == hashlib.sha256("3:b\u00e4r".encode()).hexdigest()


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


def write_all(paths: list[Path], content: bytes, **options: Any) -> None:
    with atomic_files(paths, **options) as files:
        for file in files:
            file.write(content)


@pytest.fixture
def several(tmp_path) -> list[Path]:
    return [tmp_path / "deep" / "a.bin", tmp_path / "b.bin", tmp_path / "c-00001-of-00002.bin"]


def test_several_files_appear_when_all_are_whole(several):
    with atomic_files(several) as files:
        for file in files:
            file.write(b"new")
        assert not any(path.exists() for path in several)
    assert [path.read_bytes() for path in several] == [b"new"] * 3
    assert len(files_below(several[1].parent)) == 3


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError, MemoryError])
def test_an_interruption_leaves_the_old_files_and_nothing_else(several, interruption):
    write_all(several[:1], b"old")

    def write() -> None:
        with atomic_files(several, stale=several[:1]) as files:
            files[0].write(b"ha")
            raise interruption

    with pytest.raises(interruption):
        write()
    assert several[0].read_bytes() == b"old"
    assert files_below(several[1].parent) == ["deep/a.bin"]


@pytest.mark.parametrize(
    "step", ["os.fsync", "os.replace", "tempfile.mkstemp", "os.posix_fallocate"]
)
def test_a_full_disk_is_one_clear_error_for_several_files(several, monkeypatch, step):
    if not hasattr(os, step.partition(".")[2]) and step.startswith("os."):
        pytest.skip("not on this system")
    write_all(several[:1], b"old")
    monkeypatch.setattr(step, full_disk)

    def write() -> None:
        with atomic_files(several) as files:
            for file in files:
                reserve(file, 10)

    with pytest.raises(
        RadinError,
        match=r"a\.bin and 2 more: could not be written \(No space left on device\); free",
    ):
        write()
    assert several[0].read_bytes() == b"old"
    assert files_below(several[1].parent) == ["deep/a.bin"]


def test_files_are_moved_in_order_after_what_is_stale_is_gone(several, monkeypatch):
    told = []
    replace, unlink = os.replace, Path.unlink
    monkeypatch.setattr(
        "os.replace", lambda old, new: (told.append(f"new {Path(new).name}"), replace(old, new))
    )
    monkeypatch.setattr(
        Path, "unlink", lambda path, **how: (told.append(f"gone {path.name}"), unlink(path, **how))
    )
    write_all(several, b"new", stale=[several[2], several[0]])
    assert told == [
        "gone c-00001-of-00002.bin",
        "gone a.bin",
        *(f"new {path.name}" for path in several),
    ]


def test_room_is_asked_for_where_the_system_has_a_way(tmp_path, monkeypatch):
    with open(tmp_path / "a", "wb", buffering=0) as file:
        reserve(file, 1000)
        file.write(b"x")
    if hasattr(os, "posix_fallocate"):
        assert (tmp_path / "a").stat().st_size == 1000

        def unsupported(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "not here")

        monkeypatch.setattr("os.posix_fallocate", unsupported)
        with open(tmp_path / "a", "wb", buffering=0) as file:
            reserve(file, 1000)
        monkeypatch.delattr("os.posix_fallocate")
        with open(tmp_path / "a", "wb", buffering=0) as file:
            reserve(file, 1000)


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
def test_several_files_can_be_read_by_those_whom_the_umask_admits(several):
    old = os.umask(0o027)
    try:
        write_all(several, b"x")
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in several} == {0o640}


WRITER = """
from pathlib import Path
from radin.files import atomic_files
with atomic_files([Path(path) for path in sys.argv[1:]]) as files:
    files[0].write(b"half")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def writer_of(paths: list[Path]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", f"import sys\n{WRITER}", *map(str, paths)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="no locks there")
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    paths = [tmp_path / f"a[1]-0000{i}-of-00002.bin" for i in (1, 2)]
    others = [tmp_path / "a[1].bin.bin", tmp_path / "a1.bin"]
    writers = [writer_of(which) for which in (paths, paths, others)]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 3
    assert len(files_below(tmp_path)) == 6
    for writer in (writers[0], writers[2]):
        writer.kill()
        writer.wait()
    assert len(files_below(tmp_path)) == 6, "a killed process cannot clean up"
    write_all([tmp_path / "a[1]-00001-of-00009.bin"], b"mine")  # shards of one file, however many
    left = files_below(tmp_path)
    assert len(left) == 1 + 2 + 1, (
        left
    )  # mine, the living one's, and one of those that are none of its business
    writers[1].communicate("\n", timeout=60)
    write_all([tmp_path / "a1.bin"], b"mine")
    assert files_below(tmp_path) == sorted(
        [*(path.name for path in paths), "a[1]-00001-of-00009.bin", "a1.bin"]
    )
    assert paths[0].read_bytes() == b"half"


def test_a_file_taken_for_abandoned_is_made_again(tmp_path, monkeypatch):
    """Another process may look between the making of a file and its lock."""
    mkstemp, made = tempfile.mkstemp, []

    def unlucky(**how: Any) -> tuple[int, str]:
        handle, name = mkstemp(**how)
        made.append(name)
        if len(made) < 3:
            os.unlink(name)
        return handle, name

    monkeypatch.setattr("tempfile.mkstemp", unlucky)
    write_all([tmp_path / "a"], b"x")
    assert files_below(tmp_path) == ["a"]
    assert len(made) == 3


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    (tmp_path / ".a.bin.abc.writing").touch()
    monkeypatch.setattr("radin.files.fcntl", None)
    write_all([tmp_path / "a.bin"], b"x")
    assert files_below(tmp_path) == [".a.bin.abc.writing", "a.bin"]
    monkeypatch.undo()
    write_all([tmp_path / "a.bin"], b"x")
    assert files_below(tmp_path) == ["a.bin"]
