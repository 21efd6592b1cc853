"""radin/experiments/collection: data, soups, zoos, rows, and a run that goes on."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from radin import SoupBench, average, exhaustive, load_collection
from radin.checkpoints.zoo import Zoo
from radin.errors import DataError, ParameterError
from radin.experiments.bench import replay
from radin.experiments.collection import designs, passes, plan, run
from radin.experiments.collection.__main__ import main
from radin.experiments.collection.data import Sizes, draw_parts, replace_labels
from radin.experiments.collection.designs import Design, parse_zoo_name, random_seed
from radin.experiments.collection.make import make_zoo
from radin.experiments.collection.measure import measure, recipe_choices, with_fallback
from radin.experiments.collection.soups import FlatNetwork, soup_answers
from radin.experiments.collection.table import VERDICT_TABLES, write_tables
from radin.experiments.networks import DigitsNet, Mlp
from radin.experiments.zoos.train import build_seeded, save_checkpoint
from radin.recipes.craft import craft

TINY = Design(
    name="tiny",
    num_models=3,
    epochs=(1, 2),
    start_epochs=2,
    sizes=Sizes(train=20, val=60, test=50),
    num_val=50,
)
TINY_CLUSTERS = Design(
    name="tiny-clusters",
    data="clusters",
    network="mlp",
    num_models=3,
    epochs=(1, 2),
    start_epochs=2,
    sizes=Sizes(train=20, val=60, test=50),
    num_val=60,
)


@pytest.fixture
def tiny(monkeypatch):
    """Two designs of tiny zoos in the place of the plan's; two rounds of them."""
    for module in (designs, plan, passes, run):
        monkeypatch.setattr(module, "DESIGNS", (TINY, TINY_CLUSTERS))
    monkeypatch.setattr(run, "planned_zoos", lambda: plan.planned_zoos(2))
    monkeypatch.setattr(run, "planned_pass_zoos", lambda: passes.planned_pass_zoos(1))


@pytest.mark.parametrize("name", ["digits", "gratings", "clusters"])
def test_parts_are_drawn_anew_for_each_seed(name):
    sizes = Sizes(train=30, val=40, test=50)
    parts = draw_parts(name, sizes, seed=1)
    again = draw_parts(name, sizes, seed=1)
    other = draw_parts(name, sizes, seed=2)
    assert [len(parts.train), len(parts.val), len(parts.test)] == [30, 40, 50]
    assert parts.val.fingerprint == again.val.fingerprint != other.val.fingerprint
    assert (parts.shifted is None) == (name == "clusters")
    if parts.shifted is not None:
        assert torch.equal(parts.shifted.labels, parts.test.labels)
        assert not torch.equal(parts.shifted.images, parts.test.images)


def test_no_scan_is_in_two_parts():
    parts = draw_parts("digits", Sizes(), seed=3)
    noise_free = draw_parts("digits", Sizes(), seed=3)
    assert torch.equal(parts.val.images, noise_free.val.images)
    assert sum(map(len, (parts.pretrain, parts.train, parts.val, parts.test))) == 1797


@given(st.integers(0, 20), st.integers(2, 10), st.integers(0, 99))
def test_wrong_labels_are_other_classes(count, num_classes, seed):
    labels = np.arange(20) % num_classes
    rng = np.random.default_rng(seed)
    changed = replace_labels(labels, count / 20, num_classes, rng)
    assert (changed != labels).sum() == count
    assert set(changed) <= set(range(num_classes))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 99), st.sampled_from([Mlp, DigitsNet]))
