"""radin/experiments/folded.py: the network without batch norm is the network."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from radin.experiments.folded import Folded
from radin.experiments.pretrained import EfficientNetLite0, EfficientNetLite0Upper


def with_random_statistics(model: nn.Module) -> nn.Module:
    """The model with statistics and factors that are not those of a new batch norm."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def body() -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    return with_random_statistics(network)


@hypothesis_settings(max_examples=12)
@given(height=st.integers(17, 100), width=st.integers(17, 100), seed=st.integers(0, 99))
def test_outputs_are_those_of_the_network_for_every_size(body, height, width, seed):
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = body(images)
        assert torch.allclose(Folded(body)(body, images), expected, rtol=1e-3, atol=1e-4)


def test_gradients_are_those_of_the_network(body):
    images = torch.randn(2, 3, 40, 40)
    gradients = []
    for run in (body, lambda inputs: Folded(body)(body, inputs)):
        body.zero_grad()
        run(images).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in body.named_parameters()})
    for name, expected in gradients[0].items():
        difference = (gradients[1][name] - expected).norm() / expected.norm()
        assert difference < 1e-3, name


def test_new_weights_are_used(body):
    folded = Folded(body)
    other = with_random_statistics(timm.create_model("tf_efficientnet_lite0", num_classes=0))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(folded(other, images), other(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("network", [EfficientNetLite0, EfficientNetLite0Upper])
def test_the_folded_structure_is_no_part_of_the_state(network):
    model = network(3)
    parts = (*model.body.parameters(), *model.head.parameters())
    assert list(map(id, model.parameters())) == list(map(id, parts))
    assert all(key.startswith(("body.", "head.")) for key in model.state_dict())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_soups_run_side_by_side(body):
    """As on a GPU, where the tensors of several soups are stacked."""
    images = torch.randn(2, 3, 32, 32)
    model = EfficientNetLite0(3)
    model.body.load_state_dict(body.state_dict())
    model.eval()
    stacked = {key: torch.stack([tensor, tensor]) for key, tensor in model.state_dict().items()}

    def run(state: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(model, state, (images,))

    with torch.no_grad():
        found = torch.func.vmap(run)(stacked)
        assert torch.allclose(found[0], model(images), rtol=1e-3, atol=1e-4)
        assert torch.allclose(found[0], found[1])


def test_moving_statistics_are_those_of_the_batch(body):
    images = torch.randn(4, 3, 32, 32)
    model = EfficientNetLite0(3, moving_statistics=True)
    model.body.load_state_dict(body.state_dict())
    scaled = (images * (127.5 / 128) + 0.5 / 128).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        features = model.train().features(images)
        assert torch.equal(features, model.body.train()(scaled))
