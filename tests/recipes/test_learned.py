"""radin/recipes/learned.py: right gradients, a soup that is no worse, and costs that add up."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from helpers import (
    CLASSES,
    build,
    finish,
    run_python,
    save_states,
    state,
    tiny_split,
    tiny_zoo,
)
from radin import Zoo, average, digits_zoo, evaluator, load_split, soup_logits
from radin.data.splits import ArraySplit
from radin.errors import BankError, DataError, ParameterError
from radin.experiments.networks import DigitsNet
from radin.recipes.learned import (
    BATCH_SIZE,
    LearnedSoup,
    learn,
    steps_within,
    training_cost,
)
from radin.recipes.mixture import GRANULARITIES, Mixture, block_of, parameter_rows
from radin.soup.ingredient_blocks import BLOCK_BYTES

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


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_gradient_by_finite_differences(tmp_path, granularity):
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
    rows = parameter_rows(net(), granularity)
    shape = (3,) if granularity == "ingredient" else (len(set(rows.values())), 3)
    rng = torch.Generator().manual_seed(0)
    alpha = torch.randn(shape, generator=rng, dtype=torch.float64)
    log_scale = torch.tensor(0.3, dtype=torch.float64)

    def by_hand(a: Tensor, s: Tensor) -> float:
        model = net()
        shares = [torch.exp(a.view(-1, 3)[rows[key]]) for key in keys]
        model.load_state_dict(
            {
                key: sum(p[k] * states[k][key] for k in range(3)) / p.sum()
                for key, p in zip(keys, shares, strict=True)
            }
        )
        with torch.no_grad():
            return F.cross_entropy(s.exp() * model(images.double()), labels).item()

    learned = [tensor.clone().requires_grad_() for tensor in (alpha, log_scale)]
    with Mixture(zoo, CPU, granularity=granularity) as mixture:
        loss = mixture.backward(*learned, images, labels)
    assert loss == pytest.approx(by_hand(alpha, log_scale), rel=1e-12)
    step = 1e-5
    for index in range(alpha.numel()):
        nudge = torch.zeros(alpha.numel(), dtype=torch.float64)
        nudge[index] = step
        nudge = nudge.view(alpha.shape)
        slope = (by_hand(alpha + nudge, log_scale) - by_hand(alpha - nudge, log_scale)) / (2 * step)
        assert learned[0].grad.flatten()[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)
    slope = (by_hand(alpha, log_scale + step) - by_hand(alpha, log_scale - step)) / (2 * step)
    assert learned[1].grad.item() == pytest.approx(slope, rel=1e-6)


def functional_loss(
    model: nn.Module,
    stacked: dict[str, Tensor],
    rows: dict[str, int],
    alpha: Tensor,
    log_scale: Tensor,
    images: Tensor,
    labels: Tensor,
) -> Tensor:
    """The loss with all N ingredients in memory, so that autograd finds every gradient."""
    shares = alpha.softmax(-1).view(-1, alpha.shape[-1])
    mixed = {
        key: torch.tensordot(
            shares[rows[key]] if key in rows else shares.detach().mean(0), tensors, 1
        )
        for key, tensors in stacked.items()
    }
    logits = functional_call(model, mixed, (images,), tie_weights=False)
    return F.cross_entropy(logits * log_scale.exp(), labels)


@st.composite
def networks(draw: st.DrawFn) -> Callable[[], nn.Module]:
    """Small networks: widths, batch norm, a tied layer, and convolutions in either layout."""
    width, depth = draw(st.integers(1, 5)), draw(st.integers(0, 2))
    is_tied, is_normed, last = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())

    def make() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(1, width, 2, padding=1), nn.GELU()]
        layers += [nn.BatchNorm2d(width)] * is_normed
        same = nn.Conv2d(width, width, 1)
        layers += [same if is_tied else nn.Conv2d(width, width, 1) for _ in range(depth)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * width, CLASSES))
        return model.to(memory_format=torch.channels_last) if last else model

    return make


@given(
    make=networks(),
    num_models=st.integers(1, 4),
    granularity=st.sampled_from(GRANULARITIES),
    seed=st.integers(0, 1000),
    block_bytes=st.sampled_from([8, 200, BLOCK_BYTES]),
)
@settings(max_examples=60, deadline=None)
def test_the_gradient_is_autograds(
    tmp_path_factory, make, num_models, granularity, seed, block_bytes
):
    torch.manual_seed(seed)
    states = []
    for _ in range(num_models):
        state = make().double().state_dict()
        # As tied tensors are saved: under each name, but once
        states.append({key: tensor.clone() for key, tensor in state.items()})
    zoo = open_zoo(tmp_path_factory.mktemp("zoo"), states, lambda: make().double())
    images = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    labels = torch.randint(CLASSES, (5,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radin.soup.ingredient_blocks.BLOCK_BYTES", block_bytes)
        with Mixture(zoo, CPU, granularity=granularity) as mixture:
            shape = (num_models,) if granularity == "ingredient" else (mixture.num_rows, num_models)
            ours, theirs = (
                [torch.randn(shape, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)]
                for _ in range(2)
            )
            for mine, other in zip(ours, theirs, strict=True):
                other.copy_(mine)
                mine.requires_grad_()
                other.requires_grad_()
            loss = mixture.backward(*ours, images, labels)
            reference = make().double().eval()
            stacked = {
                key: torch.stack([state[key].to(torch.float64) for state in states])
                for key in states[0]
                if states[0][key].is_floating_point()
            }
            expected = functional_loss(reference, stacked, mixture.rows, *theirs, images, labels)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_it_learns_what_all_ingredients_in_memory_learn(small_digits, granularity):
    """The same minibatches and optimiser, with autograd through a stack of all ingredients."""
    split = load_split("digits", "val")
    found = learn(small_digits, split, 25, granularity=granularity, seed=4, device="cpu")
    model = small_digits.model(0).requires_grad_(False)
    stacked = {
        key: torch.stack([small_digits[k][key] for k in range(4)]) for key in found.zoo.keys()
    }
    alpha = torch.zeros(found.alpha.shape, requires_grad=True)
    optimizer = torch.optim.AdamW([alpha], lr=0.1, weight_decay=0)
    rng = torch.Generator().manual_seed(4)
    losses = []
    while len(losses) < 25:
        for part in torch.randperm(len(split), generator=rng).split(BATCH_SIZE)[: 25 - len(losses)]:
            images, labels = split.images[part].float(), split.labels[part]
            loss = functional_loss(
                model, stacked, found.rows, alpha, torch.zeros(()), images, labels
            )
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert found.losses == pytest.approx(losses, rel=1e-3)
    torch.testing.assert_close(found.alpha, alpha.detach(), rtol=0, atol=2e-2)


def test_ingredients_that_a_gpu_holds_give_the_same(zoo, monkeypatch):
    streamed = learn(zoo, SPLIT, 10, granularity="tensor", device="cpu")
    monkeypatch.setattr(Mixture, "_has_room_for_all", lambda self, keys: True)
    monkeypatch.setattr("radin.soup.ingredient_blocks.BLOCK_BYTES", 100)
    held = learn(zoo, SPLIT, 10, granularity="tensor", device="cpu")
    torch.testing.assert_close(held.alpha, streamed.alpha, rtol=0, atol=1e-4)


MEMORY = """
import pickle
import sys
from pathlib import Path
import torch
from torch import nn
from helpers import save_states
from radin import Zoo
from radin.recipes.learned import learn

