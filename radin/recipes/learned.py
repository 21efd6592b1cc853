"""Learned soup: mixing weights found by gradient descent through the averaged model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.checkpoints.dtypes import is_averaged, to_precision
from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.data.network_inputs import Inputs
from radin.data.samples import as_split, subset_of
from radin.data.splits import projection_of
from radin.errors import DataError, ParameterError, check_integer, check_seed
from radin.inference.devices import pick_device
from radin.inference.evaluate import LiveEvaluator
from radin.inference.forward import batch_logits, move_model
from radin.ranking.bank import LogitBank, check_labels
from radin.recipes.ledger import Evaluate, Ledger
from radin.recipes.selection import Recipe, RecipeOptions, uniform
from radin.soup.average import mix

BATCH_SIZE = 32
LEARNING_RATE = 0.1
# A gradient step costs a forward pass, and a backward pass at twice its price: for the activations
# and for the parameters.
FORWARD_PASSES_PER_STEP = 3


@dataclass(frozen=True)
class LearnedSoup:
    """What `learn` returns.

    Attributes:
        zoo: the N ingredients.
        alpha: (N,), or (T, N) with a row for each parameter tensor; mixing weights are
            softmax(alpha).
        rows: the row of each parameter, by its name in the state dict; tied parameters share one.
        scale: the factor on the logits that was learned beside alpha, 1 if none was; no prediction
            depends on it.
        losses: cross-entropy in nats of each minibatch, before its step.
        forward_equivalents: what the steps cost; one is a forward pass over the split, as an
            evaluation is.
    """

    zoo: Zoo
    alpha: Tensor
    rows: dict[str, int]
    scale: float
    losses: list[float]
    forward_equivalents: float

    @property
    def weights(self) -> Tensor:
        """(N,) mixing weights; ParameterError for a soup learned tensor by tensor."""
        if self.alpha.ndim == 2:
            raise ParameterError(
                "This soup mixes each tensor with weights of its own; "
                "use .tensor_weights or .state_dict()."
            )
        return self._shares()

    @property
    def tensor_weights(self) -> dict[str, Tensor]:
        """(N,) mixing weights of every tensor by its name; a buffer's are the mean of all rows."""
        shares = self._shares()
        if shares.ndim == 1:
            return dict.fromkeys(self.zoo.keys(), shares)
        return {
            key: shares[self.rows[key]] if key in self.rows else shares.mean(0)
            for key in self.zoo.keys()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The soup in the ingredients' own precision, rounded once, as `radin.average` does."""
        sources = [self.zoo[k] for k in range(len(self.zoo))]
        return {key: mix(sources, p.double(), [key])[key] for key, p in self.tensor_weights.items()}

    def _shares(self) -> Tensor:
        return self.alpha.double().softmax(-1).float()


@torch.enable_grad()
def learn(
    zoo: Zoo,
    split: Dataset[Any],
    steps: int,
    *,
    per_tensor: bool = False,
    learn_scale: bool = False,
    lr: float = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> LearnedSoup:
    """Learn mixing weights from the images on which soups are compared.

    The parameters are sum_k softmax(alpha)_k theta_k, starting from the uniform soup. AdamW without
    weight decay lowers their cross-entropy on minibatches. The images are not augmented and the
    network is in evaluation mode. Buffers are averaged along, but no gradient goes through them.
    The accuracy on these images is too high afterwards, because the soup has learned from them.

    All N ingredients are held on the device at once in single precision (double where they are
    double). The work of mixing them, N multiplications for each parameter and step, is not part of
    the stated cost.

    Args:
        zoo: opened with `build`.
        split: (image, label) pairs, the validation split.
        steps: minibatches; 0 leaves the uniform soup.
        per_tensor: learn one alpha for each ingredient and parameter tensor, instead of one for
            each ingredient.
        learn_scale: learn a factor on the logits beside alpha, as the source does, so that alpha
            does not have to correct their confidence.
        lr: learning rate, constant.
        batch_size: images in a step; the last ones of an epoch may be fewer.
        seed: of the order of the images. The same seed gives the same numbers on one CPU; on a GPU
            they may differ in the last digits.
        device: where the networks run.
        progress: show a bar.

    Raises:
        ParameterError: the zoo has no `build`, or an impossible number.
        DataError: an empty split, a network without gradients, or a loss that stops being finite.

    Source: Wortsman et al. 2022, section 2 and appendix I.
    """
    steps = check_integer("steps", steps, minimum=0)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    rng = torch.Generator().manual_seed(check_seed(seed))
    if not 0 < lr < math.inf:  # NaN fails this too
        raise ParameterError(f"lr must be a positive number, not {lr!r}.")
    split = as_split(split)
    num_images = _check_images(split)
    mixture = Mixture(zoo, pick_device(device))
    shape = (mixture.num_rows, len(zoo)) if per_tensor else (len(zoo),)
    alpha = torch.zeros(shape, device=mixture.device, requires_grad=True)
    log_scale = torch.zeros((), device=mixture.device, requires_grad=learn_scale)
    optimizer = torch.optim.AdamW(
        [alpha, log_scale] if learn_scale else [alpha], lr=lr, weight_decay=0
    )
    losses: list[float] = []
    minibatches = _minibatches(split, batch_size, rng)
    for _ in tqdm(range(steps), desc="learning mixing weights", disable=not progress, leave=False):
        loss = mixture.loss(alpha, log_scale, *next(minibatches))
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise DataError(
                f"The loss is {losses[-1]} at step {len(losses)} of learning; lower lr={lr}."
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cost = float(training_cost(steps, num_images, batch_size))
    return LearnedSoup(
        zoo=zoo,
        alpha=alpha.detach().cpu(),
        rows=mixture.rows,
        scale=log_scale.exp().item(),
        losses=losses,
        forward_equivalents=cost,
    )


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


class Mixture:
    """The ingredients stacked on a device, and one network that can hold any mixture of them.

    Attributes:
        rows: a number from 0 to T - 1 for each parameter, by its name in the state dict; tied
            parameters share one.
        num_rows: T.
        stacked: (N, ...) of every tensor in the state dict.
    """

    def __init__(self, zoo: Zoo, device: torch.device) -> None:
        wide = (torch.float64, torch.complex128)
        double = any(zoo[0][key].dtype in wide for key in zoo.keys())
        dtype = torch.float64 if double else torch.float32
        self.device = device
        # Evaluation mode, as the soup will be used: no dropout, batch norm by averaged statistics.
        self.model = move_model(zoo.model(0), device, dtype).requires_grad_(False)
        distinct = {parameter: row for row, parameter in enumerate(self.model.parameters())}
        self.rows = {
            name: distinct[p] for name, p in self.model.named_parameters(remove_duplicate=False)
        }
        self.num_rows = len(distinct)
        self.stacked: dict[str, Tensor] = {}
        for key in zoo.keys():
            tensors = [to_precision(zoo[k][key].to(device), dtype) for k in range(len(zoo))]
            self.stacked[key] = torch.stack(tensors)

    def state(self, weights: Tensor) -> dict[str, Tensor]:
        """The soup of mixing weights (N,), or (T, N) with a row for each parameter tensor.

        Buffers are mixed by the mean row or, if they hold integers, come from the ingredient with
        the largest weight. No gradient goes through them: torch has none for the statistics of
        batch norm.
        """
        rows = weights.expand(self.num_rows, -1)
        mean_row = rows.detach().mean(0)
        heaviest = mean_row.argmax()
        mixed = {}
        for key, tensors in self.stacked.items():
            p = rows[self.rows[key]] if key in self.rows else mean_row
            mixed[key] = (
                torch.tensordot(p.to(tensors.dtype), tensors, 1)
                if is_averaged(tensors.dtype)
                else tensors[heaviest]
            )
        return mixed

    def loss(self, alpha: Tensor, log_scale: Tensor, images: Inputs, labels: Tensor) -> Tensor:
        """Mean cross-entropy in nats of softmax(alpha)'s soup, its logits times exp(log_scale)."""
        logits = batch_logits(self.model, images, self.device, state=self.state(alpha.softmax(-1)))
        check_labels(labels, logits.shape[-1])
        if not logits.requires_grad:
            raise DataError(
                f"{type(self.model).__name__} gives logits without a gradient, so no mixing "
                "weights can be learned through it; take torch.no_grad and .detach() out of its "
                "forward."
            )
        return F.cross_entropy(logits * log_scale.exp(), labels.to(self.device))


def training_cost(steps: int, num_images: int, batch_size: int = BATCH_SIZE) -> Fraction:
    """What gradient steps cost, in forward passes over the split.

    A step on b of n images costs 3 b / n.
    """
    batch_size = min(batch_size, num_images)
    # Only an epoch's last step can be smaller.
    epochs, rest = divmod(steps, math.ceil(num_images / batch_size))
    return Fraction(FORWARD_PASSES_PER_STEP * (epochs * num_images + rest * batch_size), num_images)


def steps_within(passes: int, num_images: int, batch_size: int = BATCH_SIZE) -> int:
    """How many gradient steps cost at most `passes` forward passes over the split."""
    batch_size = min(batch_size, num_images)
    epochs, rest = divmod(passes, FORWARD_PASSES_PER_STEP)
    return epochs * math.ceil(num_images / batch_size) + rest * num_images // (
        FORWARD_PASSES_PER_STEP * batch_size
    )


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
    batch_size = min(BATCH_SIZE, live.batch_size)
    # The last evaluation measures the result; with one ingredient there is nothing to learn.
    can_learn = bank.num_models > 1
    steps = steps_within(ledger.passes_left - 1, bank.num_images, batch_size) if can_learn else 0
    if steps == 0:
        if can_learn:
            enough = math.ceil(training_cost(1, bank.num_images, batch_size)) + 1
            ledger.notes.append(
                "too small a budget for one gradient step, so this is the uniform soup; "
                f"{enough} is enough"
            )
        return uniform(bank, ledger, options)
    ledger.charge(training_cost(steps, bank.num_images, batch_size))
    found = learn(
        live.zoo,
        live.split,
        steps,
        batch_size=batch_size,
        seed=options.seed,
        device=live.device,
    )
    ledger.spend(found.weights)
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
