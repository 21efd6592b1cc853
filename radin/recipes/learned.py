"""Learned soup: mixing weights found by gradient descent through the averaged model."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.data.network_inputs import Inputs
from radin.data.samples import as_split, subset_of
from radin.data.splits import projection_of
from radin.errors import DataError, ParameterError, check_integer, check_seed
from radin.inference.devices import pick_device
from radin.inference.evaluate import LiveEvaluator
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights
from radin.ranking.convex import convex
from radin.recipes.ledger import Evaluate, Ledger
from radin.recipes.mixture import Mixture
from radin.recipes.selection import Recipe, RecipeOptions, uniform
from radin.soup.average import average_by_tensor

BATCH_SIZE = 32
LEARNING_RATE = 0.1
# A gradient step costs a forward pass, and a backward pass at twice its price: for the activations
# and for the parameters.
FORWARD_PASSES_PER_STEP = 3
MAX_CHECKS_WITHOUT_GAIN = 2  # on images held out
MIN_START_SHARE = 0.01  # of the uniform share; a share of 0 has no gradient and could never grow
STARTS = ("uniform", "convex")


@dataclass(frozen=True)
class LearnedSoup:
    """What `learn` returns.

    Attributes:
        zoo: the N ingredients.
        alpha: (N,), or (T, N) with a row for each block or parameter tensor; mixing weights are
            softmax(alpha).
        rows: the row of each parameter, by its name in the state dict; tied parameters share one.
        scale: the factor on the logits that was learned beside alpha, 1 if none was; no prediction
            depends on it.
        losses: cross-entropy in nats of each minibatch, before its step.
        held_out_losses: cross-entropy in nats on the images that were held out, before the first
            step, after each epoch and after the last step; empty without such images.
        forward_equivalents: what the steps cost; one is a forward pass over the split, as an
            evaluation is.
    """

    zoo: Zoo
    alpha: Tensor
    rows: dict[str, int]
    scale: float
    losses: list[float]
    forward_equivalents: float
    held_out_losses: list[float] = field(default_factory=list)

    @property
    def weights(self) -> Tensor:
        """(N,) mixing weights; ParameterError for a soup of which parts have their own."""
        if self.alpha.ndim == 2:
            raise ParameterError(
                "This soup mixes each tensor or block with weights of its own; "
                "use .tensor_weights or .state_dict()."
            )
        return self._shares()

    @property
    def mean_weights(self) -> Tensor:
        """(N,) mixing weights; where parts have their own, the mean over the parts."""
        return self._shares().view(-1, len(self.zoo)).mean(0)

    @property
    def tensor_weights(self) -> dict[str, Tensor]:
        """(N,) mixing weights of every tensor by its name; a buffer's are the mean of all rows."""
        mean = self.mean_weights
        if self.alpha.ndim == 1:
            return dict.fromkeys(self.zoo.keys(), mean)
        shares = self._shares()
        return {
            key: shares[self.rows[key]] if key in self.rows else mean for key in self.zoo.keys()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The soup in the ingredients' own precision, rounded once, as `radin.average` does."""
        return average_by_tensor(self.zoo, self.tensor_weights)

    def _shares(self) -> Tensor:
        return self.alpha.double().softmax(-1).float()


@torch.enable_grad()
def learn(
    zoo: Zoo,
    split: Dataset[Any],
    steps: int,
    *,
    granularity: str = "ingredient",
    start: Tensor | Sequence[float] | None = None,
    holdout: float = 0.0,
    learn_scale: bool = False,
    lr: float = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> LearnedSoup:
    """Learn mixing weights from the images on which soups are compared.

    The parameters are sum_k softmax(alpha)_k theta_k. AdamW without weight decay lowers their
    cross-entropy on minibatches. The images are not augmented and the network is in evaluation
    mode. Buffers are averaged along, but no gradient goes through them. The accuracy on these
    images is too high afterwards, because the soup has learned from them.

    Memory is that of one network, in single precision (double where an ingredient is double), and
    its activations: the ingredients are read from their files in blocks, twice in each step. A GPU
    with room for all of them holds them. The work of reading and mixing them is not part of the
    stated cost.

    Args:
        zoo: opened with `build`.
        split: (image, label) pairs, the validation split.
        steps: minibatches; 0 leaves the soup of the start.
        granularity: what has an alpha of its own for each ingredient: "ingredient" (one alpha),
            "block" (each block of layers, by the first number in the names) or "tensor" (each
            parameter tensor).
        start: (N,) mixing weights to start from, such as `radin.convex(bank)[0]`; by default the
            uniform soup. A share below 0.01 / N is raised to that, so that it can grow.
        holdout: the share of the images, drawn by the seed, that are not learned from. The loss on
            them is measured before the first step and after each epoch. Learning stops when it was
            not lower than before for two epochs, and the soup with the lowest one is returned.
        learn_scale: learn a factor on the logits beside alpha, as the source does, so that alpha
            does not have to correct their confidence.
        lr: learning rate, constant.
        batch_size: images in a step; the last ones of an epoch may be fewer.
        seed: of the order of the images. The same seed gives the same numbers on one CPU; on a GPU
            they may differ in the last digits.
        device: where the networks run.
        progress: show a bar.

    Raises:
        ParameterError: the zoo has no `build`, or an impossible number, word or start.
        DataError: an empty split, a network without gradients, or a loss that stops being finite.

    Source: Wortsman et al. 2022, section 2 and appendix I; Li et al. 2024 (MEHL-Soup) for the
    gradient.
    """
    steps = check_integer("steps", steps, minimum=0)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    rng = torch.Generator().manual_seed(check_seed(seed))
    if not 0 < lr < math.inf:  # NaN fails this too
        raise ParameterError(f"lr must be a positive number, not {lr!r}.")
    split = as_split(split)
    num_images = _check_images(split)
    num_held_out = count_held_out(holdout, num_images)
    held_out: Dataset[Any] | None = None
    if num_held_out:
        order = torch.randperm(num_images, generator=rng).tolist()
        held_out = subset_of(split, sorted(order[:num_held_out]))
        split = subset_of(split, sorted(order[num_held_out:]))
    alpha = _start_alpha(start, len(zoo))
    with Mixture(zoo, pick_device(device), granularity=granularity) as mixture:
        if granularity != "ingredient":
            alpha = alpha.repeat(mixture.num_rows, 1)
        alpha = alpha.to(mixture.device).requires_grad_()
        log_scale = torch.zeros((), device=mixture.device, requires_grad=learn_scale)
        watch = None if held_out is None else _HeldOut(mixture, held_out, batch_size)
        losses = _descend(
            mixture,
            alpha,
            log_scale,
            tqdm(
                islice(_minibatches(split, batch_size, rng), steps),
                total=steps,
                desc="learning mixing weights",
                disable=not progress,
                leave=False,
            ),
            lr=lr,
            last=steps,
            steps_per_epoch=math.ceil((num_images - num_held_out) / batch_size),
            watch=watch,
        )
        if watch is not None and losses:
            alpha, log_scale = watch.best
    cost = training_cost(len(losses), num_images, batch_size, num_held_out)
    return LearnedSoup(
        zoo=zoo,
        alpha=alpha.detach().cpu(),
        rows=mixture.rows,
        scale=log_scale.exp().item(),
        losses=losses,
        forward_equivalents=float(cost),
        held_out_losses=[] if watch is None else watch.losses,
    )


def _descend(
    mixture: Mixture,
    alpha: Tensor,
    log_scale: Tensor,
    minibatches: Iterable[tuple[Inputs, Tensor]],
    *,
    lr: float,
    last: int,
    steps_per_epoch: int,
    watch: _HeldOut | None,
) -> list[float]:
    """Take a step on each minibatch, and after each epoch and the last step see whether to go on.

    Returns: the loss of each minibatch in nats, before its step.
    """
    learned_ones = [tensor for tensor in (alpha, log_scale) if tensor.requires_grad]
    optimizer = torch.optim.AdamW(learned_ones, lr=lr, weight_decay=0)
    losses: list[float] = []
    if watch is not None and last:
        watch.shows_no_gain(alpha, log_scale)
    for images, labels in minibatches:
        optimizer.zero_grad()
        losses.append(mixture.backward(alpha, log_scale, images, labels))
        if not math.isfinite(losses[-1]):
            raise DataError(
                f"The loss is {losses[-1]} at step {len(losses)} of learning; lower lr={lr}."
            )
        optimizer.step()
        is_check = len(losses) % steps_per_epoch == 0 or len(losses) == last
        if watch is not None and is_check and watch.shows_no_gain(alpha, log_scale):
            break
    return losses


class _HeldOut:
    """Images that nothing is learned from, and the soup with the lowest loss on them."""

    def __init__(self, mixture: Mixture, split: Dataset[Any], batch_size: int) -> None:
        self.losses: list[float] = []
        self.best: tuple[Tensor, Tensor]  # alpha and the logarithm of the scale
        self._mixture = mixture
        self._split = split
        self._batch_size = batch_size

    def shows_no_gain(self, alpha: Tensor, log_scale: Tensor) -> bool:
        """Measure a soup; whether the lowest loss is `MAX_CHECKS_WITHOUT_GAIN` checks ago."""
        loss = self._mixture.loss(alpha, log_scale, self._split, batch_size=self._batch_size)
        if not self.losses or loss < min(self.losses):
            self.best = (alpha.detach().clone(), log_scale.detach().clone())
        self.losses.append(loss)
        lowest = self.losses.index(min(self.losses))
        return len(self.losses) - 1 - lowest >= MAX_CHECKS_WITHOUT_GAIN


def _start_alpha(start: Tensor | Sequence[float] | None, num_models: int) -> Tensor:
    """The logarithm of the mixing weights to start from: (N,) single precision."""
    if start is None:
        return torch.zeros(num_models)
    weights = check_weights(start, num_models)
    return weights.clamp(min=MIN_START_SHARE / num_models).log().float()


def check_holdout(holdout: float) -> float:
    """The share of the images to hold out, as a float.

    Raises:
        ParameterError: it is not a number of at least 0 and below 1.
    """
    if isinstance(holdout, bool) or not isinstance(holdout, int | float) or not 0 <= holdout < 1:
        raise ParameterError(
            "holdout must be a number of at least 0 and below 1, the share of the images that are "
            f"not learned from, not {holdout!r}."
        )
    return float(holdout)


def count_held_out(holdout: float, num_images: int) -> int:
    """How many of n images a share to hold out is.

    Raises:
        ParameterError: it is not a number of at least 0 and below 1, or none of the images.
    """
    holdout = check_holdout(holdout)
    count = min(math.floor(holdout * num_images + 1e-9), num_images - 1)
    if holdout and not count:
        raise ParameterError(
            f"holdout={holdout} of {num_images} images is none; give a larger share, or 0."
        )
    return count


def _check_images(split: Dataset[Any]) -> int:
    num_images = len(split)  # type: ignore[arg-type]
    if num_images == 0:
        raise DataError(f"{split!r} is empty; a split needs at least one image.")
    if projection_of(split) is not None:
        raise ParameterError(
            f"{split!r} has other classes than the networks; "
            "learn on the images that soups are chosen by."
        )
    return num_images


def training_cost(
    steps: int, num_images: int, batch_size: int = BATCH_SIZE, num_held_out: int = 0
) -> Fraction:
    """What gradient steps cost, in forward passes over the split.

    A step on b of n images costs 3 b / n. With images held out, one forward pass over them is made
    before the first step, after each epoch of the others and after the last step.
    """
    num_learned = num_images - num_held_out
    batch_size = min(batch_size, num_learned)
    # Only an epoch's last step can be smaller.
    epochs, rest = divmod(steps, math.ceil(num_learned / batch_size))
    num_checks = 1 + epochs + (rest > 0) if steps else 0
    num_run = FORWARD_PASSES_PER_STEP * (epochs * num_learned + rest * batch_size)
    return Fraction(num_run + num_checks * num_held_out, num_images)


def steps_within(
    passes: int, num_images: int, batch_size: int = BATCH_SIZE, num_held_out: int = 0
) -> int:
    """How many gradient steps cost at most `passes` forward passes over the split."""

    def cost(steps: int) -> Fraction:
        return training_cost(steps, num_images, batch_size, num_held_out)

    most = max(0, passes) * num_images // FORWARD_PASSES_PER_STEP  # of one image each
    return max(0, bisect_right(range(most + 1), Fraction(passes), key=cost) - 1)


def _minibatches(
    split: Dataset[Any], batch_size: int, rng: torch.Generator
) -> Iterator[tuple[Inputs, Tensor]]:
    """Without end, the split in a new random order each time."""
    while True:
        order = torch.randperm(len(split), generator=rng)  # type: ignore[arg-type]
        yield from batches(subset_of(split, order.tolist()), batch_size)


def learned(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
    """Learned soup: mixing weights by gradient, for all of the budget but one evaluation.

    Source: Wortsman et al. 2022, appendix I.
    """
    live = _check_live(bank, ledger.evaluate)
    start = convex(bank)[0] if options.start == "convex" else None
    batch_size = min(BATCH_SIZE, live.batch_size)
    num_held_out = count_held_out(options.holdout, bank.num_images)
    sizes = (bank.num_images, batch_size, num_held_out)
    # The last evaluation measures the result; with one ingredient there is nothing to learn.
    can_learn = bank.num_models > 1
    steps = steps_within(ledger.passes_left - 1, *sizes) if can_learn else 0
    if steps == 0:
        if can_learn:
            enough = math.ceil(training_cost(1, *sizes)) + 1
            ledger.notes.append(
                f"too small a budget for one gradient step, so this is the {options.start} soup; "
                f"{enough} is enough"
            )
        if start is None:
            return uniform(bank, ledger, options)
        ledger.spend(start)
        return 0
    found = learn(
        live.zoo,
        live.split,
        steps,
        granularity=options.granularity,
        start=start,
        holdout=options.holdout,
        batch_size=batch_size,
        seed=options.seed,
        device=live.device,
    )
    ledger.charge(training_cost(len(found.losses), *sizes))
    if len(found.losses) < steps:
        ledger.notes.append(
            f"learning stopped after {len(found.losses)} of {steps} steps, because the loss on the "
            "images held out rose"
        )
    has_parts = found.alpha.ndim == 2
    ledger.spend(found.mean_weights, tensor_weights=found.tensor_weights if has_parts else None)
    return 0


def _check_live(bank: LogitBank, evaluate: Evaluate) -> LiveEvaluator:
    """The evaluator with the networks and images behind the bank; ParameterError for others."""
    bank.refuse_targets("Learning by cross-entropy")
    if not isinstance(evaluate, LiveEvaluator):
        raise ParameterError(
            "This recipe needs real networks and images, not accuracies alone (a soup bench or a "
            "function of your own gives no more); pass evaluate=radin.evaluator(zoo, split)."
        )
    num_models = len(evaluate.zoo)
    num_images = len(evaluate.split)  # type: ignore[arg-type]
    if (num_models, num_images) != (bank.num_models, bank.num_images):
        raise ParameterError(
            f"The bank holds {bank.num_models} ingredients and {bank.num_images} images, but "
            f"evaluate has {num_models} and {num_images}; make both from one zoo and one split."
        )
    return evaluate


# These need the networks and the images behind `evaluate`. They are not in RECIPES, because code
# that loops over RECIPES often has only the look-up of a bench.
LIVE_RECIPES: dict[str, Recipe] = {"learned": learned}
