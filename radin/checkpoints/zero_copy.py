"""Networks around tensors that exist already: no weight is copied, and none is computed.

PyTorch creates parameters with values, and `load_state_dict` copies a checkpoint over them. For a
network that only predicts, both are wasted time.
"""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from radin.checkpoints.contents import is_extra_state

_WARNINGS_LOCK = threading.Lock()  # warnings are silenced for all threads or for none


def zero_copy_model(
    build: Callable[[], nn.Module],
    tensors: Mapping[str, Tensor],
    extra_state: Mapping[str, Any],
) -> nn.Module | None:
    """What `build` returns, with `tensors` themselves as parameters and buffers; no gradients.

    A tensor of another dtype than the model's is converted, which copies it.

    Args:
        extra_state: for the modules that have one; others' is left out.

    Returns:
        The model, or None where the network cannot be built on torch's meta device, or would hold
        a tensor that is not in `tensors`.
    """
    try:
        with _WARNINGS_LOCK, warnings.catch_warnings(), torch.device("meta"):
            # A build that loads weights gets warnings: loading on the meta device has no effect.
            warnings.simplefilter("ignore")
            model = build().requires_grad_(False)
        own = model.state_dict()
    except Exception:  # the user's code, on a device that it may not support
        return None
    converted = {
        key: tensor.to(own[key].dtype) if key in own else tensor for key, tensor in tensors.items()
    }
    own_extra = {key: extra_state.get(key, own[key]) for key in own if is_extra_state(key)}
    model.load_state_dict(converted | own_extra, assign=True)
    return None if _has_meta_tensor(model) else model


def _has_meta_tensor(model: nn.Module) -> bool:
    """Whether a tensor without data is left in a model, as a buffer or in a plain attribute."""
    finder = _MetaTensorFinder()
    try:
        finder.dump(model)
    except Exception:  # a model that cannot be pickled may hide one
        return True
    return finder.found


class _MetaTensorFinder(pickle.Pickler):
    """Pickles without output, which visits everything that an object holds, and checks tensors."""

    def __init__(self) -> None:
        super().__init__(self)
        self.found = False

    def write(self, data: Any) -> int:
        return len(data)

    def persistent_id(self, thing: Any) -> str | None:
        if not isinstance(thing, Tensor):
            return None
        self.found |= thing.is_meta
        return "a tensor"
