"""radin/models.py: the small networks can be averaged, predicted batch by batch, and differentiated."""

from __future__ import annotations

import torch

from radin.models import DigitsNet


def test_shapes_and_size():
    model = DigitsNet()
    assert model(torch.zeros(5, 1, 8, 8)).shape == (5, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 58_634
    assert DigitsNet(8)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_all_of_the_model_is_averaged():
    """No running statistics, no counters: the state dict is the parameters."""
    model = DigitsNet()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_an_image_is_judged_alone_and_always_the_same():
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
