"""radin/theory/taylor.py: first- and second-order terms against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import build, state
from radin.errors import ParameterError
from radin.experiments.networks import DigitsNet, Mlp, SmallResNet, SmallTransformer
from radin.theory.taylor import (
    combine,
    derivatives,
    differences_by_image,
    differences_by_scale,
    directions,
    first_order,
    second_order_gap,
    soup_ensemble_linear,
)

IMAGES = torch.randn(5, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
START = {key: tensor.double() for key, tensor in state(0).items()}
INGREDIENTS = [
    {key: START[key] + 0.1 * t.double() for key, t in state(seed).items()} for seed in (1, 2, 3)
]
WEIGHTS = [0.5, 0.3, 0.2]


def logits(parameters: dict[str, Tensor], model: nn.Module | None = None) -> Tensor:
    model = (model or build()).double()
    model.load_state_dict(parameters)
    with torch.no_grad():
        return model(IMAGES)


def test_directions_lead_from_the_start_to_the_ingredients():
    deltas = directions(START, INGREDIENTS)
    for k, ingredient in enumerate(INGREDIENTS):
        one_hot = [float(k == i) for i in range(3)]
        for key, tensor in combine(START, deltas, one_hot).items():
            torch.testing.assert_close(tensor, ingredient[key])
    for key, tensor in combine(START, deltas, WEIGHTS).items():
        torch.testing.assert_close(
            tensor, sum(w * i[key] for w, i in zip(WEIGHTS, INGREDIENTS, strict=True))
        )


def test_the_derivative_is_the_limit_of_differences():
    (delta,) = directions(START, INGREDIENTS[:1])
    at_start, change = first_order(build().double(), START, delta, IMAGES)
    torch.testing.assert_close(at_start, logits(START))
    step = 1e-5
    there, back = (logits(combine(START, [delta], [sign * step])) for sign in (1, -1))
    torch.testing.assert_close(change, (there - back) / (2 * step), rtol=1e-6, atol=1e-9)


def test_soup_and_ensemble_follow_their_definitions():
    soup, ensemble, _ = soup_ensemble_linear(
        build().double(), START, directions(START, INGREDIENTS), WEIGHTS, IMAGES
    )
    mean = {
        key: sum(w * i[key] for w, i in zip(WEIGHTS, INGREDIENTS, strict=True)) for key in START
    }
    # Weights are in single precision.
    torch.testing.assert_close(soup, logits(mean), rtol=1e-6, atol=1e-6)
    votes = sum(w * logits(i) for w, i in zip(WEIGHTS, INGREDIENTS, strict=True))
    torch.testing.assert_close(ensemble, votes, rtol=1e-6, atol=1e-6)


def test_gaps_shrink_with_the_square_of_the_distance():
    scales = [2.0**-k for k in range(4, 9)]
    deltas, model = directions(START, INGREDIENTS), build().double()
    gaps = []
    for scale in scales:
        soup, ensemble, linear = soup_ensemble_linear(
            model, START, deltas, WEIGHTS, IMAGES, scale=scale
        )
        gaps.append(
            [
                (one - other).norm().item()
                for one, other in ((soup, ensemble), (soup, linear), (ensemble, linear))
            ]
        )
    for column in np.log(np.array(gaps)).T:
        assert np.polyfit(np.log(scales), column, 1)[0] == pytest.approx(2, abs=0.1)


def test_the_three_agree_where_the_network_is_linear():
    class Linear(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(4, 3))

    model = Linear().double()
    rng = torch.Generator().manual_seed(1)
    states = [
        {
            k: torch.randn(t.shape, dtype=t.dtype, generator=rng)
            for k, t in model.state_dict().items()
        }
        for _ in "abcd"
    ]
    soup, ensemble, linear = soup_ensemble_linear(
        model, states[0], directions(states[0], states[1:]), WEIGHTS, IMAGES
    )
    torch.testing.assert_close(soup, ensemble)
    torch.testing.assert_close(soup, linear)


def test_impossible_values():
    deltas = directions(START, INGREDIENTS)
    for weights in ([1, 1, 1], [0.5, 0.5], [1.5, -0.5, 0]):
        with pytest.raises(ParameterError, match="Mixing weights"):
            soup_ensemble_linear(build().double(), START, deltas, weights, IMAGES)
    for scale in (0, -1, float("nan")):
        with pytest.raises(ParameterError, match="scale must be positive"):
            soup_ensemble_linear(build().double(), START, deltas, WEIGHTS, IMAGES, scale=scale)


# Second order -------------------------------------------------------------------------------------


def torch_transformer() -> nn.Module:
    """Layer norm and attention as torch's own modules."""
    layer = nn.TransformerEncoderLayer(6, 2, 12, activation="gelu", batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.SiLU(), nn.Linear(24, 3))


