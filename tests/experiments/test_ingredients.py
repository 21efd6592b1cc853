"""radin/experiments/model_soups/ingredients.py: downloaded one by one, and checked again later."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import files_below, finish, run_python
from local_server import LocalServer
from radin.errors import DataError, ParameterError, RadinError
from radin.experiments.model_soups import ingredients
from radin.experiments.model_soups.ingredients import RECORD_FILE, fetch_ingredients, ingredient_ids

MIN_BYTES = 3000  # bytes of the smallest ingredient of these tests
CONTENT = {
    number: hashlib.shake_256(bytes([number])).digest(MIN_BYTES + number) for number in range(72)
}


@pytest.fixture
def server(running, monkeypatch) -> LocalServer:
    """The release, with small ingredients, and leave to download from it."""
    running.reset()
    running.files |= {f"model_{number}.pt": content for number, content in CONTENT.items()}
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("RADIN_OFFLINE", raising=False)
    monkeypatch.setattr(ingredients, "RELEASE_URL", running.url)
    monkeypatch.setattr(ingredients, "MIN_BYTES", MIN_BYTES)
    monkeypatch.setattr(ingredients, "TYPICAL_BYTES", MIN_BYTES + 100)
    return running


def get(ids: object, folder: Path) -> list[Path]:
    return fetch_ingredients(ids, folder, progress=False)


def record_of(folder: Path) -> dict[str, dict[str, object]]:
    return json.loads((folder / RECORD_FILE).read_text())


def entry(number: int) -> dict[str, object]:
    return {"bytes": len(CONTENT[number]), "sha256": hashlib.sha256(CONTENT[number]).hexdigest()}


# Which ones -------------------------------------------------------------------------------------


def test_ids():
    assert ingredient_ids("all") == list(range(72))
    assert ingredient_ids("0-12,43") == [*range(13), 43]
    assert ingredient_ids("43, 7-8") == [43, 7, 8]
    assert ingredient_ids("71") == [71]
    assert ingredient_ids(range(3)) == [0, 1, 2]
    assert ingredient_ids(number for number in (5, 2)) == [5, 2]


@given(st.lists(st.integers(0, 71), min_size=1, unique=True))
def test_ids_are_those_that_were_written(numbers):
    assert ingredient_ids(",".join(map(str, numbers))) == ingredient_ids(numbers) == numbers
    first, last = min(numbers), max(numbers)
    assert ingredient_ids(f"{first}-{last}") == list(range(first, last + 1))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("", "'' names no ingredients; write all, or numbers and ranges such as 0-12,43"),
        ("0,", "'' names no ingredients"),
        ("0-12;43", "'0-12;43' names no ingredients"),
        ("model_0", "'model_0' names no ingredients"),
        ("-1", "'-1' names no ingredients"),
        ("1-2-3", "'1-2-3' names no ingredients"),
        ("ALL", "'ALL' names no ingredients"),
        ("٣", "'٣' names no ingredients"),
        (
            "72",
            "they are 0 to 71, and a range begins with the smaller number",
        ),
        ("70-72", "'70-72' names no ingredients; they are 0 to 71"),
        (
            "12-0",
            "they are 0 to 71, and a range begins with the smaller number",
        ),
        ("0-12,7", "name 7 twice; write all, or each ingredient once"),
        ([3, 3], "name 3 twice"),
        ([], "name none"),
        ([True], "'True' names no ingredients"),
        ([1.0], "'1.0' names no ingredients"),
    ],
)
def test_impossible_ids(server, tmp_path, ids, message):
    with pytest.raises(ParameterError) as caught:
        get(ids, tmp_path / "new")
    assert message in str(caught.value)
    assert not (tmp_path / "new").exists()


# Downloaded -------------------------------------------------------------------------------------


def test_some_are_downloaded(server, tmp_path, capfd):
    paths = fetch_ingredients("43,0-1", tmp_path / "soups")
    assert paths == [tmp_path / "soups" / f"model_{number}.pt" for number in (43, 0, 1)]
    assert [path.read_bytes() for path in paths] == [CONTENT[number] for number in (43, 0, 1)]
    assert list(record_of(tmp_path / "soups").items()) == [
        (f"model_{k}.pt", entry(k)) for k in (0, 1, 43)
    ]
    assert files_below(tmp_path / "soups") == [
        ".lock",
        RECORD_FILE,
        "model_0.pt",
        "model_1.pt",
        "model_43.pt",
    ]
    out, err = capfd.readouterr()
    assert out == ""
    assert (
        f"radin: downloading the ingredients of Model soups from {server.url} (3 files, about"
        in err
    )
    for label in (
        "model_43.pt (1 of 3): 100%",
        "model_0.pt (2 of 3): 100%",
        "model_1.pt (3 of 3): 100%",
    ):
        assert label in err


def test_downloaded_to_the_root_of_the_data_sets(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_DATA", str(tmp_path))
    assert fetch_ingredients("5", progress=False) == [tmp_path / "model-soups" / "model_5.pt"]


def test_existing_files_are_not_downloaded_again(server, tmp_path, capfd):
    get("0-2", tmp_path)
    server.asked.clear()
    capfd.readouterr()
    get("1-3", tmp_path)
    assert server.asked == [("model_3.pt", None)]
    assert capfd.readouterr().err.count("\n") == 1
    assert [path.name for path in get("0-3", tmp_path)] == [f"model_{k}.pt" for k in range(4)]
    assert capfd.readouterr().err == ""
    assert server.head_requests == [], "what is in the record needs no network"


@pytest.mark.parametrize("tag", [None, '"v0.0.2"'])
def test_an_interrupted_download_continues(server, tmp_path, tag):
    server.tags = dict.fromkeys(server.files, tag) if tag else {}
    server.cuts = [10_000, 700, 0]  # the first is whole
    with pytest.raises(
        DataError,
        match="model_1.pt: could not be downloaded .*700 of 3001 bytes are kept in .*model_1",
    ):
        get("0-2", tmp_path)
    assert record_of(tmp_path) == {"model_0.pt": entry(0)}
    server.asked.clear()
    assert [path.read_bytes() for path in get("0-2", tmp_path)] == [CONTENT[k] for k in range(3)]
    assert server.asked == [("model_1.pt", "bytes=700-"), ("model_2.pt", None)]
    assert files_below(tmp_path) == [".lock", RECORD_FILE, *(f"model_{k}.pt" for k in range(3))]


def test_a_removed_file_must_come_back_unchanged(server, tmp_path):
    path, *_ = get("4", tmp_path)
    path.unlink()
    server.files["model_4.pt"] = CONTENT[4][::-1]
    with pytest.raises(DataError, match="does not have the checksum of the official file"):
        get("4", tmp_path)
    server.files["model_4.pt"] = CONTENT[4]
    assert get("4", tmp_path) == [path]


@pytest.mark.parametrize("status", [404, 503])
def test_a_download_that_the_server_refuses(server, tmp_path, status):
    server.status["model_1.pt"] = status
    with pytest.raises(
        DataError,
        match=rf"model_1\.pt: the server answers {status} .*The files downloaded before are kept",
    ):
        get("0-1", tmp_path)
    assert record_of(tmp_path) == {"model_0.pt": entry(0)}


def test_a_download_that_is_not_an_ingredient_is_deleted(server, tmp_path):
    server.files["model_0.pt"] = b"<html>please log in</html>"
    with pytest.raises(
        DataError, match="the download has 26 bytes, too few for an ingredient, and was deleted"
    ):
        get("0", tmp_path)
    assert files_below(tmp_path) == [".lock"]


def test_offline(server, tmp_path, monkeypatch):
    get("0-1", tmp_path)
    monkeypatch.setenv("RADIN_OFFLINE", "1")
    assert [path.name for path in get("0-1", tmp_path)] == ["model_0.pt", "model_1.pt"]
    with pytest.raises(
        DataError,
        match=rf"model_2\.pt is not in .* RADIN_OFFLINE forbids .*; get {server.url}/model_2",
    ):
        get("0-2", tmp_path)
    with pytest.raises(
        DataError,
        match=r"model_2\.pt, model_3\.pt, model_4\.pt, model_5\.pt and 66 more are not in",
    ):
        get("all", tmp_path)
    with pytest.raises(DataError, match="forbids"):
        get("0", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    assert len(server.asked) == 2


def test_too_little_space_is_reported_before_the_download(server, tmp_path, monkeypatch):
    get("0", tmp_path)
    (tmp_path / "model_1.pt.part").write_bytes(bytes(2000))
    server.asked.clear()
    needed = 2 * (MIN_BYTES + 100) - 2000  # of three, one is there and another in part
    for free, enough in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(
            "shutil.disk_usage", lambda _, free=free: shutil._ntuple_diskusage(10**9, 10**9, free)
        )
        if enough:
            assert len(get("0-2", tmp_path)) == 3
        else:
            with pytest.raises(
                DataError,
                match=f"{tmp_path}: .* GB remain to be downloaded and .* are free; .* --ids",
            ):
                get("0-2", tmp_path)
            assert server.asked == []


def test_a_disk_that_fills_up(server, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "model_0.pt.part"))

    monkeypatch.setattr(ingredients, "download", full)
    with pytest.raises(
        DataError,
        match=r"model_0\.pt\.part: could not be written \(No space left on device\); free",
    ):
        get("0", tmp_path)


def test_a_path_that_is_not_a_folder(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: could not be written \(File exists\)"):
        get("0", tmp_path / "file")


# Checked again ----------------------------------------------------------------------------------


def test_every_changed_file_is_named_with_what_to_do(server, tmp_path):
    paths = get("0-3", tmp_path)
    paths[1].write_bytes(CONTENT[1][:-1])
    with pytest.raises(DataError) as caught:
        get("0-3", tmp_path)
    assert str(caught.value) == (
        f"{paths[1]}: it has 3000 bytes, and {RECORD_FILE} says 3001. "
        "Remove it and run: radin fetch model-soups --ids 1"
    )
    paths[1].write_bytes(CONTENT[1])
    for k in (0, 3):
        paths[k].write_bytes(CONTENT[k][::-1])
    with pytest.raises(DataError) as caught:
        get("0-3", tmp_path)
    assert str(caught.value) == (
        f"{paths[0]}: its content is not what {RECORD_FILE} says; "
        f"{paths[3]}: its content is not what {RECORD_FILE} says. "
        "Remove them and run: radin fetch model-soups --ids 0,3"
    )
    assert len(get("1-2", tmp_path)) == 2, "others are not concerned"
    for path in (paths[0], paths[3]):  # as the message says
        path.unlink()
    assert [path.read_bytes() for path in get("0,3", tmp_path)] == [CONTENT[0], CONTENT[3]]


def test_a_file_truncated_at_any_byte(server, tmp_path):
    path, *_ = get("0", tmp_path)
    for length in (0, 1, 2, 1500, len(CONTENT[0]) - 1):
        path.write_bytes(CONTENT[0][:length])
        with pytest.raises(
            DataError, match=f"model_0.pt: it has {length} bytes, and hashes.json says 3000"
        ):
            get("0", tmp_path)


def test_a_file_put_there_by_hand_is_recorded(server, tmp_path, monkeypatch):
    (tmp_path / "model_7.pt").write_bytes(CONTENT[7])
    assert get("7", tmp_path)[0].read_bytes() == CONTENT[7]
    assert record_of(tmp_path) == {"model_7.pt": entry(7)}
    assert (server.asked, server.head_requests) == ([], ["model_7.pt"])
    monkeypatch.setenv("RADIN_OFFLINE", "1")
    (tmp_path / "model_8.pt").write_bytes(CONTENT[8])
    get("7-8", tmp_path)
    assert record_of(tmp_path) == {"model_7.pt": entry(7), "model_8.pt": entry(8)}
    assert server.head_requests == ["model_7.pt"]


def test_a_file_put_there_by_hand_must_be_an_ingredient(server, tmp_path, monkeypatch):
    path = tmp_path / "model_7.pt"
    path.write_bytes(bytes(MIN_BYTES - 1))
    with pytest.raises(
        DataError,
        match=r"model_7\.pt: it has 2999 bytes, too few for an ingredient\. Remove it and run",
    ):
        get("7", tmp_path)
    path.write_bytes(bytes(MIN_BYTES + 1))
    with pytest.raises(DataError, match="it has 3001 bytes, and the published file 3007"):
        get("7", tmp_path)
    assert record_of_or_none(tmp_path) is None
    server.status["model_7.pt"] = 503  # nobody to ask: its own size must do
    assert get("7", tmp_path) == [path]


def record_of_or_none(folder: Path) -> object:
    return record_of(folder) if (folder / RECORD_FILE).exists() else None


def test_a_truncated_checkpoint_is_recognised_without_a_record(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_OFFLINE", "1")
    path = tmp_path / "model_7.pt"
    torch.save({"weight": torch.ones(5000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 500])
    with pytest.raises(DataError, match=r"model_7\.pt: it is cut short"):
        get("7", tmp_path)
    path.write_bytes(whole)
    assert get("7", tmp_path) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"model_0.pt": 5}',
        '{"model_0.pt": {"bytes": 5}}',
        '{"model_0.pt": {"bytes": "5", "sha256": ""}}',
    ],
)
def test_a_damaged_record(server, tmp_path, text):
    get("0", tmp_path)
    (tmp_path / RECORD_FILE).write_text(text)
    with pytest.raises(
        RadinError, match=rf"{RECORD_FILE}: not a record of sizes and SHA-256 sums; remove it"
    ):
        get("0", tmp_path)
    (tmp_path / RECORD_FILE).unlink()  # as the message says
    get("0", tmp_path)
    assert record_of(tmp_path) == {"model_0.pt": entry(0)}


KILLED = """
import os, sys
from pathlib import Path
from radin.experiments.model_soups import ingredients
url, folder, when = sys.argv[1:]
ingredients.RELEASE_URL = url
ingredients.MIN_BYTES = ingredients.TYPICAL_BYTES = 3000
done = getattr(ingredients, when)
def dies(*arguments, **options):
    answer = done(*arguments, **options)
    if "model_1.pt" in str(arguments[0]) or "model_1.pt" in str(arguments[-1]):
        os.kill(os.getpid(), 9)
    return answer
