"""radin/data/download/catalog.py: data sets by name, their folders, and their downloads."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest

from helpers import files_below, finish, run_python
from local_server import LocalServer
from packing import cifar_archive, packed, picture
from radin import load_split
from radin.data.download.catalog import DATA_SETS, Archive, fetch, find_data_set
from radin.data.download.classes import class_names
from radin.data.splits import in_memory
from radin.errors import DataError

CIFAR = cifar_archive()
FIVE_CLASSES = class_names("domainnet")[:5]
ARCHIVE = "cifar-10-binary.tar.gz"


@pytest.fixture
def server(running, monkeypatch) -> LocalServer:
    """A source of a small CIFAR-10; downloads are allowed."""
    running.reset()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("RADIN_OFFLINE", raising=False)
    offer(running, monkeypatch, "cifar10", {ARCHIVE: (CIFAR, ("train", "test"))})
    return running


def offer(
    server, monkeypatch, name: str, archives: dict[str, tuple[bytes, tuple[str, ...]]]
) -> None:
    """Make the server the official source of a data set."""
    server.files |= {file: content for file, (content, _) in archives.items()}
    offered = tuple(
        Archive(f"{server.url}/{file}", len(content), hashlib.sha256(content).hexdigest(), folders)
        for file, (content, folders) in archives.items()
    )
    monkeypatch.setitem(DATA_SETS, name, dataclasses.replace(DATA_SETS[name], archives=offered))


def test_the_data_sets():
    assert list(DATA_SETS) == ["cifar10", "tiny-imagenet", "pacs", "domainnet"]
    assert [len(data_set.classes) for data_set in DATA_SETS.values()] == [10, 200, 7, 345]
    for data_set in DATA_SETS.values():
        assert len(set(data_set.classes)) == len(data_set.classes)
        assert data_set.page.startswith("http")
        assert bool(data_set.archives) == bool(data_set.arrange)
        for archive in data_set.archives:
            assert archive.url.startswith("http")
            assert int(archive.sha256, 16) < 1 << 256
            assert len(archive.sha256) == 64
    folders = [folder for archive in DATA_SETS["domainnet"].archives for folder in archive.folders]
    assert sorted(folders) == sorted(DATA_SETS["domainnet"].domains)


# Its folder --------------------------------------------------------------------------------------


def test_a_name_with_the_edge_behind_it(tmp_path):
    (tmp_path / "pacs-64").mkdir()
    (tmp_path / "pacs-old").mkdir()
    (tmp_path / "pacs-9").touch()
    assert find_data_set("pacs", tmp_path) == (tmp_path / "pacs-64", DATA_SETS["pacs"])
    assert find_data_set("pacs-64", tmp_path) == (tmp_path / "pacs-64", DATA_SETS["pacs"])
    assert find_data_set("pacs-old", tmp_path) == (tmp_path / "pacs-old", None)
    (tmp_path / "pacs-224").mkdir()
    with pytest.raises(
        DataError,
        match="more than one pacs: pacs-224, pacs-64; ask for one of them by its full name",
    ):
        find_data_set("pacs", tmp_path)
    (tmp_path / "pacs").mkdir()
    assert find_data_set("pacs", tmp_path)[0] == tmp_path / "pacs"


def test_in_the_environment_or_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here" / "cifar10").mkdir(parents=True)
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("RADIN_DATA", str(tmp_path / "data"))
    assert find_data_set("cifar10")[0] == tmp_path / "data" / "cifar10"
    assert find_data_set("cifar10", tmp_path / "nowhere")[0] == Path("cifar10")


def test_a_path_is_taken_as_it_is(tmp_path):
    (tmp_path / "cifar10").mkdir()
    assert find_data_set(str(tmp_path / "cifar10")) == (tmp_path / "cifar10", None)


@pytest.mark.parametrize("name", ["cifar", "CIFAR10", "cifar10-32", "pacs-64"])
def test_an_unknown_name(tmp_path, name):
    with pytest.raises(
        DataError,
        match=rf"Unknown data set '{name}': it is none of digits, cifar10, tiny-imagenet, pac",
    ):
        load_split(name, "train", root=tmp_path)
    with pytest.raises(
        DataError, match=f"cannot fetch '{name}'; it knows cifar10, tiny-imagenet, pacs, domainnet"
    ):
        fetch(name, tmp_path)


# Its download ------------------------------------------------------------------------------------


def test_a_download(server, tmp_path, capfd):
    train = load_split("cifar10", "train", root=tmp_path / "data")
    assert (len(train), train.class_names) == (10 * 18, list(class_names("cifar10")))
    assert len(load_split("cifar10", "val", root=tmp_path / "data")) == 10 * 2
    assert len(load_split("cifar10", "test", root=tmp_path / "data")) == 10 * 4
    assert in_memory(train, progress=False).images.shape == (180, 3, 32, 32)
    assert server.asked == [(ARCHIVE, None)]
    assert {name.split("/")[0] for name in files_below(tmp_path / "data")} == {"cifar10"}, (
        "nothing else is left"
    )
    out, err = capfd.readouterr()
    assert out == ""
    source = f"{server.url}/{ARCHIVE}"
    assert f"radin: downloading cifar10 from {source} (0.00 GB) into {tmp_path / 'data'}\n" in err
    assert f"{ARCHIVE}: 100%" in err
    assert "unpacking cifar10: 100%" in err


def test_nothing_is_said_without_a_download(server, tmp_path, capfd):
    fetch("cifar10", tmp_path, progress=False)
    assert capfd.readouterr().err.count("\n") == 1
    assert fetch("cifar10", tmp_path) == tmp_path / "cifar10"
    assert capfd.readouterr().err == ""


def test_offline_it_says_what_to_get_and_where_to_put_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_OFFLINE", "1")
    with pytest.raises(DataError) as caught:
        load_split("cifar10", "train", root=tmp_path)
    for part in (
        "RADIN_OFFLINE forbids",
        f"get {server.url}/{ARCHIVE} (0.00 GB; see https://www.cs.toronto.edu/~kriz/cifar.html)",
        f"and put it into {tmp_path}, without unpacking it",
        "put the images there as cifar10/{train,test}/<class>/<image>",
    ):
        assert part in str(caught.value)
    assert server.asked == []
    (tmp_path / ARCHIVE).write_bytes(CIFAR)  # as told
    assert len(load_split("cifar10", "test", root=tmp_path)) == 40
    assert (tmp_path / ARCHIVE).exists(), "what people put there is theirs"


def test_another_archive_put_there_is_named_and_kept(server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(CIFAR[:-1])
    with pytest.raises(
        DataError, match=rf"{ARCHIVE} does not have the checksum of the official file"
    ):
        fetch("cifar10", tmp_path)
    assert (tmp_path / ARCHIVE).exists()


def test_what_cannot_be_downloaded_says_where_to_get_it(tmp_path):
    with pytest.raises(DataError) as caught:
        load_split("pacs", "photo", root=tmp_path)
    assert "https://dali-dl.github.io/project_iccv2017.html" in str(caught.value)
    assert f"not under {tmp_path}" in str(caught.value)
    assert "pacs/{art_painting,cartoon,photo,sketch}/<class>/<image>" in str(caught.value)
    assert files_below(tmp_path) == []


def test_a_refused_download_says_what_to_do(server, tmp_path):
    server.status[ARCHIVE] = 404
    with pytest.raises(
        DataError,
        match=rf"answers 404 Not Found\. By hand: get .*{ARCHIVE} .* put it into {tmp_path}",
    ):
        fetch("cifar10", tmp_path, progress=False)
    server.status.clear()
    assert fetch("cifar10", tmp_path, progress=False) == tmp_path / "cifar10"


def test_a_broken_download_goes_on(server, tmp_path):
    server.cuts = [5000, 0]
    with pytest.raises(DataError, match="5000 of .* kept in"):
        fetch("cifar10", tmp_path, progress=False)
    assert fetch("cifar10", tmp_path, progress=False) == tmp_path / "cifar10"
    assert [wanted for _, wanted in server.asked] == [None, *["bytes=5000-"] * 2]


def test_an_archive_without_a_part(server, tmp_path, monkeypatch):
    content = packed("tar.gz", {"cifar-10-batches-bin/test_batch.bin": b""})
    offer(server, monkeypatch, "cifar10", {ARCHIVE: (content, ("train", "test"))})
    with pytest.raises(DataError, match="holds no images for cifar10/train"):
        fetch("cifar10", tmp_path, progress=False)
    assert not (tmp_path / "cifar10").exists()


def test_too_little_space(server, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 2 * len(CIFAR))
    )
    with pytest.raises(
        DataError, match=f"{tmp_path}: too little space to download and unpack {ARCHIVE}"
    ):
        fetch("cifar10", tmp_path)
    assert server.asked == []


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"file: could not be written \(File exists\); .* point RADIN_DATA"
    ):
        fetch("cifar10", tmp_path / "file")


def test_a_full_disk(server, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "x.png"))

    monkeypatch.setitem(
        DATA_SETS, "cifar10", dataclasses.replace(DATA_SETS["cifar10"], arrange=full)
    )
    with pytest.raises(
        DataError, match=r"x\.png: could not be written \(No space left on device\)"
    ):
        fetch("cifar10", tmp_path, progress=False)
    assert not (tmp_path / "cifar10").exists()


def domainnet(domain: str) -> bytes:
    """One domain of DomainNet, with one image of each class."""
    return packed(
        "zip",
        {f"{domain}/{name}/{domain}_{k}.jpg": picture(k) for k, name in enumerate(FIVE_CLASSES)},
    )


def test_what_consists_of_several_archives_goes_on_where_it_broke_off(
    server, tmp_path, monkeypatch
):
    domains = DATA_SETS["domainnet"].domains
    offer(
        server,
        monkeypatch,
        "domainnet",
        {f"{domain}.zip": (domainnet(domain), (domain,)) for domain in domains},
    )
    monkeypatch.setattr("radin.data.download.catalog.class_names", lambda name: FIVE_CLASSES)
    server.status["quickdraw.zip"] = 503
    with pytest.raises(DataError, match="503"):
        fetch("domainnet", tmp_path, progress=False)
    assert not (tmp_path / "domainnet").exists()
    server.status.clear()
    split = load_split("domainnet", "sketch", root=tmp_path)
    assert (len(split), split.class_names) == (5, sorted(FIVE_CLASSES))
    assert [path for path, _ in server.asked] == [
        *("clipart.zip", "infograph.zip", "painting.zip", "quickdraw.zip"),
        *("quickdraw.zip", "real.zip", "sketch.zip"),
    ]
    assert len(files_below(tmp_path)) == 6 * 5


FETCH = """
import dataclasses, os, sys
from pathlib import Path
from radin.data.download.catalog import DATA_SETS, Archive, fetch
root, url, size, sha256, images = sys.argv[1:]
official = DATA_SETS["cifar10"]
def arrange(archive, folder, progress):
    official.arrange(archive, folder, progress)
    if images == "killed":
        (folder / "test" / "truck" / "0000.png").unlink()
        os.kill(os.getpid(), 9)