# Small copies of the companion's networks, their number of classes, and the shape of an image.
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...]]] = {
    "MLP": (lambda: Mlp(12, 5, width=16), 5, (3, 2, 2)),
    "ResNet": (lambda: SmallResNet(4, widths=(8, 16)), 4, (3, 8, 8)),
    "DigitsNet": (lambda: DigitsNet(8), 10, (1, 8, 8)),
    "DigitsNet with batch norm": (lambda: DigitsNet(8, norm="batch"), 10, (1, 8, 8)),
    "transformer": (lambda: SmallTransformer(5, size=4), 5, (1, 4, 4)),
    "torch's transformer": (torch_transformer, 3, (4, 6)),
}
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Case:
    model: nn.Module
    start: dict[str, Tensor]
    deltas: list[dict[str, Tensor]]
    images: Tensor
    labels: Tensor

    def logits(self, parameters: dict[str, Tensor]) -> Tensor:
        """By torch alone."""
        model = deepcopy(self.model)
        model.load_state_dict(parameters)
        with torch.no_grad():
            return model(self.images)

    def losses(self, parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self.logits(parameters), self.labels, reduction="none")


@cache
def case(architecture: str, num_images: int = 4) -> Case:
    """A network with random parameters, three random directions a tenth as long, and images."""
    make, num_classes, shape = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    model = make().double().eval()
    rng = torch.Generator().manual_seed(1)
    start, deltas = {}, [{}, {}, {}]
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            start[key] = torch.tensor(7)
            continue
        noise = torch.randn(4, *tensor.shape, dtype=torch.float64, generator=rng)
        size = 1.0 if tensor.ndim < 2 else tensor.square().mean().sqrt().item()
        start[key] = tensor + 0.2 * (
            noise[0].abs() if key.endswith("running_var") else size * noise[0]
        )
        for delta, step in zip(deltas, noise[1:], strict=True):
            delta[key] = 0.1 * size * (step.abs() if key.endswith("running_var") else step)
    images = torch.randn(num_images, *shape, dtype=torch.float64, generator=rng)
    return Case(
        model, start, deltas, images, torch.randint(num_classes, (num_images,), generator=rng)
    )


every_architecture = pytest.mark.parametrize("architecture", list(ARCHITECTURES))


def moved(state: dict[str, Tensor], direction: dict[str, Tensor], step: float) -> dict[str, Tensor]:
    return {
        key: tensor + step * direction[key] if key in direction else tensor
        for key, tensor in state.items()
    }


def by_differences(
    function: Callable[[dict[str, Tensor]], Tensor], state, direction
) -> tuple[Tensor, Tensor]:
    """First and second derivative along a direction, by central differences of fourth order."""
    h = 1e-2
    back2, back, here, there, there2 = (
        function(moved(state, direction, k * h)) for k in range(-2, 3)
    )
    first = (back2 - 8 * back + 8 * there - there2) / (12 * h)
    return first, (-back2 + 16 * back - 30 * here + 16 * there - there2) / (12 * h**2)


