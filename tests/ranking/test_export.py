"""radin/ranking/export.py: candidates for other programs."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import radin
from helpers import files_below, mixing_weights, random_bank
from radin.errors import ParameterError
from radin.ranking.candidates import from_subsets
from radin.ranking.export import mergekit_recipe, save_mergekit, save_ranking


def test_tables_hold_the_ranking(tmp_path):
    bank = random_bank()
    bank.names = ["a,b", 'quoted "c"', "ü"]
    candidates = radin.exhaustive(3)
    ranking = radin.rank(bank, candidates, 1.0, top=4)
    save_ranking(tmp_path / "best.csv", bank, candidates, ranking)
    save_ranking(tmp_path / "best.json", bank, candidates, ranking)
    with (tmp_path / "best.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    content = json.loads((tmp_path / "best.json").read_text("utf-8"))
    assert content["images"] == bank.num_images
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4]
    for k, row, entry in zip(ranking.order.tolist(), rows, content["candidates"], strict=True):
        for name in ("estimate", "score"):
            value = getattr(ranking, f"{name}s")[k].item()
            assert float(row[name]) == entry[name] == value
        weights = [float(row[name]) for name in bank.names]
        assert weights == list(entry["weights"].values())
        assert sum(weights) == pytest.approx(1, abs=1e-15)
        assert weights == pytest.approx(candidates[k].tolist(), abs=1e-7)
    assert files_below(tmp_path) == ["best.csv", "best.json"]


@given(members=st.lists(st.booleans(), min_size=1, max_size=9).filter(any))
def test_equal_weights_are_written_as_short_numbers(members):
    weights = from_subsets(torch.tensor([members]))[0]
    found = [m["parameters"]["weight"] for m in yaml.safe_load(recipe_of(weights))["models"]]
    assert found == [1 / sum(members)] * sum(members)


def recipe_of(weights: torch.Tensor) -> str:
    return mergekit_recipe([str(k) for k in range(len(weights))], weights)


def average_as_mergekit_does(recipe: str, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the method `linear` computes, from its documentation."""
    content = yaml.safe_load(recipe)
    assert set(content) == {"merge_method", "models", "parameters", "dtype"}
    assert content["merge_method"] == "linear"
    dtype = getattr(torch, content["dtype"])
    weights = torch.tensor([m["parameters"]["weight"] for m in content["models"]], dtype=dtype)
    stacked = torch.stack([tensors[m["model"]].to(dtype) for m in content["models"]])
    total = (weights[:, None] * stacked).sum(0)
    return total / weights.sum() if content["parameters"]["normalize"] else total


NAMES = st.lists(st.text(min_size=1, max_size=12), min_size=4, max_size=4, unique=True)


@given(weights=mixing_weights(4), names=NAMES)
def test_mergekit_averages_what_radin_averages(weights, names):
    rng = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(5, generator=rng) for name in names}
    recipe = mergekit_recipe(names, weights)
    expected = sum(w * tensors[name].double() for w, name in zip(weights, names, strict=True))
    found = average_as_mergekit_does(recipe, tensors)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    used = [name for name, w in zip(names, weights.tolist(), strict=True) if w > 0]
    assert [each["model"] for each in yaml.safe_load(recipe)["models"]] == used


def test_what_is_written_is_the_text(tmp_path):
    path = save_mergekit(tmp_path / "soup.yaml", ["a", "b"], torch.tensor([0.25, 0.75]))
    assert path.read_text("utf-8") == mergekit_recipe(["a", "b"], torch.tensor([0.25, 0.75]))


def test_other_endings_are_refused(tmp_path):
    bank = random_bank()
    ranking = radin.rank(bank, radin.exhaustive(3))
    with pytest.raises(ParameterError, match="best.xlsx: a table is saved as .csv or .json"):
        save_ranking(tmp_path / "best.xlsx", bank, radin.exhaustive(3), ranking)
    with pytest.raises(ParameterError, match="soup.json: a recipe of mergekit is saved as .yml"):
        save_mergekit(tmp_path / "soup.json", ["a"], torch.ones(1))
    assert files_below(tmp_path) == []
