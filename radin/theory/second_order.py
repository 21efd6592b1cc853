"""Second order for all candidates, from a bank and from the weights, and a corrected estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.checkpoints.dtypes import is_averaged, to_precision
from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.data.network_inputs import Inputs, first_inputs, single_floats
from radin.data.samples import as_split
from radin.errors import BankError, ParameterError, check_integer
from radin.inference.devices import pick_device
from radin.inference.forward import batch_logits, functional_logits, inputs_to
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights, without_scale
from radin.ranking.named_metrics import nll_of
from radin.soup.average import average
from radin.theory.taylor import (
    StateDict,
    derivatives,
    directions,
    first_order,
    loss_gradient,
)

GAP_METHODS = ("curvature", "midpoints")
_MAX_LOGITS = 2**22  # of candidates that are held at once: 32 MiB


def loss_variance(bank: LogitBank, candidates: Tensor) -> Tensor:
    """1/2 sum_k p_k E Var_Y[f_kY - f_bar_Y], Y drawn from the ensemble's softmax.

    It is what a bank alone tells about second order: the mean loss of the ingredients minus the
    loss of the ensemble, in nats, to second order.

    Args:
        candidates: (M, N) mixing weights.

    Returns:
        (M,) double.

    Source: T2 in the book.
    """
    bank.refuse_projection("The variance of losses")
    bank.refuse_targets("The variance of losses")
    p = check_weights(candidates, bank.num_models, rows=True).to(bank.logits.device)
    p = p / p.sum(1, keepdim=True)
    total = torch.zeros(len(p), dtype=torch.float64, device=p.device)
    images_at_once = max(1, _MAX_LOGITS // (bank.num_models * bank.num_classes))
    for start in range(0, bank.num_images, images_at_once):
        f = bank.logits[:, start : start + images_at_once].double()
        squares = f.square()
        candidates_at_once = max(1, _MAX_LOGITS // f[0].numel())
        for rows in torch.arange(len(p), device=p.device).split(candidates_at_once):
            # The variance is a mean of squares minus squares of means: no loop over k is needed.
            ensemble = torch.tensordot(p[rows], f, 1)  # (candidates, images, C)
            q = ensemble.softmax(-1)
            mean_square = torch.tensordot(p[rows], squares, 1) - ensemble.square()
            ensemble_mean = (q * ensemble).sum(-1)
            means = torch.einsum("mnc,knc->mkn", q, f) - ensemble_mean[:, None]
            square_mean = torch.einsum("mk,mkn->m", p[rows], means.square())
            total[rows] += 0.5 * ((q * mean_square).sum((1, 2)) - square_mean)
    return total.cpu() / bank.num_images


def first_order_losses(
    zoo: Zoo,
    split: Dataset[Any],
    device: str = "auto",
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[float, Tensor]:
    """Loss of the initialisation on a split, L_0, and its slopes <g_0, delta_k>.

    To first order soup, ensemble and the mean of the ingredients' losses are all
    L_0 + sum_k p_k <g_0, delta_k>.

    Args:
        zoo: opened with `build` and `init`.

    Returns:
        L_0 in nats, and the slope along each task vector, (N,) double.

    Raises:
        ParameterError: a zoo without initialisation.

    Source: RADIN, the equivalence of first-order expansions; T1 and T2 in the book.
    """
    if zoo.init is None:
        raise ParameterError(
            "This zoo was opened without init=...; the expansion needs the weights from which the "
            "ingredients started."
        )
    chosen = pick_device(device)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    model = zoo.model(zoo.init).to(chosen).float()
    start = single_precision(zoo.init, chosen)
    split = as_split(split)
    decoded = _decode(split, model, chosen, batch_size=batch_size)
    total = 0.0
    gradients = []
    with torch.no_grad():
        for images, labels in decoded:
            logits = functional_logits(model, start, images)
            total += F.cross_entropy(logits, labels, reduction="sum").item()
            gradients.append(loss_gradient(logits, labels))
    slopes = torch.zeros(len(zoo), dtype=torch.float64)
    for k in tqdm(range(len(zoo)), desc="first order", disable=not progress, leave=False):
        (delta,) = directions(start, [single_precision(zoo[k], chosen)])
        for (images, _), gradient in zip(decoded, gradients, strict=True):
            _, change = first_order(model, start, delta, images)
            slopes[k] += (gradient * change).sum().item()
    return total / len(split), slopes / len(split)  # type: ignore[arg-type]


def pair_gaps(
    zoo: Zoo,
    split: Dataset[Any],
    device: str = "auto",
    *,
    method: str = "curvature",
    batch_size: int = 64,
    progress: bool = True,
) -> Tensor:
    """Logits of the soup minus those of the ensemble, for each pair of ingredients.

    Both ingredients of a pair have equal weights. To second order the pairs determine any soup:
    its gap is the sum over pairs of 4 p_k p_l times the gap of the pair.

    Args:
        zoo: opened with `build`.
        split: gives (image, label) pairs.
        method: "curvature" predicts the gaps around the uniform soup as
            -1/8 D^2 f[theta_k - theta_l, theta_k - theta_l], one pass with two tangents for each
            pair; "midpoints" averages each pair and runs it, one forward pass.

    Returns:
        (N (N - 1) / 2, n, C) in single precision, pairs in the order of `itertools.combinations`.
        The images and three networks are in memory too.

    Source: T3 in the book, its form for pairs.
    """
    if method not in GAP_METHODS:
        raise ParameterError(f"method must be one of {', '.join(GAP_METHODS)}, not {method!r}.")
    chosen = pick_device(device)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    pairs = list(combinations(range(len(zoo)), 2))
    uniform = average(zoo, torch.full((len(zoo),), 1 / len(zoo)))
    model = zoo.model(uniform).to(chosen).float()
    centre = single_precision(uniform, chosen)
    decoded = _decode(split, model, chosen, batch_size=batch_size)
    ends = [0, *accumulate(len(labels) for _, labels in decoded)]
    bar = tqdm(
        total=len(pairs) * len(decoded),
        desc=f"gaps of {len(pairs)} pairs",
        disable=not progress,
        leave=False,
    )
    with torch.no_grad(), bar:
        num_classes = functional_logits(model, centre, first_inputs(decoded[0][0], 1)).shape[1]
        if method == "midpoints":
            alone = torch.empty(len(zoo), ends[-1], num_classes)
            for k, logits in enumerate(alone):
                state = single_precision(zoo[k], chosen)
                parts = [functional_logits(model, state, images).cpu() for images, _ in decoded]
                torch.cat(parts, out=logits)
        gaps = torch.empty(len(pairs), ends[-1], num_classes)
        for gap, (i, j) in zip(gaps, pairs, strict=True):
            first, second = (single_precision(zoo[k], chosen) for k in (i, j))
            if method == "curvature":
                run = _curvature_of_pair(model, centre, first, second)
            else:
                run = _soup_of_pair(model, first, second)
            for (images, _), start, end in zip(decoded, ends, ends[1:], strict=False):
                gap[start:end] = run(images)
                bar.update()
            if method == "midpoints":
                gap -= (alone[i] + alone[j]) / 2
    return gaps


def _curvature_of_pair(
    model: nn.Module, centre: StateDict, first: StateDict, second: StateDict
) -> Callable[[Inputs], Tensor]:
    """The gap of a pair on some images, from the curvature at `centre`."""
    (difference,) = directions(second, [first])
    return lambda images: derivatives(model, centre, difference, images)[2] / -8


def _soup_of_pair(
    model: nn.Module, first: StateDict, second: StateDict
) -> Callable[[Inputs], Tensor]:
    """The logits of a pair's soup on some images."""
    soup = {key: (tensor + second[key]) / 2 for key, tensor in first.items()}
    return lambda images: functional_logits(model, soup, images)


