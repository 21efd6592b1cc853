"""tests/benchmarks: every case runs, and radin's answers there are its peers'."""

from __future__ import annotations

import json
import math

import pytest

import adapters_beside_full
import averaging
import one_pass
import stage_one
from radin.experiments.notebook import load_benchmark


@pytest.mark.parametrize("name", sorted(set(stage_one.CASES) - {"caruana", "digits"}))
def test_case(name):
    result = stage_one.CASES[name](200)
    assert json.loads(json.dumps(result)) == result
    if "largest_difference_from_loop" in result:
        # The loop adds in single precision: near a tie it may differ on an image or two of the 200.
        assert result["largest_difference_from_loop"] < (1e-9 if name == "likelihood" else 1.1)


def test_the_results_in_the_book_are_those_of_this_benchmark():
    kept = load_benchmark("stage_one")
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


def test_a_killed_run_continues_where_it_stopped(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(stage_one, "WORK", tmp_path)
    monkeypatch.setattr(stage_one, "CASES", {"few_classes": None, "likelihood": None})
    done = {
        "hardware": {},
        "cases": {"few_classes": {"seconds": 1.0, "times_faster_than_loop": 7.0}},
    }
    (tmp_path / f"quick-{stage_one.code()}.json").write_text(json.dumps(done))
    stage_one.run_all(quick=True)
    results = json.loads((tmp_path / "quick.json").read_text())
    assert results["cases"]["few_classes"] == done["cases"]["few_classes"]
    assert results["cases"]["likelihood"]["times_faster_than_loop"] > 0
    printed = capfd.readouterr().out
    assert "likelihood ..." in printed
    assert "few_classes ..." not in printed
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"], (
        "the next run measures again"
    )


def test_the_files_are_those_of_the_published_ingredients():
    shapes = averaging.shapes()
    assert len(shapes) == 160
    assert sum(math.prod(shape) for shape in shapes.values()) == 113_961_705
    assert sum(name.startswith("model.visual.") for name in shapes) == 152


@pytest.mark.parametrize("kind", averaging.FORMATS)
def test_radin_and_its_peers_give_the_same_average(tmp_path, kind):
    paths = averaging.make_files(tmp_path, 3, 32, kind)
    stamps = [path.stat().st_mtime_ns for path in paths]
    assert averaging.make_files(tmp_path, 3, 32, kind) == paths
    assert [path.stat().st_mtime_ns for path in paths] == stamps, "made once and used again"
    for method in sorted(set(averaging.METHODS) - {"mergekit"}):
        result = averaging.measure(method, paths, tmp_path / f"{method}.safetensors", cold=False)
        assert json.loads(json.dumps(result)) == result
        assert result["seconds"] > 0
        if method in averaging.PEERS:
            apart = averaging.difference(
                tmp_path / "radin.safetensors", [tmp_path / f"{method}.safetensors"]
            )
            assert apart < 1e-6
    assert (tmp_path / "radin_open.safetensors").stat().st_size > (
        tmp_path / "timm.safetensors"
    ).stat().st_size
    assert (
        averaging.difference(tmp_path / "radin.safetensors", [tmp_path / "radin_four.safetensors"])
        == 0
    )


def test_a_quick_run_of_averaging(tmp_path, capfd):
    result = tmp_path / "averaging.json"
    command = [
        "--rows",
        "read",
        "read_mapped",
        "mergekit",
        "--folder",
        str(tmp_path),
        "--result",
        str(result),
    ]
    averaging.main([*command, "--quick", "--repeats", "2"])
    printed = capfd.readouterr().out
    assert "mergekit is left out: no --mergekit-python was given" in printed
    for head in ("pt, warm", "pt, cold", "safetensors, warm", "safetensors, cold"):
        assert f"\n{head} " in printed
    assert not result.exists()
    small = [
        "--scale",
        "32",
        "--number",
        "2",
        "--formats",
        "pt",
        "--repeats",
        "1",
        "--cold-repeats",
        "0",
    ]
    averaging.main([*command, *small])
    kept = json.loads(result.read_text())
    assert kept["sizes"]["N"] == 2
    assert kept["formats"]["pt"]["warm"]["read"]["times_read"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "averaging.json",
        "pt-16",
        "pt-32",
        "safetensors-16",
    ]


def test_a_method_that_fails_ends_the_benchmark(tmp_path):
    (tmp_path / "pt-16" / "model_0.pt").mkdir(parents=True)
    with pytest.raises(SystemExit, match="read failed; its own words are above"):
        averaging.main(["--rows", "read", "--formats", "pt", "--folder", str(tmp_path), "--quick"])


def test_the_averages_in_the_book_are_those_of_this_benchmark():
    kept = load_benchmark("averaging")
    assert kept["sizes"] == {"N": 13, "tensors": 160, "numbers": 113_961_705, "bytes": 455_846_820}
    for conditions in kept["formats"].values():
        for rows in conditions.values():
            assert set(rows) == set(averaging.METHODS)
            assert all(
                rows[peer]["largest_difference_from_radin"] < 1e-6 for peer in averaging.PEERS
            )
            assert max(rows[row]["peak_models"] for row in ("radin", "radin_four")) < 1.5


def test_one_pass(tmp_path, monkeypatch):
    """Every case without a large network, on a few images; both sides give the same accuracies."""
    monkeypatch.setattr(one_pass, "NUM_NETWORKS", 3)
    found = one_pass.many_networks(tmp_path / "many", 24, 1)
    assert found["largest_difference_in_accuracy"] == 0
    assert found["times_faster_than_a_loop"] > 0
    assert one_pass.stage_two(tmp_path / "two", 24, 1)["soups"] == 4
    entries = load_benchmark("one_pass")["entries"]
    assert {"many_networks", "stage_two", "half_precision"} <= set(entries)


def test_adapters_beside_full_checkpoints(tmp_path):
    ratios = adapters_beside_full.compare(tmp_path, number=3, width=64, repeats=1)
    assert set(ratios) == {"open", "save", "peak", "disk", "largest difference of the soups"}
    assert ratios["disk"] > 1
    assert ratios["largest difference of the soups"] < 2e-6