def assert_near(one: Tensor, other: Tensor, rtol: float) -> None:
    assert one.shape == other.shape
    assert (one - other).norm() <= rtol * other.norm(), (
        f"{(one - other).norm() / other.norm():.1e} apart"
    )


def mean_of(case: Case, weights: Sequence[float], scale: float = 1.0) -> dict[str, Tensor]:
    """The parameters of the soup."""
    soup = dict(case.start)
    for key in case.deltas[0]:
        soup[key] = sum(
            w * (case.start[key] + scale * d[key])
            for w, d in zip(weights, case.deltas, strict=True)
        )
    return soup


def ways_from(soup: dict[str, Tensor], case: Case, scale: float = 1.0) -> list[dict[str, Tensor]]:
    """d_i = theta_i - theta_bar."""
    return [{key: case.start[key] + scale * d[key] - soup[key] for key in d} for d in case.deltas]


@every_architecture
def test_two_derivatives_are_the_limits_of_differences(architecture):
    c = case(architecture)
    for function, labels in ((c.logits, None), (c.losses, c.labels)):
        value, slope, curvature = derivatives(
            c.model, c.start, c.deltas[0], c.images, labels=labels
        )
        first, second = by_differences(function, c.start, c.deltas[0])
        torch.testing.assert_close(value, function(c.start))
        assert_near(slope, first, 1e-6)
        assert_near(curvature, second, 1e-5)
        assert not any(t.requires_grad for t in (value, slope, curvature))
    at_start, change = first_order(c.model, c.start, c.deltas[0], c.images)
    torch.testing.assert_close(at_start, c.logits(c.start))
    assert_near(change, by_differences(c.logits, c.start, c.deltas[0])[0], 1e-6)


@every_architecture
def test_derivatives_change_no_argument(architecture):
    c = case(architecture)
    given = [c.model.state_dict(), c.start, *c.deltas]
    before = deepcopy(given)
    derivatives(c.model, c.start, c.deltas[0], c.images, labels=c.labels)
    second_order_gap(c.model, c.start, c.deltas, WEIGHTS, c.images)
    for then, now in zip(before, given, strict=True):
        assert then.keys() == now.keys()
        assert all(torch.equal(then[key], now[key]) for key in then)


def test_counters_are_not_moved():
    c = case("DigitsNet with batch norm")
    counters = [key for key in c.start if key.endswith(COUNTER)]
    assert len(counters) == 3
    there = combine(c.start, c.deltas, [1, 0, 0])
    there |= {key: torch.tensor(1000) for key in counters}
    (delta,) = directions(c.start, [there])
    assert not set(delta) & set(counters)
    assert any(key.endswith("running_mean") for key in delta)
    for key, tensor in delta.items():
        torch.testing.assert_close(tensor, c.deltas[0][key])
    assert all(combine(c.start, [delta], [0.5])[key] == 7 for key in counters)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_network_in_training_mode(norm):
    """Group norm works; batch norm would use the statistics of the batch, and is refused."""
    c = case("DigitsNet" if norm == "group" else "DigitsNet with batch norm")
    training = deepcopy(c.model).train()
    if norm == "batch":
        with pytest.raises(ParameterError, match=r"model\.eval\(\)"):
            derivatives(training, c.start, c.deltas[0], c.images)
    else:
        for one, other in zip(
            derivatives(training, c.start, c.deltas[0], c.images),
            derivatives(c.model, c.start, c.deltas[0], c.images),
            strict=True,
        ):
            assert torch.equal(one, other)


SCALES = [10 ** (-k / 2) for k in range(2, 8)]
EXPECTED_ORDER = {
    "logits: soup - linear": 2,
    "logits: ensemble - linear": 2,
    "logits: soup - ensemble": 2,
    "logits: soup - ensemble - gap": 3,
    "loss: soup - linear": 2,
    "loss: ensemble - linear": 2,
    "loss: mean - linear": 2,
    "loss: soup - ensemble": 2,
    "loss: soup - ensemble - gap": 3,
}


