"""Checks of the weights alone: do these networks have one start, and did they stay near it?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from radin.checkpoints.formats import RUNNING_STATISTICS
from radin.checkpoints.inspection import MAX_UNRELATED_COSINE
from radin.checkpoints.zoo import Zoo
from radin.ranking.bank import LogitBank
from radin.recipes.trust_report import Check
from radin.theory.weight_geometry import (
    cosines,
    gram_from_products,
    length_products,
    weight_products,
)

# Limits between the healthy zoos of the book and the broken ones; its chapter "When it breaks"
# shows both sides.
MIN_COSINE = 0.65  # between the weights of two ingredients
MIN_TENSOR_COSINE = 0.45  # the same in a single tensor: a norm behind a layer corrects much
MAX_DRIFT_DEVIATIONS = 0.1  # of running means, in standard deviations


def checks_of_weights(zoo: Zoo, bank: LogitBank, *, refreshed: bool, progress: bool) -> list[Check]:
    """Whether the ingredients can be averaged, from their checkpoints alone; each is read once.

    Args:
        zoo: with `init`, fine-tunes that went too far can be told from unrelated networks.
        bank: of the same zoo; its names and number of classes.
        refreshed: whether running statistics of batch norm are measured again for every soup.
        progress: show a bar.
    """
    checks = []
    if len(zoo) > 1:
        checks += _checks_of_products(zoo, weight_products(zoo, progress=progress), bank)
    if not refreshed and len(zoo) > 1 and (drift := _drift(zoo)) is not None:
        checks.append(
            Check(
                "running means of batch norm, apart in standard deviations",
                drift,
                maximum=MAX_DRIFT_DEVIATIONS,
                advice="An average of running statistics is not the statistics of the averaged "
                "network. Measure them again for every soup: "
                "radin.evaluator(zoo, split, refresh=training_split).",
            )
        )
    return checks


def _checks_of_products(zoo: Zoo, products: Mapping[str, Tensor], bank: LogitBank) -> list[Check]:
    n = len(zoo)
    # Biases and the scales of norms are small and few; matrices and kernels show what is related.
    matrices = {key: product for key, product in products.items() if zoo[0][key].ndim > 1} or dict(
        products
    )
    whole = _mean_cosines(matrices.values())
    lowest = {key: cosines(product)[:n, :n].min().item() for key, product in matrices.items()}
    key = min(lowest, key=lowest.__getitem__)
    # Compared with the initialisation where there is one: what only moved is still similar to it.
    similar = cosines(matrices[key])[-1].min() if zoo.init is not None else lowest[key]
    if similar < MAX_UNRELATED_COSINE and all(
        cosine >= MIN_TENSOR_COSINE for other, cosine in lowest.items() if other != key
    ):
        advice = _one_layer(
            key, [name for name in matrices if len(zoo[0][name]) == bank.num_classes]
        )
    else:
        advice = _apart(whole, bank.names)
    checks = [
        Check(
            "weights of two ingredients, smallest cosine",
            whole[:n, :n].min().item(),
            minimum=MIN_COSINE,
            advice=advice,
        ),
        Check("the same in a single tensor", lowest[key], minimum=MIN_TENSOR_COSINE, advice=advice),
    ]
    if zoo.init is not None:
        tasks = gram_from_products(products, with_init=True)
        apart = ~torch.eye(n, dtype=torch.bool)
        checks.append(Check("task vectors, mean cosine", cosines(tasks)[apart].mean().item()))
        lengths = tasks.diagonal().clamp_min(0).sqrt()
        start = _total(products)[-1, -1].clamp_min(1e-300).sqrt()
        checks.append(
            Check(
                "distance to the initialisation beside its length, mean",
                (lengths / start).mean().item(),
            )
        )
    return checks


def _one_layer(key: str, heads: Sequence[str]) -> str:
    """Advice where the ingredients agree in all layers but one.

    Args:
        key: that layer.
        heads: layers with one row for each class.
    """
    if heads == [key]:
        return (
            f"The ingredients agree elsewhere, but not in {key}, the last layer: heads that were "
            "made separately cannot be averaged. Fit one head to the frozen start and fine-tune "
            "every ingredient from there."
        )
    return (
        f"The ingredients agree elsewhere, but not in {key}. Was that layer drawn again for each "
        "of them, or were its units put in another order?"
    )


def _apart(whole: Tensor, names: Sequence[str]) -> str:
    """Advice where whole networks are apart: unrelated ones, or fine-tunes that went too far.

    With an initialisation, which is last in the cosines, each ingredient is compared with it.
    Without one, two ingredients are compared with each other.
    """
    n = len(names)
    i, j = divmod(int(whole[:n, :n].argmin()), n)
    pair = f"{names[i]} and {names[j]}"
    if len(whole) == n and whole[i, j] < MAX_UNRELATED_COSINE:
        return (
            f"{pair} have next to nothing in common: another initialisation, units in another "
            "order, or fine-tuning at far too high a rate. Open the zoo with init=... to tell "
            "which; only fine-tunes of one checkpoint can be averaged."
        )
    unrelated = [
        name
        for name, cosine in zip(names, whole[-1, :n], strict=True)
        if cosine < MAX_UNRELATED_COSINE
    ]
    if len(whole) > n and unrelated:
        return (
            f"{', '.join(unrelated)}: next to nothing in common with the initialisation. Theirs "
            "was another one, or their units are in another order. Only fine-tunes of one "
            "checkpoint can be averaged; leave these out."
        )
    return (
        f"{pair} have moved too far apart to be averaged. Fine-tune at a lower rate or for fewer "
        "epochs, keep to the ingredients near the initialisation, or use the best ingredient or "
        "the ensemble."
    )


def _total(products: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(products.values())).sum(0)


def _mean_cosines(tensors: Iterable[Tensor]) -> Tensor:
    """The mean of the tensors' cosines (N, N), each weighted by its length.

    So a head that is multiplied by thirty stays the same head.
    """
    products = list(tensors)
    if not products:
        return torch.ones(1, 1)
    scale = torch.stack([length_products(each) for each in products]).sum(0)
    return torch.where(
        scale > 1e-300,
        torch.stack(products).sum(0) / scale.clamp_min(1e-300),
        torch.ones_like(scale),
    )


def _drift(zoo: Zoo) -> float | None:
    """How far two ingredients' running means are apart; None without batch norm.

    It is a root mean square distance, in standard deviations, in the layer where it is largest.
    """
    worst = None
    for key in zoo.keys():
        if not key.endswith(RUNNING_STATISTICS[0]):
            continue
        mean = torch.stack([zoo[k][key].double() for k in range(len(zoo))])
        variance = torch.stack(
            [zoo[k][key.replace(*RUNNING_STATISTICS)].double() for k in range(len(zoo))]
        ).mean(0)
        apart = (2 * mean.var(0) / variance.clamp_min(1e-12)).mean().sqrt().item()
        worst = apart if worst is None else max(worst, apart)
    return worst
