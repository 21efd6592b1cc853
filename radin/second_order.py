"""Second order over all candidates: what a bank and the weights tell alone, and a corrected fast estimate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.bank import LogitBank
from radin.data import batches
from radin.errors import BankError, ParameterError, check_whole
from radin.forward_mode import network_logits
from radin.predict import pick_device
from radin.rank import METRICS, nll_of, without_scale
from radin.soup import average, check_weights
from radin.taylor import derivatives, directions, first_order
from radin.zoo import Zoo

WAYS = ("curvature", "midpoints")
_AT_ONCE = 2**22  # logits of candidates held at once: 32 MiB
_READ = 2**18  # numbers of one checkpoint held at once


def loss_variance(bank: LogitBank, candidates: Tensor) -> Tensor:
    """What a bank tells about second order: 1/2 sum_k p_k E Var_Y[f_kY - f_bar_Y], Y from the ensemble's softmax.

    To second order it is the mean loss of the ingredients minus the loss of the ensemble, in nats.

    Args:
        candidates: (M, N) mixing weights.

    Returns: (M,) double.

    Source: T2 in the book.
    """
    p = check_weights(candidates, bank.num_models, rows=True).to(bank.logits.device)
    p = p / p.sum(1, keepdim=True)
    total = torch.zeros(len(p), dtype=torch.float64, device=p.device)
    # Var_Y is shift-invariant and quadratic: one product with the squares, one with the logits, no loop over k.
    images_at_once = max(1, _AT_ONCE // (len(p) * bank.num_classes))
    for start in range(0, bank.num_images, images_at_once):
        f = bank.logits[:, start : start + images_at_once].double()
        ensemble = torch.tensordot(p, f, 1)  # (M, images, C)
        q = ensemble.softmax(-1)
        second = (q * (torch.tensordot(p, f.square(), 1) - ensemble.square())).sum((1, 2))
        means = torch.einsum("mnc,knc->mkn", q, f)
        centre = (q * ensemble).sum(-1)
        total += 0.5 * (second - torch.einsum("mk,mkn->m", p, (means - centre[:, None]).square()))
    return total.cpu() / bank.num_images


def inner_products(zoo: Zoo, progress: bool = True) -> dict[str, Tensor]:
    """<theta_k, theta_l> of the ingredients, tensor by tensor: (N, N) double; each checkpoint is read once.

    With an initialisation, that one comes last: (N + 1, N + 1). Whole numbers and the running statistics of batch norm
    are left out: they are no parameters.
    """
    sources = [zoo[k] for k in range(len(zoo))] + ([zoo.init] if zoo.init is not None else [])
    products: dict[str, Tensor] = {}
    bar = tqdm(zoo.parameter_keys(), desc="comparing ingredients", delay=3, leave=False, disable=not progress)
    for key in bar:
        products[key] = torch.zeros(len(sources), len(sources), dtype=torch.float64)
        for part in zip(*(source[key].flatten().split(_READ) for source in sources), strict=True):
            rows = torch.stack(part).double()
            products[key] += rows @ rows.T
    return products


def gram(zoo: Zoo) -> Tensor:
    """Inner products <delta_k, delta_l> of the task vectors, theta_k less the initialisation: (N, N) double.

    In a zoo without an initialisation they are taken around the mean of the ingredients.
    """
    return task_products(inner_products(zoo), zoo.init is not None)


def task_products(products: Mapping[str, Tensor], with_init: bool) -> Tensor:
    """What `gram` returns, from what `inner_products` returns."""
    total = sum(products.values(), torch.zeros(()).double())
    if with_init:
        start, total = total[-1], total[:-1, :-1]
        return total - start[:-1] - start[:-1, None] + start[-1]
    return total - total.mean(0) - total.mean(1, keepdim=True) + total.mean()


def spread(products: Tensor, candidates: Tensor) -> Tensor:
    """sum_k p_k |theta_k - theta_bar|^2 of each candidate (M, N) from what `gram` returns: (M,) double."""
    p = check_weights(candidates, len(products), rows=True)
    p = p / p.sum(1, keepdim=True)
    return p @ products.diagonal() - torch.einsum("mk,kl,ml->m", p, products, p)


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
        raise ParameterError("This zoo was opened without init=...; the expansion needs where the ingredients started.")
    chosen, batch_size = pick_device(device), check_whole("batch_size", batch_size, least=1)
    model = zoo.model(zoo.init).to(chosen).float()
    start, *ends = (single_precision(state, chosen) for state in (zoo.init, *map(zoo.__getitem__, range(len(zoo)))))
    deltas = directions(start, ends)
    total, slopes = 0.0, torch.zeros(len(zoo), dtype=torch.float64)
    steps = math.ceil(len(split) / batch_size)  # type: ignore[arg-type]
    for images, labels in tqdm(
        batches(split, batch_size), desc="first order", total=steps, disable=not progress, leave=False
    ):
        x, y = images.to(chosen), labels.to(chosen)
        for k, delta in enumerate(deltas):
            logits, change = first_order(model, start, delta, x)
            if k == 0:
                total += F.cross_entropy(logits, y, reduction="sum").item()
                gradient = logits.softmax(1) - F.one_hot(y, logits.shape[1])
            slopes[k] += (gradient * change).sum().item()
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

    Returns: (N (N - 1) / 2, n, C) in single precision, pairs in the order of `itertools.combinations`.

    Source: T3 in the book, its form for pairs.
    """
    if by not in WAYS:
        raise ParameterError(f"by must be one of {', '.join(WAYS)}, not {by!r}.")
    chosen, batch_size = pick_device(device), check_whole("batch_size", batch_size, least=1)
    pairs = list(combinations(range(len(zoo)), 2))
    uniform = average(zoo, torch.full((len(zoo),), 1 / len(zoo)))
    model = zoo.model(uniform).to(chosen).float()
    centre, *states = (single_precision(state, chosen) for state in (uniform, *map(zoo.__getitem__, range(len(zoo)))))
    if not pairs:
        shape = network_logits(model, centre, next(batches(split, 1))[0].to(chosen)).shape
        return torch.zeros(0, len(split), shape[1])  # type: ignore[arg-type]
    gaps: list[list[Tensor]] = [[] for _ in pairs]
    steps = math.ceil(len(split) / batch_size) * len(pairs)  # type: ignore[arg-type]
    with (
        torch.no_grad(),
        tqdm(total=steps, desc=f"gaps of {len(pairs)} pairs", disable=not progress, leave=False) as bar,
    ):
        for images, _ in batches(split, batch_size):
            x = images.to(chosen)
            alone = [network_logits(model, state, x) for state in states] if by == "midpoints" else []
            for gap, (i, j) in zip(gaps, pairs, strict=True):
                if by == "curvature":
                    (apart,) = directions(states[j], [states[i]])
                    found = derivatives(model, centre, apart, x)[2] / -8
                else:
                    middle = {key: (tensor + states[j][key]) / 2 for key, tensor in states[i].items()}
                    found = network_logits(model, middle, x) - (alone[i] + alone[j]) / 2
                gap.append(found.cpu())
                bar.update()
    return torch.stack([torch.cat(gap) for gap in gaps])


