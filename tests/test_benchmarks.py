"""tests/benchmarks: every case runs, and radin's answers there are the loop's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from radin.notebook import measured

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import stage_one


@pytest.mark.parametrize("name", sorted(set(stage_one.CASES) - {"caruana", "digits"}))
def test_case(name):
    result = stage_one.CASES[name](200)
    assert json.loads(json.dumps(result)) == result
    if "largest_difference_from_loop" in result:
        # The loop adds in single precision: near a tie it may differ on an image or two of the 200.
        assert result["largest_difference_from_loop"] < (1e-9 if name == "likelihood" else 1.1)


def test_the_results_in_the_book_are_those_of_this_benchmark():
    kept = measured("stage_one")
    on_cpu = {name for name in stage_one.CASES if not name.endswith("_gpu")}
    assert on_cpu <= set(kept["cases"]), "make bench"
    assert kept["cases"]["subsets_single"]["sizes"] == {
        "N": 13,
        "n": 50_000,
        "C": 1000,
        "M": 8191,
        "dtype": "float32",
        "device": "cpu",
    }


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(stage_one, "WORK", tmp_path)
    monkeypatch.setattr(stage_one, "CASES", {"few_classes": None, "likelihood": None})
    done = {"hardware": {}, "cases": {"few_classes": {"seconds": 1.0, "times_faster_than_loop": 7.0}}}
    (tmp_path / f"quick-{stage_one.code()}.json").write_text(json.dumps(done))
    stage_one.run_all(quick=True)
    results = json.loads((tmp_path / "quick.json").read_text())
    assert results["cases"]["few_classes"] == done["cases"]["few_classes"]
    assert results["cases"]["likelihood"]["times_faster_than_loop"] > 0
    said = capfd.readouterr().out
    assert "likelihood ..." in said
    assert "few_classes ..." not in said
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"], "the next run measures again"
