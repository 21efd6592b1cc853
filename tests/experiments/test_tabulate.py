"""radin/experiments/bench/tabulate.py: every soup once, also after a kill and several at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import build, files_below, save_states, state, tiny_split, tiny_zoo
from radin import Zoo, evaluator, exhaustive, soup_logits
from radin.errors import ParameterError
from radin.experiments.bench import tabulate
from radin.experiments.bench.tabulate import evaluate_soups
from radin.experiments.networks import SmallResNet

SPLIT = tiny_split(33, seed=4)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"), 4)


def both(zoo: Zoo, cache: object = False, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    return tabulate.tabulate(zoo, SPLIT, device="cpu", cache=cache, progress=False, **options)


def run(zoo: Zoo, cache: object = False, **options: object) -> torch.Tensor:
    table, right = both(zoo, cache, **options)
    assert torch.equal(table[:, 0], right.sum(1).double() * 100 / right.shape[1])
    return table


@pytest.fixture(scope="module")
def table(zoo) -> torch.Tensor:
    return run(zoo)


def test_each_row_is_the_live_evaluation(zoo, table):
    live = evaluator(zoo, SPLIT, device="cpu")
    assert table.shape == (15, 2)
    assert table[:, 0].tolist() == [live(weights) for weights in exhaustive(4)]


def test_right_answers_image_by_image(zoo, tmp_path):
    _, right = both(zoo)
    for row, weights in enumerate(exhaustive(4)):
        logits, labels = soup_logits(zoo, weights, SPLIT, device="cpu")
        assert torch.equal(right[row], logits.argmax(1) == labels)
    both(zoo, tmp_path)
    assert torch.equal(both(zoo, tmp_path)[1], right)  # from the store


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**16))
def test_packed_bits_come_back(rows, n, seed):
    bits = torch.rand(rows, n, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(tabulate.unpack_bits(tabulate.pack_bits(bits), n), bits)


@pytest.mark.parametrize("per_pass", [2, 4, 15, 100])
@pytest.mark.parametrize("batch_size", [5, 250])
def test_soups_that_run_together_are_the_same(zoo, table, per_pass, batch_size):
    together = run(zoo, per_pass=per_pass, batch_size=batch_size)
    assert torch.equal(together[:, 0], table[:, 0])
    assert torch.allclose(together[:, 1], table[:, 1], rtol=1e-6)


def test_stacked_residual_networks_say_what_single_ones_say(tmp_path):
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(SmallResNet(4, widths=(8, 16)).half().state_dict())
    zoo = Zoo.open(
        save_states(tmp_path, *models), lambda: SmallResNet(4, widths=(8, 16)), progress=False
    )
    images = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    split = type(SPLIT)("noise", "val", images, torch.arange(20) % 4, list("abcd"))
    single, _ = tabulate.tabulate(zoo, split, device="cpu", cache=False, progress=False)
    together, _ = tabulate.tabulate(
        zoo, split, device="cpu", cache=False, progress=False, per_pass=3
    )
    assert torch.allclose(single[:, 1], together[:, 1], rtol=1e-4)
    assert (
        single[:, 0] - together[:, 0]
    ).abs().max() <= 5  # an image of twenty may lie on a border


class KilledError(Exception):
    pass


def counting(monkeypatch: pytest.MonkeyPatch, stops: list[int] | None = None) -> list[int]:
    """Bitmasks of the soups evaluated from now on; dies whenever that many have been."""
    evaluated: list[int] = []

    def evaluate(
        zoo: Zoo, model: object, weights: torch.Tensor, *rest: object, **options: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if stops and len(set(evaluated)) == stops[0]:
            del stops[0]
            raise KilledError
        evaluated.extend(((weights > 0) * 2 ** torch.arange(len(zoo))).sum(1).tolist())
        return evaluate_soups(zoo, model, weights, *rest, **options)

    monkeypatch.setattr(tabulate, "evaluate_soups", evaluate)
    return evaluated


@pytest.mark.parametrize("stops", [[1], [4, 9], [14], [2, 3, 4]])
def test_a_killed_build_goes_on(zoo, table, tmp_path, monkeypatch, stops):
    monkeypatch.setattr(tabulate, "SAVE_INTERVAL_SECONDS", -1)  # write after every soup
    deaths = len(stops)
    evaluated = counting(monkeypatch, stops)
    for _ in range(deaths):
        with pytest.raises(KilledError):
            run(zoo, tmp_path)
    assert torch.equal(run(zoo, tmp_path), table)
    # No soup twice, but for the first: it is asked whether the rows that were kept still hold.
    assert sorted(mask for mask in evaluated if mask > 1) == list(range(2, 16))
    del evaluated[:]
    assert torch.equal(run(zoo, tmp_path), table)
    assert evaluated == [1]
    assert len(files_below(tmp_path)) == 1


def test_a_larger_zoo_takes_over_the_rows_of_a_smaller_one(zoo, table, tmp_path, monkeypatch):
    smaller = Zoo.open(zoo.paths[:3], build, progress=False)
    assert torch.equal(run(smaller, tmp_path), table[:7])
    evaluated = counting(monkeypatch)
    assert torch.equal(run(zoo, tmp_path), table)
    assert evaluated == [1, *range(8, 16)]
    assert torch.equal(run(smaller, tmp_path), table[:7])
    assert evaluated[9:] == [1]


def test_rows_of_an_edited_network_are_not_taken_over(zoo, table, tmp_path):
    class Flipped(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return -super().forward(images)

        def __repr__(self) -> str:
            return repr(build())

    run(zoo, tmp_path)
    edited = Zoo.open(zoo.paths, lambda: Flipped(*build()), progress=False)
    assert not torch.equal(run(edited, tmp_path), table)
    assert torch.equal(run(edited, tmp_path), run(edited))


def test_tied_weights_and_half_precision(tmp_path):
    def tied() -> nn.Module:
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second).half()

    torch.manual_seed(0)
    zoo = Zoo.open(
        save_states(tmp_path, *(tied().state_dict() for _ in range(3)), suffix=".pt"),
        tied,
        progress=False,
    )
    table = run(zoo)
    live = evaluator(zoo, SPLIT, device="cpu")
    assert table[:, 0].tolist() == [live(weights) for weights in exhaustive(3)]
    assert (
        run(zoo, per_pass=7)[:, 0] - table[:, 0]
    ).abs().max() <= 100 / 33 + 1e-9  # half precision: a near tie


def test_rows_of_other_ingredients_are_not_taken_over(zoo, tmp_path):
    run(zoo, tmp_path)
    other = Zoo.open(
        [*zoo.paths[:2], *save_states(tmp_path / "other", state(50), state(51))],
        build,
        progress=False,
    )
    assert torch.equal(run(other, tmp_path), run(other))


def test_a_damaged_file_is_evaluated_again(zoo, table, tmp_path):
    run(zoo, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    assert torch.equal(run(zoo, tmp_path), table)


def test_too_many_ingredients(tmp_path):
    many = Zoo.open(
        save_states(tmp_path, *(state(seed) for seed in range(21))), build, progress=False
    )
    with pytest.raises(ParameterError, match="too many to list"):
        run(many)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(zoo, table):
    there, _ = tabulate.tabulate(zoo, SPLIT, device="cuda", cache=False, progress=False)
    assert torch.allclose(there[:, 1], table[:, 1], rtol=1e-3)
