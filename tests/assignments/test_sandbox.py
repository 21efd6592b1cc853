"""notebooks/assignments/sandbox.py: students' code without network and without others' files."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

import classroom
import sandbox
from samples import hand_in
from submissions import ClassroomError
from test_classroom import RIGHT, answered, small_assignment


def program(folder: Path, name: str, text: str) -> None:
    """Put a shell script on the path of programs."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.mark.parametrize("command", ["grade", "leaderboard"])
def test_an_unknown_sandbox_is_refused_before_anything_runs(tmp_path, capsys, command):
    hand_in(tmp_path, "ann", "budget", "{}")
    out = tmp_path / "out"
    given = [command, str(tmp_path), "--out", str(out), "--sandbox", "vm"]
    assert classroom.main(given) == 1
    message = "error: SANDBOX is one of docker, podman, bwrap, not 'vm'\n"
    assert capsys.readouterr().err == message
    assert not out.exists()


def test_a_sandbox_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClassroomError, match="no program bwrap on this machine; install it, or"):
        sandbox.check_sandbox("bwrap")
    program(tmp_path, "podman", "exit 0")
    with pytest.raises(ClassroomError, match="use SANDBOX=podman, which is there, or grade"):
        sandbox.check_sandbox("bwrap")


def test_a_sandbox_that_does_not_start_says_why(tmp_path, monkeypatch):
    program(tmp_path, "docker", "echo 'Cannot connect to the daemon.' >&2; exit 125")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ClassroomError, match="SANDBOX=docker does not start: Cannot connect to"):
        sandbox.check_sandbox("docker")


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_a_container_has_no_network_and_one_folder_to_write_in(monkeypatch, name):
    monkeypatch.setenv("RADIN_HIDDEN_SEED", "7")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    command = sandbox.container_command(name, "/tmp/course", ["/venv", "/module"])
    assert command[:2] == [name, "run"]
    pairs = list(itertools.pairwise(command))
    assert ("--network", "none") in pairs
    volumes = [value for option, value in pairs if option == "--volume"]
    assert [each for each in volumes if not each.endswith(":ro")] == ["/tmp/course:/tmp/course"]
    assert "/venv:/venv:ro" in volumes
    variables = [value for option, value in pairs if option == "--env"]
    assert "RADIN_HIDDEN_SEED" in variables
    assert not any("SECRET" in each for each in variables)
    assert command.index(sandbox.IMAGE) > command.index("/tmp/course:/tmp/course")


SPY = """
import os, socket
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    net = True
except OSError:
    net = False
seen = os.path.exists({folder!r})
raise ValueError(f"network {{net}}, class {{seen}}")
"""


def started(name: str) -> bool:
    try:
        sandbox.check_sandbox(name)
    except ClassroomError:
        return False
    return True


@pytest.fixture(params=["bwrap", "a stand-in for docker"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> str:
    """A sandbox that starts here. The stand-in shuts nothing off: it runs what docker would run."""
    if request.param == "bwrap":
        if not (shutil.which("bwrap") and started("bwrap")):
            pytest.skip("bubblewrap does not start here")
        return "bwrap"
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    run = (
        f'while [ "$1" != "{sandbox.IMAGE}" ]; do shift; done; shift 5; JPY_PARENT_PID=1 exec "$@"'
    )
    program(bin_folder, "docker", run)
    monkeypatch.setenv("PATH", str(bin_folder), prepend=os.pathsep)
    return "docker"


@pytest.mark.whole
def test_a_class_is_graded_in_a_sandbox(tmp_path, kind):
    import socket

    for name in ("one", "two"):
        small_assignment(tmp_path / "source", name)
    classroom.generate(tmp_path / "source", tmp_path / "release")
    folder = tmp_path / "class"
    with socket.create_server(("127.0.0.1", 0)) as server:
        spy = SPY.format(port=server.getsockname()[1], folder=str(folder))
        codes = {
            "ann": RIGHT,
            "bob": f"{RIGHT}\n{spy}",
            "cem": "def double(x):\n    while True:\n        pass",
        }
        for student, code in codes.items():
            hand_in(folder, student, "one", answered(tmp_path, "one", code))
        ann, bob, cem = classroom.grade_all(
            folder,
            tmp_path / "out",
            tmp_path / "source",
            workers=2,
            timeout=8,
            sandbox=kind,
            progress=False,
        )
    assert ann["problems"] == []
    assert [row["parts"][0]["points"] for row in (ann, bob, cem)] == [3, 3, 0]
    assert "no answer in the time" in cem["parts"][0]["message"]
    inside = kind == "bwrap"
    assert f"ValueError: network {not inside}, class {not inside}" in bob["problems"][0]


def test_without_a_sandbox_a_command_is_as_it_was():
    assert sandbox.wrap("", "/tmp", [sys.executable]) == [sys.executable]