def corrected_estimate(bank: LogitBank, gaps: Tensor, candidates: Tensor, metric: str = "accuracy") -> Tensor:
    """The fast estimate from logits that are corrected to second order, ensemble plus predicted gap.

    Args:
        gaps: (N (N - 1) / 2, n, C), what `pair_gaps` returns for the bank's own images.
        candidates: (M, N) mixing weights.
        metric: "accuracy" in percent, or "nll", the mean negative log-likelihood in nats.

    Returns: (M,) double.

    Raises BankError when the gaps do not fit the bank.
    """
    if metric not in METRICS:
        raise ParameterError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}.")
    total = torch.zeros(len(candidates), dtype=torch.float64)
    for images, logits in corrected_logits(bank, gaps, candidates):
        labels = bank.labels[images].cpu()
        if metric == "accuracy":
            total += (logits.argmax(-1) == labels).sum(-1).double() * 100
        else:
            total += nll_of(logits, labels).sum(-1)
    return total / bank.num_images


def corrected_logits(bank: LogitBank, gaps: Tensor, candidates: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Ensemble plus predicted gap (M, images, C) in double precision, a block of images at a time.

    Raises BankError when the gaps do not fit the bank.
    """
    pairs = torch.combinations(torch.arange(bank.num_models))
    if gaps.shape != (len(pairs), *bank.logits.shape[1:]):
        raise BankError(
            f"gaps must have shape {(len(pairs), *bank.logits.shape[1:])}, pairs, images and classes of the bank, "
            f"not {tuple(gaps.shape)}; make them from its own zoo and split."
        )
    p = without_scale(check_weights(candidates, bank.num_models, rows=True))
    scale = p.sum(1)[:, None, None]
    quadratic = 4 * p[:, pairs[:, 0]] * p[:, pairs[:, 1]] / scale[:, 0]
    step = max(1, _AT_ONCE // (len(p) * bank.num_classes))
    for start in range(0, bank.num_images, step):
        images = slice(start, start + step)
        ensembles = torch.tensordot(p, bank.logits[:, images].cpu().double(), 1)
        yield images, (ensembles + torch.tensordot(quadratic, gaps[:, images].double(), 1)) / scale


def single_precision(state: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The tensors of a state dict that have a derivative, on a device."""
    return {key: tensor.to(device).float() for key, tensor in state.items() if tensor.is_floating_point()}
