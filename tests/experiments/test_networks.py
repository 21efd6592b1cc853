"""radin/experiments/networks.py: networks that can be averaged, predicted and differentiated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from radin.errors import ParameterError
from radin.experiments.networks import DigitsNet, Mlp, SmallTransformer
from radin.files import hash_text


def test_shapes_and_size():
    model = DigitsNet()
    assert model(torch.zeros(5, 1, 8, 8)).shape == (5, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 58_634
    assert DigitsNet(8)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_all_of_the_model_is_averaged():
    """No running statistics, no counters: the state dict is the parameters."""
    model = DigitsNet()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_an_image_does_not_depend_on_its_batch():
    model, images = DigitsNet(8).train(), torch.randn(6, 1, 8, 8)
    together = model(images)
    torch.testing.assert_close(together, torch.cat([model(image.unsqueeze(0)) for image in images]))
    torch.testing.assert_close(together, model.eval()(images))


def test_second_derivatives_exist():
    model = DigitsNet(4).double()
    images = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(model(images).sum(), images, create_graph=True)
    (bend,) = torch.autograd.grad(slope.square().sum(), images)
    assert bend.abs().max() > 0


def test_the_default_network_is_the_one_in_caches():
    """Stored zoos are found by the network's description, and trained from these first weights."""
    assert hash_text(repr(DigitsNet())) == hash_text(repr(DigitsNet(32, norm="group")))
    assert hash_text(repr(DigitsNet())).startswith("323440a836077aac")
    torch.manual_seed(0)
    total = sum(tensor.double().sum().item() for tensor in DigitsNet().state_dict().values())
    assert total == pytest.approx(159.397951, abs=1e-4)


def test_batch_norm_in_place_of_group_norm():
    model = DigitsNet(8, norm="batch")
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.body) == 3
    assert not any(isinstance(layer, nn.GroupNorm) for layer in model.body)
    assert [p.shape for p in model.parameters()] == [p.shape for p in DigitsNet(8).parameters()]
    assert model(torch.zeros(5, 1, 8, 8)).shape == (5, 10)


@pytest.mark.parametrize("norm", ["layer", "", None, nn.BatchNorm2d])
def test_other_norms_are_refused(norm):
    with pytest.raises(ParameterError, match='norm must be "group" or "batch", not'):
        DigitsNet(norm=norm)


def test_shapes_of_the_other_networks():
    assert Mlp(12, 3, width=5)(torch.zeros(4, 3, 2, 2)).shape == (4, 3)
    assert SmallTransformer()(torch.zeros(4, 1, 8, 8)).shape == (4, 10)
    assert SmallTransformer(3, size=4, channels=2, heads=2)(torch.zeros(4, 2, 4, 4)).shape == (4, 3)
    assert sum(parameter.numel() for parameter in SmallTransformer().parameters()) == 18_154


@pytest.mark.parametrize("make", [lambda: Mlp(64, 10), SmallTransformer])
def test_images_do_not_depend_on_their_batch_here_either(make):
    torch.manual_seed(0)
    model, images = make(), torch.randn(6, 1, 8, 8)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    torch.testing.assert_close(
        model(images), torch.cat([model(image.unsqueeze(0)) for image in images])
    )


def test_impossible_transformers():
    for size in (7, 0, -2):
        with pytest.raises(
            ParameterError, match=f"size must be an even number of pixels, not {size}"
        ):
            SmallTransformer(size=size)
    for heads in (3, 0, -4, 64):
        with pytest.raises(ParameterError, match=f"heads must divide 32, .*it is {heads}"):
            SmallTransformer(heads=heads)


def test_the_transformer_sees_the_position_of_a_patch():
    torch.manual_seed(0)
    model, images = SmallTransformer(), torch.randn(3, 1, 8, 8)
    assert not torch.allclose(model(images), model(images.flip(-1).roll(2, -1)), atol=1e-3)
    with torch.no_grad():
        model.positions.zero_()
    moved = images.roll(2, -1)  # by one patch: the same patches at other positions
    torch.testing.assert_close(model(images), model(moved), rtol=1e-4, atol=1e-5)
