"""The shipped benches: whole, quick to load, and right where the images are available."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import radin
from helpers import finish, run_python
from radin import SoupBench, exhaustive, fast_estimate, predict
from radin.data.batches import fingerprint
from radin.errors import DataError, OffGridError
from radin.experiments.bench import replay
from radin.experiments.bench.shipped import SMALL_NETWORK, shipped_benches
from radin.experiments.bench.tabulate import evaluate_soups
from radin.experiments.notebook import load_benchmark
from radin.experiments.zoos.plans import PLANS
from radin.experiments.zoos.starts import STARTS
from radin.files import hash_text

NAMES = [
    "banking77",
    "banking77-mixed",
    "cifar10",
    "cifar10-wild",
    "imagenet-100",
    "imagenet-100-moving",
    "imagenette-10",
    "imagenette-24",
    "pacs-art_painting",
    "pacs-cartoon",
    "pacs-photo",
    "pacs-pretrained-art_painting",
    "pacs-pretrained-cartoon",
    "pacs-pretrained-photo",
    "pacs-pretrained-sketch",
    "pacs-sketch",
]
SAMPLED = ["imagenette-24"]
WITH_INGREDIENTS = ["cifar10", "cifar10-wild"]
OF_PRETRAINED_NETWORKS = [
    name for name in NAMES if name.startswith(("banking77", "imagenet", "pacs-pretrained-"))
]
OF_SMALL_NETWORKS = [name for name in NAMES if name not in OF_PRETRAINED_NETWORKS]


@pytest.fixture(scope="module", params=NAMES)
def bench(request) -> SoupBench:
    return SoupBench.load(request.param)


def test_all_are_there(root):
    assert shipped_benches() == NAMES
    assert shipped_benches(SMALL_NETWORK) == OF_SMALL_NETWORKS
    assert shipped_benches(complete=True) == [name for name in NAMES if name not in SAMPLED]
    files = [
        path for path in (root / "radin" / "experiments" / "benches").rglob("*") if path.is_file()
    ]
    assert sum(path.stat().st_size for path in files) < 65e6
    for name in NAMES:
        listed = set(SoupBench.load(name).manifest["files"]) | {"manifest.json"}
        assert {
            path.name for path in (root / "radin" / "experiments" / "benches" / name).iterdir()
        } == listed


def test_loading_takes_less_than_importing_torch(capsys):
    code = "import time; s = time.perf_counter(); import torch; print(time.perf_counter() - s)"
    imported = float(finish(run_python(code)))
    start = time.perf_counter()
    SoupBench.load("cifar10").evaluator("test")([1.0, *[0.0] * 9])
    loaded = time.perf_counter() - start
    with capsys.disabled():
        print(f"\n  SoupBench.load('cifar10'): {loaded:.2f} s, import torch: {imported:.2f} s")
    assert loaded < imported


def known_candidates(bench: SoupBench) -> torch.Tensor | None:
    """The evaluated soups where these are a sample; None for all subsets."""
    return bench.candidates if bench.manifest["name"] in SAMPLED else None


def test_a_replay_is_what_craft_returns(bench):
    candidates = known_candidates(bench)
    for prior in (0.0, 1.0):
        rows = replay.radin(bench, 8, prior)
        for budget in (1, 3, 8):
            soup = radin.craft(
                bench.val, bench.evaluator(), budget, prior=prior, candidates=candidates
            )
            assert rows[budget - 1] == bench.row(soup.weights)
    rows = replay.greedy(bench, bench.num_models)
    for budget in range(1, bench.num_models + 1):
        soup = radin.craft(bench.val, bench.evaluator(), budget, "greedy")
        assert rows[budget - 1] == bench.row(soup.weights)
    assert replay.best_single(bench) == bench.row(
        radin.craft(bench.val, bench.evaluator(), 1, "best_single").weights
    )


def test_tables_agree_with_themselves(bench):
    rows = range(len(bench.candidates))
    for part in ("val", "test"):
        right = bench.right(part, rows)
        assert torch.equal(bench.soups(part), right.sum(1).double() * 100 / right.shape[1])
        assert torch.isfinite(bench.soups(part, "nll")).all()
        assert torch.allclose(
            bench.ensembles(part), fast_estimate(bench.bank(part), bench.candidates).double()
        )
        some = torch.arange(0, len(bench.candidates), 37)
        again = fast_estimate(bench.bank(part), bench.candidates[some], "nll").double()
        assert torch.allclose(bench.ensembles(part, "nll")[some], again)
        # A single ingredient is its own soup; its logits in the bank are rounded to half precision.
        singles = bench.soups(part)[[bench.row_of([k]) for k in range(bench.num_models)]]
        assert (singles - bench.bank(part).accuracies()).abs().max() <= 0.25


def test_the_manifest_says_what_a_reader_must_know(bench):
    manifest = bench.manifest
    assert len(manifest["ingredients"]) == bench.num_models
    assert {"pretraining", "start", "seed", "made_with", "data", "files", "class_names"} <= set(
        manifest
    )
    assert manifest["data"]["images"] == {
        "val": bench.val.num_images,
        "test": bench.test.num_images,
    }


def test_the_plans_are_those_that_made_the_benches(bench):
    """A plan that was edited afterwards would describe another zoo: `make zoos` makes it again."""
    manifest = bench.manifest
    plan = PLANS[manifest["name"]]
    assert manifest["ingredients"] == plan.sweep(plan.num_models, plan.seed)
    assert manifest["start"] == plan.start
    assert manifest["seed"] == plan.seed
    expected = STARTS[plan.network].describe()
    assert manifest["pretraining"].items() >= expected.items()


def test_the_kept_measurements_are_of_these_benches():
    """Otherwise run tests/benchmarks/live_recipes.py again."""
    files = (
        SoupBench.load(name).manifest["files"]["bench.safetensors"] for name in WITH_INGREDIENTS
    )
    assert load_benchmark("live_recipes")["zoos"] == hash_text(*files)


def test_the_second_order_is_of_these_benches():
    """Otherwise run tests/benchmarks/second_order.py again."""
    files = (
        SoupBench.load(name).manifest["files"]["bench.safetensors"] for name in OF_SMALL_NETWORKS
    )
    kept = load_benchmark("second_order")
    assert kept["zoos"] == hash_text(*files)
    for name in OF_SMALL_NETWORKS:
        rows = 2 ** SoupBench.load(name).num_models - 1
        for by in ("curvature", "midpoints"):
            assert len(kept["entries"][f"{name}: {by}"]["accuracy"]) == rows


@pytest.mark.parametrize("bench", OF_SMALL_NETWORKS, indirect=True)
def test_kept_midpoints_are_right_where_soups_were_evaluated(bench):
    """A pair is corrected by its own soup, so estimate and table agree there, and for singles."""
    kept = load_benchmark("second_order")["entries"][f"{bench.manifest['name']}: midpoints"]
    few = bench.sizes < 3
    likelihoods = torch.tensor(kept["nll"], dtype=torch.float64)[few]
    assert (
        likelihoods - bench.soups("val", "nll")[few]
    ).abs().max() < 2e-3  # the bank is in half precision
    accuracies = torch.tensor(kept["accuracy"], dtype=torch.float64)[few]
    assert (accuracies - bench.soups("val")[few]).abs().max() < 0.3


def test_soups_off_the_grid_and_the_count(bench):
    evaluate = bench.evaluator()
    weights = torch.zeros(bench.num_models)
    weights[:2] = torch.tensor([0.3, 0.7])
    with pytest.raises(OffGridError):
        evaluate(weights)
    soup = radin.craft(bench.val, evaluate, 3, candidates=known_candidates(bench))
    assert evaluate.count == soup.evaluations == 3


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_holds_what_the_recipes_ask_for(name):
    bench = SoupBench.load(name)
    plan = PLANS[name]
    assert bench.num_soups < 2**bench.num_models - 1
    candidates = radin.monte_carlo(bench.num_models, 20_000, seed=plan.seed)
    for prior in (0.0, 1.0):
        soup = radin.craft(bench.val, bench.evaluator(), 64, prior=prior, candidates=candidates)
        assert soup.evaluations == 64
    soup = radin.craft(bench.val, bench.evaluator(), 64, "safe", candidates=candidates)
    assert soup.evaluations == 64
    for recipe in ("greedy", "top_k"):
        soup = radin.craft(bench.val, bench.evaluator(), bench.num_models, recipe)
        assert soup.accuracy >= bench.val.accuracies().max() - 0.1
    with pytest.raises(OffGridError, match="evaluate it live"):
        radin.craft(bench.val, bench.evaluator(), 64, "random", seed=12345)


def test_a_longer_sweep_begins_with_the_shorter_one():
    ten, many = (SoupBench.load(name) for name in ("imagenette-10", "imagenette-24"))
    assert torch.equal(many.test.logits[:10], ten.test.logits)
    both = [row for row in range(many.num_soups) if not (many.candidates[row, 10:] > 0).any()]
    for row in both:
        same = ten.row(many.candidates[row, :10])
        assert torch.equal(many.right("test", [row]), ten.right("test", [same]))


@pytest.mark.parametrize("name", WITH_INGREDIENTS)
def test_ingredients_are_shipped_with_their_start(name):
    bench = SoupBench.load(name)
    zoo = bench.zoo()
    assert len(zoo) == bench.num_models
    assert zoo.init is not None
    assert zoo.model(0)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def images_of(bench: SoupBench, part: str) -> object:
    try:
        split = bench.split(part)
    except DataError as error:
        pytest.skip(f"no images: {error}")
    if fingerprint(split) != bench.manifest["data"]["fingerprints"][part]:
        pytest.skip("other images than those the bench was made from")
    return split


@pytest.mark.parametrize("name", WITH_INGREDIENTS)
@pytest.mark.parametrize("part", ["val", "test"])
def test_rows_evaluated_again_on_the_real_images(name, part):
    bench = SoupBench.load(name)
    split, zoo = images_of(bench, part), bench.zoo()
    rows = np.random.default_rng(len(name)).choice(2**bench.num_models - 1, 10, replace=False)
    n = bench.bank(part).num_images
    for row in rows:
        table, right = evaluate_soups(
            zoo,
            zoo.model(0),
            exhaustive(bench.num_models)[[row]],
            split,
            device=torch.device("cpu"),
            batch_size=250,
        )
        # Another processor rounds otherwise: an image whose two best classes all but tie may flip.
        assert (right[0] != bench.right(part, [row])[0]).sum() <= max(2, n // 2000)
        assert table[0, 1].item() == pytest.approx(bench.soups(part, "nll")[row].item(), abs=1e-3)


def test_the_bank_predicted_again_on_the_real_images():
    bench = SoupBench.load("cifar10")
    split = images_of(bench, "val")
    again = predict(
        bench.zoo(), split, device="cpu", dtype=torch.float16, cache=False, progress=False
    )
    assert (again.logits.float() - bench.val.logits.float()).abs().max() < 0.05
    assert torch.equal(again.labels, bench.val.labels)