def test_soups_are_those_of_the_plain_evaluator(tmp_path_factory, seed, network):
    def build():
        return Mlp(64, 10, width=8) if network is Mlp else DigitsNet(4)

    models = [build_seeded(build, seed + k) for k in range(3)]
    folder = tmp_path_factory.mktemp("zoo")
    paths = [folder / f"{k}.safetensors" for k in range(3)]
    for model, path in zip(models, paths, strict=True):
        save_checkpoint(model, path, {})
    zoo = Zoo.open(paths, build=build, progress=False)
    images = torch.randn(17, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(17) % 10
    weights = torch.cat([exhaustive(3), torch.tensor([[0.2, 0.3, 0.5]])])
    flat = FlatNetwork(build)
    ingredients = flat.flatten([model.state_dict() for model in models])
    right, losses = soup_answers(flat, ingredients, weights, images, labels)
    for row, each in enumerate(weights):
        soup = build().eval()
        soup.load_state_dict(average(zoo, each))
        with torch.no_grad():
            logits = soup(images)
        wanted = F.cross_entropy(logits, labels, reduction="none")
        assert torch.allclose(losses[row], wanted, atol=1e-4)
        top = logits.topk(2).values
        clear = top[:, 0] - top[:, 1] > 1e-4  # nearer than rounding, either answer is right
        assert torch.equal(right[row][clear], (logits.argmax(1) == labels)[clear])


def test_a_flat_network_has_no_running_statistics():
    with pytest.raises(ParameterError, match="no buffers"):
        FlatNetwork(lambda: DigitsNet(4, norm="batch"))


def test_names_of_zoos():
    design, seed = parse_zoo_name("digits-conv-6-012")
    assert (design.name, seed) == ("digits-conv-6", 12)
    for wrong in ("digits-conv", "digits-conv-1", "letters-000", "digits-conv-abc"):
        with pytest.raises(ParameterError, match="No zoo is called"):
            parse_zoo_name(wrong)


def test_the_plan_has_what_it_promises():
    names = plan.planned_zoos()
    assert len(names) == len(set(names)) >= 120
    assert len(set(map(random_seed, names))) == len(names)
    assert len(designs.DESIGNS) >= 6
    assert {"conv", "mlp", "transformer"} == {design.network for design in designs.DESIGNS}
    assert {6, 10, 13} <= {design.num_models for design in designs.DESIGNS}
    # Round by round, so that a shorter collection has equally many zoos of each design.
    first = [parse_zoo_name(name)[0].name for name in names[: len(designs.DESIGNS)]]
    assert first == [design.name for design in designs.DESIGNS]
    for contrast in plan.PRIMARY:
        assert {contrast.first, contrast.second} <= set(plan.RECIPES)
        assert contrast.budget in plan.BUDGETS


def test_a_zoo_can_be_made_again(tiny):
    zoo = make_zoo("tiny-000")
    again = make_zoo("tiny-000")
    other = make_zoo("tiny-001")
    assert torch.equal(zoo.ingredients, again.ingredients)
    assert not torch.equal(zoo.start, other.start)
    assert len(zoo.val.labels) == 60
    bench = zoo.bench()
    assert bench.val.num_images == 50
    assert bench.num_soups == 7
    singles = [2**k - 1 for k in range(3)]
    assert torch.allclose(bench.soups("val")[singles], bench.val.accuracies().double())
    rows = [pd.DataFrame(measure(each)["recipes"]) for each in (zoo, again)]
    pd.testing.assert_frame_equal(*rows)


def test_rows_are_what_craft_returns(tiny):
    zoo = make_zoo("tiny-000")
    bench = zoo.bench()
    table = pd.DataFrame(measure(zoo)["recipes"]).set_index(["recipe", "budget"])
    assert set(table.index.get_level_values(0)) == set(plan.RECIPES)
    assert table.index.is_unique
    for budget in plan.BUDGETS:
        for recipe in ("radin", "greedy", "uniform", "best_single"):
            soup = craft(bench.val, bench.evaluator(), budget, recipe)
            row = table.loc[recipe, budget]
            assert row.val == pytest.approx(soup.accuracy, abs=1e-3)
            assert row.test == pytest.approx(bench.soups("test")[bench.row(soup.weights)].item())
            assert row["size"] == len(soup.members)
    soups = table[table.index.get_level_values("recipe") != "ensemble"]
    assert (soups.test <= table.loc["oracle", 1].test).all()
    full = bench.num_soups - 1
    wanted = zoo.shifted_accuracies([full]).item()
    assert table.loc["uniform", 1].shifted == pytest.approx(wanted, abs=1e-3)


def test_the_fallback_is_free():
    bench = SoupBench.load("cifar10-wild")
    rows = replay.radin(bench, 8)
    found = with_fallback(bench, rows)
    val = bench.soups("val").numpy()
    single = replay.best_single(bench)
    assert (val[found] == np.maximum(val[rows], val[single])).all()
    assert (found != rows).any()  # this zoo's soups are worse, so it is used
    assert recipe_choices(bench, 8)["radin_fallback"].tolist() == found.tolist()


def test_top_k_goes_through_the_best_ingredients():
    bench = SoupBench.load("cifar10")
    order = np.argsort(-bench.val.accuracies().numpy(), kind="stable").tolist()
    val = bench.soups("val").numpy()
    best = val[bench.row_of(order[:1])]
    for k, row in enumerate(replay.top_k(bench, 12), start=2):
        if k <= len(order):
            best = max(best, val[bench.row_of(order[:k])])
        assert val[row] == best


def test_a_run_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch):
    names = plan.planned_zoos(2)
    run.run(tmp_path, names=names[:3], workers=1, progress=False)
    kept = run.row_path(tmp_path, names[0])
    content = json.loads(kept.read_text("utf-8"))
    content["mark"] = "not made again"
    kept.write_text(json.dumps(content), "utf-8")
    tables, notes = run.collect(tmp_path)
    assert notes == ["1 complete rounds of 2 designs."]  # the second round lacks a zoo
    assert {row["zoo"] for row in tables["facts"]} >= set(names[:2])
    assert names[2] not in {row["zoo"] for row in tables["facts"]}
    assert "cifar10" in {row["zoo"] for row in tables["facts"] if row["design"] == "shipped"}
    run.run(tmp_path, names=names, workers=1, progress=False)
    assert "mark" in json.loads(kept.read_text("utf-8"))
    assert set(names) <= {row["zoo"] for row in run.collect(tmp_path)[0]["facts"]}