@every_architecture
def test_every_difference_has_its_order(architecture, capsys):
    """T1 to T3: log-log slopes of the differences, and the relative error of T3."""
    c = case(architecture)
    found = differences_by_scale(
        c.model, c.start, c.deltas, WEIGHTS, c.images, labels=c.labels, scales=SCALES
    )
    assert found.keys() == EXPECTED_ORDER.keys()
    slopes = {
        name: np.polyfit(np.log(SCALES), np.log(values), 1)[0] for name, values in found.items()
    }
    errors = {
        of: found[f"{of}: soup - ensemble - gap"][-1] / found[f"{of}: soup - ensemble"][-1]
        for of in ("logits", "loss")
    }
    with capsys.disabled():
        fits = ", ".join(f"{slope:.3f}" for slope in slopes.values())
        print(
            f" {architecture}: slopes {fits}; T3 misses {errors['logits']:.2%} "
            f"and {errors['loss']:.2%} ",
            end="",
        )
    for name, slope in slopes.items():
        assert slope == pytest.approx(EXPECTED_ORDER[name], abs=0.05), name
    assert max(errors.values()) < 0.02


@every_architecture
def test_differences_by_scale_by_hand(architecture):
    """Every entry again, from complete state dicts."""
    c, scale = case(architecture), 0.3
    p = torch.tensor(WEIGHTS, dtype=torch.float64)
    p = (p / p.sum()).tolist()
    found = differences_by_scale(
        c.model, c.start, c.deltas, WEIGHTS, c.images, labels=c.labels, scales=[scale]
    )
    mean_delta = {
        key: sum(w * d[key] for w, d in zip(p, c.deltas, strict=True)) for key in c.deltas[0]
    }
    soup_state = moved(c.start, mean_delta, scale)
    soup, at_start = c.logits(soup_state), c.logits(c.start)
    alone = [c.logits(moved(c.start, d, scale)) for d in c.deltas]
    ensemble = sum(w * f for w, f in zip(p, alone, strict=True))
    linear = at_start + scale * by_differences(c.logits, c.start, mean_delta)[0]
    ways = ways_from(soup_state, c, scale)
    bends = [by_differences(c.logits, soup_state, way)[1] for way in ways]
    predicted = -0.5 * sum(w * bend for w, bend in zip(p, bends, strict=True))

    def losses(z: Tensor) -> Tensor:
        return F.cross_entropy(z, c.labels, reduction="none")

    line = losses(at_start) + scale * by_differences(c.losses, c.start, mean_delta)[0]
    mean = sum(w * losses(f) for w, f in zip(p, alone, strict=True))
    gradient = soup.softmax(1) - F.one_hot(c.labels, soup.shape[1])
    differences = {
        "logits: soup - linear": soup - linear,
        "logits: ensemble - linear": ensemble - linear,
        "logits: soup - ensemble": soup - ensemble,
        "logits: soup - ensemble - gap": soup - ensemble - predicted,
        "loss: soup - linear": losses(soup) - line,
        "loss: ensemble - linear": losses(ensemble) - line,
        "loss: mean - linear": mean - line,
        "loss: soup - ensemble": losses(soup) - losses(ensemble),
        "loss: soup - ensemble - gap": losses(soup)
        - losses(ensemble)
        - (gradient * predicted).sum(1),
    }
    for name, difference in differences.items():
        expected = difference.square().mean().sqrt().item()
        assert found[name] == [pytest.approx(expected, rel=1e-4, abs=1e-9)], name


