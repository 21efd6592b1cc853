"""A test of trust: how far can the fast estimate be believed for this zoo, and what to do where it cannot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from radin.bank import LogitBank
from radin.data import batches
from radin.errors import ParameterError, check_whole
from radin.ledger import Trial
from radin.predict import pick_device
from radin.rank import effective_number, fast_estimate
from radin.second_order import inner_products, loss_variance, single_precision, task_products
from radin.taylor import directions, gap
from radin.zoo import RUNNING_STATISTICS, Zoo

# Where the healthy zoos of the book end and the broken ones begin; its chapter "When it breaks" shows both sides.
LEAST_COSINE = 0.65  # between the weights of two ingredients, over all of them and in every single tensor
STRANGERS = 0.3  # below this two networks have nothing in common
MOST_LOUDNESS = 4.0  # spread of the loudest ingredient's logits over that of the median one
EXPANSION = (0.6, 1.6)  # second-order term over what it stands for
MOST_GAP = 0.75  # predicted gap over the spread of the ensemble's logits
MOST_DRIFT = 0.1  # of running means, in standard deviations


@dataclass(frozen=True)
class Check:
    """One thing that was measured.

    Attributes:
        name: what it is.
        value: what was found.
        least, most: what it may be; infinite where it is told for information only.
        advice: what to do if it is neither.
    """

    name: str
    value: float
    least: float = -math.inf
    most: float = math.inf
    advice: str = ""

    @property
    def passed(self) -> bool:
        return self.least <= self.value <= self.most

    @property
    def limited(self) -> bool:
        """Whether it has a limit; else it is told for information."""
        return self.least > -math.inf or self.most < math.inf

    def __str__(self) -> str:
        limits = [f"at least {self.least:.2f}"] * (self.least > -math.inf) + [f"at most {self.most:.2f}"] * (
            self.most < math.inf
        )
        mark = ("ok" if self.passed else "NO") if self.limited else "--"
        text = f"{mark}  {self.name}: {self.value:.2f}" + (f" ({', '.join(limits)})" if limits else "")
        return text if self.passed else f"{text}\n    {self.advice}"


@dataclass(frozen=True)
class Trust:
    """What `radin.trust` returns; print it for a report.

    Attributes:
        checks: all that was measured.
    """

    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """ "yes" when every check was passed, else "no"."""
        return "no" if self.failed else "yes"

    @property
    def failed(self) -> list[Check]:
        """The checks that were not passed; each has advice."""
        return [check for check in self.checks if not check.passed]

    @property
    def advice(self) -> list[str]:
        """What to do, in sentences; empty when the verdict is yes."""
        return list(dict.fromkeys(check.advice for check in self.failed))

    def __getitem__(self, name: str) -> float:
        """The value of a check by its name; ParameterError for one that was not made."""
        values = {check.name: check.value for check in self.checks}
        if name not in values:
            raise ParameterError(f"No check is called {name!r}; there are {', '.join(map(repr, values))}.")
        return values[name]

    def __str__(self) -> str:
        return "\n".join([f"trust in the fast estimate: {self.verdict}", *map(str, self.checks)])


def trust(
    bank: LogitBank,
    zoo: Zoo | None = None,
    split: Dataset[Any] | None = None,
    trials: Sequence[Trial] = (),
    refreshed: bool = False,
    num_images: int = 64,
    device: str = "auto",
    progress: bool = True,
) -> Trust:
    """Say how far the fast estimate can be believed: before a budget is spent, and after.

    Each argument adds its checks. The bank alone costs no forward pass; the zoo is read once; a split is asked for
    `num_images` images, one pass with two tangents for each ingredient; `trials` are what a recipe has evaluated.

    The limits part the healthy zoos of the companion from those it breaks on purpose. They are a warning, not a proof:
    a zoo may pass and still disappoint, which only evaluated soups can tell.

    Args:
        bank: the validation logit bank.
        zoo: the ingredients behind it, with `init` where that is known.
        split: the validation split, to ask for the predicted gap (T3); the zoo then needs `build`.
        trials: of `radin.craft`.
        refreshed: whether running statistics of batch norm are measured anew for every soup.
        num_images: how many images of the split to use.

    Raises ParameterError for a zoo or a split of another size than the bank, or a split without a zoo.
    """
    if zoo is not None and len(zoo) != bank.num_models:
        raise ParameterError(
            f"The bank holds {bank.num_models} ingredients, the zoo {len(zoo)}; make one from the other."
        )
    if split is not None and zoo is None:
        raise ParameterError("The predicted gap needs the networks too: trust(bank, zoo, split).")
    if split is not None and len(split) != bank.num_images:  # type: ignore[arg-type]
        raise ParameterError(
            f"The bank holds {bank.num_images} images, the split {len(split)}; "  # type: ignore[arg-type]
            "give the split that the bank was made from."
        )
    checks = _of_bank(bank)
    if zoo is not None:
        checks += _of_weights(zoo, bank, refreshed, progress)
        if split is not None and bank.num_models > 1:
            checks += _of_curvature(bank, zoo, split, check_whole("num_images", num_images, least=1), device)
    return Trust((*checks, *_of_trials(bank, trials)))


def _of_bank(bank: LogitBank) -> list[Check]:
    if bank.num_models == 1:
        return []
    answers = [logits.argmax(-1) for logits in bank.logits]
    differ = [(one != other).double().mean().item() for one, other in combinations(answers, 2)]
    loudness = torch.stack([logits.float().std(-1, correction=0).mean() for logits in bank.logits]).cpu()
    loudest = bank.names[int(loudness.argmax())]
    uniform = torch.full((1, bank.num_models), 1 / bank.num_models)
    alone = fast_estimate(bank, torch.eye(bank.num_models), "nll").mean()
    gained = (alone - fast_estimate(bank, uniform, "nll")).item()
    predicted = loss_variance(bank, uniform).item()
    return [
        Check("images on which two ingredients disagree, in percent", 100 * sum(differ) / len(differ)),
        Check(
            "logits of the loudest ingredient beside the median one's",
            _ratio(loudness.max().item(), loudness.median().item()),
            most=MOST_LOUDNESS,
            advice=f"Ingredient {loudest} is far more confident than the others, so every ensemble with it says what "
            "it says. Leave it out, or divide its logits by a temperature fitted on validation (scale its last layer).",
        ),
        Check(
            "gain of the ensemble's loss, second order beside the truth",
            predicted / gained if gained > 1e-12 else 1.0,
            *EXPANSION,
            advice="The ingredients' logits lie too far apart for a second-order expansion, as very confident networks "
            "do; do not rank by loss. Train with label smoothing or for less time, or fit temperatures first.",
        ),
    ]


def _ratio(one: float, other: float) -> float:
    if other == 0:
        return math.inf if one > 0 else 1.0
    return one / other


def _of_weights(zoo: Zoo, bank: LogitBank, refreshed: bool, progress: bool) -> list[Check]:
    checks = []
    if len(zoo) > 1:
        checks += _of_products(zoo, inner_products(zoo, progress), bank)
    if not refreshed and len(zoo) > 1 and (drift := _drift(zoo)) is not None:
        checks.append(
            Check(
                "running means of batch norm, apart in standard deviations",
                drift,
                most=MOST_DRIFT,
                advice="An average of running statistics is not the statistics of the averaged network. Measure them "
                "anew for every soup: radin.evaluator(zoo, split, refresh=training_split).",
            )
        )
    return checks


def _of_products(zoo: Zoo, products: Mapping[str, Tensor], bank: LogitBank) -> list[Check]:
    n = len(zoo)
    # Biases and the scales of norms are small and few; matrices and kernels tell who is related to whom.
    matrices = {key: product[:n, :n] for key, product in products.items() if zoo[0][key].ndim > 1}
    tensors = matrices or {key: product[:n, :n] for key, product in products.items()}
    whole = _mean_cosines(tensors.values())
    lowest = {key: _cosines(product).min().item() for key, product in tensors.items()}
    key = min(lowest, key=lowest.__getitem__)
    elsewhere = _mean_cosines(product for other, product in tensors.items() if other != key)
    if elsewhere.min() < LEAST_COSINE:
        i, j = divmod(int(whole.argmin()), n)
        advice = _apart(whole.min().item(), f"{bank.names[i]} and {bank.names[j]}")
    else:
        advice = f"The ingredients agree elsewhere, but not in {key}"
        heads = [name for name in tensors if len(zoo[0][name]) == bank.num_classes]  # one row for each class
        if heads == [key]:
            advice += (
                ", the last layer: heads that were made separately cannot be averaged. Fit one head to the frozen "
                "start and fine-tune every ingredient from there."
            )
        else:
            advice += ". Was that layer drawn anew for each of them, or its units put in another order?"
    checks = [
        Check("weights of two ingredients, smallest cosine", whole.min().item(), LEAST_COSINE, advice=advice),
        Check("the same in a single tensor", lowest[key], LEAST_COSINE, advice=advice),
    ]
    tasks = task_products(products, zoo.init is not None)
    length = tasks.diagonal().clamp_min(0).sqrt()
    apart = ~torch.eye(n, dtype=torch.bool)
    checks.append(Check("task vectors, mean cosine", _cosines(tasks)[apart].mean().item()))
    if zoo.init is not None:
        start = _total(products)[-1, -1].clamp_min(1e-300).sqrt()
        checks.append(Check("distance to the initialisation beside its length, mean", (length / start).mean().item()))
    return checks


def _apart(cosine: float, pair: str) -> str:
    if cosine < STRANGERS:
        return (
            f"{pair} have next to nothing in common: another initialisation, or units in another order. Only "
            "fine-tunes of one checkpoint can be averaged; leave the strangers out, or put their units in order first."
        )
    return (
        f"{pair} have moved too far apart to be averaged. Fine-tune at a lower rate or for fewer epochs, keep to the "
        "ingredients near the initialisation, or use the best ingredient or the ensemble."
    )


def _total(products: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(products.values())).sum(0)


def _cosines(products: Tensor) -> Tensor:
    """(N, N) cosines from inner products; that of a vector of zeros with any other counts as 1."""
    scale = _lengths(products)
    return torch.where(scale > 1e-300, products / scale.clamp_min(1e-300), torch.ones_like(products))


def _mean_cosines(tensors: Iterable[Tensor]) -> Tensor:
    """The mean of the tensors' cosines (N, N), each counting by its length: a head times thirty stays the same head."""
    products = list(tensors)
    if not products:
        return torch.ones(1, 1)
    scale = torch.stack([_lengths(each) for each in products]).sum(0)
    return torch.where(scale > 1e-300, torch.stack(products).sum(0) / scale.clamp_min(1e-300), torch.ones_like(scale))


