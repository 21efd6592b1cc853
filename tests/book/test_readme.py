"""README.md: its example runs as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def blocks(root) -> list[str]:
    text = (root / "README.md").read_text("utf-8")
    found = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(found) == 3
    return found


def run(block: str, cache: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=folder,
        env=os.environ | {"RADIN_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shipped_bench_is_replayed_as_written(blocks, radin_cache, tmp_path):
    said = run(blocks[1], radin_cache, tmp_path)
    assert said.startswith("radin: validation accuracy ")
    assert 0 <= float(said.split("regret on test:")[1]) < 10


def test_a_recipe_of_one_s_own_is_compared_as_written(blocks, radin_cache, tmp_path):
    said = run(blocks[2], radin_cache, tmp_path)
    assert "minus radin" in said
    assert re.findall(r"^\d +(\w+) +(\d)", said, re.M)[:3] == [
        ("radin", "1"),
        ("mine", "1"),
        ("greedy", "1"),
    ]


def test_the_example_runs_as_written(blocks, radin_cache, tmp_path):
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(lines) <= 10, "it is called ten lines"
    summary, tested = run(blocks[0], radin_cache, tmp_path).splitlines()
    assert summary.startswith("radin: validation accuracy ")
    assert "4 of 4 evaluations spent" in summary
    assert 50 < float(tested.removeprefix("test accuracy: ")) <= 100
    assert (tmp_path / "soup.safetensors").is_file()