def test_a_zoo_that_diverges_is_said(tiny, tmp_path, monkeypatch):
    def diverge(name: str):
        raise DataError("Training diverged.")

    monkeypatch.setattr(run, "make_zoo", diverge)
    for name in plan.planned_zoos(1):
        run.write_rows(name, tmp_path)
    tables, notes = run.collect(tmp_path)
    assert {row["design"] for row in tables["facts"]} == {"shipped"}
    assert "tiny-000 has no rows: Training diverged." in notes


def test_what_cannot_be_collected(tiny, tmp_path):
    with pytest.raises(DataError, match="no round of zoos is complete"):
        run.collect(tmp_path)
    for name in plan.planned_zoos(1):
        run.row_path(tmp_path, name).write_text("{}", "utf-8")
    with pytest.raises(DataError, match=r"tiny-000.json: not a file of rows"):
        run.collect(tmp_path)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    tables = {"recipes": [{"zoo": "a", "test": 1.5}, {"zoo": "b", "test": float("nan")}]}
    for folder in ("one", "two"):
        write_tables(tables, tmp_path / folder)
    one, two = ((tmp_path / folder / "recipes.csv.gz").read_bytes() for folder in ("one", "two"))
    assert one == two
    assert pd.read_csv(tmp_path / "one" / "recipes.csv.gz").test.isna().tolist() == [False, True]


def test_the_command_makes_one_zoo_again(tiny, capsys):
    assert main(["again", "tiny-clusters-001"]) == 0
    assert "radin_fallback" in capsys.readouterr().out
    assert main(["again", "tiny-007x"]) == 1
    assert "No zoo is called 'tiny-007x'" in capsys.readouterr().err


def test_the_commands_make_and_ship_a_round(tiny, tmp_path, capsys):
    folder = ["--folder", str(tmp_path / "rows")]
    assert main(["ship", *folder]) == 1
    assert "no round of zoos is complete" in capsys.readouterr().err
    assert main(["run", *folder, "--rounds", "1", "--workers", "1"]) == 0
    assert main(["ship", *folder, "--out", str(tmp_path / "tables")]) == 0
    assert "1 complete rounds" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "tables").iterdir()}
    assert written == {f"{name}.csv.gz" for name in VERDICT_TABLES}
    shipped = pd.read_csv(tmp_path / "tables" / "recipes.csv.gz")
    assert set(plan.planned_zoos(1)) < set(shipped.zoo)


def test_a_longer_run_goes_on_from_shipped_tables(tiny, tmp_path, capsys):
    rows, tables = tmp_path / "rows", tmp_path / "tables"
    names = plan.planned_zoos(2)
    run.run(rows, names=names[:2], workers=1, progress=False)
    assert main(["ship", "--folder", str(rows), "--out", str(tables)]) == 0
    command = ["--folder", str(tmp_path / "again"), "--tables", str(tables)]
    assert main(["unpack", *command]) == 0
    assert "2 zoos written to" in capsys.readouterr().out
    assert main(["unpack", *command]) == 0
    assert "0 zoos written to" in capsys.readouterr().out
    again = ["--folder", str(tmp_path / "again"), "--out", str(tmp_path / "same")]
    assert main(["ship", *again]) == 0
    for name in VERDICT_TABLES:
        first, second = (tmp_path / each / f"{name}.csv.gz" for each in ("tables", "same"))
        assert first.read_bytes() == second.read_bytes()
    run.run(tmp_path / "again", names=names, workers=1, progress=False)
    assert len(list((tmp_path / "again").iterdir())) == len(names)


def test_another_table_is_refused():
    with pytest.raises(ParameterError, match="table must be one of recipes, facts"):
        load_collection("sideways")
