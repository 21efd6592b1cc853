"""How far the fast estimate can be believed for a zoo, and what to do where it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.data.network_inputs import single_floats
from radin.data.samples import as_split, subset_of
from radin.errors import ParameterError, check_integer
from radin.inference.devices import pick_device
from radin.inference.forward import batch_logits, inputs_to, matches_stored
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import effective_number
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import nll_of
from radin.ranking.rank import fast_estimate, single_values
from radin.ranking.resampling import noise_of_difference
from radin.recipes.ledger import Trial
from radin.recipes.trust_report import Check, Trust
from radin.recipes.weight_checks import checks_of_weights
from radin.soup.average import average
from radin.theory.second_order import loss_variance, single_precision
from radin.theory.taylor import derivatives, directions

# Limits between the healthy zoos of the book and the broken ones; its chapter "When it breaks"
# shows both sides.
MAX_LOUDNESS_RATIO = 4.0  # spread of the loudest ingredient's logits over that of the median one
EXPANSION_RANGE = (0.6, 1.6)  # second-order term over the gain that it approximates
MAX_GAP_RATIO = 0.75  # predicted gap over the spread of the ensemble's logits

LOUDNESS = "logits of the loudest ingredient beside the median one's"


def trust(
    bank: LogitBank,
    zoo: Zoo | None = None,
    split: Dataset[Any] | None = None,
    *,
    trials: Sequence[Trial] = (),
    refreshed: bool = False,
    num_images: int = 64,
    device: str = "auto",
    progress: bool = True,
) -> Trust:
    """Say how far the fast estimate can be believed: before a budget is spent, and after.

    Each argument adds its checks. The bank alone costs no forward pass. The zoo is read once. Of a
    split, `num_images` images go through one pass with two tangents for each ingredient.

    The limits separate the healthy zoos of the companion from those it breaks on purpose. They are
    a warning, not a proof. Biases and the scales of norms are not compared, and ReLU's kinks have
    no curvature. Only evaluated soups can tell how good a soup is.

    Args:
        bank: the validation logit bank.
        zoo: the ingredients behind it, with `init` where it is available.
        split: the validation split, to ask for the predicted gap (T3); the zoo then needs `build`.
        trials: what `radin.craft` has evaluated: a soup, or its `trials`.
        refreshed: whether running statistics of batch norm are measured again for every soup. The
            predicted gap, which would be taken at their average, is then left out.
        num_images: how many images of the split to use, drawn at random from a fixed seed.
        device: where networks run.
        progress: show a bar.

    Raises:
        ParameterError: a zoo or a split that the bank was not made from, or a split without a zoo,
            or a network with an operation whose second forward-mode derivative torch does not have.
        DataError: images that the network does not take.

    >>> import radin
    >>> bench = radin.SoupBench.load("cifar10")
    >>> radin.trust(bench.val).verdict
    'yes'
    """
    _check_arguments(bank, zoo, split)
    trials = getattr(trials, "trials", trials)  # a soup has them
    num_images = check_integer("num_images", num_images, minimum=1)
    chosen = pick_device(device)
    checks = _checks_of_bank(bank)
    if zoo is not None:
        checks += checks_of_weights(zoo, bank, refreshed=refreshed, progress=progress)
        if split is not None and bank.num_models > 1 and not refreshed:
            checks += _checks_of_curvature(
                bank,
                zoo,
                split,
                num_images=num_images,
                device=chosen,
                is_loud=any(check.name == LOUDNESS and not check.passed for check in checks),
            )
    return Trust((*checks, *checks_of_trials(bank, trials)))


def _check_arguments(bank: LogitBank, zoo: Zoo | None, split: Dataset[Any] | None) -> None:
    if not isinstance(bank, LogitBank):
        raise ParameterError(
            f"The first argument is a logit bank, not a {type(bank).__name__}; "
            "radin.predict(zoo, split) makes one, and a soup bench has .val."
        )
    bank.refuse_projection("trust")
    bank.refuse_targets("trust")
    if zoo is not None and not isinstance(zoo, Zoo):
        raise ParameterError(
            f"The second argument is a zoo, as Zoo.open makes one, not a {type(zoo).__name__}."
        )
    if zoo is not None and len(zoo) != bank.num_models:
        raise ParameterError(
            f"The bank holds {bank.num_models} ingredients, the zoo {len(zoo)}; "
            "make one from the other."
        )
    if split is None:
        return
    if zoo is None:
        raise ParameterError("The predicted gap needs the networks too: trust(bank, zoo, split).")
    if isinstance(split, str) or not hasattr(split, "__len__"):
        raise ParameterError(
            f"The third argument is a split, as radin.load_split gives one, not {split!r}."
        )
    num_images = len(as_split(split))  # type: ignore[arg-type]
    if num_images != bank.num_images:
        raise ParameterError(
            f"The bank holds {bank.num_images} images, the split {num_images}; "
            "give the split that the bank was made from."
        )


def _checks_of_bank(bank: LogitBank) -> list[Check]:
    if bank.num_models == 1:
        return []
    predictions = [logits.argmax(-1) for logits in bank.logits]
    differ = [(one != other).double().mean().item() for one, other in combinations(predictions, 2)]
    loudness = torch.stack(
        [logits.float().std(-1, correction=0).mean() for logits in bank.logits]
    ).cpu()
    loudest = bank.names[int(loudness.argmax())]
    uniform = torch.full((1, bank.num_models), 1 / bank.num_models)
    losses = [nll_of(logits[None].double(), bank.labels).mean().item() for logits in bank.logits]
    gained = sum(losses) / bank.num_models - fast_estimate(bank, uniform, metric="nll").item()
    predicted = loss_variance(bank, uniform).item()
    return [
        Check(
            "images on which two ingredients disagree, in percent", 100 * sum(differ) / len(differ)
        ),
        Check(
            LOUDNESS,
            _ratio(loudness.max().item(), loudness.median().item(), of_zeros=1.0),
            maximum=MAX_LOUDNESS_RATIO,
            advice=f"Ingredient {loudest} is far more confident than the others, so every ensemble "
            "with it predicts what it predicts. Leave it out, or divide its logits by a "
            "temperature fitted on validation (scale its last layer).",
        ),
        Check(
            "gain of the ensemble's loss, second order beside the truth",
            predicted / gained if gained > 1e-12 else 1.0,
            *EXPANSION_RANGE,
            advice="The ingredients' logits are too far apart for a second-order expansion, as "
            "those of very confident networks are; do not rank by loss. Train with label smoothing "
            "or for less time, or fit temperatures first.",
        ),
    ]


def _ratio(one: float, other: float, *, of_zeros: float) -> float:
    """one / other; `of_zeros` where both are zero."""
    if other == 0:
        return math.inf if one > 0 else of_zeros
    return one / other


def _checks_of_curvature(
    bank: LogitBank,
    zoo: Zoo,
    split: Dataset[Any],
    *,
    num_images: int,
    device: torch.device,
    is_loud: bool,
) -> list[Check]:
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randperm(bank.num_images, generator=rng)[:num_images]
    images = next(batches(subset_of(split, drawn.tolist()), len(drawn)))[0]
    images = inputs_to(single_floats(images), device)
    model = zoo.model(0).to(device).float()
    stored = bank.logits[:, drawn.to(bank.logits.device)].to(device).float()
    with torch.no_grad():
        first = batch_logits(model, images, device)
    if not matches_stored(first, stored[0]):
        raise ParameterError(
            f"{bank.names[0]} does not predict on this split what the bank holds; "
            "make the bank again: radin.predict(zoo, split)."
        )
    # One ingredient at a time, so that memory holds the soup, one network and their difference.
    uniform = single_precision(average(zoo, torch.full((len(zoo),), 1 / len(zoo))), device)
    predicted = torch.zeros_like(first)
    for k in range(len(zoo)):
        (away,) = directions(uniform, [single_precision(zoo[k], device)])
        soup, _, curvature = derivatives(model, uniform, away, images)
        predicted -= curvature / (2 * len(zoo))
    ensemble = stored.mean(0)
    return [
        Check(
            "predicted gap of soup and ensemble beside the spread of logits",
            _ratio(_spread(predicted), _spread(ensemble), of_zeros=0.0),
            # A loud ingredient explains the gap, and has advice of its own.
            maximum=math.inf if is_loud else MAX_GAP_RATIO,
            advice="By the curvature of the network between ingredients and soup, soup and "
            "ensemble are as far apart as the classes are. Fix what other checks name; if there is "
            "none, fine-tune at a lower rate or for fewer epochs.",
        ),
        Check(
            "images on which the uniform soup answers as its ensemble, in percent",
            100 * (soup.argmax(1) == ensemble.argmax(1)).double().mean().item(),
        ),
    ]


def _spread(logits: Tensor) -> float:
    return (logits - logits.mean(-1, keepdim=True)).square().mean().sqrt().item()


def checks_of_trials(bank: LogitBank, trials: Sequence[Trial]) -> list[Check]:
    """Checks of the evaluated soups alone; none without a soup of several ingredients."""
    evaluated = [trial for trial in trials if trial.evaluated]
    soups = [trial for trial in evaluated if effective_number(trial.weights[None]).item() > 1]
    if not soups:
        return []
    metric = soups[0].metric
    unit = metric.unit_of_differences
    short = sum(metric.gain(soup.estimate, soup.value) for soup in soups) / len(soups)
    checks = [
        Check(f"fast estimate less {metric} over the evaluated soups, mean{unit}", short)
        if metric.higher_is_better
        else Check(f"{metric} less fast estimate over the evaluated soups, mean{unit}", short)
    ]
    if len(soups) > 2 and (correlation := _rank_correlation(soups)) is not None:
        checks.append(Check(f"rank correlation of estimate and {metric} over them", correlation))
    return [*checks, _best_beside_single(bank, soups, short)]


def _best_beside_single(bank: LogitBank, soups: Sequence[Trial], short: float) -> Check:
    """The check that the best soup is no worse than the best ingredient, up to noise.

    Args:
        short: how much better the estimates are than the soups, on average.
    """
    metric = soups[0].metric
    singles = single_values(bank, metric)
    best_model = int(metric.comparable(singles).argmax())
    best = soups[int(metric.comparable([trial.value for trial in soups]).argmax())]
    single = singles[best_model].item()
    single_weights = torch.eye(bank.num_models)[best_model]
    points = "points" if metric.is_percentage else metric.unit
    advice = (
        f"The evaluated soups fall {_digits(metric, short)}{points and f' {points}'} short "
        "of their ensembles. "
        if short > 0
        else ""
    )
    advice += (
        f"The best evaluated soup ({metric.text_with_unit(best.value)}) is no match for the best "
        f"ingredient ({metric.text_with_unit(single)}). Use that one, or the ensemble; "
        "for a better soup fine-tune at lower rates."
    )
    sides = ("best soup", "best ingredient")
    first, second = sides if metric.higher_is_better else reversed(sides)
    return Check(
        f"{first} less {second}, on validation{metric.unit_of_differences}",
        metric.gain(best.value, single),
        minimum=-noise_of_difference(bank, best.weights, single_weights, metric),
        advice=advice,
    )


def _digits(metric: Metric, difference: float) -> str:
    return f"{difference:.1f}" if metric.is_percentage else f"{difference:.3g}"


def _rank_correlation(soups: Sequence[Trial]) -> float | None:
    """Spearman's, equal values sharing their mean rank; None where all are equal."""
    ranks = []
    for values in ([t.estimate for t in soups], [t.value for t in soups]):
        v = torch.tensor(values, dtype=torch.float64)
        rank = (v[:, None] > v).sum(1) + 0.5 * (v[:, None] == v).sum(1)
        ranks.append(rank - rank.mean())
    scale = ranks[0].norm() * ranks[1].norm()
    return (ranks[0] @ ranks[1] / scale).item() if scale > 0 else None