def _lengths(products: Tensor) -> Tensor:
    """|theta_k| |theta_l| from inner products, (N, N)."""
    length = products.diagonal().clamp_min(0).sqrt()
    return length[:, None] * length


def _drift(zoo: Zoo) -> float | None:
    """Root mean square distance of two ingredients' running means in the layer where it is largest, in the standard
    deviations that they run beside; None without batch norm."""
    worst = None
    for key in zoo.keys():
        if not key.endswith(RUNNING_STATISTICS[0]):
            continue
        mean = torch.stack([zoo[k][key].double() for k in range(len(zoo))])
        variance = torch.stack([zoo[k][key.replace(*RUNNING_STATISTICS)].double() for k in range(len(zoo))]).mean(0)
        apart = (2 * mean.var(0) / variance.clamp_min(1e-12)).mean().sqrt().item()
        worst = apart if worst is None else max(worst, apart)
    return worst


def _of_curvature(bank: LogitBank, zoo: Zoo, split: Dataset[Any], num_images: int, device: str) -> list[Check]:
    chosen = pick_device(device)
    images = next(batches(split, num_images))[0].to(chosen)
    states = [single_precision(zoo[k], chosen) for k in range(len(zoo))]
    uniform = torch.full((len(zoo),), 1 / len(zoo))
    # The terms are taken around the uniform soup, so any ingredient will do as the origin of the directions.
    terms = gap(zoo.model(0).to(chosen).float(), states[0], directions(states[0], states), uniform, images)
    ensemble = bank.logits[:, : len(images)].to(chosen).float().mean(0)
    return [
        Check(
            "predicted gap of soup and ensemble beside the spread of logits",
            _ratio(_spread(terms.logits), _spread(ensemble)),
            most=MOST_GAP,
            advice="By the curvature of the network along the way, soup and ensemble part by as much as the classes "
            "do. Fine-tune at a lower rate or for fewer epochs, or use the ensemble itself.",
        ),
        Check(
            "images on which the uniform soup answers as its ensemble, in percent",
            100 * (terms.soup.argmax(1) == ensemble.argmax(1)).double().mean().item(),
        ),
    ]


