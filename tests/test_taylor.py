"""radin/taylor.py: first-order terms against differences, and the order of the soup-ensemble gap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import build, state
from torch import Tensor, nn

from radin.errors import ParameterError
from radin.taylor import combine, directions, first_order, soup_ensemble_linear

IMAGES = torch.randn(5, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
START = {key: tensor.double() for key, tensor in state(0).items()}
INGREDIENTS = [{key: START[key] + 0.1 * t.double() for key, t in state(seed).items()} for seed in (1, 2, 3)]
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
        torch.testing.assert_close(tensor, sum(w * i[key] for w, i in zip(WEIGHTS, INGREDIENTS, strict=True)))


def test_the_derivative_is_the_limit_of_differences():
    (delta,) = directions(START, INGREDIENTS[:1])
    at_start, change = first_order(build().double(), START, delta, IMAGES)
    torch.testing.assert_close(at_start, logits(START))
    step = 1e-5
    there, back = (logits(combine(START, [delta], [sign * step])) for sign in (1, -1))
    torch.testing.assert_close(change, (there - back) / (2 * step), rtol=1e-6, atol=1e-9)


def test_soup_and_ensemble_are_what_they_say():
    soup, ensemble, _ = soup_ensemble_linear(build().double(), START, directions(START, INGREDIENTS), WEIGHTS, IMAGES)
    mean = {key: sum(w * i[key] for w, i in zip(WEIGHTS, INGREDIENTS, strict=True)) for key in START}
    torch.testing.assert_close(soup, logits(mean), rtol=1e-6, atol=1e-6)  # weights come in single precision
    votes = sum(w * logits(i) for w, i in zip(WEIGHTS, INGREDIENTS, strict=True))
    torch.testing.assert_close(ensemble, votes, rtol=1e-6, atol=1e-6)


def test_gaps_close_with_the_square_of_the_distance():
    scales = [2.0**-k for k in range(4, 9)]
    deltas, model = directions(START, INGREDIENTS), build().double()
    gaps = []
    for scale in scales:
        soup, ensemble, linear = soup_ensemble_linear(model, START, deltas, WEIGHTS, IMAGES, scale)
        gaps.append(
            [(one - other).norm().item() for one, other in ((soup, ensemble), (soup, linear), (ensemble, linear))]
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
        {k: torch.randn(t.shape, dtype=t.dtype, generator=rng) for k, t in model.state_dict().items()} for _ in "abcd"
    ]
    soup, ensemble, linear = soup_ensemble_linear(model, states[0], directions(states[0], states[1:]), WEIGHTS, IMAGES)
    torch.testing.assert_close(soup, ensemble)
    torch.testing.assert_close(soup, linear)


def test_impossible_values():
    deltas = directions(START, INGREDIENTS)
    for weights in ([1, 1, 1], [0.5, 0.5], [1.5, -0.5, 0]):
        with pytest.raises(ParameterError, match="Mixing weights"):
            soup_ensemble_linear(build().double(), START, deltas, weights, IMAGES)
    for scale in (0, -1, float("nan")):
        with pytest.raises(ParameterError, match="scale must be positive"):
            soup_ensemble_linear(build().double(), START, deltas, WEIGHTS, IMAGES, scale)
