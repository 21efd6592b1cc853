"""radin/bench.py: a look-up is an evaluation."""

from __future__ import annotations

import pytest
import torch
from helpers import build, files_below, random_bank, save_states, state, tiny_split, tiny_zoo

from radin import LogitBank, SoupBench, Zoo, craft, evaluator, exhaustive
from radin.errors import BankError, ParameterError

N = 4
SPLITS = {"val": tiny_split(30, seed=1), "test": tiny_split(40, seed=2, part="test")}


def build_bench(zoo: Zoo, **options: object) -> SoupBench:
    return SoupBench.build(zoo, SPLITS["val"], SPLITS["test"], device="cpu", progress=False, **options)


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
    assert torch.equal(bench.accuracies(part), torch.tensor([live(w) for w in bench.candidates], dtype=torch.float64))


def test_banks_are_those_of_the_splits(bench):
    assert (bench.val.num_images, bench.test.num_images) == (30, 40)
    assert torch.equal(bench.val.accuracies(), bench.accuracies("val")[[2**k - 1 for k in range(N)]])


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
    assert soup.accuracy == bench.accuracies("val").max().item()
    assert bench.evaluator()(soup.weights) == soup.accuracy  # "val" is the default
    assert bench.regret(soup.weights) >= 0


@pytest.mark.parametrize("weights", [[0.4, 0.6, 0, 0], [0.3, 0.3, 0.4, 0], [0.26, 0.25, 0.25, 0.24]])
def test_soups_off_the_grid_are_refused(bench, weights):
    for use in (bench.row, bench.evaluator("val"), bench.regret):
        with pytest.raises(ParameterError, match="not in the bench"):
            use(weights)


def test_weights_that_are_none_are_refused(bench):
    with pytest.raises(ParameterError, match=r"shape \(4,\)"):
        bench.evaluator("val")([1, 0])


def test_unknown_part(bench):
    for use in (bench.evaluator, bench.accuracies):
        with pytest.raises(ParameterError, match="part must be one of val, test, not 'train'"):
            use("train")


def test_a_saved_bench_comes_back_whole(bench, zoo, tmp_path):
    path = bench.save(tmp_path / "bench.safetensors")
    found = SoupBench.load(path)
    for part in SPLITS:
        assert torch.equal(found.accuracies(part), bench.accuracies(part))
        assert torch.equal(getattr(found, part).logits, getattr(bench, part).logits)
        assert torch.equal(getattr(found, part).labels, getattr(bench, part).labels)
    assert found.val.names == zoo.names
    with pytest.raises(BankError, match="without its ingredients"):
        found.zoo()
    assert SoupBench.load(path, zoo).zoo() is zoo
    assert bench.zoo() is zoo


def test_a_bench_is_found_again(zoo, tmp_path, monkeypatch):
    built = build_bench(zoo, cache=tmp_path)
    files = files_below(tmp_path)
    monkeypatch.setattr("radin.bench.evaluator", lambda *_, **__: pytest.fail("evaluated again"))
    assert torch.equal(build_bench(zoo, cache=tmp_path).accuracies("test"), built.accuracies("test"))
    assert files_below(tmp_path) == files


def test_a_damaged_bench_is_built_again(zoo, tmp_path):
    built = build_bench(zoo, cache=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    assert torch.equal(build_bench(zoo, cache=tmp_path).accuracies("test"), built.accuracies("test"))


def test_a_changed_zoo_is_another_bench(zoo, tmp_path):
    build_bench(zoo, cache=tmp_path / "cache")
    other = Zoo.open(save_states(tmp_path, *(state(k) for k in (5, 6, 7, 8))), build, progress=False)
    fresh = build_bench(other, cache=False)
    assert torch.equal(build_bench(other, cache=tmp_path / "cache").accuracies("val"), fresh.accuracies("val"))


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
    bank, table = random_bank(3), torch.zeros(7)
    for val, test, one, other in (
        (bank, random_bank(2), table, table),
        (bank, bank, table[:-1], table),
        (bank, bank, table, torch.zeros(8)),
    ):
        with pytest.raises(BankError, match="3 ingredients needs 7 accuracies"):
            SoupBench(val, test, one, other)


def test_a_bench_of_one():
    bank = LogitBank(torch.eye(2).unsqueeze(0), [0, 0])
    bench = SoupBench(bank, bank, torch.tensor([50.0]), torch.tensor([50.0]))
    assert bench.oracle[0].tolist() == [1]
    assert bench.regret([1]) == 0
