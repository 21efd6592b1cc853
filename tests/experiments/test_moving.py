"""radin/experiments/moving.py: every number, against networks that are built and run one by one."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radin.data.load import load_split
from radin.experiments.moving import apart, between
from radin.experiments.networks import DigitsNet, Mlp

WEIGHTS = [0.5, 0.3, 0.2]
SCALES = [0.0, 0.5, 1.0, 2.0]
AMOUNTS = [-0.25, 0.0, 0.5, 1.0, 1.5]
VAL = load_split("digits", "val")
IMAGES, LABELS = VAL.images[:40].double(), VAL.labels[:40]
State = dict[str, Tensor]


def network() -> nn.Module:
    return Mlp(64, 10, width=12).double().eval()


@pytest.fixture(scope="module")
def states() -> list[State]:
    """A start and three ingredients that are far from it."""
    generator = torch.Generator().manual_seed(0)

    def near(state: State, noise: float) -> State:
        return {
            key: tensor + noise * torch.randn(tensor.shape, generator=generator).double()
            for key, tensor in state.items()
        }

    start = near({key: torch.zeros_like(t) for key, t in network().state_dict().items()}, 0.4)
    return [start, *(near(start, 0.15) for _ in WEIGHTS)]


def run(state: State) -> Tensor:
    """The logits of a network that has really loaded these weights."""
    model = network()
    model.load_state_dict(state)
    with torch.no_grad():
        return model(IMAGES)


def moved(state: State, step: State, length: float) -> State:
    return {key: tensor + length * step[key] for key, tensor in state.items()}


def difference(one: State, other: State) -> State:
    return {key: one[key] - other[key] for key in one}


def mean_of(states: list[State]) -> State:
    return {
        key: sum(w * state[key] for w, state in zip(WEIGHTS, states, strict=True))
        for key in states[0]
    }


def loss(logits: Tensor) -> float:
    return F.cross_entropy(logits, LABELS).item()


def accuracy(logits: Tensor) -> float:
    return (
        100
        * sum(int(row.argmax()) == int(label) for row, label in zip(logits, LABELS, strict=True))
        / len(LABELS)
    )


def second_order(centre: State, ingredients: list[State], h: float = 1e-3) -> float:
    """The gap in loss to second order around a centre, by differences of logits."""
    middle = run(centre)
    bend = sum(
        w * (run(moved(centre, step, h)) - 2 * middle + run(moved(centre, step, -h))) / h**2
        for w, step in zip(
            WEIGHTS, [difference(each, mean_of(ingredients)) for each in ingredients], strict=True
        )
    )
    slope = middle.softmax(1) - F.one_hot(LABELS, 10)
    return (slope * (-0.5 * bend)).sum(1).mean().item()


@pytest.fixture(scope="module")
def found(states) -> dict[str, list[float]]:
    start, *ingredients = states
    deltas = [difference(each, start) for each in ingredients]
    return apart(network(), start, deltas, WEIGHTS, IMAGES, labels=LABELS, scales=SCALES)


@pytest.mark.parametrize("at", range(len(SCALES)))
def test_soup_and_ensemble_at_every_distance(states, found, at):
    start, *ingredients = states
    there = [moved(start, difference(each, start), SCALES[at]) for each in ingredients]
    soup = run(mean_of(there))
    ensemble = sum(w * run(each) for w, each in zip(WEIGHTS, there, strict=True))
    assert found["soup"][at] == pytest.approx(loss(soup), abs=1e-10)
    assert found["ensemble"][at] == pytest.approx(loss(ensemble), abs=1e-10)
    assert found["gap"][at] == pytest.approx(loss(soup) - loss(ensemble), abs=1e-10)
    assert found["soup accuracy"][at] == pytest.approx(accuracy(soup))
    assert found["ensemble accuracy"][at] == pytest.approx(accuracy(ensemble))


@pytest.mark.parametrize("at", range(len(SCALES)))
def test_first_order_is_the_slope_at_the_start(states, found, at):
    start, *ingredients = states
    step = difference(mean_of(ingredients), start)
    slope = (loss(run(moved(start, step, 1e-4))) - loss(run(moved(start, step, -1e-4)))) / 2e-4
    expected = loss(run(start)) + SCALES[at] * slope
    assert found["first order"][at] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("at", range(len(SCALES)))
def test_second_order_at_the_start_and_at_the_soup(states, found, at):
    start, *ingredients = states
    at_start = SCALES[at] ** 2 * second_order(start, ingredients)
    assert found["gap from the start"][at] == pytest.approx(at_start, abs=1e-5)
    there = [moved(start, difference(each, start), SCALES[at]) for each in ingredients]
    at_soup = second_order(mean_of(there), there)
    assert found["gap from the soup"][at] == pytest.approx(at_soup, abs=1e-5)
    if SCALES[at] > 0:
        assert abs(at_start) > 1e-3  # large beside what the comparison lets pass


def test_near_the_start_second_order_is_the_gap(states):
    start, *ingredients = states
    deltas = [difference(each, start) for each in ingredients]
    scales = [1e-2, 2e-2]
    near = apart(network(), start, deltas, WEIGHTS, IMAGES, labels=LABELS, scales=scales)
    for name in ("gap from the start", "gap from the soup"):
        small, large = (
            abs(gap - predicted) for gap, predicted in zip(near["gap"], near[name], strict=True)
        )
        assert 6 < large / small < 10  # a third order: twice the step, eight times the error


@pytest.mark.parametrize("at", range(len(AMOUNTS)))
def test_every_point_of_the_line(states, at):
    _, first, second, _ = states
    found = between(network(), first, second, IMAGES, labels=LABELS, amounts=AMOUNTS)
    amount = AMOUNTS[at]
    soup = run(moved(first, difference(second, first), amount))
    ensemble = (1 - amount) * run(first) + amount * run(second)
    assert found["soup"][at] == pytest.approx(loss(soup), abs=1e-10)
    assert found["ensemble"][at] == pytest.approx(loss(ensemble), abs=1e-10)
    assert found["soup accuracy"][at] == pytest.approx(accuracy(soup))
    assert found["ensemble accuracy"][at] == pytest.approx(accuracy(ensemble))
    if amount in (0, 1):
        assert found["soup"][at] == pytest.approx(found["ensemble"][at], abs=1e-10)


def test_a_negative_running_variance_has_no_number():
    torch.manual_seed(0)
    model = DigitsNet(4, norm="batch").eval()
    first = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    second = {key: tensor.clone() for key, tensor in first.items()}
    second["body.1.running_var"] *= 0.1
    found = between(
        model, first, second, VAL.images[:8], labels=LABELS[:8], amounts=[0.0, 1.0, 1.2]
    )
    assert all(map(math.isfinite, found["ensemble"]))
    assert [math.isnan(value) for value in found["soup"]] == [False, False, True]
    assert [math.isnan(value) for value in found["soup accuracy"]] == [False, False, True]