@every_architecture
def test_the_predicted_gap_follows_its_definition(architecture):
    """Logits, slopes, curvatures, variance and both forms of the loss, from plain loops."""
    c, scale, weights = case(architecture), 0.5, [0.5, 0.25, 0.25]
    found = second_order_gap(c.model, c.start, c.deltas, weights, c.images, scale=scale)
    soup = mean_of(c, weights, scale)
    ways = ways_from(soup, c, scale)
    torch.testing.assert_close(found.soup, c.logits(soup))
    assert found.weights.tolist() == weights
    for k, way in enumerate(ways):
        first, second = by_differences(c.logits, soup, way)
        assert_near(found.slopes[k], first, 1e-6)
        assert_near(found.curvatures[k], second, 1e-5)
    expected = sum(-0.5 * w * found.curvatures[k] for k, w in enumerate(weights))
    torch.testing.assert_close(found.logits, expected, rtol=1e-12, atol=1e-15)

    q = found.soup.softmax(1)
    N, n, C = found.slopes.shape
    for k in range(N):
        for i in range(n):
            mean = sum(q[i, y] * found.slopes[k, i, y] for y in range(C))
            variance = sum(q[i, y] * (found.slopes[k, i, y] - mean) ** 2 for y in range(C))
            torch.testing.assert_close(found.variance[k, i], variance, rtol=1e-9, atol=1e-14)

    hessian = torch.stack(
        [derivatives(c.model, soup, way, c.images, labels=c.labels)[2] for way in ways]
    )
    second_form = sum(0.5 * w * (found.variance[k] - hessian[k]) for k, w in enumerate(weights))
    gradient = q - F.one_hot(c.labels, C)
    first_form = (gradient * found.logits).sum(1)
    for form in (found.loss(c.labels), found.loss_by_hessian(c.labels)):
        assert form.shape == (n,)
        assert_near(form, second_form, 1e-10)
        assert_near(form, first_form, 1e-10)


@every_architecture
def test_batches_and_weights_of_zero_change_nothing(architecture, monkeypatch):
    c = case(architecture, num_images=5)
    whole = second_order_gap(c.model, c.start, c.deltas, WEIGHTS, c.images)
    for batch_size in (1, 2, 5):
        parts = second_order_gap(
            c.model, c.start, c.deltas, WEIGHTS, c.images, batch_size=batch_size
        )
        for name in ("soup", "slopes", "curvatures", "weights", "logits", "variance"):
            assert_near(getattr(parts, name), getattr(whole, name), 1e-11)

    passes = []
    monkeypatch.setattr(
        "radin.theory.taylor.derivatives",
        lambda *arguments: passes.append(arguments) or derivatives(*arguments),
    )
    two = second_order_gap(c.model, c.start, [c.deltas[0], c.deltas[2]], [0.6, 0.4], c.images)
    assert len(passes) == 2
    three = second_order_gap(c.model, c.start, c.deltas, [0.6, 0, 0.4], c.images)
    assert len(passes) == 4
    assert (three.slopes.shape, three.curvatures.shape) == ((3, *two.soup.shape),) * 2
    for one, other in ((three.slopes, two.slopes), (three.curvatures, two.curvatures)):
        assert not one[1].any()
        torch.testing.assert_close(one[[0, 2]], other)
    torch.testing.assert_close(three.logits, two.logits)
    torch.testing.assert_close(three.loss(c.labels), two.loss(c.labels))
    torch.testing.assert_close(three.loss_by_hessian(c.labels), two.loss_by_hessian(c.labels))


@every_architecture
def test_one_ingredient_and_one_image(architecture):
    c = case(architecture, num_images=1)
    for weights, deltas in (([1.0], c.deltas[:1]), ([0.0, 1.0, 0.0], c.deltas)):
        found = second_order_gap(c.model, c.start, deltas, weights, c.images)
        torch.testing.assert_close(
            found.soup, c.logits(moved(c.start, deltas[weights.index(1)], 1))
        )
        assert found.slopes.shape == (len(weights), *found.soup.shape)
        assert not found.logits.any()
        assert not found.loss(c.labels).any()
        assert not found.loss_by_hessian(c.labels).any()


