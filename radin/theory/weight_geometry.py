"""Inner products of weights and task vectors, and how far the ingredients are apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from radin.checkpoints.dtypes import real_numbers
from radin.checkpoints.zoo import Zoo
from radin.ranking.candidates import check_weights

_MAX_ELEMENTS = 2**18  # of one state dict that are held at once
_MAX_ELEMENTS_OF_ALL = 2**25  # 256 MiB in double precision


def weight_products(zoo: Zoo, *, progress: bool = True) -> dict[str, Tensor]:
    """Inner products <theta_k, theta_l> of the ingredients, for each tensor of the state dict.

    Each checkpoint is read once. Whole numbers and the running statistics of batch norm are left
    out: they are not parameters. Of complex numbers both parts count.

    Returns:
        (N, N) double for each key. With an initialisation (N + 1, N + 1): it is the last row and
        column.
    """
    states = [zoo[k] for k in range(len(zoo))] + ([zoo.init] if zoo.init is not None else [])
    return state_products(states, zoo.parameter_keys(), progress=progress)


def state_products(
    states: Sequence[Mapping[str, Tensor]],
    keys: Iterable[str],
    *,
    max_elements: int | None = None,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Inner products of state dicts, a few elements of all of them at a time.

    Args:
        states: N state dicts.
        keys: floating-point tensors that all of them have, in one shape.
        max_elements: how many elements of each tensor are read, the first ones; None for all.
        progress: show a bar.

    Returns:
        (N, N) double for each key.
    """
    block = max(1, min(_MAX_ELEMENTS, _MAX_ELEMENTS_OF_ALL // len(states)))
    products: dict[str, Tensor] = {}
    for key in tqdm(keys, desc="comparing files", delay=3, leave=False, disable=not progress):
        products[key] = torch.zeros(len(states), len(states), dtype=torch.float64)
        flat = [real_numbers(state[key])[:max_elements] for state in states]
        for blocks in zip(*(tensor.split(block) for tensor in flat), strict=True):
            rows = torch.stack([each.double() for each in blocks])  # (states, elements)
            products[key] += rows @ rows.T
    return products


def cosines(products: Tensor) -> Tensor:
    """(N, N) cosines from inner products; that of a vector of zeros with any other counts as 1."""
    scale = length_products(products)
    return torch.where(
        scale > 1e-300, products / scale.clamp_min(1e-300), torch.ones_like(products)
    )


def length_products(products: Tensor) -> Tensor:
    """|theta_k| |theta_l| from inner products, (N, N)."""
    length = products.diagonal().clamp_min(0).sqrt()
    return length[:, None] * length


def distances(products: Tensor) -> Tensor:
    """||theta_k - theta_l|| from inner products, (N, N)."""
    squares = products.diagonal()
    return (squares[:, None] + squares - 2 * products).clamp_min(0).sqrt()


def gram_matrix(zoo: Zoo) -> Tensor:
    """Inner products <delta_k, delta_l> of the task vectors delta_k = theta_k - theta_0.

    In a zoo without an initialisation, theta_0 is the mean of the ingredients. The matrix then sums
    to zero, and the cosines are near -1 / (N - 1) for all ingredients.

    Returns:
        (N, N) double.
    """
    return gram_from_products(weight_products(zoo), with_init=zoo.init is not None)


def gram_from_products(products: Mapping[str, Tensor], *, with_init: bool) -> Tensor:
    """What `gram_matrix` returns, from what `weight_products` returns."""
    total = sum(products.values(), torch.zeros(()).double())
    if not with_init:
        return total - total.mean(0) - total.mean(1, keepdim=True) + total.mean()
    init = total[-1]
    return total[:-1, :-1] - init[:-1] - init[:-1, None] + init[-1]


def spread(gram: Tensor, candidates: Tensor) -> Tensor:
    """The sum of p_k ||theta_k - theta_bar||^2 for each candidate, theta_bar being its soup.

    Args:
        gram: (N, N), what `gram_matrix` returns.
        candidates: (M, N) mixing weights.

    Returns:
        (M,) double.
    """
    p = check_weights(candidates, len(gram), rows=True)
    p = p / p.sum(1, keepdim=True)
    return p @ gram.diagonal() - torch.einsum("mk,kl,ml->m", p, gram, p)