DATA_SETS["cifar10"] = dataclasses.replace(
    official, arrange=arrange, archives=(Archive(url, int(size), sha256, ("train", "test")),)
)
print(fetch("cifar10", root))
"""


def fetch_elsewhere(server, root: Path, images: str):
    """Another process that fetches CIFAR-10; `killed` before its images are complete."""
    digest = hashlib.sha256(CIFAR).hexdigest()
    arguments = (root, f"{server.url}/{ARCHIVE}", len(CIFAR), digest, images)
    return run_python(FETCH, *arguments, RADIN_OFFLINE="", no_proxy="*")


def test_killed_while_unpacking(server, tmp_path):
    finish(fetch_elsewhere(server, tmp_path, "killed"), code=-9)
    assert files_below(tmp_path), "the kill came too early to show anything"
    assert not (tmp_path / "cifar10").exists()
    assert len(load_split("cifar10", "test", root=tmp_path)) == 40
    assert len(server.asked) == 1, "the archive was there already"
    assert {name.split("/")[0] for name in files_below(tmp_path)} == {"cifar10"}


def test_two_processes_at_once(server, tmp_path):
    server.delay = 1.0  # the second comes while the first waits
    processes = [fetch_elsewhere(server, tmp_path, "whole") for _ in range(2)]
    assert [finish(process) for process in processes] == [f"{tmp_path / 'cifar10'}\n"] * 2
    assert len(server.asked) == 1
    assert {name.split("/")[0] for name in files_below(tmp_path)} == {"cifar10"}
