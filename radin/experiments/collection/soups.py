"""Evaluating all soups of a tiny network in memory, one matrix product for many averages.

On a processor one plain pass over all images is faster for these networks than stacked passes over
many soups (`radin.experiments.bench.tabulate`). What costs is the rest, above all loading weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radin.errors import ParameterError

State = Mapping[str, Tensor]
SOUPS_PER_PRODUCT = 256


class FlatNetwork:
    """A network whose parameters are views of one vector, so that new weights are one copy.

    Args:
        build: returns an empty network without buffers, such as running statistics.

    Raises:
        ParameterError: the network has buffers.
    """

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.model = build().eval().requires_grad_(False)
        if list(self.model.buffers()):
            raise ParameterError("A flat network must have no buffers; use one without batch norm.")
        parameters = list(self.model.parameters())
        self.vector = torch.cat([parameter.flatten() for parameter in parameters])
        pieces = self.vector.split([parameter.numel() for parameter in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.data = piece.view_as(parameter)
        self.names = [name for name, _ in self.model.named_parameters()]

    def flatten(self, states: Sequence[State]) -> Tensor:
        """Several networks' parameters as rows: (N, P)."""
        return torch.stack(
            [torch.cat([state[name].flatten() for name in self.names]) for state in states]
        )

    @torch.inference_mode()
    def logits(self, vector: Tensor, images: Tensor) -> Tensor:
        """The logits (n, C) of the network with these parameters (P,)."""
        self.vector.copy_(vector)
        return self.model(images)


def soup_answers(
    network: FlatNetwork, ingredients: Tensor, weights: Tensor, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluate soups image by image.

    Args:
        network: of the ingredients' architecture.
        ingredients: (N, P), as `FlatNetwork.flatten` gives them.
        weights: (R, N) mixing weights.
        images: (n, ...).
        labels: (n,).

    Returns:
        (R, n) boolean, whether each soup is right on each image; and (R, n) single precision, its
        negative log-likelihood in nats.
    """
    right = torch.empty(len(weights), len(labels), dtype=torch.bool)
    losses = torch.empty(len(weights), len(labels))
    for start in range(0, len(weights), SOUPS_PER_PRODUCT):
        soups = weights[start : start + SOUPS_PER_PRODUCT].to(ingredients.dtype) @ ingredients
        for row, soup in enumerate(soups, start=start):
            logits = network.logits(soup, images)
            right[row] = logits.argmax(1) == labels
            losses[row] = F.cross_entropy(logits, labels, reduction="none")
    return right, losses
