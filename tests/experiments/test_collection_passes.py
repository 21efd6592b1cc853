"""radin/experiments/collection/measure_passes.py: the rows are what `radin.craft` returns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from radin import SoupBench
from radin.experiments.bench import replay
from radin.experiments.collection import designs, passes, run
from radin.experiments.collection.__main__ import main
from radin.experiments.collection.data import Sizes
from radin.experiments.collection.designs import Design, parse_zoo_name
from radin.experiments.collection.make import make_zoo
from radin.experiments.collection.measure_passes import (
    LEARNED_GRANULARITIES,
    measure_passes,
    share_looks,
)
from radin.experiments.collection.passes import (
    FIRST_ROUND,
    LEARNED_CONTRASTS,
    NUM_SAMPLE_SEEDS,
    PASS_CONTRASTS,
    PASS_RECIPES,
    PASSES,
    SAFE_CONTRASTS,
    planned_pass_zoos,
)
from radin.experiments.collection.plan import planned_zoos
from radin.ranking.convex import convex
from radin.recipes.craft import craft
from radin.recipes.learned import learn, steps_within
from radin.recipes.rules import RaceRules

TINY = Design(
    name="tiny",
    num_models=4,
    epochs=(1, 2),
    start_epochs=2,
    sizes=Sizes(train=20, val=150, test=60),
    num_val=120,
)


@pytest.fixture(scope="module")
def zoo():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(designs, "DESIGNS", (TINY,))
        return make_zoo("tiny-000")


@pytest.fixture(scope="module")
def tables(zoo):
    return {name: pd.DataFrame(rows) for name, rows in measure_passes(zoo).items()}


def test_the_plan_has_new_zoos_and_known_recipes():
    names = planned_pass_zoos()
    assert len(names) == len(set(names)) == 16 * len(designs.DESIGNS)
    assert not set(names) & set(planned_zoos())
    assert min(parse_zoo_name(name)[1] for name in names) == FIRST_ROUND
    contrasts = SAFE_CONTRASTS + PASS_CONTRASTS + LEARNED_CONTRASTS
    for contrast in contrasts:
        assert {contrast.first, contrast.second} <= set(PASS_RECIPES)
        assert contrast.budget in PASSES
    titles = [contrast.title for contrast in contrasts]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", ["radin", "radin_prior1", "safe", "safe_threshold1", "greedy"])
def test_whole_evaluations_are_those_of_craft(zoo, tables, name):
    bench = zoo.bench()
    table = tables["passes"].set_index(["recipe", "budget"])
    recipe, _, option = name.partition("_")
    options = {"": {}, "prior1": {"prior": 1.0}, "threshold1": {"threshold": 1.0}}[option]
    for budget in PASSES:
        soup = craft(bench.val, bench.evaluator(), budget, recipe, **options)
        row = table.loc[name, budget]
        best = bench.oracle[1]
        assert best - row.test == pytest.approx(bench.regret(soup.weights), abs=1e-3)
        assert (row["size"], row.spent) == (len(soup.members), soup.evaluations)


@pytest.mark.parametrize("name", ["radin_share", "safe_share", "race", "race_whole"])
def test_shares_and_races_are_those_of_craft(zoo, tables, name):
    bench = zoo.bench()
    table = tables["passes"].set_index(["recipe", "budget"])
    for budget in (1, 4, 8):
        found = []
        for seed in range(NUM_SAMPLE_SEEDS):
            if name == "race":
                soup = craft(bench.val, bench.evaluator(), budget, "race", seed=seed)
            elif name == "race_whole":
                most = RaceRules().num_soups(budget)
                soup = craft(bench.val, bench.evaluator(), most, "safe")
            else:
                evaluate = bench.evaluator(share=0.3, seed=seed)
                soup = craft(bench.val, evaluate, budget, name.partition("_")[0])
            test = bench.soups("test")[bench.row(soup.weights)].item()
            found.append([test, soup.forward_equivalents, len(soup.members)])
        row = table.loc[name, budget]
        wanted = np.mean(found, axis=0)
        assert [row.test, row.spent, row["size"]] == pytest.approx(wanted.tolist(), abs=1e-3)


def test_the_convex_soup_comes_first(zoo, tables):
    bench = zoo.bench()
    weights = convex(bench.val)
    val, test = zoo.accuracies(weights)[0].tolist()
    table = tables["passes"].set_index(["recipe", "budget"])
    assert table.loc["convex", 4].test == pytest.approx(test, abs=1e-3)
    look_up = bench.evaluator()

    def evaluate(p: torch.Tensor) -> float:
        return val if torch.allclose(p.double(), weights[0], atol=1e-6) else look_up(p)

    candidates = torch.cat([weights, bench.candidates.double()])
    for budget in PASSES:
        soup = craft(bench.val, evaluate, budget, "safe", candidates=candidates)
        row = table.loc["safe_convex", budget]
        assert row.val == pytest.approx(soup.value, abs=1e-3)
        assert row.spent == soup.evaluations


@pytest.mark.parametrize("name", LEARNED_GRANULARITIES)
def test_learned_soups_pay_for_their_steps(zoo, tables, tmp_path, name):
    """They are those of `radin.craft` with the same passes, but for its evaluation at the end."""
    table = tables["passes"].set_index(["recipe", "budget"])
    opened, split = zoo.open(tmp_path), zoo.splits["val"]
    start = convex(zoo.bench().val)[0]
    for budget in (1, 8):
        steps = steps_within(budget, len(split))
        row = table.loc[name, budget]
        assert budget - 3 * 32 / len(split) < row.spent <= budget
        granularity = LEARNED_GRANULARITIES[name]
        soup = learn(opened, split, steps, granularity=granularity, start=start, device="cpu")
        model = zoo.design.build()
        model.load_state_dict(soup.state_dict())
        for part, images in zoo.splits.items():
            answers = model(images.images).argmax(1)
            right = (answers == images.labels).double().mean().item()
            assert row[part] == pytest.approx(100 * right, abs=1e-3)


def test_accuracies_of_any_weights_are_those_of_the_table(zoo):
    bench = zoo.bench()
    found = zoo.accuracies(bench.candidates)
    wanted = torch.stack([bench.soups(part) for part in ("val", "test")], 1)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_soups_on_a_share_are_counted(zoo, tables):
    bench = zoo.bench()
    rows = replay.safe_order(bench)
    looks = share_looks(bench, rows, seed=3)
    assert looks.costs[0] == 1
    assert (looks.costs[1:] == looks.costs[1]).all()
    assert len(looks.first(0.5).values) == 0
    for passes_left in (1, 2, 3.5):
        some = looks.first(passes_left)
        assert some.costs.sum() <= passes_left + 1e-9
        more = looks.take(len(some.values) + 1)
        assert more.costs.sum() > passes_left or len(more.values) == len(rows)
    partial = tables["partial"].set_index("recipe")
    assert partial.index.tolist() == ["radin", "safe"]
    assert (partial.same <= partial.as_good).all()
    assert partial.cost.between(0.3 - 1e-3, 1).all()


def test_a_share_of_one_makes_the_same_choices():
    """Where soups leave their ensembles everywhere, they are run whole and nothing is lost."""
    bench = SoupBench.load("pacs-sketch")
    rows = replay.order(bench)[:8]
    looks = share_looks(bench, rows, share=0.999)
    assert looks.values[0] == pytest.approx(bench.soups("val")[int(rows[0])].item())
    assert np.abs(looks.values - bench.soups("val").numpy()[rows]).max() < 0.5


def test_the_commands_make_and_ship_the_study(tmp_path, capsys, monkeypatch):
    for module in (designs, passes, run):
        monkeypatch.setattr(module, "DESIGNS", (TINY,))
    monkeypatch.setattr(run, "planned_pass_zoos", lambda: planned_pass_zoos(2))
    monkeypatch.setattr(run, "shipped_benches", lambda **_: ["pacs-sketch"])
    folder = ["--study", "passes", "--folder", str(tmp_path / "rows")]
    assert main(["run", *folder, "--rounds", "1", "--workers", "1"]) == 0
    assert main(["ship", *folder, "--out", str(tmp_path / "tables")]) == 0
    assert "1 complete rounds" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "tables" / "passes.csv.gz")
    assert set(table.zoo) == {f"tiny-{FIRST_ROUND:03d}", "pacs-sketch"}
    assert set(table[table.design == "tiny"].recipe) == set(PASS_RECIPES)
    missing = set(PASS_RECIPES) - set(table[table.design == "shipped"].recipe)
    assert missing == {"convex", "safe_convex", "learned", "learned_tensor"}
    partial = pd.read_csv(tmp_path / "tables" / "partial.csv.gz")
    assert len(partial) == 4