def test_single_and_half_precision():
    c = case("MLP")
    exact = second_order_gap(c.model, c.start, c.deltas, WEIGHTS, c.images)
    for dtype, rtol in ((torch.float32, 1e-5), (torch.float16, 0.05), (torch.bfloat16, 0.2)):
        start = {key: tensor.to(dtype) for key, tensor in c.start.items()}
        ends = [{key: (c.start[key] + d[key]).to(dtype) for key in d} for d in c.deltas]
        found = second_order_gap(
            deepcopy(c.model).to(dtype), start, directions(start, ends), WEIGHTS, c.images.to(dtype)
        )
        assert {
            t.dtype
            for t in (found.soup, found.slopes, found.curvatures, found.logits, found.weights)
        } == {dtype}
        assert_near(found.soup.double(), exact.soup, rtol)
        assert_near(found.logits.double(), exact.logits, 10 * rtol)
        assert found.loss(c.labels).dtype == dtype


def test_where_the_network_is_linear_the_gap_is_zero():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    rng = torch.Generator().manual_seed(1)
    states = [
        {
            key: torch.randn(t.shape, dtype=t.dtype, generator=rng)
            for key, t in model.state_dict().items()
        }
        for _ in range(4)
    ]
    labels = torch.tensor([0, 1, 1, 0, 0])
    found = second_order_gap(model, states[0], directions(states[0], states[1:]), WEIGHTS, IMAGES)
    assert found.slopes.any()
    assert not found.curvatures.any()
    assert not found.logits.any()
    assert not found.loss(labels).any()
    torch.testing.assert_close(found.loss_by_hessian(labels), torch.zeros(5).double())
    images = differences_by_image(
        model, states[0], directions(states[0], states[1:]), WEIGHTS, IMAGES
    )
    assert images["moved"].min() > 0.1
    for name in ("beyond first order", "gap", "beyond second order"):
        assert images[name].max() < 1e-14


@every_architecture
def test_differences_by_image(architecture):
    c, weights = case(architecture), [0.5, 0.25, 0.25]
    found = differences_by_image(c.model, c.start, c.deltas, weights, c.images)
    mean = {
        key: sum(w * d[key] for w, d in zip(weights, c.deltas, strict=True)) for key in c.deltas[0]
    }
    soup = c.logits(mean_of(c, weights))
    ensemble = sum(
        w * c.logits(moved(c.start, d, 1)) for w, d in zip(weights, c.deltas, strict=True)
    )
    linear = c.logits(c.start) + by_differences(c.logits, c.start, mean)[0]
    predicted = second_order_gap(c.model, c.start, c.deltas, weights, c.images).logits
    differences = {
        "moved": soup - c.logits(c.start),
        "beyond first order": soup - linear,
        "gap": soup - ensemble,
        "beyond second order": soup - ensemble - predicted,
    }
    assert found.keys() == differences.keys()
    for name, difference in differences.items():
        expected = torch.stack([sum(z**2 for z in row) / len(row) for row in difference]).sqrt()
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-8)


def test_impossible_values_of_a_gap():
    c = case("MLP")
    for weights in ([1, 1, 1], [0.5, 0.5], [1.5, -0.5, 0]):
        for use in (second_order_gap, differences_by_image):
            with pytest.raises(ParameterError, match="Mixing weights"):
                use(c.model, c.start, c.deltas, weights, c.images)
        with pytest.raises(ParameterError, match="Mixing weights"):
            differences_by_scale(
                c.model, c.start, c.deltas, weights, c.images, labels=c.labels, scales=[1.0]
            )
    for scale in (0, -1, float("nan")):
        with pytest.raises(ParameterError, match="scale must be positive"):
            second_order_gap(c.model, c.start, c.deltas, WEIGHTS, c.images, scale=scale)
        with pytest.raises(ParameterError, match="scale must be positive"):
            differences_by_scale(
                c.model, c.start, c.deltas, WEIGHTS, c.images, labels=c.labels, scales=[1.0, scale]
            )
