"""Networks around tensors that are there already: built without numbers of their own, for inference."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_ONE_AT_A_TIME = threading.Lock()  # warnings are silenced for all threads or for none


def mapped_model(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module | None:
    """What `build` returns, with `tensors` themselves for its parameters and buffers, not copies; no gradients.

    A tensor of another kind of number than the model's is converted, which copies it. Returns None where the network
    cannot be built on torch's meta device, or would hold a tensor that is not in `tensors`.
    """
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter(
                "ignore"
            )  # a build that loads weights is told that they go nowhere
            model = build().requires_grad_(False)
        own = model.state_dict()
    except Exception:  # the user's code, on a device that it need not know
        return None
    given = {
        key: tensor.to(own[key].dtype) if key in own else tensor for key, tensor in tensors.items()
    }
    model.load_state_dict(given, assign=True)
    return None if _holds_meta(model) else model


def _holds_meta(model: nn.Module) -> bool:
    """Whether a tensor without numbers is left in a model: a buffer of its own, or one in a plain attribute."""
    scan = _Scan()
    try:
        scan.dump(model)
    except Exception:  # a model that cannot be pickled may hide one
        return True
    return scan.found


class _Scan(pickle.Pickler):
    """Pickles into nothing, which visits all that an object holds, and looks at the tensors."""

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
