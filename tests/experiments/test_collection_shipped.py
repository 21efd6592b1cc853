"""radin/experiments/collection/tables: what is shipped is the plan's, and can be made again."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import pandas as pd
import pytest

import radin
from radin.errors import BankError
from radin.experiments.bench.shipped import collection_benches, shipped_benches
from radin.experiments.collection.designs import DESIGNS
from radin.experiments.collection.keep import KEPT_ZOOS, keep_zoo
from radin.experiments.collection.make import make_zoo
from radin.experiments.collection.measure import (
    SHIPPED_DESIGN,
    measure,
    measure_shipped,
    recipe_rows,
)
from radin.experiments.collection.measure_passes import measure_passes_shipped
from radin.experiments.collection.passes import PASS_RECIPES, PASSES, planned_pass_zoos
from radin.experiments.collection.plan import BUDGETS, RECIPES, planned_zoos
from radin.experiments.collection.run import STUDIES, with_new_benches
from radin.experiments.collection.table import table_rows, tables_root, write_tables

# Another processor rounds otherwise, and training makes small differences larger.
TOLERANCE_POINTS = 1.5


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return radin.load_collection()


def test_each_zoo_has_each_recipe_at_each_budget(table):
    assert not table.duplicated(["zoo", "recipe", "budget"]).any()
    assert set(table.recipe) == set(RECIPES)
    assert set(table.budget) == set(BUDGETS)
    assert (table.groupby("zoo").size() == len(RECIPES) * len(BUDGETS)).all()
    assert table[["val", "test"]].notna().all().all()


def test_the_zoos_are_the_first_rounds_of_the_plan(table):
    made = table[table.design != SHIPPED_DESIGN].zoo.drop_duplicates().tolist()
    assert len(made) >= 120
    assert len(made) % len(DESIGNS) == 0
    assert made == planned_zoos()[: len(made)]
    assert set(table[table.design == SHIPPED_DESIGN].zoo) == set(shipped_benches(complete=True))
    facts = radin.load_collection("facts")
    assert facts.zoo.tolist() == table.zoo.drop_duplicates().tolist()


@cache
def unsure_points() -> dict[str, float]:
    """By how much a bank's accuracy of an ingredient differs at most from the network's, in points.

    Greedy knows ingredients from the bank. Those of the shipped benches hold half precision, where
    two logits of an image can be equal; all others hold what the network said.
    """
    found = defaultdict(float)
    for name in shipped_benches(complete=True):
        bench = radin.SoupBench.load(name)
        singles = [2**k - 1 for k in range(bench.num_models)]
        differences = bench.soups("val")[singles] - bench.val.accuracies()
        found[name] = differences.abs().max().item()
    return found


def test_what_must_hold_in_every_zoo(table):
    test = table.pivot(index=["zoo", "budget"], columns="recipe", values="test")
    soups = test.drop(columns=["oracle", "ensemble"])
    assert (soups.le(test.oracle + 1e-9, axis=0)).all().all()
    val = table.pivot(index=["zoo", "budget"], columns="recipe", values="val")
    assert (val.radin_fallback >= val[["radin", "best_single"]].max(axis=1) - 1e-9).all()
    unsure = val.index.get_level_values("zoo").map(unsure_points())
    assert (val.greedy >= val.best_single - unsure - 1e-9).all()
    by_budget = val.unstack("budget")
    for recipe in ("radin", "radin_nll", "greedy", "top_k", "random"):
        steps = by_budget[recipe].diff(axis=1).iloc[:, 1:]
        # More budget, no worse on validation.
        unsure = steps.index.map(unsure_points())
        assert steps.add(unsure, axis=0).ge(-1e-9).all().all(), recipe
    for recipe in ("uniform", "best_single", "oracle", "ensemble"):
        assert (by_budget[recipe].nunique(axis=1) == 1).all(), recipe


def test_the_sizes_of_the_validation_part(table):
    sizes = radin.load_collection("validation_sizes")
    assert not sizes.duplicated(["zoo", "recipe", "num_val", "budget"]).any()
    assert (sizes.regret >= -1e-9).all()
    # At the design's own number of images RADIN is the RADIN of the first table.
    facts = radin.load_collection("facts").set_index("zoo")
    own = sizes[(sizes.recipe == "radin") & (sizes.num_val == sizes.zoo.map(facts.num_val))]
    both = own.merge(table, on=["zoo", "recipe", "budget"])
    assert len(both) > 100
    assert (both.test_x - both.test_y).abs().max() < 1e-3


def test_a_shipped_bench_gives_its_rows_again(table):
    again = pd.DataFrame(measure_shipped("pacs-sketch")["recipes"])
    shipped = table[table.zoo == "pacs-sketch"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, shipped, check_dtype=False)


def test_the_passes_are_complete():
    table = radin.load_collection("passes")
    assert not table.duplicated(["zoo", "recipe", "budget"]).any()
    planned = table[table.design != SHIPPED_DESIGN]
    made = planned.zoo.drop_duplicates().tolist()
    assert made == planned_pass_zoos()[: len(made)]
    assert len(made) % len(DESIGNS) == 0 < len(made)
    assert (planned.groupby("zoo").size() == len(PASS_RECIPES) * len(PASSES)).all()
    shipped = table[table.design == SHIPPED_DESIGN]
    assert set(shipped.zoo) == set(shipped_benches(complete=True))
    partial = radin.load_collection("partial")
    assert partial.zoo.drop_duplicates().tolist() == table.zoo.drop_duplicates().tolist()
    assert (partial.same <= partial.as_good + 1e-9).all()
    assert partial.share.between(0.3, 1).all()


def test_what_must_hold_at_any_number_of_passes():
    table = radin.load_collection("passes")
    paid = table[table.recipe != "race_whole"]
    assert (paid.spent <= paid.budget + 1e-6).all()
    val = table.pivot(index=["zoo", "budget"], columns="recipe", values="val")
    for recipe in ("safe", "safe_threshold1", "race_whole"):
        assert (val[recipe] >= val.best_single - 1e-6).all(), recipe
    assert (val.race_whole >= val.safe - 1e-6).all()  # it has seen safe's soups and more
    test = table.pivot(index=["zoo", "budget"], columns="recipe", values="test")
    beyond = ["convex", "safe_convex", "learned", "learned_tensor"]  # soups that are no subsets
    subsets = test.drop(columns=["oracle", *beyond])
    assert subsets.le(test.oracle + 1e-6, axis=0).all().all()
    one = table[table.budget == 1].pivot(index="zoo", columns="recipe", values="test")
    assert (one.race == one.safe).all()  # both can pay for one soup alone
    assert (one.safe_share == one.safe).all()


def test_a_shipped_bench_gives_its_passes_again():
    found = measure_passes_shipped("pacs-photo")
    for name in ("passes", "partial"):
        shipped = radin.load_collection(name)
        shipped = shipped[shipped.zoo == "pacs-photo"].reset_index(drop=True)
        pd.testing.assert_frame_equal(pd.DataFrame(found[name]), shipped, check_dtype=False)


def assert_rows_again(again: pd.DataFrame, table: pd.DataFrame, zoo: str) -> None:
    """The rows of one zoo that was made again, beside those of the shipped table."""
    shipped = table[table.zoo == zoo].reset_index(drop=True)
    assert (again[["design", "recipe", "budget"]] == shipped[["design", "recipe", "budget"]]).all(
        axis=None
    )
    steady = again.recipe.isin(["uniform", "ensemble", "random", "oracle"])
    apart = (again[["val", "test"]] - shipped[["val", "test"]]).abs()[steady]
    assert (apart < TOLERANCE_POINTS).all(axis=None)


@pytest.mark.whole
def test_a_zoo_made_again_gives_its_rows_and_its_bench(table, tmp_path):
    zoo = make_zoo("digits-conv-6-000")
    assert_rows_again(pd.DataFrame(measure(zoo)["recipes"]), table, zoo.name)
    keep_zoo(zoo, tmp_path)
    again, shipped = radin.SoupBench.load(tmp_path), radin.SoupBench.load(zoo.name)
    assert again.manifest["ingredients"] == shipped.manifest["ingredients"]
    for part in ("val", "test"):
        apart = again.soups(part) - shipped.soups(part)
        assert apart.mean().abs() < TOLERANCE_POINTS


def test_the_whole_benches_are_those_of_the_plan_and_load_by_name():
    assert collection_benches() == sorted(KEPT_ZOOS)
    assert not set(collection_benches()) & set(shipped_benches())
    with pytest.raises(BankError, match="digits-conv-000"):
        radin.SoupBench.load("digits-conv-0")


@pytest.mark.parametrize("name", KEPT_ZOOS)
def test_a_whole_bench_gives_the_rows_of_its_zoo(name, table):
    bench = radin.SoupBench.load(name)
    assert bench.num_soups == 2**bench.num_models - 1
    assert len(bench.manifest["ingredients"]) == bench.num_models
    again = pd.DataFrame(recipe_rows(name, bench.manifest["design"], bench, None))
    assert_rows_again(again, table, name)


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_a_new_bench_is_added_and_all_other_rows_stay_as_they_are(study, tmp_path):
    there = {name: table_rows(name, tables_root()) for name in study.tables}
    lacking = {
        name: [row for row in rows if row["zoo"] != "pacs-sketch"] for name, rows in there.items()
    }
    write_tables(lacking, tmp_path)
    tables, added = with_new_benches(tmp_path, study)
    assert added == ["pacs-sketch"]
    write_tables(tables, tmp_path)
    for name in study.tables:
        file = f"{name}.csv.gz"
        assert (tmp_path / file).read_bytes() == (tables_root() / file).read_bytes(), name