def corrected_estimate(
    bank: LogitBank, gaps: Tensor, candidates: Tensor, metric: str = "accuracy"
) -> Tensor:
    """The fast estimate from logits corrected to second order: ensemble plus predicted gap.

    Args:
        gaps: (N (N - 1) / 2, n, C), what `pair_gaps` returns for the bank's own images.
        candidates: (M, N) mixing weights.
        metric: "accuracy" in percent, or "nll", the mean negative log-likelihood in nats.

    Returns:
        (M,) double.

    Raises:
        BankError: the gaps do not fit the bank.
        ParameterError: another metric, or a bank without classes.
    """
    if metric not in ("accuracy", "nll"):
        raise ParameterError(f"metric must be one of accuracy, nll, not {metric!r}.")
    bank.refuse_targets("A corrected estimate")
    total = torch.zeros(len(candidates), dtype=torch.float64)
    for images, logits in corrected_logits(bank, gaps, candidates):
        labels = bank.labels[images].cpu()
        if metric == "accuracy":
            total += (logits.argmax(-1) == labels).sum(-1).double() * 100
        else:
            total += nll_of(logits, labels).sum(-1)
    return total / bank.num_images


def corrected_logits(
    bank: LogitBank, gaps: Tensor, candidates: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Ensemble plus predicted gap, for a block of images at a time.

    Args:
        gaps: (N (N - 1) / 2, n, C), what `pair_gaps` returns for the bank's own images.
        candidates: (M, N) mixing weights.

    Yields:
        The images of the block, and their logits (M, images, C) in double precision.

    Raises:
        BankError: the gaps do not fit the bank.
    """
    pairs = torch.combinations(torch.arange(bank.num_models))
    shape = (len(pairs), *bank.logits.shape[1:])
    if not isinstance(gaps, Tensor) or gaps.shape != shape:
        found = tuple(gaps.shape) if isinstance(gaps, Tensor) else repr(gaps)
        raise BankError(
            f"gaps must have shape {shape}, pairs, images and classes of the bank, not {found}; "
            "make them from its own zoo and split."
        )
    p = without_scale(check_weights(candidates, bank.num_models, rows=True))
    scale = p.sum(1)[:, None, None]
    pair_weights = 4 * p[:, pairs[:, 0]] * p[:, pairs[:, 1]] / scale[:, 0]
    step = max(1, _MAX_LOGITS // (len(p) * bank.num_classes))
    for start in range(0, bank.num_images, step):
        images = slice(start, start + step)
        ensembles = torch.tensordot(p, bank.logits[:, images].cpu().double(), 1)
        correction = torch.tensordot(pair_weights, gaps[:, images].double(), 1)
        yield images, (ensembles + correction) / scale


def _decode(
    split: Dataset[Any], model: nn.Module, device: torch.device, *, batch_size: int
) -> list[tuple[Inputs, Tensor]]:
    """Batches of images, in single precision, and labels, on the device, decoded once."""
    decoded = [(single_floats(images), labels) for images, labels in batches(split, batch_size)]
    with torch.no_grad():
        # a clear error if they do not fit
        batch_logits(model, first_inputs(decoded[0][0], 1), device)
    return [(inputs_to(images, device), labels.to(device)) for images, labels in decoded]


def single_precision(state: StateDict, device: torch.device) -> dict[str, Tensor]:
    """The real and complex tensors of a state dict, in single precision on a device."""
    return {
        key: to_precision(tensor.to(device), torch.float32)
        for key, tensor in state.items()
        if is_averaged(tensor.dtype)
    }
