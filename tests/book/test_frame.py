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
    "pdf",
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


FILES = {"requirements.txt": ("book",), "requirements-dev.txt": ("book", "dev")}


def read_pins(root: Path, *names: str) -> list[Requirement]:
    text = "\n".join((root / name).read_text("utf-8") for name in names)
    return [
        Requirement(re.sub(r"\s*\\?\n?\s*--hash=\S+", "", block)) for block in pins.blocks(text)
    ]


def versions(pinned: list[Requirement], name: str) -> set[str]:
    wanted = canonicalize_name(name)
    found = [pin.specifier for pin in pinned if canonicalize_name(pin.name) == wanted]
    return {specifier.version for each in found for specifier in each}


@pytest.mark.parametrize("extra", ["book", "dev"])
def test_every_direct_dependency_is_pinned_at_a_version_it_admits(root, project, extra):
    files = ["requirements.txt"] if extra == "book" else list(FILES)
    pinned = read_pins(root, *files)
    direct = [*project["dependencies"], *project["optional-dependencies"][extra]]
    for wanted in map(Requirement, direct):
        found = versions(pinned, wanted.name)
        assert found, f"{wanted.name} is in pyproject.toml but not in {files}: run `make pins`"
        for version in found:
            assert wanted.specifier.contains(version, prereleases=True), (
                f"{wanted} does not admit {version}"
            )


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_one_version_with_a_hash(root, name):
    blocks = pins.blocks((root / name).read_text("utf-8"))
    for block, pin in zip(blocks, read_pins(root, name), strict=True):
        assert [specifier.operator for specifier in pin.specifier] == ["=="], str(pin)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), f"{pin.name} has no hash"


def test_pins_name_no_index_and_no_address(root):
    for name in (*FILES, "environment.yml"):
        text = (root / name).read_text("utf-8")
        assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links|(^|\s)-[if]\s", text)


def test_a_package_has_the_same_version_in_both_files(root):
    book, dev = (read_pins(root, name) for name in FILES)
    for name in {pin.name for pin in book} & {pin.name for pin in dev}:
        assert versions(book, name) == versions(dev, name)


def test_the_book_does_without_what_only_tests_and_the_classroom_need(root):
    book = {pin.name for pin in read_pins(root, "requirements.txt")}
    heavy = {"ray", "dask", "distributed", "nbgrader", "jupyterlab", "mypy", "pytest", "playwright"}
    assert not book & heavy
    assert heavy <= {pin.name for pin in read_pins(root, "requirements-dev.txt")}


def test_environment_has_exactly_the_pins_of_the_book(root):
    requirements = (root / "requirements.txt").read_text("utf-8")
    text = (root / "environment.yml").read_text("utf-8")
    python, _, pip = yaml.safe_load(text)["dependencies"]
    assert python == "python=3.11"
    assert pip["pip"][-1] == "-e ."
    pinned = [str(pin) for pin in read_pins(root, "requirements.txt")]
    assert [str(Requirement(line)) for line in pip["pip"][:-1]] == pinned
    assert text == pins.environment(requirements), "environment.yml is stale: run `make pins`"


def test_the_second_file_adds_what_the_first_has_not():
    torch, ray = "torch==2 \\\n    --hash=sha256:0", "ray==1 \\\n    --hash=sha256:1"
    assert pins.additional(f"{ray}\n{torch}\n", f"{torch}\n") == f"{ray}\n"
    assert pins.additional(f"{torch}\n", f"{torch}\n") == ""


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


def test_make_passes_on_how_many_notebooks_run(root):
    done = make(root, "-n", "book", "FRESH=1", "JOBS=1")
    assert "book/tools/make.py --fresh '1' --jobs '1'" in " ".join(done.stdout.split())
    assert "--fresh" not in make(root, "-n", "book").stdout


@pytest.mark.parametrize(
    ("target", "dev"), [("book", False), ("rerun", False), ("test", True), ("lint", True)]
)
def test_what_only_tests_need_comes_with_the_targets_that_need_it(bare_clone, target, dev):
    done = make(bare_clone, "-n", target)
    assert "-r requirements.txt" in done.stdout
    assert ("-r requirements-dev.txt" in done.stdout) is dev


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
    (tmp_path / "requirements-dev.txt").write_text("")
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


@pytest.mark.parametrize("name", FILES)
def test_an_installation_that_fails_is_not_taken_for_done(bare_clone, name):
    (bare_clone / name).write_text("no-hash==1.0\n")
    if name == "requirements-dev.txt":  # what the book needs is there, and pip fails
        python = bare_clone / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
        (bare_clone / ".venv" / ".installed").touch()
    for _ in range(2):  # the second run must try again, and begin afresh after one that was killed
        done = make(bare_clone, "test")
        assert not (bare_clone / ".venv" / "half-written").exists()
        assert done.returncode != 0
        assert "pip could not install the packages" in done.stdout
        assert not (bare_clone / ".venv" / ".installed").exists()
        (bare_clone / ".venv" / ".installing").touch()
        (bare_clone / ".venv" / "half-written").touch()
