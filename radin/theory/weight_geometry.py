"""Inner products of weights and task vectors, and how far the ingredients lie apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from radin.checkpoints.zoo import Zoo
from radin.ranking.candidates import check_weights

_READ = 2**18  # numbers of one checkpoint held at once


def inner_products(zoo: Zoo, progress: bool = True) -> dict[str, Tensor]:
    """<theta_k, theta_l> of the ingredients, tensor by tensor: (N, N) double; each checkpoint is read once.

    With an initialisation, that one comes last: (N + 1, N + 1). Whole numbers and the running statistics of batch norm
    are left out: they are no parameters.
    """
    sources = [zoo[k] for k in range(len(zoo))] + ([zoo.init] if zoo.init is not None else [])
    products: dict[str, Tensor] = {}
    bar = tqdm(
        zoo.parameter_keys(),
        desc="comparing ingredients",
        delay=3,
        leave=False,
        disable=not progress,
    )
    for key in bar:
        products[key] = torch.zeros(len(sources), len(sources), dtype=torch.float64)
        for part in zip(*(source[key].flatten().split(_READ) for source in sources), strict=True):
            rows = torch.stack(part).double()
            products[key] += rows @ rows.T
    return products


def gram(zoo: Zoo) -> Tensor:
    """Inner products <delta_k, delta_l> of the task vectors, theta_k less the initialisation: (N, N) double.

    In a zoo without an initialisation they are taken around the mean of the ingredients; they then sum to zero, and
    their cosines are near -1 / (N - 1) whatever the ingredients are.
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
    """The sum of p_k times the squared distance of theta_k to theta_bar, for each candidate (M, N): (M,) double.

    Args:
        products: what `gram` returns.
    """
    p = check_weights(candidates, len(products), rows=True)
    p = p / p.sum(1, keepdim=True)
    return p @ products.diagonal() - torch.einsum("mk,kl,ml->m", p, products, p)
