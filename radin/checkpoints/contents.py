"""What the content of a torch file is: a state dict, or something else and how to say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radin.checkpoints.dtypes import AVERAGED, COPIED
from radin.checkpoints.safe_pickles import Ignored
from radin.errors import CheckpointError, list_names

# How the key of what a module's get_extra_state returns ends; often it is no tensor.
EXTRA_STATE = "_extra_state"


def is_extra_state(key: str) -> bool:
    """Whether a key of a state dict is of a module's extra state, which may be anything."""
    return key.rpartition(".")[2] == EXTRA_STATE


def is_state_dict(entry: object) -> bool:
    """Whether it holds tensors by name, at least one, and nothing else but extra state."""
    if not isinstance(entry, Mapping) or not entry:
        return False
    return all(
        isinstance(key, str) and (isinstance(value, Tensor) or is_extra_state(key))
        for key, value in entry.items()
    ) and any(isinstance(value, Tensor) for value in entry.values())


def check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless every tensor of a torch file is dense, with data in the file."""
    num_bytes = path.stat().st_size
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor):  # extra state
            continue
        if problem := _describe_special(tensor):
            raise CheckpointError(f"{path}: {key} is {problem}; save it as a plain tensor.")
        # One stored element, expanded, may claim to be terabytes.
        if tensor.numel() * tensor.element_size() > num_bytes:
            raise CheckpointError(
                f"{path}: {key} of shape {tuple(tensor.shape)} is larger than the file; save "
                "tensor.contiguous()."
            )


def _describe_special(tensor: Tensor) -> str:
    """Why a tensor is not a plain one that can be averaged or copied; "" if it is."""
    if tensor.is_quantized:
        return f"quantised ({tensor.dtype}), and quantised weights have no average; dequantise it"
    if tensor.is_nested:
        return "nested"
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"of the class {type(tensor).__name__}"
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout}); call to_dense()"
    if tensor.device.type != "cpu":
        return f"empty of data (on the device {tensor.device.type!r})"
    if tensor.dtype not in AVERAGED | COPIED:
        return f"of the dtype {tensor.dtype}, which has neither an average nor a copy"
    return ""


def state_dict_error(path: Path, content: Mapping[Any, Any]) -> CheckpointError:
    """The error for a dict that is no state dict; it names the other entries."""
    if what := _describe_training_state(content):
        return CheckpointError(
            f"{path}: holds {what}, not a model; leave this file out, and give the files of models "
            f"alone, with a pattern such as '{path.parent / 'model*'}'."
        )
    wrong = sorted(
        f"{key} ({describe(value)})" if isinstance(value, Ignored) else str(key) + _inner(value)
        for key, value in content.items()
        if not is_state_dict({key: value})
    )
    holds = f"entries that are not tensors: {list_names(wrong)}" if wrong else "no tensors"
    return CheckpointError(f"{path}: not a state dict, it holds {holds}; {_way_out(content)}.")


def _way_out(content: Mapping[Any, Any]) -> str:
    inner = [key for key, value in content.items() if is_state_dict(value)]
    if inner:
        return f"save model.state_dict(), here torch.save(checkpoint[{inner[0]!r}], path)"
    if any(isinstance(value, Tensor) for value in content.values()):
        return (
            "save model.state_dict() alone: torch.save({key: value for key, value in "
            "checkpoint.items() if torch.is_tensor(value)}, path)"
        )
    if any(isinstance(value, Ignored) for value in content.values()):
        return "save model.state_dict(); make tensors of arrays first, with torch.from_numpy(array)"
    return "save model.state_dict()"


def _inner(entry: object) -> str:
    """What is wrong inside an entry that is nearly a state dict, in brackets."""
    if not isinstance(entry, Mapping) or not any(isinstance(v, Tensor) for v in entry.values()):
        return ""
    wrong = [f"{key!r} is {describe(v)}" for key, v in entry.items() if not isinstance(v, Tensor)]
    return f" (where {list_names(wrong, most=3)})" if wrong else ""


def describe(value: object) -> str:
    """A value of a file in words: "a list"."""
    name = value.class_name if isinstance(value, Ignored) else type(value).__name__
    if name.startswith("numpy."):
        name = "NumPy array or number"
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _describe_training_state(content: Mapping[Any, Any]) -> str:
    """What a dict holds that training programs save beside the model; "" where it is another."""
    keys = {key for key in content if isinstance(key, str)}
    if any(is_state_dict(value) and key != "state" for key, value in content.items()):
        return ""
    if {"state", "param_groups"} <= keys or "optimizer_states" in keys:
        return "the state of an optimiser"
    if keys & {"last_epoch", "_step_count", "base_lrs"}:
        return "the state of a learning rate schedule"
    if {"scale", "growth_factor"} <= keys:
        return "the state of a gradient scaler"
    if len(keys & {"python", "numpy", "cpu", "cuda", "random_states"}) > 1:
        return "the state of random number generators"
    return ""