setattr(ingredients, when, dies)
ingredients.fetch_ingredients("0-2", Path(folder), progress=False)
"""


@pytest.mark.parametrize("when", ["download", "hash_file", "_write_record"])
def test_after_a_kill_at_any_step_the_next_run_completes(server, tmp_path, when):
    finish(run_python(KILLED, server.url, tmp_path, when, RADIN_OFFLINE="", no_proxy="*"), code=-9)
    assert not (tmp_path / "model_2.pt").exists(), "the kill came too late to show anything"
    server.asked.clear()
    assert [path.read_bytes() for path in get("0-2", tmp_path)] == [CONTENT[k] for k in range(3)]
    assert record_of(tmp_path) == {f"model_{k}.pt": entry(k) for k in range(3)}
    assert [path for path, _ in server.asked] == ["model_2.pt"]
    assert files_below(tmp_path) == [".lock", RECORD_FILE, *(f"model_{k}.pt" for k in range(3))]


def test_two_processes_at_once(server, tmp_path):
    code = KILLED.replace("os.kill(os.getpid(), 9)", "pass")
    server.delay = 0.2
    arguments = (code, server.url, tmp_path, "download")
    processes = [run_python(*arguments, RADIN_OFFLINE="", no_proxy="*") for _ in range(2)]
    for process in processes:
        finish(process)
    assert sorted(path for path, _ in server.asked) == [f"model_{k}.pt" for k in range(3)]
    assert record_of(tmp_path) == {f"model_{k}.pt": entry(k) for k in range(3)}


def test_the_release_is_the_published_one():
    assert os.path.basename(ingredients.RELEASE_URL) == "v0.0.2"
