"""tests/benchmarks: every case runs, and radin's answers there are its peers'."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import adapters_beside_full
import averaging
import one_pass
import refreshed_statistics
import stage_one
from helpers import save_states, tiny_split
from radin import SoupBench, Zoo
from radin.experiments.bench import refreshed
from radin.experiments.bench.tabulate import pack_bits, unpack_bits
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


def test_statistics_measured_again(tmp_path):
    """A soup whose statistics are made wrong on purpose is repaired, and its answers are kept."""

    def network():
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))

    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        states.append(network().state_dict() | {"1.running_mean": torch.full((4,), 50.0)})
    zoo = Zoo.open(save_states(tmp_path, *states), network, progress=False)
    train = refreshed_statistics.random_part(tiny_split(90, seed=1, part="train"), 60)
    assert len(train) == 60
    assert torch.equal(
        train.images,
        refreshed_statistics.random_part(tiny_split(90, seed=1, part="train"), 60).images,
    )
    test = tiny_split(50, seed=2, part="test")
    found = refreshed_statistics.compare(zoo, torch.tensor([0.5, 0.5]), test, train)
    assert json.loads(json.dumps(found)) == found
    right = unpack_bits(torch.tensor([list(bytes.fromhex(found["right"]))], dtype=torch.uint8), 50)
    assert right.shape == (1, 50)
    averaged, again = found["accuracies"]
    assert 100 * right.double().mean().item() == pytest.approx(again)
    assert found["difference"][0] == pytest.approx(again - averaged)
    assert found["difference"][1] < found["difference"][0] < found["difference"][2]


def test_refreshed_answers_are_read_where_they_are_of_this_bench(tmp_path, monkeypatch):
    bench = SoupBench.load("cifar10-wild")
    right = torch.rand(1, bench.test.num_images) < 0.5
    kept = {
        "zoos": bench.manifest["files"]["bench.safetensors"],
        "entries": {"2": {"right": bytes(pack_bits(right)[0].tolist()).hex()}},
    }
    monkeypatch.setattr(refreshed.resources, "files", lambda _: tmp_path)
    assert refreshed.refreshed_answers(bench) == {}
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / f"{refreshed.RESULT}.json"
    path.write_text(json.dumps(kept))
    found = refreshed.refreshed_answers(bench)
    assert list(found) == [2]
    assert torch.equal(found[2], right[0])
    path.write_text(json.dumps(kept | {"zoos": "others"}))
    assert refreshed.refreshed_answers(bench) == {}