def kib(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])

def build(width=768):
    layers = [layer for _ in range(6) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), *layers, nn.Linear(width, 3))

def zoo_of(folder, num_models, make):
    torch.manual_seed(0)
    start = make().state_dict()
    states = ({key: t + 0.01 * torch.randn_like(t) for key, t in start.items()} for _ in "x" * N)
    return Zoo.open(save_states(folder, *states), make, progress=False)

N = 13
folder = Path(sys.argv[1])
images = torch.utils.data.TensorDataset(torch.randn(32, 1, 2, 2), torch.arange(32) % 3)
small = zoo_of(folder / "small", N, lambda: build(8))
learn(small, images, 2, device="cpu")  # loads what is needed once
zoo = pickle.loads(pickle.dumps(zoo_of(folder / "large", N, build)))  # no file is mapped now
before = kib("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here on
learn(zoo, images, 3, granularity="tensor", device="cpu")
print((kib("VmHWM") - before) * 1024 / sum(t.nbytes for t in zoo[0].values()))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc"
)
def test_memory_is_that_of_two_models_not_of_all(tmp_path):
    """The resident memory of the process at its peak, pages of mapped files among it."""
    peak = float(finish(run_python(MEMORY, tmp_path, OMP_NUM_THREADS=1)))
    assert 0.5 < peak < 2.5


