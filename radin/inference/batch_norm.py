"""Running statistics of batch norm, estimated again for a soup."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches, mixed_batches
from radin.errors import ParameterError, check_integer
from radin.inference.devices import pick_device
from radin.inference.forward import PROBE, batch_logits, like
from radin.soup.average import SoupLike, _soup_states


def refresh_batch_norm(
    zoo: Zoo, soup: SoupLike, split: Dataset[Any], device: str = "auto", batch_size: int = 256
) -> dict[str, Tensor]:
    """The soup with the running statistics of its batch norm measured anew, by one pass over training images.

    An average of the ingredients' running statistics is not what the averaged network sees, so a soup with
    batch norm is judged fairly only after this pass. It costs one forward pass over the images of `split`, in
    training mode, and is not part of the budget; labels are not used and parameters do not change.

    Args:
        soup: (N,) mixing weights, or the state dict of a soup that no mixing weights describe.
        split: training images. They are taken in a fixed random order and in batches of almost one size, since
            batch norm weighs all batches alike.

    Returns: a state dict on the CPU with the zoo's keys, which `evaluator` and `soup_logits` take.

    Raises:
        ParameterError: the network has no batch norm with running statistics, or an impossible device.
        DataError: an empty split, or images that do not fit the network.

    Source: Izmailov et al. 2018, section 3.2, and torch.optim.swa_utils.update_bn.
    """
    chosen = pick_device(device)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    model = zoo.model(_soup_states(zoo, [soup])[0]).to(chosen)
    _check_batch_norm(model)
    probe, _ = next(
        batches(split, PROBE)
    )  # an empty split and images that do not fit are named here
    with torch.inference_mode():
        batch_logits(model, probe, chosen)
    update_bn((like(images, model, chosen) for images in mixed_batches(split, batch_size)), model)
    state = model.state_dict()
    return {key: state[key].cpu() for key in zoo.keys()}


def _check_batch_norm(model: nn.Module) -> None:
    if not any(
        isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()
    ):
        raise ParameterError(
            f"{type(model).__name__} has no batch norm with running statistics; evaluate the soup as it is."
        )
