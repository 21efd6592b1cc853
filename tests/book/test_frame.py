"""Pins, versions, licences and the Makefile stay in step."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pins
import radin

TARGETS = [
    "book",
    "rerun",
    "test",
    "serve",
    "assignments",
    "grade",
    "leaderboard",
    "bench",
    "zoos",
    "lint",
    "pins",
    "clean",
]


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def requirements(root: Path) -> str:
    return (root / "requirements.txt").read_text("utf-8")


@pytest.fixture(scope="module")
def pinned(requirements: str) -> list[Requirement]:
    return [
        Requirement(re.sub(r"\s*\\?\n?\s*--hash=\S+", "", block)) for block in blocks(requirements)
    ]


def blocks(requirements: str) -> list[str]:
    """One text per requirement: its own line and the lines of hashes below it."""
    return [
        block for block in re.split(r"\n(?=\S)", requirements.strip()) if not block.startswith("#")
    ]


def test_every_direct_dependency_is_pinned_at_a_version_it_admits(project, pinned):
    direct = project["dependencies"] + [
        dependency
        for extra in ("book", "dev")
        for dependency in project["optional-dependencies"][extra]
    ]
    for wanted in map(Requirement, direct):
        versions = [
            next(iter(pin.specifier)).version
            for pin in pinned
            if canonicalize_name(pin.name) == canonicalize_name(wanted.name)
        ]
        assert versions, (
            f"{wanted.name} is in pyproject.toml but not in requirements.txt: run `make pins`"
        )
        for version in versions:
            assert wanted.specifier.contains(version, prereleases=True), (
                f"{wanted} does not admit {version}"
            )


def test_every_requirement_is_one_version_with_a_hash(requirements, pinned):
    for block, pin in zip(blocks(requirements), pinned, strict=True):
        assert [specifier.operator for specifier in pin.specifier] == ["=="], str(pin)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), f"{pin.name} has no hash"


def test_pins_name_no_index_and_no_address(root, requirements):
    for text in (requirements, (root / "environment.yml").read_text("utf-8")):
        assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links|(^|\s)-[if]\s", text)


def test_environment_has_exactly_the_pins_of_requirements(root, requirements, pinned):
    text = (root / "environment.yml").read_text("utf-8")
    python, _, pip = yaml.safe_load(text)["dependencies"]
    assert python == "python=3.11"
    assert pip["pip"][-1] == "-e ."
    assert [str(Requirement(line)) for line in pip["pip"][:-1]] == [str(pin) for pin in pinned]
    assert text == pins.environment(requirements), "environment.yml is stale: run `make pins`"


def test_one_version_everywhere(root, project):
    citation = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == project["version"] == radin.__version__


def test_citation_names_the_paper(root):
    (paper,) = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))["references"]
    assert paper["title"] == "RADIN: Souping on a Budget"
    assert [author["family-names"] for author in paper["authors"]] == ["Menes", "Risser-Maroix"]


def test_both_licences_are_stated(root, project):
    text = (root / "LICENSE").read_text("utf-8")
    assert "MIT License" in text
    assert "https://creativecommons.org/licenses/by/4.0/" in text
    assert project["license"] == "MIT AND CC-BY-4.0"


def test_commands_in_the_documents_are_targets(root):
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (root / name).read_text("utf-8")
        code = "\n".join(re.findall(r"```[a-z]*\n.*?```|`[^`\n]+`", text, flags=re.DOTALL))
        named = re.findall(r"(?:^|[\s`])make ([a-z]+)", code)
        assert set(named) <= set(TARGETS), f"{name} names a target that the Makefile has not"
        assert named, f"{name} names no target"


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    quiet = ["make", "--no-print-directory"]  # `make test` itself may have started this
    return subprocess.run([*quiet, *words], cwd=folder, capture_output=True, text=True, check=False)


def test_make_alone_lists_the_targets(root):
    done = make(root)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")] == [
        "help",
        *TARGETS,
    ]


def test_make_refuses_a_misspelt_variable(root):
    done = make(root, "book", "BUGDET=8")
    assert done.returncode != 0
    assert "unknown variable BUGDET" in done.stderr


def test_make_passes_the_parameters_on(root):
    done = make(root, "-n", "book", "BUDGET=8", "NUM_CANDIDATES=200", "ZOO=my digits")
    assert "book/tools/make.py --budget '8'" in done.stdout
    assert "--num-candidates '200'" in done.stdout
    assert "--zoo 'my digits'" in done.stdout
    assert "--seed" not in done.stdout


@pytest.mark.parametrize("place", ["my images", "~/images", "/data/images"])
@pytest.mark.parametrize("target", [("book",), ("rerun", "CHAPTER=04_cifar10")])
def test_make_passes_a_folder_on_as_it_was_written(root, target, place):
    done = make(root, "-n", *target, f"DATA_ROOT={place}")
    assert f"--data-root '{place}'" in done.stdout  # quoted: the build's own tools make it absolute


@pytest.fixture
def bare_clone(root: Path, tmp_path: Path) -> Path:
    """Only what the set-up reads, with nothing to install."""
    shutil.copy(root / "Makefile", tmp_path)
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "requirements.txt").write_text("")
    return tmp_path


def test_an_old_python_is_refused_in_one_sentence(bare_clone):
    old = bare_clone / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make(bare_clone, "test", f"PYTHON={old}")
    assert done.returncode != 0
    assert "is not a Python 3.11 or newer" in done.stdout
    assert not (bare_clone / ".venv").exists()


@pytest.mark.parametrize("words", [("grade",), ("leaderboard",), ("grade", "SUBMISSIONS=")])
def test_a_class_that_is_not_named_stops_before_anything_is_installed(bare_clone, words):
    done = make(bare_clone, *words)
    assert done.returncode != 0
    assert f"name the folder of submissions: make {words[0]} SUBMISSIONS=folder" in done.stderr
    assert done.stdout == ""
    assert not (bare_clone / ".venv").exists()


def test_an_installation_that_fails_is_not_taken_for_done(bare_clone):
    (bare_clone / "requirements.txt").write_text("no-hash==1.0\n")
    for _ in range(2):  # the second run must try again, and begin afresh after one that was killed
        done = make(bare_clone, "test")
        assert not (bare_clone / ".venv" / "half-written").exists()
        assert done.returncode != 0
        assert "pip could not install the packages" in done.stdout
        assert not (bare_clone / ".venv" / ".installed").exists()
        (bare_clone / ".venv" / ".installing").touch()
        (bare_clone / ".venv" / "half-written").touch()