def _spread(logits: Tensor) -> float:
    return (logits - logits.mean(-1, keepdim=True)).square().mean().sqrt().item()


def _of_trials(bank: LogitBank, trials: Sequence[Trial]) -> list[Check]:
    soups = [t for t in trials if t.evaluated and effective_number(t.weights.unsqueeze(0)).item() > 1]
    if not soups:
        return []
    short = sum(t.estimate - t.accuracy for t in soups) / len(soups)
    checks = [Check("fast estimate less accuracy over the evaluated soups, mean in points", short)]
    if len(soups) > 2 and (correlation := _rank_correlation(soups)) is not None:
        checks.append(Check("rank correlation of estimate and accuracy over them", correlation))
    alone = bank.accuracies()
    best = max(soups, key=lambda trial: trial.accuracy)
    ensemble = torch.zeros(bank.logits.shape[1:], dtype=torch.float64, device=bank.logits.device)
    for k in best.weights.nonzero().flatten().tolist():
        ensemble += best.weights[k].item() * bank.logits[k]
    differ = (ensemble.argmax(-1) != bank.logits[int(alone.argmax())].argmax(-1)).double().mean().item()
    noise = 100 * math.sqrt(max(differ, 1 / bank.num_images) / bank.num_images)
    advice = f"The evaluated soups fall {short:.1f} points short of their ensembles. " if short > 0 else ""
    advice += (
        f"The best evaluated soup ({best.accuracy:.2f}%) is no match for the best ingredient "
        f"({alone.max().item():.2f}%). Use that one, or the ensemble; for a better soup fine-tune at lower rates."
    )
    gained = best.accuracy - alone.max().item()
    checks.append(Check("best soup less best ingredient, on validation in points", gained, -noise, advice=advice))
    return checks


def _rank_correlation(soups: Sequence[Trial]) -> float | None:
    """Spearman's, equal values sharing their mean rank; None where all are equal."""
    ranks = []
    for values in ([t.estimate for t in soups], [t.accuracy for t in soups]):
        v = torch.tensor(values, dtype=torch.float64)
        rank = (v[:, None] > v).sum(1) + 0.5 * (v[:, None] == v).sum(1)
        ranks.append(rank - rank.mean())
    scale = ranks[0].norm() * ranks[1].norm()
    return (ranks[0] @ ranks[1] / scale).item() if scale > 0 else None
