"""Batch norm with fixed statistics, folded into the convolutions before it."""

from __future__ import annotations

import copy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class Folded:
    """A network of timm run without its batch norm: each is part of the convolution before it.

    With fixed statistics batch norm multiplies and shifts each channel, and so can a convolution.
    The result is the same but for rounding, and so are the gradients; a step of training needs
    about two thirds of the time. While a batch norm is training, the statistics of the batch are
    needed, and the network has to run as it is.

    Args:
        network: convolutions without bias, each followed by one batch norm, as `modules` lists
            them. Its tensors are given with each call, so it may change.

    Source: Jacob et al. 2018, section 3.2.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [
            (name, module)
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
        ]
        # Only the structure is kept: its own tensors hold no numbers.
        self._structure = copy.deepcopy(network).to("meta")
        self._pairs = []
        for (conv_name, conv), (norm_name, norm) in zip(layers[::2], layers[1::2], strict=True):
            assert isinstance(conv, nn.Conv2d), conv_name
            assert isinstance(norm, nn.BatchNorm2d), norm_name
            assert conv.bias is None, conv_name
            self._structure.set_submodule(conv_name, _Convolution(conv))
            # timm's batch norm holds the activation that follows it.
            activation = getattr(norm, "act", nn.Identity())
            self._structure.set_submodule(norm_name, copy.deepcopy(activation))
            self._pairs.append((conv_name, norm_name, norm.eps))

    def __call__(self, network: nn.Module, inputs: Tensor) -> Any:
        """What the network gives for its inputs, with batch norm in evaluation mode."""
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        folded = {}
        for conv, norm, eps in self._pairs:
            scale = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + eps).sqrt()
            folded[f"{conv}.weight"] = tensors[f"{conv}.weight"] * scale[:, None, None, None]
            mean = tensors[f"{norm}.running_mean"]
            folded[f"{conv}.bias"] = tensors[f"{norm}.bias"] - mean * scale
        return functional_call(self._structure, folded, (inputs,))


class _Convolution(nn.Conv2d):
    """A convolution with bias and the padding "same" of TensorFlow, as timm's `Conv2dSame`.

    On an even edge and with stride 2, "same" adds more zeros after the image than before. A kernel
    with one more row and column of zeros in front does this without a copy of the image.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            groups=conv.groups,
            device="meta",
        )

    def forward(self, inputs: Tensor) -> Tensor:
        height, width = inputs.shape[-2:]
        above = int(self.stride[0] == 2 and height % 2 == 0)
        left = int(self.stride[1] == 2 and width % 2 == 0)
        weight = F.pad(self.weight, (left, 0, above, 0)) if above or left else self.weight
        edge = self.kernel_size[0] // 2
        return F.conv2d(inputs, weight, self.bias, self.stride, edge, 1, self.groups)
