"""radin/experiments/bench/bench.py: a look-up is an evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers import build, files_below, random_bank, save_states, state, tiny_split, tiny_zoo
from radin import LogitBank, SoupBench, Zoo, craft, evaluator, exhaustive, soup_logits
from radin.errors import BankError, OffGridError, ParameterError
from radin.files import hash_file
from radin.ranking.bank import accuracy

N = 4
SPLITS = {"val": tiny_split(30, seed=1), "test": tiny_split(40, seed=2, part="test")}


def build_bench(zoo: Zoo, **options: object) -> SoupBench:
    return SoupBench.build(
        zoo, SPLITS["val"], SPLITS["test"], device="cpu", progress=False, **options
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"), N)


@pytest.fixture(scope="module")
def bench(zoo) -> SoupBench:
    return build_bench(zoo, cache=False)


@pytest.mark.parametrize("part", SPLITS)
def test_a_look_up_is_the_live_evaluation(zoo, bench, part):
    live, table = evaluator(zoo, SPLITS[part], device="cpu"), bench.evaluator(part)
    for weights in exhaustive(N):
        assert table(weights) == live(weights)
        assert table(weights.tolist()) == live(weights)
    assert torch.equal(
        bench.soups(part), torch.tensor([live(w) for w in bench.candidates], dtype=torch.float64)
    )


def test_banks_are_those_of_the_splits(bench):
    assert (bench.val.num_images, bench.test.num_images) == (30, 40)
    assert torch.equal(bench.val.accuracies(), bench.soups("val")[[2**k - 1 for k in range(N)]])


def test_the_oracle_is_the_best_on_test(zoo, bench):
    live = evaluator(zoo, SPLITS["test"], device="cpu")
    best = max(live(weights) for weights in exhaustive(N))
    weights, accuracy = bench.oracle
    assert accuracy == best == live(weights)
    assert bench.regret(weights) == 0
    for weights in exhaustive(N):
        assert bench.regret(weights) == pytest.approx(best - live(weights))
        assert bench.regret(weights) >= 0


def test_recipes_run_on_a_bench(bench):
    soup = craft(bench.val, bench.evaluator("val"), 2**N - 1)
    assert soup.accuracy == bench.soups("val").max().item()
    assert bench.evaluator()(soup.weights) == soup.accuracy  # "val" is the default
    assert bench.regret(soup.weights) >= 0


@pytest.mark.parametrize(
    "weights", [[0.4, 0.6, 0, 0], [0.3, 0.3, 0.4, 0], [0.26, 0.25, 0.25, 0.24]]
)
def test_soups_off_the_grid_are_refused(bench, weights):
    for use in (bench.row, bench.evaluator("val"), bench.regret):
        with pytest.raises(ParameterError, match="not in the bench"):
            use(weights)


def test_weights_that_are_none_are_refused(bench):
    with pytest.raises(ParameterError, match=r"shape \(4,\)"):
        bench.evaluator("val")([1, 0])


def test_unknown_part(bench):
    for use in (bench.evaluator, bench.soups, bench.ensembles, bench.bank):
        with pytest.raises(ParameterError, match="part must be one of val, test, not 'train'"):
            use("train")


def test_a_saved_bench_comes_back_whole(bench, zoo, tmp_path):
    path = bench.save(tmp_path / "bench.safetensors")
    found = SoupBench.load(path)
    for part in SPLITS:
        assert torch.equal(found.soups(part), bench.soups(part))
        assert torch.equal(getattr(found, part).logits, getattr(bench, part).logits)
        assert torch.equal(getattr(found, part).labels, getattr(bench, part).labels)
    assert found.val.names == zoo.names
    assert found.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(BankError, match="without its ingredients"):
        found.zoo()
    assert SoupBench.load(path, zoo).zoo() is zoo
    assert bench.zoo() is zoo


def test_a_bench_is_found_again(zoo, tmp_path, monkeypatch):
    built = build_bench(zoo, cache=tmp_path)
    files = files_below(tmp_path)
    monkeypatch.setattr(
        "radin.experiments.bench.bench.tabulate", lambda *_, **__: pytest.fail("evaluated again")
    )
    assert torch.equal(build_bench(zoo, cache=tmp_path).soups("test"), built.soups("test"))
    assert files_below(tmp_path) == files


def test_a_damaged_bench_is_built_again(zoo, tmp_path):
    built = build_bench(zoo, cache=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    assert torch.equal(build_bench(zoo, cache=tmp_path).soups("test"), built.soups("test"))


def test_a_changed_zoo_is_another_bench(zoo, tmp_path):
    build_bench(zoo, cache=tmp_path / "cache")
    other = Zoo.open(
        save_states(tmp_path, *(state(k) for k in (5, 6, 7, 8))), build, progress=False
    )
    fresh = build_bench(other, cache=False)
    assert torch.equal(
        build_bench(other, cache=tmp_path / "cache").soups("val"), fresh.soups("val")
    )


def test_damaged_files_are_refused(bench, tmp_path):
    path = bench.save(tmp_path / "bench.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BankError, match=r"bench\.safetensors: damaged"):
        SoupBench.load(path)
    with pytest.raises(BankError, match=r"gone\.safetensors: no such file"):
        SoupBench.load(tmp_path / "gone.safetensors")
    with pytest.raises(BankError, match=r"bank\.safetensors: its format is 'radin-bank-1'"):
        SoupBench.load(random_bank().save(tmp_path / "bank.safetensors"))


def test_tables_must_fit_the_banks():
    bank, table = random_bank(3), torch.zeros(7, 2)
    for soups, ensembles in (
        ({"val": table[:-1], "test": table}, None),
        ({"val": table, "test": table[:, :1]}, None),
        ({"val": table, "test": table}, {"val": table, "test": torch.zeros(8, 2)}),
    ):
        with pytest.raises(
            BankError, match=r"3 ingredients needs a table \(7, 2\) of (soups|ensembles) on"
        ):
            SoupBench(bank, bank, soups, ensembles=ensembles)
    with pytest.raises(BankError, match="The val bank has 3 ingredients, the test bank 2"):
        SoupBench(bank, random_bank(2), {"val": table, "test": table})


def test_a_bench_of_one():
    bank, table = LogitBank(torch.eye(2).unsqueeze(0), [0, 0]), torch.tensor([[50.0, 0.8]])
    bench = SoupBench(bank, bank, {"val": table, "test": table})
    assert bench.oracle[0].tolist() == [1]
    assert bench.regret([1]) == 0
    assert bench.subset([0]).oracle[1] == 50


@pytest.mark.parametrize("part", SPLITS)
@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_soups_and_ensembles_are_those_of_every_subset(zoo, bench, part, metric):
    for weights, soup, ensemble in zip(
        bench.candidates, bench.soups(part, metric), bench.ensembles(part, metric), strict=True
    ):
        logits, labels = soup_logits(zoo, weights, SPLITS[part], device="cpu")
        bank = bench.bank(part)
        for answer, found in ((logits, soup), (torch.tensordot(weights, bank.logits, 1), ensemble)):
            if metric == "nll":
                wanted = torch.nn.functional.cross_entropy(answer.double(), labels).item()
            else:
                wanted = accuracy(answer, labels).item()
            assert found.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("part", SPLITS)
def test_right_answers_are_kept(zoo, bench, part, tmp_path):
    found = SoupBench.load(bench.save(tmp_path / "bench.safetensors"))
    for kept in (bench, found, found.subset(range(N))):
        right = kept.right(part, [3, 0])
        for k, row in enumerate((3, 0)):
            logits, labels = soup_logits(zoo, exhaustive(N)[row], SPLITS[part], device="cpu")
            assert torch.equal(right[k], logits.argmax(1) == labels)
    without = SoupBench(bench.val, bench.test, bench._tables["soups"])
    with pytest.raises(BankError, match="without the soups' answers"):
        without.right(part, [0])
    with pytest.raises(BankError, match="does not fit 15 soups"):
        SoupBench(
            bench.val,
            bench.test,
            bench._tables["soups"],
            right={part: torch.zeros(15, 1, dtype=torch.uint8)},
        )


def test_unknown_metric(bench):
    for use in (bench.soups, bench.ensembles):
        with pytest.raises(
            ParameterError, match="metric must be one of accuracy, nll, .* not 'loss'"
        ):
            use("val", "loss")


def test_a_look_up_counts(bench):
    evaluate = bench.evaluator()
    soup = craft(bench.val, evaluate, budget=3)
    assert evaluate.count == soup.evaluations == 3
    with pytest.raises(OffGridError):
        evaluate([0.4, 0.6, 0, 0])
    assert evaluate.count == 3
    assert bench.evaluator().count == 0


@pytest.mark.parametrize("members", [[0], [2, 1], [0, 2, 3], [3, 2, 1, 0]])
def test_a_sub_zoo_is_the_zoo_of_fewer_ingredients(zoo, bench, members):
    fewer = Zoo.open([zoo.paths[k] for k in members], build, progress=False)
    built, cut = build_bench(fewer, cache=False), bench.subset(members)
    assert cut.val.names == [bench.val.names[k] for k in members]
    for part in SPLITS:
        assert torch.equal(cut.bank(part).logits, built.bank(part).logits)
        for metric in ("accuracy", "nll"):
            # A soup is a sum over ingredients in another order, so its last digit may differ.
            assert torch.allclose(cut.soups(part, metric), built.soups(part, metric), rtol=1e-5)
            assert torch.allclose(
                cut.ensembles(part, metric), built.ensembles(part, metric), rtol=1e-5
            )
    assert cut.split("val") is SPLITS["val"]
    with pytest.raises(BankError, match="without its ingredients"):
        cut.zoo()


@pytest.mark.parametrize("members", [[], [0, 0], [4], [-1]])
def test_impossible_members(bench, members):
    with pytest.raises(ParameterError, match="members must be different numbers from 0 to 3"):
        bench.subset(members)


def test_the_images_behind_a_bench(bench, zoo, tmp_path):
    for part, split in SPLITS.items():
        assert bench.split(part) is split
        assert bench.has_images_of(part, split)
        assert not bench.has_images_of(part, tiny_split(30, seed=9))
    loaded = SoupBench.load(bench.save(tmp_path / "bench.safetensors"))
    assert loaded.has_images_of("val", SPLITS["val"]) is None
    with pytest.raises(BankError, match="does not know what images"):
        loaded.split("val")
    again = build_bench(zoo, cache=tmp_path / "cache")
    assert (
        build_bench(zoo, cache=tmp_path / "cache").split("test")
        is again.split("test")
        is SPLITS["test"]
    )


# Shipped folders ----------------------------------------------------------------------------------


@pytest.fixture
def folder(bench, zoo, tmp_path, monkeypatch) -> Path:
    """A bench laid out like the shipped ones, of the tiny zoo."""
    folder = tmp_path / "tiny"
    bench.save(folder / "bench.safetensors")
    for path in (*zoo.paths, zoo.paths[0].parent / "init.safetensors"):
        shutil.copy(path, folder)
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    manifest = {
        "format": "radin-bench-2",
        "class_names": ["a", "b", "c"],
        "widths": [8],
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("radin.experiments.bench.bench.empty_network", lambda _: build())
    return folder


def test_a_shipped_folder_is_loaded_whole(bench, zoo, folder):
    found = SoupBench.load(folder)
    assert torch.equal(found.soups("test"), bench.soups("test"))
    assert found.zoo().fingerprints == zoo.fingerprints
    assert found.zoo() is found.zoo()
    assert found.zoo().init is not None
    live = evaluator(found.zoo(), SPLITS["val"], device="cpu")
    assert live(exhaustive(N)[10]) == found.soups("val")[10].item()


@pytest.mark.parametrize("name", ["bench.safetensors", "model_1.safetensors", "init.safetensors"])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_changed_file_is_named(folder, name, damage):
    path = folder / name
    if damage == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(BankError, match=rf"{name}: (no such file|damaged or changed)"):
        SoupBench.load(folder).zoo()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": "radin-bench-1", "files": {}}', '{"format": "radin-bench-2"}'],
)
def test_a_manifest_that_is_none(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(BankError, match=r"manifest\.json: not"):
        SoupBench.load(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(BankError, match=r"manifest\.json: not a readable manifest"):
        SoupBench.load(folder)


def test_an_unknown_name_lists_what_is_shipped():
    with pytest.raises(BankError, match="Unknown bench 'imagenet'"):
        SoupBench.load("imagenet")
