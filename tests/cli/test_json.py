"""--json and functions of the user's own on the command line, on benches and banks."""

from __future__ import annotations

import json

import pytest
import torch

import radin
from radin.cli import tables
from radin.cli.parser import main

OWN = """
def everything(bank, ledger):
    return [1 / bank.num_models] * bank.num_models

not_a_function = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_recipes.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def content(capsys, *words):
    capsys.readouterr()
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_bench_as_json_with_a_recipe_of_one_s_own(folder, capsys):
    found = content(
        capsys, "bench", "pacs-photo", "--budget", "2", "--recipe", "own_recipes:everything"
    )
    bench = radin.SoupBench.load("pacs-photo")
    names = [entry["recipe"] for entry in found["recipes"]]
    assert names[:2] == ["radin", "radin"]
    assert [entry["prior"] for entry in found["recipes"][:2]] == [0.0, 1.0]
    mine = found["recipes"][-1]
    assert mine["recipe"] == "everything"
    assert mine["weights"] == {name: pytest.approx(1 / 6) for name in bench.val.names}
    uniform = bench.candidates[-1]
    assert mine["test"] == bench.soups("test")[-1].item()
    assert mine["regret"] == bench.regret(uniform)
    assert found["oracle"]["test"] == bench.oracle[1]


def test_a_ranking_as_json(folder, capsys):
    bank = radin.SoupBench.load("pacs-photo").val
    path = bank.save(folder / "bank.safetensors")
    words = ["rank", "--bank", str(path), "--top", "3", "--out", str(folder / "table.csv")]
    found = content(capsys, *words)  # and "wrote table.csv" is no part of it
    candidates = radin.exhaustive(bank.num_models)
    ranking = radin.rank(bank, candidates, top=3)
    assert (folder / "table.csv").exists()
    assert [entry["estimate"] for entry in found["ranked"]] == ranking.estimates[
        ranking.order
    ].tolist()
    assert found["ranked"][0]["weights"] == tables.named_weights(bank, candidates[ranking.order[0]])
    assert found["best_single"]["value"] == bank.accuracies().max().item()


def test_a_soup_as_json_is_whole_and_holds_no_nan():
    bench = radin.SoupBench.load("pacs-photo")
    soup = radin.craft(bench.val, bench.evaluator("val"), 2, "greedy")
    found = tables.soup_content(bench.val, soup)
    assert found["value"] == soup.value
    assert [trial["chosen"] for trial in found["trials"]].index(True) == soup.choice
    assert len(found["trials"]) == len(soup.trials)
    assert tables._plain({"a": [float("nan"), 1.5]}) == {"a": [None, 1.5]}
    weights = torch.tensor([found["weights"].get(name, 0.0) for name in bench.val.names])
    assert torch.equal(weights, soup.weights)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_recipes:nothing", "own_recipes has no function 'nothing'; it has 1, such as everyt"),
        ("own_recipes:not_a_function", "has no function 'not_a_function'"),
        ("no_such_module:mine", "there is no module 'no_such_module'; write --recipe package"),
    ],
)
def test_a_function_that_is_not_there(folder, capsys, spec, message):
    assert main(["bench", "pacs-photo", "--recipe", spec]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.whole
def test_a_bench_with_a_sample_of_soups(capsys):
    assert main(["bench", "imagenette-24", "--budget", "4"]) == 0
    printed = capsys.readouterr().out
    assert "24 ingredients, a sample of 1," in printed
    assert "best of the sample" in printed
    for recipe in ("radin, prior 0", "safe", "greedy", "top_k", "random", "uniform"):
        assert f"\n{recipe} " in printed, recipe
    assert "without" not in printed


@pytest.mark.whole
def test_what_a_sample_does_not_hold_is_named(capsys):
    """Greedy by another metric walks another path."""
    found = content(capsys, "bench", "imagenette-24", "--budget", "4", "--metric", "nll")
    named = {each["recipe"] for each in found["recipes"]}
    assert "radin" in named
    assert set(found["outside_sample"]) & named == set()
    assert set(found["outside_sample"]) <= {"greedy", "top_k"}
    assert found["outside_sample"]
