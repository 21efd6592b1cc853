"""Second order over all candidates: what a bank and the weights tell alone, and a corrected fast estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate, combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.errors import BankError, ParameterError, check_integer
from radin.inference.devices import pick_device
from radin.inference.forward import batch_logits
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights, without_scale
from radin.ranking.rank import check_metric, nll_of
from radin.soup.average import average
from radin.theory.forward_mode import network_logits
from radin.theory.taylor import derivatives, directions, first_order, loss_gradient

WAYS = ("curvature", "midpoints")
_AT_ONCE = 2**22  # logits of candidates held at once: 32 MiB


def loss_variance(bank: LogitBank, candidates: Tensor) -> Tensor:
    """What a bank tells about second order: 1/2 sum_k p_k E Var_Y[f_kY - f_bar_Y], Y from the ensemble's softmax.

    To second order it is the mean loss of the ingredients minus the loss of the ensemble, in nats.

    Args:
        candidates: (M, N) mixing weights.

    Returns: (M,) double.

    Source: T2 in the book.
    """
    bank.refuse_projection("The variance of losses")
    p = check_weights(candidates, bank.num_models, rows=True).to(bank.logits.device)
    p = p / p.sum(1, keepdim=True)
    total = torch.zeros(len(p), dtype=torch.float64, device=p.device)
    images_at_once = max(1, _AT_ONCE // (bank.num_models * bank.num_classes))
    for start in range(0, bank.num_images, images_at_once):
        f = bank.logits[:, start : start + images_at_once].double()
        squares = f.square()
        for rows in torch.arange(len(p), device=p.device).split(max(1, _AT_ONCE // f[0].numel())):
            # The variance is a mean of squares less squares of means: two products, and no loop over k.
            ensemble = torch.tensordot(p[rows], f, 1)  # (candidates, images, C)
            q = ensemble.softmax(-1)
            apart = (q * (torch.tensordot(p[rows], squares, 1) - ensemble.square())).sum((1, 2))
            centre = (q * ensemble).sum(-1)
            means = torch.einsum("mnc,knc->mkn", q, f) - centre[:, None]
            total[rows] += 0.5 * (apart - torch.einsum("mk,mkn->m", p[rows], means.square()))
    return total.cpu() / bank.num_images


def first_order_losses(
    zoo: Zoo, split: Dataset[Any], device: str = "auto", batch_size: int = 64, progress: bool = True
) -> tuple[float, Tensor]:
    """Loss of the initialisation on a split, L_0, and its slope <g_0, delta_k> along every task vector: (N,) double.

    To first order soup, ensemble and the mean of the ingredients' losses are all L_0 + sum_k p_k <g_0, delta_k>.

    Args:
        zoo: opened with `build` and `init`.

    Raises ParameterError for a zoo without initialisation.

    Source: RADIN, the equivalence of first-order expansions; T1 and T2 in the book.
    """
    if zoo.init is None:
        raise ParameterError(
            "This zoo was opened without init=...; the expansion needs where the ingredients started."
        )
    chosen, batch_size = pick_device(device), check_integer("batch_size", batch_size, minimum=1)
    model = zoo.model(zoo.init).to(chosen).float()
    start = single_precision(zoo.init, chosen)
    slopes = torch.zeros(len(zoo), dtype=torch.float64)
    seen = _in_batches(split, batch_size, model, chosen)
    total, gradients = 0.0, []
    with torch.no_grad():
        for images, labels in seen:
            logits = network_logits(model, start, images)
            total += F.cross_entropy(logits, labels, reduction="sum").item()
            gradients.append(loss_gradient(logits, labels))
    for k in tqdm(range(len(zoo)), desc="first order", disable=not progress, leave=False):
        (delta,) = directions(start, [single_precision(zoo[k], chosen)])
        for (images, _), gradient in zip(seen, gradients, strict=True):
            slopes[k] += (gradient * first_order(model, start, delta, images)[1]).sum().item()
    return total / len(split), slopes / len(split)  # type: ignore[arg-type]


def pair_gaps(
    zoo: Zoo,
    split: Dataset[Any],
    by: str = "curvature",
    device: str = "auto",
    batch_size: int = 64,
    progress: bool = True,
) -> Tensor:
    """Logits of the soup minus those of the ensemble for each pair of ingredients at equal weights.

    To second order these say all about any soup: its gap is sum over pairs of 4 p_k p_l times theirs.

    Args:
        zoo: opened with `build`.
        by: "curvature" predicts them around the uniform soup, -1/8 D^2 f[theta_k - theta_l, theta_k - theta_l], one
            pass with two tangents for each pair; "midpoints" averages each pair and runs it, one forward pass.
        split: gives (image, label) pairs.

    Returns: (N (N - 1) / 2, n, C) in single precision, pairs in the order of `itertools.combinations`. Beside it the
    images and three networks are held.

    Source: T3 in the book, its form for pairs.
    """
    if by not in WAYS:
        raise ParameterError(f"by must be one of {', '.join(WAYS)}, not {by!r}.")
    chosen, batch_size = pick_device(device), check_integer("batch_size", batch_size, minimum=1)
    pairs = list(combinations(range(len(zoo)), 2))
    uniform = average(zoo, torch.full((len(zoo),), 1 / len(zoo)))
    model, centre = zoo.model(uniform).to(chosen).float(), single_precision(uniform, chosen)
    seen = _in_batches(split, batch_size, model, chosen)
    ends = [0, *accumulate(len(images) for images, _ in seen)]
    with torch.no_grad():
        num_classes = network_logits(model, centre, seen[0][0][:1]).shape[1]
        alone = torch.empty(len(zoo) if by == "midpoints" else 0, ends[-1], num_classes)
        for logits, k in zip(alone, range(len(zoo)), strict=False):
            state = single_precision(zoo[k], chosen)
            torch.cat(
                [network_logits(model, state, images).cpu() for images, _ in seen], out=logits
            )
        gaps = torch.empty(len(pairs), ends[-1], num_classes)
        bar = tqdm(
            total=len(pairs) * len(seen),
            desc=f"gaps of {len(pairs)} pairs",
            disable=not progress,
            leave=False,
        )
        for gap, (i, j) in zip(gaps, pairs, strict=True):
            first, second = single_precision(zoo[i], chosen), single_precision(zoo[j], chosen)
            if by == "curvature":
                (apart,) = directions(second, [first])
            else:
                middle = {key: (tensor + second[key]) / 2 for key, tensor in first.items()}
            for (images, _), start, end in zip(seen, ends, ends[1:], strict=False):
                if by == "curvature":
                    gap[start:end] = derivatives(model, centre, apart, images)[2] / -8
                else:
                    gap[start:end] = network_logits(model, middle, images).cpu()
                bar.update()
            if by == "midpoints":
                gap -= (alone[i] + alone[j]) / 2
        bar.close()
    return gaps


def corrected_estimate(
    bank: LogitBank, gaps: Tensor, candidates: Tensor, metric: str = "accuracy"
) -> Tensor:
    """The fast estimate from logits that are corrected to second order, ensemble plus predicted gap.

    Args:
        gaps: (N (N - 1) / 2, n, C), what `pair_gaps` returns for the bank's own images.
        candidates: (M, N) mixing weights.
        metric: "accuracy" in percent, or "nll", the mean negative log-likelihood in nats.

    Returns: (M,) double.

    Raises BankError when the gaps do not fit the bank.
    """
    check_metric(metric)
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
    """Ensemble plus predicted gap (M, images, C) in double precision, a block of images at a time.

    Raises BankError when the gaps do not fit the bank.
    """
    pairs = torch.combinations(torch.arange(bank.num_models))
    if not isinstance(gaps, Tensor) or gaps.shape != (len(pairs), *bank.logits.shape[1:]):
        raise BankError(
            f"gaps must have shape {(len(pairs), *bank.logits.shape[1:])}, pairs, images and classes of the bank, "
            f"not {tuple(gaps.shape) if isinstance(gaps, Tensor) else gaps!r}; make them from its own zoo and split."
        )
    p = without_scale(check_weights(candidates, bank.num_models, rows=True))
    scale = p.sum(1)[:, None, None]
    quadratic = 4 * p[:, pairs[:, 0]] * p[:, pairs[:, 1]] / scale[:, 0]
    step = max(1, _AT_ONCE // (len(p) * bank.num_classes))
    for start in range(0, bank.num_images, step):
        images = slice(start, start + step)
        ensembles = torch.tensordot(p, bank.logits[:, images].cpu().double(), 1)
        yield images, (ensembles + torch.tensordot(quadratic, gaps[:, images].double(), 1)) / scale


def _in_batches(
    split: Dataset[Any], batch_size: int, model: nn.Module, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """The images, in single precision, and labels on the device, decoded once; they are gone through many times."""
    seen = [
        (images.float() if images.is_floating_point() else images, labels)
        for images, labels in batches(split, batch_size)
    ]
    with torch.no_grad():
        batch_logits(model, seen[0][0][:1], device)  # its error says what is wrong with them
    return [(images.to(device), labels.to(device)) for images, labels in seen]


def single_precision(state: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The tensors of a state dict that have a derivative, on a device."""
    return {
        key: tensor.to(device).float()
        for key, tensor in state.items()
        if tensor.is_floating_point()
    }
