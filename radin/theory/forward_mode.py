"""Networks as functions of their parameters, with correct second forward-mode derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from radin.errors import ParameterError

_TRAINING = "Derivatives need batch norm with running statistics, in evaluation mode: model.eval()."


def check_evaluation_mode(model: nn.Module) -> None:
    """ParameterError if batch norm is in training mode: it counts batches, without a derivative."""
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        raise ParameterError(_TRAINING)


@contextmanager
def differentiable() -> Iterator[None]:
    """Inside, torch takes second forward-mode derivatives of attention and of norms correctly.

    Attention is computed by plain matrix products, since its fused kernels have no forward-mode
    derivatives. Norms are computed from means and square roots.

    Raises:
        ParameterError: an operation has no such derivative.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _ReplaceFunctions():
            yield
    except NotImplementedError as error:
        reason = str(error).strip().splitlines()[0]
        raise ParameterError(
            f"torch has no such derivative of this network ({reason}); give `trust` no split, "
            "or `pair_gaps` method='midpoints'."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _ReplaceFunctions(TorchFunctionMode):
    """Layer norm, batch norm and some activations from simple operations.

    The second forward-mode derivative of torch's own norms is silently wrong (pytorch issues
    196700, 196699), and it does not exist for the running statistics of batch norm, which a soup
    averages too.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(function, function)
        return replacement(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    mean = input.mean(dims, keepdim=True)
    variance = (input - mean).square().mean(dims, keepdim=True)
    return _affine((input - mean) * (variance + eps).rsqrt(), weight, bias)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        raise ParameterError(_TRAINING)

    def channels(t: Tensor) -> Tensor:
        return t.view(-1, *[1] * (input.ndim - 2))

    normed = (input - channels(running_mean)) * (channels(running_var) + eps).rsqrt()
    return _affine(
        normed,
        weight if weight is None else channels(weight),
        bias if bias is None else channels(bias),
    )


def _affine(normed: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    return input * input.sigmoid()  # torch's own has no second forward-mode derivative


def _mish(input: Tensor, inplace: bool = False) -> Tensor:
    return input * F.softplus(input).tanh()


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    return F.group_norm(input, input.shape[1], weight, bias, eps)  # torch's group norm is right


def _refuse(*_: Any, **__: Any) -> Tensor:
    raise ParameterError(
        "The second derivative of torch.native_layer_norm is wrong; call "
        "torch.nn.functional.layer_norm."
    )


_REPLACEMENTS = {
    F.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.silu: _silu,
    F.mish: _mish,
    # The same functions in the torch namespace, with another order of arguments.
    torch.layer_norm: lambda input, shape, weight=None, bias=None, eps=1e-5, *_: _layer_norm(
        input, shape, weight, bias, eps
    ),
    torch.batch_norm: lambda input, weight, bias, mean, var, training, momentum, eps, *_: (
        _batch_norm(input, mean, var, weight, bias, training=training, eps=eps)
    ),
    torch.instance_norm: lambda input, weight, bias, mean, var, use_stats, momentum, eps, *_: (
        _instance_norm(input, mean, var, weight, bias, use_input_stats=use_stats, eps=eps)
    ),
    torch.native_layer_norm: _refuse,
}
