"""One network that can hold any soup of a zoo, and the gradient of its loss by mixing weights.

The slope of the loss along an ingredient's weight is the inner product of the loss's gradient at
the soup with that ingredient's tensors. So one backward pass through one network gives the slopes
of all N, and the ingredients are read from their files in blocks. Each tensor's gradient is freed
when its products are known, so memory is one network with its activations.

Source: Li et al. 2024 (MEHL-Soup, arXiv 2407.03641).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from radin.checkpoints.dtypes import is_averaged
from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.data.network_inputs import Inputs
from radin.errors import DataError, check_word
from radin.inference.forward import batch_logits, move_model
from radin.ranking.bank import check_labels
from radin.soup.ingredient_blocks import open_blocks

GRANULARITIES = ("ingredient", "block", "tensor")
MAX_HELD_GPU_SHARE = 0.5  # of the free memory of a GPU, for ingredients that stay there


class Mixture:
    """One network on a device, and the files of N ingredients that it can hold any mixture of.

    It is a context that closes the files.

    Args:
        granularity: what has mixing weights of its own: "ingredient" (one weight for each), "block"
            (each block of layers) or "tensor" (each parameter tensor).

    Attributes:
        model: the network, in evaluation mode.
        rows: a number from 0 to T - 1 for each parameter, by its name in the state dict; tied
            parameters share one.
        num_rows: T.

    Raises:
        ParameterError: another granularity, or a zoo without `build`.
    """

    def __init__(self, zoo: Zoo, device: torch.device, *, granularity: str = "ingredient") -> None:
        check_word("granularity", granularity, GRANULARITIES)
        wide = (torch.float64, torch.complex128)
        double = any(zoo[0][key].dtype in wide for key in zoo.keys())
        dtype = torch.float64 if double else torch.float32
        self.device = device
        # Evaluation mode, as the soup will be used: no dropout, batch norm by averaged statistics.
        self.model = move_model(zoo.model(0), device, dtype)
        self.model._apply(torch.Tensor.contiguous)  # so that they can be filled block by block
        self.rows = parameter_rows(self.model, granularity)
        self.num_rows = len(set(self.rows.values()))
        self._states = [zoo[k] for k in range(len(zoo))]
        self._tensors = _distinct_tensors(self.model, zoo.keys())
        averaged = [key for key, tensor in self._tensors.items() if is_averaged(tensor.dtype)]
        self._stack = ExitStack()
        self._blocks = self._stack.enter_context(
            open_blocks(self._states, averaged, dtype=dtype, device=device)
        )
        self._slopes = torch.zeros(self.num_rows, len(zoo), dtype=torch.float64, device=device)
        for key in averaged:
            if key in self.rows:
                self._add_products_of(key)
        if self._has_room_for_all(averaged):
            self._blocks.hold(averaged)

    def __enter__(self) -> Mixture:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @torch.no_grad()
    def load(self, weights: Tensor) -> nn.Module:
        """Let the network be the soup of mixing weights (N,), or (T, N) with a row for each part.

        Buffers are mixed by the mean row or, if they hold whole numbers, come from the ingredient
        with the largest weight.
        """
        rows = weights.expand(self.num_rows, -1)
        mean_row = rows.mean(0)
        heaviest = int(mean_row.argmax())
        for key, tensor in self._tensors.items():
            if is_averaged(tensor.dtype):
                p = rows[self.rows[key]] if key in self.rows else mean_row
                self._blocks.mix(key, p, tensor)
            else:
                tensor.copy_(self._states[heaviest][key])
        return self.model

    def backward(self, alpha: Tensor, log_scale: Tensor, images: Inputs, labels: Tensor) -> float:
        """The mean cross-entropy in nats of softmax(alpha)'s soup, logits times exp(log_scale).

        Its gradient is added to `alpha.grad` and, where it is wanted, to `log_scale.grad`. No
        gradient goes through buffers: torch has none for the statistics of batch norm.
        """
        weights = alpha.softmax(-1)
        self.load(weights.detach())
        logits = batch_logits(self.model, images, self.device)
        check_labels(labels, logits.shape[-1])
        if not logits.requires_grad:
            raise DataError(
                f"{type(self.model).__name__} gives logits without a gradient, so no mixing "
                "weights can be learned through it; take torch.no_grad and .detach() out of its "
                "forward."
            )
        loss = F.cross_entropy(logits * log_scale.exp(), labels.to(self.device))
        self._slopes.zero_()
        loss.backward()  # the hooks of the parameters add up the slopes
        weights.backward(self._slopes.sum_to_size(weights.shape).to(weights.dtype))
        return loss.item()

    @torch.no_grad()
    def loss(
        self, alpha: Tensor, log_scale: Tensor, split: Dataset[Any], *, batch_size: int
    ) -> float:
        """The mean cross-entropy in nats on all images of a split."""
        self.load(alpha.softmax(-1))
        total, count = 0.0, 0
        for images, labels in batches(split, batch_size):
            logits = batch_logits(self.model, images, self.device) * log_scale.exp()
            check_labels(labels, logits.shape[-1])
            total += F.cross_entropy(logits, labels.to(self.device), reduction="sum").item()
            count += len(labels)
        return total / count

    def _add_products_of(self, key: str) -> None:
        """Once a parameter has its gradient, multiply it with the ingredients and free it."""
        row = self.rows[key]

        def add_products(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            parameter.grad = None
            dense = gradient.to_dense() if gradient.is_sparse else gradient
            with torch.no_grad():
                self._slopes[row] += self._blocks.products(key, parameter, dense)

        self._tensors[key].register_post_accumulate_grad_hook(add_products)

    def _has_room_for_all(self, keys: list[str]) -> bool:
        """Whether all ingredients fit beside the network on a GPU, which reads files slowly."""
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        num_bytes = len(self._states) * sum(self._tensors[key].nbytes for key in keys)
        return num_bytes <= MAX_HELD_GPU_SHARE * free


def parameter_rows(model: nn.Module, granularity: str) -> dict[str, int]:
    """Which row of mixing weights each parameter has, by its name; tied parameters share one."""
    parameters = dict(model.named_parameters())
    names = {
        "ingredient": dict.fromkeys(parameters, ""),
        "block": {name: block_of(name) for name in parameters},
        "tensor": {name: name for name in parameters},
    }[granularity]
    row_of = {part: row for row, part in enumerate(dict.fromkeys(names.values()))}
    rows = {id(parameter): row_of[names[name]] for name, parameter in parameters.items()}
    return {name: rows[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def block_of(name: str) -> str:
    """The block of layers that a parameter belongs to: up to the first number in its name.

    Without a number it is the parameter's own module.

    >>> block_of("visual.resblocks.11.mlp.c_fc.weight"), block_of("visual.conv1.weight")
    ('visual.resblocks.11', 'visual.conv1')
    """
    parts = name.split(".")
    numbered = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[0] + 1] if numbered else parts[:-1])


def _distinct_tensors(model: nn.Module, keys: list[str]) -> Mapping[str, Tensor]:
    """The model's tensors by their keys; of tied ones the last key, as `load_state_dict` does."""
    own: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    own |= dict(model.named_buffers(remove_duplicate=False))
    last_key = {id(own[key]): key for key in keys if key in own}
    return {key: own[key] for key in last_key.values()}