def test_a_block_of_layers_by_its_name():
    names = ["visual.blocks.11.mlp.0.weight", "visual.conv1.weight", "scale", "0.weight"]
    assert [block_of(name) for name in names] == ["visual.blocks.11", "visual.conv1", "", "0"]
    model = nn.Sequential(build(), nn.Linear(3, 3))
    assert list(parameter_rows(model, "block").values()) == [0, 0, 0, 0, 1, 1]
    assert list(parameter_rows(model, "tensor").values()) == list(range(6))


def test_another_granularity_is_refused(zoo):
    with pytest.raises(ParameterError, match="granularity must be one of ingredient, block"):
        learn(zoo, SPLIT, 1, granularity="layer", device="cpu")


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
        for options in ({}, {"granularity": "tensor"}, {"learn_scale": True})
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
    with Mixture(zoo, CPU, granularity="tensor") as mixture:
        mixed = [
            {key: tensor.clone() for key, tensor in mixture.load(p).state_dict().items()}
            for p in (alpha.softmax(0), alpha.softmax(0).expand(4, -1))
        ]
    for key, tensor in mixed[0].items():
        torch.testing.assert_close(tensor, averaged[key])
        assert torch.equal(tensor, mixed[1][key])


def test_each_tensor_by_hand(zoo):
    found = learn(zoo, SPLIT, 30, granularity="tensor", device="cpu")
    assert found.alpha.shape == (4, 3)
    assert len({tuple(row.tolist()) for row in found.tensor_weights.values()}) == 4
    for key, tensor in found.state_dict().items():
        by_hand = sum(
            found.tensor_weights[key][k].double() * zoo[k][key].double() for k in range(3)
        )
        torch.testing.assert_close(tensor, by_hand.float(), rtol=1e-6, atol=1e-6)
    with pytest.raises(
        ParameterError, match=r"with weights of its own; use \.tensor_weights or \.state_dict"
    ):
        _ = found.weights


