"""What a network takes: a tensor, or several tensors by the names of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

# (n, ...), such as images; or a mapping of such tensors, such as input_ids and attention_mask
Inputs = Tensor | Mapping[str, Tensor]


def map_inputs(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """The inputs with the function of each tensor.

    >>> import torch
    >>> map_inputs(torch.neg, {"input_ids": torch.ones(2)})
    {'input_ids': tensor([-1., -1.])}
    """
    if isinstance(inputs, Tensor):
        return function(inputs)
    return {name: function(tensor) for name, tensor in inputs.items()}


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """The tensors of the inputs, in their order."""
    return [inputs] if isinstance(inputs, Tensor) else list(inputs.values())


def count_inputs(inputs: Inputs) -> int:
    """n."""
    return len(tensors_of(inputs)[0])


def num_bytes(inputs: Inputs) -> int:
    """The memory of all tensors together."""
    return sum(tensor.nbytes for tensor in tensors_of(inputs))


def first_inputs(inputs: Inputs, count: int) -> Inputs:
    """Those of the first `count` items."""
    return map_inputs(lambda tensor: tensor[:count], inputs)


def split_inputs(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """Pieces of at most `size` items, in order."""
    for start in range(0, count_inputs(inputs), size):
        yield map_inputs(lambda tensor, start=start: tensor[start : start + size], inputs)  # type: ignore[misc]


def single_floats(inputs: Inputs) -> Inputs:
    """The inputs with their numbers in floating point in single precision."""
    return map_inputs(
        lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, inputs
    )


def describe_inputs(inputs: Inputs) -> str:
    """The shapes of one item, for a message."""
    if isinstance(inputs, Tensor):
        return f"images of shape {tuple(inputs.shape[1:])}"
    shapes = [f"{name} {tuple(tensor.shape[1:])}" for name, tensor in inputs.items()]
    return f"inputs of shape {', '.join(shapes)}"


def call_network(network: Callable[..., Any], inputs: Inputs) -> Any:
    """What the network returns; its logits where it returns an object that holds them.

    Several tensors are given by the names of the network's arguments.
    """
    arguments, named = call_arguments(inputs)
    return logits_in(network(*arguments, **named))


def call_arguments(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The inputs as arguments of a call: one by its place, or several by their names."""
    return ((inputs,), {}) if isinstance(inputs, Tensor) else ((), dict(inputs))


def logits_in(output: Any) -> Any:
    """The attribute `logits` of what a network of transformers returns, or the output itself."""
    logits = None if isinstance(output, Tensor) else getattr(output, "logits", None)
    return output if logits is None else logits


class LogitsOnly(nn.Module):
    """A network that takes inputs of either form by their place, as torch's own tools give them.

    Args:
        network: whose modules these are.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Inputs) -> Any:
        return call_network(self.network, inputs)
