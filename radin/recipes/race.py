"""Racing: many soups on few images; the clearly worse are dropped, the others go on to more images.

The images are those of `radin.ranking.image_sample`, so every estimate on the way has no bias, and
no image is run twice for one soup.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from radin.errors import ParameterError
from radin.inference.evaluate import ImageEvaluator
from radin.inference.partial import PERCENT_STEP, ensemble_values
from radin.ranking.bank import LogitBank
from radin.ranking.image_sample import ImageOrder, ImageSample
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import NLL
from radin.ranking.rank import rank, single_values
from radin.recipes.ledger import Ledger
from radin.recipes.rules import RaceRules, comparable
from radin.recipes.selection import Recipe, RecipeOptions

CHAMPION = 0  # its number in a field; the challengers follow


def race(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """Race: many soups on few images, without the clearly worse ones on more and more images.

    The best ingredient takes part and is free. Soups come in the order of their ensembles' negative
    log-likelihood. The first one is run on all images, and the better of the two is the champion.
    The other soups are its challengers.
    """
    _check(bank, ledger)
    metric = ledger.metric
    singles = single_values(bank, metric)
    best = int(metric.comparable(singles).argmax())
    single = torch.eye(bank.num_models)[best]
    ledger.look(single, estimate=singles[best].item())
    candidates = options.candidates_for(bank)
    soups = candidates[(candidates > 0).sum(1) > 1]
    if not len(soups):
        return 0
    rules = options.race_rules
    soups = soups[rank(bank, soups, top=rules.num_soups(ledger.budget), metric=NLL).order]
    values = ledger.run_images(soups[:1], None)[0]
    mean = values.sum().item() / bank.num_images
    first = ledger.book(soups[0], mean, cost=Fraction(1))
    of_single, of_soup = comparable([singles[best].item(), mean], metric)
    champion = first if of_soup > of_single else 0
    if len(soups) == 1:
        return champion
    weights = torch.cat([(soups[0] if champion else single)[None].to(soups.dtype), soups[1:]])
    field = _Field(bank, metric, weights, seed=options.seed)
    field.learn_tail(soups[0], values)
    if champion:
        field.add([CHAMPION], None, values[None])
    return _challenge(ledger, field, rules, champion)


def _check(bank: LogitBank, ledger: Ledger) -> None:
    """Refuse what cannot be run on single images."""
    metric, evaluate = ledger.metric, ledger.evaluate
    if metric.per_image is None or metric.labels == "numbers":
        raise ParameterError(
            f"race needs a metric that is a mean over images, such as accuracy or nll, not "
            f"{metric.name}; take the recipe safe."
        )
    if not isinstance(evaluate, ImageEvaluator):
        raise ParameterError(
            "race runs soups on single images, so a function of mixing weights is not enough; pass "
            "evaluate=radin.evaluator(zoo, split) or the evaluator of a soup bench."
        )
    if evaluate.partial is not None and evaluate.partial.asked_share < 1:
        raise ParameterError(
            "race chooses its images itself; leave the evaluator's share out and give "
            "race_rules=RaceRules(share=...)."
        )


class _Field:
    """The soups of a race, and what is known of them image by image.

    Args:
        bank: logits (N, n, C).
        metric: a mean over images.
        weights: (M, N) mixing weights: of the champion, then of its challengers.
        seed: of the sample of images.
    """

    def __init__(self, bank: LogitBank, metric: Metric, weights: Tensor, *, seed: int) -> None:
        self.metric = metric
        self.bank = bank
        self.weights = weights
        self.order = ImageOrder.of_bank(bank, seed=seed)
        self._ensembles = ensemble_values(bank, weights, metric)  # (M, n)
        self._differences = torch.zeros_like(self._ensembles)  # soup minus ensemble, where it ran
        self._step = PERCENT_STEP if metric.is_percentage else 0.0
        self._squares = torch.ones(bank.num_images, dtype=torch.float64)

    def learn_tail(self, weights: Tensor, values: Tensor) -> None:
        """Take from one soup (N,) with values (n,) where soups and ensembles disagree."""
        ensemble = ensemble_values(self.bank, weights[None], self.metric)[0]
        self._squares = (values - ensemble).square()

    def add(self, numbers: list[int], images: Tensor | None, values: Tensor) -> None:
        """Take up values (len(numbers), k) of some soups on some images, all for None."""
        chosen = torch.arange(self.bank.num_images) if images is None else images
        rows = torch.tensor(numbers)[:, None]
        self._differences[rows, chosen] = values - self._ensembles[rows, chosen]

    def estimate(self, number: int, sample: ImageSample) -> tuple[float, float]:
        """The value of one soup and its standard error, from the sample."""
        return self._from_sample(self._ensembles[number], self._differences[number], sample)

    def lead(self, one: int, other: int, sample: ImageSample) -> tuple[float, float]:
        """How much better one soup is than another, and the standard error of this difference."""
        value, error = self._from_sample(
            self._ensembles[one] - self._ensembles[other],
            self._differences[one] - self._differences[other],
            sample,
        )
        return self.metric.gain(value, 0.0), error

    def ranked(self, numbers: list[int], sample: ImageSample) -> list[int]:
        """These soups, the best estimate first, and of equals the first."""
        values = comparable([self.estimate(k, sample)[0] for k in numbers], self.metric)
        return [numbers[k] for k in (-values).argsort(kind="stable")]

    def _from_sample(
        self, ensemble: Tensor, differences: Tensor, sample: ImageSample
    ) -> tuple[float, float]:
        variance = self.order.expected_variance(self._squares, len(sample.indices))
        noise = max(self._squares.sum().item(), self._step**2, 1e-300)
        return sample.estimate(
            ensemble.sum().item(),
            differences[sample.indices],
            tail_rate=variance / noise,
            step=self._step,
        )


@dataclass
class _Result:
    """What the race found of one challenger."""

    value: float
    standard_error: float
    cost: Fraction


def _challenge(ledger: Ledger, field: _Field, rules: RaceRules, champion: int) -> int:
    """Run the challengers on growing samples; the champion is a trial of the ledger."""
    num_images = field.bank.num_images
    racing = list(range(len(field.weights)))  # the champion's place in it is free
    results: dict[int, _Result] = {}
    sample = ImageSample(torch.empty(0, dtype=torch.int64), torch.empty(0), num_images)
    leader, num_worse, num_cut = CHAMPION, 0, 0
    why = "the budget is spent"
    for share in rules.shares():
        if racing == [leader]:
            why = "the leader is clear"
            break
        wanted = field.order.draw(math.floor(share * num_images + 1e-9))
        fresh = wanted.indices[~torch.isin(wanted.indices, sample.indices)]
        if not len(fresh):
            continue
        runners = [k for k in racing if k != CHAMPION]
        if results:
            runners = field.ranked(runners, sample)
        affordable = ledger.num_affordable(len(fresh))
        if not affordable:
            break
        num_cut += max(0, len(runners) - affordable)
        runners = sorted(runners[:affordable])
        field.add(runners, fresh, ledger.run_images(field.weights[runners], fresh.tolist()))
        sample = wanted
        cost = Fraction(len(sample.indices), num_images)
        for k in runners:
            results[k] = _Result(*field.estimate(k, sample), cost)
        racing = [k for k in racing if k == CHAMPION or k in runners]
        leader = field.ranked(racing, sample)[0]
        if len(sample.indices) == num_images:
            why = "all images were run"
            break
        rivals = [k for k in racing if not _is_worse(field, k, leader, sample, rules)]
        num_worse += len(racing) - len(rivals)
        racing = rivals
    trial_of = {CHAMPION: champion}
    for k, found in sorted(results.items()):
        trial_of[k] = ledger.book(
            field.weights[k], found.value, standard_error=found.standard_error, cost=found.cost
        )
    ledger.notes.append(
        f"{len(results)} soups raced against the first one and the best single: {num_worse} were "
        f"clearly worse, {num_cut} did not fit the budget; it ended on "
        f"{100 * len(sample.indices) / num_images:.0f}% of the images because {why}"
    )
    return trial_of[leader]


def _is_worse(
    field: _Field, number: int, leader: int, sample: ImageSample, rules: RaceRules
) -> bool:
    lead, error = field.lead(leader, number, sample)
    return lead > rules.threshold * error and lead > 0


# It runs soups on single images, which a function of mixing weights cannot, so it is not among
# `radin.RECIPES`.
IMAGE_RECIPES: dict[str, Recipe] = {"race": race}