def test_no_steps_leave_the_uniform_soup(zoo):
    found = learn(zoo, SPLIT, 0, device="cpu")
    assert found.weights.tolist() == pytest.approx([1 / 3] * 3)
    assert (found.losses, found.forward_equivalents, found.scale) == ([], 0, 1)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_zoo_of_one(tmp_path, granularity):
    zoo = tiny_zoo(tmp_path, 1)
    found = learn(zoo, SPLIT, 5, granularity=granularity, batch_size=len(SPLIT), device="cpu")
    assert all(row.tolist() == [1.0] for row in found.tensor_weights.values())
    assert all(torch.equal(tensor, zoo[0][key]) for key, tensor in found.state_dict().items())
    assert found.losses == pytest.approx([cross_entropy(zoo, torch.ones(1), SPLIT)] * 5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("network_too", [True, False])
def test_other_precisions(zoo, tmp_path, dtype, network_too):
    states = [{key: tensor.to(dtype) for key, tensor in zoo[k].items()} for k in range(3)]
    other = open_zoo(tmp_path, states, lambda: build().to(dtype) if network_too else build())
    for granularity in GRANULARITIES:
        found, single = (
            learn(z, SPLIT, 15, granularity=granularity, device="cpu") for z in (other, zoo)
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


# Start and images held out ------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_it_starts_where_it_is_told_to(zoo, granularity):
    start = torch.tensor([0.7, 0.0, 0.3])
    options = {"granularity": granularity, "start": start, "device": "cpu"}
    found = learn(zoo, SPLIT, 0, **options)
    for row in found.tensor_weights.values():
        torch.testing.assert_close(row, start, rtol=0, atol=0.004)
        assert row[1] > 0  # it can grow
    stepped = learn(zoo, SPLIT, 1, batch_size=len(SPLIT), **options)
    assert stepped.losses[0] == pytest.approx(
        cross_entropy(zoo, found.state_dict(), SPLIT), abs=1e-5
    )


def test_a_start_that_is_no_soup(zoo):
    with pytest.raises(ParameterError, match="weights"):
        learn(zoo, SPLIT, 1, start=[0.5, 0.2, 0.2], device="cpu")


class Watched(ArraySplit):
    """A split that notes which images are asked for."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__("tiny", "val", SPLIT.images, SPLIT.labels, SPLIT.class_names)
        self.seen = seen

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.seen.append(index)
        return super().__getitem__(index)


def test_the_soup_with_the_lowest_loss_on_images_held_out_is_returned(zoo):
    seen: list[int] = []
    options = {"batch_size": 5, "lr": 3.0, "granularity": "tensor", "device": "cpu"}
    found = learn(zoo, Watched(seen), 400, holdout=0.25, **options)
    checks = len(found.held_out_losses)
    assert 3 <= checks == 1 + len(found.losses) // 4 < 101  # 18 images learned from, 4 steps
    held_out = set(seen[:6])  # in the first check, before any step
    assert len(held_out) == 6
    for index in range(24):
        assert seen.count(index) == (checks if index in held_out else checks - 1)
    lowest = min(found.held_out_losses)
    assert found.held_out_losses.index(lowest) == checks - 3
    assert found.forward_equivalents == (3 * 18 * (checks - 1) + 6 * checks) / 24
    again = learn(zoo, SPLIT, 4 * (checks - 3), holdout=0.25, **options)
    assert torch.equal(again.alpha, found.alpha)


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
    mixture = Mixture(zoo, CPU, granularity="tensor")
    assert list(mixture.rows) == [name for name, _ in normed().named_parameters()]
    for alpha, heaviest in (
        ([0.0, 2, 1], 1),
        ([1.0, 1, 1], 0),
        ([[3.0, 0, 0]] + [[0, 0, 1]] * 5, 2),
    ):
        found = LearnedSoup(zoo, torch.tensor(alpha), mixture.rows, 1.0, [], 0.0)
        mixed = mixture.load(torch.tensor(alpha).softmax(-1)).state_dict()
        for soup in (found.state_dict(), mixed):
            assert soup["2.num_batches_tracked"] == heaviest + 1
            assert soup["2.num_batches_tracked"].dtype == torch.int64
        shares = torch.tensor(alpha).softmax(-1).view(-1, 3).mean(0)
        torch.testing.assert_close(found.tensor_weights["2.running_var"], shares)
        by_hand = sum(shares[k] * states[k]["2.running_var"] for k in range(3))
        torch.testing.assert_close(mixed["2.running_var"], by_hand)
    for granularity in GRANULARITIES:
        found = learn(zoo, SPLIT, 8, granularity=granularity, batch_size=len(SPLIT), device="cpu")
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
    for granularity in GRANULARITIES:
        found = learn(zoo, SPLIT, 10, granularity=granularity, batch_size=len(SPLIT), device="cpu")
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
    held_out=st.integers(0, 39),
)
@settings(max_examples=300)
def test_steps_and_their_cost_by_walking_through_the_epochs(n, batch_size, steps, passes, held_out):
    held_out = min(held_out, n - 1)

    def bills() -> list[Fraction]:
        bill, seen = [Fraction(0)], 0
        paid = Fraction(held_out, n)  # the check before the first step
        while len(bill) <= 60 or bill[-1] <= passes:
            size = min(batch_size, n - held_out - seen)
            seen = (seen + size) % (n - held_out)
            paid += Fraction(3 * size, n)
            bill.append(paid + Fraction(held_out, n))  # the check after the last step
            if not seen:  # which is that of the epoch
                paid = bill[-1]
        return bill

    walked = bills()
    assert training_cost(steps, n, batch_size, held_out) == walked[steps]
    assert steps_within(passes, n, batch_size, held_out) == max(
        k for k, bill in enumerate(walked) if bill <= passes
    )


@pytest.mark.parametrize("holdout", [-0.1, 1, 1.5, math.nan, True, "half", None])
def test_impossible_shares_to_hold_out(zoo, holdout):
    with pytest.raises(ParameterError, match="holdout must be a number of at least 0 and below 1"):
        learn(zoo, SPLIT, 1, holdout=holdout, device="cpu")


def test_a_share_of_no_image(zoo):
    with pytest.raises(ParameterError, match="holdout=0.01 of 24 images is none"):
        learn(zoo, SPLIT, 1, holdout=0.01, device="cpu")


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
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_gpu_learns_the_same(zoo, granularity):
    there, back = (
        learn(zoo, SPLIT, 20, granularity=granularity, device=device) for device in ("cuda", "cpu")
    )
    torch.testing.assert_close(there.alpha, back.alpha, rtol=0, atol=1e-2)
    assert there.alpha.device.type == "cpu"
