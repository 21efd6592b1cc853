"""radin/experiments/bench/shifts.py: some soups on shifted test sets."""

from __future__ import annotations

import pytest
import torch

from helpers import tiny_split, tiny_zoo
from radin import SoupBench, craft, soup_logits
from radin.errors import BankError, OffGridError
from radin.experiments.bench.shifts import (
    chosen_rows,
    evaluate_shift,
    read_shifts,
    save_shifts,
)
from radin.inference.predict import predict
from radin.ranking.projection import Projection

VAL = tiny_split(40, seed=1)
TEST = tiny_split(50, seed=2, part="test")


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> SoupBench:
    zoo = tiny_zoo(tmp_path_factory.mktemp("zoo"), 6)
    return SoupBench.build(zoo, VAL, TEST, device="cpu", cache=False, progress=False)


def shifted(projection: Projection | None = None):
    split = tiny_split(30, seed=3, part="shifted")
    split.projection = projection
    if projection is not None:
        split.labels = split.labels % projection.num_classes
        split.class_names = split.class_names[: projection.num_classes]
    return split


@pytest.mark.parametrize("grouped", [False, True])
def test_answers_are_those_of_the_soups_and_of_the_ensembles(bench, grouped):
    classes = bench.val.num_classes
    projection = Projection([[0, 1], [classes - 1]], classes) if grouped else None
    split = shifted(projection)
    rows = [0, 5, 20, 62]
    shift = evaluate_shift(bench, split, rows, "cpu")
    bank = predict(bench.zoo(), split, device="cpu", progress=False)
    for row in rows:
        p = bench.candidates[row]
        logits, labels = soup_logits(bench.zoo(), p, split, device="cpu")
        assert torch.equal(shift.right([row])[0], logits.argmax(1) == labels)
        averaged = torch.tensordot(p, bank.logits.float(), dims=1)
        found = averaged if projection is None else projection(averaged)
        assert torch.equal(shift.right([row], ensembles=True)[0], found.argmax(1) == labels)
    expected = shift.right(rows).double().mean(1) * 100
    assert torch.equal(shift.accuracies(rows), expected)


def test_what_recipes_return_is_among_the_chosen_rows(bench):
    rows = chosen_rows(bench)
    assert rows == sorted(set(rows))
    for recipe in ("greedy", "uniform", "best_single"):
        assert bench.row(craft(bench.val, bench.evaluator(), 16, recipe).weights) in rows
    for budget in (1, 2, 4, 16):
        for prior in (0.0, 1.0):
            soup = craft(
                bench.val, bench.evaluator(), budget, candidates=bench.candidates, prior=prior
            )
            assert bench.row(soup.weights) in rows
    assert bench.row(bench.oracle[0]) in rows


def test_a_row_that_is_missing_and_a_file_that_is_damaged(bench, tmp_path):
    shifts = [evaluate_shift(bench, shifted(), [2, 3], "cpu")]
    path = save_shifts(tmp_path / "shifts.safetensors", shifts)
    (found,) = read_shifts(path).values()
    assert torch.equal(found.soups, shifts[0].soups)
    assert torch.equal(found.ensembles, shifts[0].ensembles)
    assert torch.equal(found.labels, shifts[0].labels)
    with pytest.raises(OffGridError, match=r"rows \[7\] were not evaluated on shifted"):
        found.right([2, 7])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BankError):
        read_shifts(path)
