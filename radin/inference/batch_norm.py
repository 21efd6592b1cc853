"""Running statistics of batch norm, estimated again for a soup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches, mixed_batches
from radin.data.network_inputs import LogitsOnly
from radin.data.samples import as_split
from radin.errors import ParameterError, check_integer
from radin.inference.devices import pick_device
from radin.inference.forward import NUM_PROBE_IMAGES, batch_logits, images_for_model
from radin.soup.average import SoupLike, soup_states


def refresh_batch_norm(
    zoo: Zoo,
    soup: SoupLike,
    split: Dataset[Any],
    device: str = "auto",
    *,
    batch_size: int = 256,
) -> dict[str, Tensor]:
    """The soup with the running statistics of its batch norm measured again on training images.

    The average of the ingredients' running statistics does not fit the averaged network, so a soup
    with batch norm is measured fairly only after this pass. It costs one forward pass over `split`,
    in training mode, and is not part of the budget. Labels are not used, parameters do not change.
    A single ingredient can gain as much, where its statistics were measured on augmented images:
    refresh it too before the two are compared.

    Args:
        soup: (N,) mixing weights, or the state dict of a soup that no mixing weights describe.
        split: training images. They are taken in a fixed random order and in batches of almost one
            size, since batch norm gives all batches the same weight.

    Returns:
        A state dict on the CPU with the zoo's keys, which `evaluator` and `soup_logits` take. Batch
        norm that the network keeps in evaluation mode while it is trained keeps its statistics.

    Raises:
        ParameterError: the network has no batch norm with running statistics or keeps all of it in
            evaluation mode, or the device is not available.
        DataError: an empty split, or images that do not fit the network.

    Source: Izmailov et al. 2018, section 3.2, and torch.optim.swa_utils.update_bn.
    """
    chosen = pick_device(device)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    model = zoo.model(soup_states(zoo, [soup])[0]).to(chosen)
    check_batch_norm(model)
    split = as_split(split)
    probe, _ = next(batches(split, NUM_PROBE_IMAGES))
    with torch.inference_mode():
        batch_logits(model, probe, chosen)  # a clear error for images that do not fit the network
    shuffled = mixed_batches(split, batch_size)
    inputs = (images_for_model(images, model, chosen) for images in shuffled)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    update_bn(inputs, LogitsOnly(model).eval())
    _restore_what_was_not_measured(model, before)
    state = model.state_dict()
    return {key: state[key].cpu() for key in zoo.keys()}


def _restore_what_was_not_measured(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """`update_bn` resets all statistics; some layers then see no batch in training mode.

    Raises ParameterError if no layer has seen one.
    """
    measured = False
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            if module.num_batches_tracked:
                measured = True
                continue
            prefix = f"{name}." if name else ""
            for key, tensor in module.named_buffers(recurse=False):
                tensor.copy_(before[f"{prefix}{key}"])
    if not measured:
        raise ParameterError(
            f"{type(model).__name__} keeps its batch norm in evaluation mode while it is trained, "
            "so its statistics cannot be measured again; evaluate the soup as it is."
        )


def check_batch_norm(model: nn.Module) -> None:
    """ParameterError unless the model has batch norm with running statistics."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            return
    raise ParameterError(
        f"{type(model).__name__} has no batch norm with running statistics; evaluate the soup as "
        "it is."
    )
