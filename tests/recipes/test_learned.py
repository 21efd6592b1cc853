"""radin/recipes/learned.py: right gradients, a soup that is no worse, and costs that add up."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import CLASSES, build, save_states, state, tiny_split, tiny_zoo
from radin import Zoo, average, digits_zoo, evaluator, load_split, soup_logits
from radin.data.splits import ArraySplit
from radin.errors import BankError, DataError, ParameterError
from radin.experiments.networks import DigitsNet
from radin.recipes.learned import LearnedSoup, Mixture, learn, steps_within, training_cost

CPU = torch.device("cpu")
SPLIT = tiny_split(24)


def open_zoo(folder, states: list[dict[str, Tensor]], make: Callable[[], nn.Module] = build) -> Zoo:
    return Zoo.open(save_states(folder, *states), make, progress=False)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def small_digits() -> Zoo:
    return digits_zoo(4, quick=True, device="cpu", progress=False)


def cross_entropy(zoo: Zoo, soup: Tensor | dict[str, Tensor], split: ArraySplit) -> float:
    return F.cross_entropy(*soup_logits(zoo, soup, split, device="cpu")).item()


# The gradient ------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_tensor", [False, True])
def test_the_gradient_by_finite_differences(tmp_path, per_tensor):
    """In double precision, against the loss of a network that is averaged by hand."""

    def net() -> nn.Module:
        return DigitsNet(4).double()

    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(net().state_dict())
    zoo, keys = open_zoo(tmp_path, states, net), list(states[0])
    split = load_split("digits", "val")
    images, labels = split.images[:6], split.labels[:6]
    rng = torch.Generator().manual_seed(0)
    alpha = torch.randn((len(keys), 3) if per_tensor else (3,), generator=rng, dtype=torch.float64)
    log_scale = torch.tensor(0.3, dtype=torch.float64)

    def by_hand(a: Tensor, s: Tensor) -> float:
        model = net()
        shares = [
            torch.exp(row) / torch.exp(row).sum() for row in (a if per_tensor else [a] * len(keys))
        ]
        model.load_state_dict(
            {
                key: sum(p[k] * states[k][key] for k in range(3))
                for key, p in zip(keys, shares, strict=True)
            }
        )
        with torch.no_grad():
            return F.cross_entropy(s.exp() * model(images.double()), labels).item()

    learned = [tensor.clone().requires_grad_() for tensor in (alpha, log_scale)]
    loss = Mixture(zoo, CPU).loss(*learned, images, labels)
    loss.backward()
    assert loss.item() == pytest.approx(by_hand(alpha, log_scale), rel=1e-12)
    step = 1e-5
    for index in range(alpha.numel()):
        nudge = torch.zeros(alpha.numel(), dtype=torch.float64)
        nudge[index] = step
        nudge = nudge.view(alpha.shape)
        slope = (by_hand(alpha + nudge, log_scale) - by_hand(alpha - nudge, log_scale)) / (2 * step)
        assert learned[0].grad.flatten()[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)
    slope = (by_hand(alpha, log_scale + step) - by_hand(alpha, log_scale - step)) / (2 * step)
    assert learned[1].grad.item() == pytest.approx(slope, rel=1e-6)


def test_two_ingredients_reach_the_best_point_between_them(small_digits, tmp_path):
    """A search along the line of all soups of two is the reference."""
    zoo = open_zoo(tmp_path, [dict(small_digits[k]) for k in (0, 2)], DigitsNet)
    split = load_split("digits", "val")
    line = [
        cross_entropy(zoo, torch.tensor([1 - t, t]), split)
        for t in torch.linspace(0, 1, 51).tolist()
    ]
    found = learn(zoo, split, 60, batch_size=len(split), device="cpu")
    assert found.losses[0] == pytest.approx(line[25], abs=1e-5)
    gained = line[25] - cross_entropy(zoo, found.weights, split)
    assert gained >= 0.99 * (line[25] - min(line)) > 0.01


# The result --------------------------------------------------------------------------------------


def test_the_loss_falls_below_the_uniform_soups(small_digits):
    split, uniform = load_split("digits", "val"), torch.full((4,), 0.25)
    start = cross_entropy(small_digits, uniform, split)
    one, each, scaled = (
        learn(small_digits, split, 150, device="cpu", **options)
        for options in ({}, {"per_tensor": True}, {"learn_scale": True})
    )
    after, after_each = (
        cross_entropy(small_digits, found.state_dict(), split) for found in (one, each)
    )
    assert after_each < after < start
    assert one.scale == each.scale == 1
    assert scaled.scale != 1
    for found in (one, scaled):
        assert found.weights.shape == (4,)
        assert found.weights.sum().item() == pytest.approx(1)
        assert found.weights.min() >= 0
    assert len(one.losses) == 150


def test_mixing_weights_and_state_dict_are_one_soup(zoo):
    found = learn(zoo, SPLIT, 20, device="cpu")
    averaged = average(zoo, found.weights)
    assert all(torch.equal(tensor, averaged[key]) for key, tensor in found.state_dict().items())
    evaluate = evaluator(zoo, SPLIT, device="cpu")
    assert evaluate(found.state_dict()) == evaluate(found.weights)
    assert all(torch.equal(row, found.weights) for row in found.tensor_weights.values())
    assert list(found.tensor_weights) == zoo.keys()


def test_equal_rows_are_one_row(zoo):
    alpha = torch.tensor([0.3, -1.0, 0.5])
    rows = {key: row for row, key in enumerate(zoo.keys())}
    one, each = (LearnedSoup(zoo, a, rows, 1.0, [], 0.0) for a in (alpha, alpha.expand(4, -1)))
    averaged = average(zoo, one.weights)
    assert all(torch.equal(tensor, averaged[key]) for key, tensor in each.state_dict().items())
    mixture, weights = Mixture(zoo, CPU), alpha.softmax(0)
    for key, tensor in mixture.state(weights.expand(4, -1)).items():
        torch.testing.assert_close(tensor, averaged[key])
        assert torch.equal(tensor, mixture.state(weights)[key])


def test_each_tensor_by_hand(zoo):
    found = learn(zoo, SPLIT, 30, per_tensor=True, device="cpu")
    assert found.alpha.shape == (4, 3)
    assert len({tuple(row.tolist()) for row in found.tensor_weights.values()}) == 4
    for key, tensor in found.state_dict().items():
        by_hand = sum(
            found.tensor_weights[key][k].double() * zoo[k][key].double() for k in range(3)
        )
        torch.testing.assert_close(tensor, by_hand.float(), rtol=1e-6, atol=1e-6)
    with pytest.raises(
        ParameterError, match=r"weights of its own; use \.tensor_weights or \.state_dict"
    ):
        _ = found.weights


def test_no_steps_leave_the_uniform_soup(zoo):
    found = learn(zoo, SPLIT, 0, device="cpu")
    assert found.weights.tolist() == pytest.approx([1 / 3] * 3)
    assert (found.losses, found.forward_equivalents, found.scale) == ([], 0, 1)


@pytest.mark.parametrize("per_tensor", [False, True])
def test_a_zoo_of_one(tmp_path, per_tensor):
    zoo = tiny_zoo(tmp_path, 1)
    found = learn(zoo, SPLIT, 5, per_tensor=per_tensor, batch_size=len(SPLIT), device="cpu")
    assert all(row.tolist() == [1.0] for row in found.tensor_weights.values())
    assert all(torch.equal(tensor, zoo[0][key]) for key, tensor in found.state_dict().items())
    assert found.losses == pytest.approx([cross_entropy(zoo, torch.ones(1), SPLIT)] * 5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("network_too", [True, False])
def test_other_precisions(zoo, tmp_path, dtype, network_too):
    states = [{key: tensor.to(dtype) for key, tensor in zoo[k].items()} for k in range(3)]
    other = open_zoo(tmp_path, states, lambda: build().to(dtype) if network_too else build())
    for per_tensor in (False, True):
        found, single = (
            learn(z, SPLIT, 15, per_tensor=per_tensor, device="cpu") for z in (other, zoo)
        )
        torch.testing.assert_close(found.alpha, single.alpha, rtol=0, atol=0.05)
        assert all(tensor.dtype == dtype for tensor in found.state_dict().values())
        assert 0 <= evaluator(other, SPLIT, device="cpu")(found.state_dict()) <= 100


def test_the_seed_decides(zoo):
    one, same, other = (
        learn(zoo, SPLIT, 12, batch_size=5, seed=seed, device="cpu") for seed in (3, 3, 4)
    )
    assert one.losses == same.losses
    assert torch.equal(one.alpha, same.alpha)
    assert one.losses != other.losses


def test_a_caller_without_gradients(zoo):
    with torch.no_grad():
        found = learn(zoo, SPLIT, 3, device="cpu")
    assert found.alpha.any()


# Other networks -----------------------------------------------------------------------------------


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, CLASSES)
    )


def test_buffers_and_dropout(tmp_path):
    """Running statistics are mixed without gradients, and counters come from the largest weight."""
    states = []
    for k in range(3):
        torch.manual_seed(k)
        model = normed().train()
        for _ in range(k + 1):
            model(torch.randn(8, 1, 2, 2))
        states.append(model.state_dict())
    zoo = open_zoo(tmp_path, states, normed)
    mixture = Mixture(zoo, CPU)
    assert list(mixture.rows) == [name for name, _ in normed().named_parameters()]
    for alpha, heaviest in (
        ([0.0, 2, 1], 1),
        ([1.0, 1, 1], 0),
        ([[3.0, 0, 0]] + [[0, 0, 1]] * 5, 2),
    ):
        found = LearnedSoup(zoo, torch.tensor(alpha), mixture.rows, 1.0, [], 0.0)
        mixed = mixture.state(torch.tensor(alpha).softmax(-1))
        for soup in (found.state_dict(), mixed):
            assert soup["2.num_batches_tracked"] == heaviest + 1
            assert soup["2.num_batches_tracked"].dtype == torch.int64
        shares = torch.tensor(alpha).softmax(-1).view(-1, 3).mean(0)
        torch.testing.assert_close(found.tensor_weights["2.running_var"], shares)
        by_hand = sum(shares[k] * states[k]["2.running_var"] for k in range(3))
        torch.testing.assert_close(mixed["2.running_var"], by_hand)
    for per_tensor in (False, True):
        found = learn(zoo, SPLIT, 8, per_tensor=per_tensor, batch_size=len(SPLIT), device="cpu")
        assert found.losses[0] == pytest.approx(
            cross_entropy(zoo, torch.full((3,), 1 / 3), SPLIT), abs=1e-5
        )
        assert found.losses == sorted(
            found.losses, reverse=True
        )  # the same images each time, and no noise


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images.flatten(1)).tanh())[:, :CLASSES]


def test_tied_tensors(tmp_path):
    weights = [torch.randn(4, 4, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    zoo = open_zoo(
        tmp_path, [{"first.weight": w, "second.weight": w.clone()} for w in weights], Tied
    )
    for per_tensor in (False, True):
        found = learn(zoo, SPLIT, 10, per_tensor=per_tensor, batch_size=len(SPLIT), device="cpu")
        assert found.losses[0] == pytest.approx(
            cross_entropy(zoo, torch.full((3,), 1 / 3), SPLIT), abs=1e-5
        )
        soup = found.state_dict()
        assert torch.equal(soup["first.weight"], soup["second.weight"])  # still tied
        assert cross_entropy(zoo, soup, SPLIT) < found.losses[-1]


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = build()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def test_a_network_without_gradients(tmp_path):
    zoo = open_zoo(
        tmp_path, [{f"net.{key}": t for key, t in state(k).items()} for k in range(2)], Detached
    )
    with pytest.raises(
        DataError, match=r"Detached gives logits without a gradient.*torch\.no_grad"
    ):
        learn(zoo, SPLIT, 1, device="cpu")


# Errors -------------------------------------------------------------------------------------------


def test_an_empty_split(zoo):
    with pytest.raises(DataError, match="empty; a split needs at least one image"):
        learn(
            zoo,
            ArraySplit("tiny", "val", SPLIT.images[:0], SPLIT.labels[:0], ["a"]),
            1,
            device="cpu",
        )


def test_labels_outside_the_classes(zoo):
    wrong = ArraySplit("tiny", "val", SPLIT.images[:2], torch.tensor([0, CLASSES]), ["a"])
    with pytest.raises(
        BankError, match=f"label {CLASSES}, but the logits have classes 0 to {CLASSES - 1}"
    ):
        learn(zoo, wrong, 1, device="cpu")


def test_learning_needs_a_model(tmp_path):
    with pytest.raises(ParameterError, match="build="):
        learn(Zoo.open(save_states(tmp_path, state(0)), progress=False), SPLIT, 1, device="cpu")


def test_a_loss_that_is_no_number(tmp_path):
    huge = [{key: 1e30 * tensor for key, tensor in state(k).items()} for k in range(2)]
    zoo = open_zoo(
        tmp_path,
        huge,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
    )
    with pytest.raises(DataError, match="The loss is (nan|inf) at step 1"):
        learn(zoo, SPLIT, 3, device="cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("steps", 1.5),
        ("batch_size", 0),
        ("seed", -1),
        ("lr", 0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("device", "tpu"),
    ],
)
def test_impossible_numbers(zoo, name, value):
    with pytest.raises(ParameterError, match=name):
        learn(zoo, SPLIT, **({"steps": 1, "device": "cpu"} | {name: value}))


# Costs --------------------------------------------------------------------------------------------


@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    steps=st.integers(0, 60),
    passes=st.integers(0, 30),
)
@settings(max_examples=300)
def test_steps_and_their_cost_by_walking_through_the_epochs(n, batch_size, steps, passes):
    def bills() -> list[Fraction]:
        bill, seen = [Fraction(0)], 0
        while len(bill) <= 60 or bill[-1] <= passes:
            size = min(batch_size, n - seen)
            seen = (seen + size) % n
            bill.append(bill[-1] + Fraction(3 * size, n))
        return bill

    walked = bills()
    assert training_cost(steps, n, batch_size) == walked[steps]
    assert steps_within(passes, n, batch_size) == max(
        k for k, bill in enumerate(walked) if bill <= passes
    )


def test_an_epoch_sees_every_image_once_and_costs_three(zoo):
    seen: list[float] = []

    class Watched(ArraySplit):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            seen.append(index)
            return super().__getitem__(index)

    split = Watched("tiny", "val", SPLIT.images, SPLIT.labels, SPLIT.class_names)
    found = learn(zoo, split, 2 * 4, batch_size=7, device="cpu")  # 24 images: 7, 7, 7 and 3, twice
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]
    assert found.forward_equivalents == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("per_tensor", [False, True])
def test_the_gpu_learns_the_same(zoo, per_tensor):
    there, back = (
        learn(zoo, SPLIT, 20, per_tensor=per_tensor, device=device) for device in ("cuda", "cpu")
    )
    torch.testing.assert_close(there.alpha, back.alpha, rtol=0, atol=1e-2)
    assert there.alpha.device.type == "cpu"
