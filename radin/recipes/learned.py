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
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.errors import DataError, ParameterError, check_seed, check_integer
from radin.inference.devices import pick_device
from radin.inference.forward import batch_logits
from radin.ranking.bank import LogitBank, check_labels
from radin.recipes.ledger import Ledger, Trial
from radin.recipes.selection import Order, Recipe, _uniform
from radin.soup.average import mix

BATCH_SIZE = 32
LEARNING_RATE = 0.1
STEP_COST = 3  # a forward pass, and a backward pass at twice its price: for the activations and for the parameters


@dataclass(frozen=True)
class LearnedSoup:
    """What `learn` returns.

    Attributes:
        zoo: the N ingredients.
        alpha: (N,), or (T, N) with a row for each parameter tensor; mixing weights are softmax(alpha).
        rows: the row of each parameter, by its name in the state dict; tied parameters share one.
        scale: the factor on the logits that was learned beside alpha, 1 if none was; no prediction depends on it.
        losses: cross-entropy in nats of each minibatch, before its step.
        forward_equivalents: what the steps cost; one is a forward pass over the split, as an evaluation is.
    """

    zoo: Zoo
    alpha: Tensor
    rows: dict[str, int]
    scale: float
    losses: list[float]
    forward_equivalents: float

    @property
    def weights(self) -> Tensor:
        """(N,) mixing weights; ParameterError for a soup learned tensor by tensor, which no one row describes."""
        if self.alpha.ndim == 2:
            raise ParameterError(
                "This soup mixes each tensor with weights of its own; use .tensor_weights or .state_dict()."
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
        """The soup, in the ingredients' own precision and rounded once, as `radin.average` makes one."""
        sources = [self.zoo[k] for k in range(len(self.zoo))]
        return {key: mix(sources, p.double(), [key])[key] for key, p in self.tensor_weights.items()}

    def _shares(self) -> Tensor:
        return self.alpha.double().softmax(-1).float()


@torch.enable_grad()
def learn(
    zoo: Zoo,
    split: Dataset[Any],
    steps: int,
    per_tensor: bool = False,
    learn_scale: bool = False,
    lr: float = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> LearnedSoup:
    """Learn mixing weights from the images on which soups are compared, starting from the uniform soup.

    The parameters are sum_k softmax(alpha)_k theta_k, and AdamW without weight decay lowers their
    cross-entropy on minibatches; the images are not augmented and the network is in evaluation mode.
    Buffers are averaged along, but no gradient goes through them. Accuracy on these images flatters the
    result afterwards, since they taught it.

    All N ingredients lie on the device at once in single precision (double where they are double). The
    work of mixing them, N multiplications for each parameter and step, is not part of the stated cost.

    Args:
        zoo: opened with `build`.
        split: (image, label) pairs, the validation split.
        steps: minibatches; 0 leaves the uniform soup.
        per_tensor: learn one alpha for each ingredient and parameter tensor, instead of one for each ingredient.
        learn_scale: learn a factor on the logits beside alpha, as the source does, so that alpha need not mend
            their confidence.
        lr: learning rate, constant.
        batch_size: images in a step; the last ones of an epoch may be fewer.
        seed: of the order of the images. The same seed gives the same numbers on one CPU; on a GPU they may
            differ in the last digits.

    Raises:
        ParameterError: the zoo has no `build`, or an impossible number.
        DataError: an empty split, a network without gradients, or a loss that stops being finite.

    Source: Wortsman et al. 2022, section 2 and appendix I.
    """
    steps, batch_size = (
        check_integer("steps", steps, minimum=0),
        check_integer("batch_size", batch_size, minimum=1),
    )
    rng = torch.Generator().manual_seed(check_seed(seed))
    if not 0 < lr < math.inf:  # NaN fails this too
        raise ParameterError(f"lr must be a positive number, not {lr!r}.")
    num_images = len(split)  # type: ignore[arg-type]
    if num_images == 0:
        raise DataError(f"{split!r} is empty; a split needs at least one image.")
    if getattr(split, "projection", None) is not None:
        raise ParameterError(
            f"{split!r} has other classes than the networks; learn on the images that soups are chosen by."
        )
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
        zoo, alpha.detach().cpu(), mixture.rows, log_scale.exp().item(), losses, cost
    )


class Mixture:
    """The ingredients stacked on a device, and one network into which any mixture of them can be put.

    Attributes:
        rows: a number from 0 to T - 1 for each parameter, by its name in the state dict; tied parameters share one.
        num_rows: T.
        stacked: (N, ...) of every tensor in the state dict.
    """

    def __init__(self, zoo: Zoo, device: torch.device) -> None:
        double = any(zoo[0][key].dtype == torch.float64 for key in zoo.keys())
        dtype = torch.float64 if double else torch.float32
        self.device = device
        # Evaluation mode: no dropout, and batch norm by its averaged statistics, as the soup will be used.
        self.model = zoo.model(0).to(device, dtype).requires_grad_(False)
        distinct = {parameter: row for row, parameter in enumerate(self.model.parameters())}
        self.rows = {
            name: distinct[p] for name, p in self.model.named_parameters(remove_duplicate=False)
        }
        self.num_rows = len(distinct)
        self.stacked: dict[str, Tensor] = {}
        for key in zoo.keys():
            tensors = torch.stack([zoo[k][key].to(device) for k in range(len(zoo))])
            self.stacked[key] = tensors.to(dtype) if tensors.is_floating_point() else tensors

    def state(self, weights: Tensor) -> dict[str, Tensor]:
        """The soup of mixing weights (N,), or (T, N) with a row for each parameter tensor.

        Buffers are mixed by the mean row or, if they hold whole numbers, come from its heaviest ingredient.
        No gradient goes through them: torch has none for the statistics of batch norm.
        """
        rows = weights.expand(self.num_rows, -1)
        overall = rows.detach().mean(0)
        heaviest = overall.argmax()
        mixed = {}
        for key, tensors in self.stacked.items():
            p = rows[self.rows[key]] if key in self.rows else overall
            floating = tensors.is_floating_point()
            mixed[key] = (
                torch.tensordot(p.to(tensors.dtype), tensors, 1) if floating else tensors[heaviest]
            )
        return mixed

    def loss(self, alpha: Tensor, log_scale: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy in nats of the soup softmax(alpha), its logits multiplied by exp(log_scale)."""
        logits = batch_logits(self.model, images, self.device, self.state(alpha.softmax(-1)))
        check_labels(labels, logits.shape[-1])
        if not logits.requires_grad:
            raise DataError(
                f"{type(self.model).__name__} gives logits without a gradient, so no mixing weights can be learned "
                "through it; take torch.no_grad and .detach() out of its forward."
            )
        return F.cross_entropy(logits * log_scale.exp(), labels.to(self.device))


def training_cost(steps: int, num_images: int, batch_size: int = BATCH_SIZE) -> Fraction:
    """What gradient steps cost, in forward passes over the split: a step on b of n images costs 3 b / n."""
    batch_size = min(batch_size, num_images)
    epochs, rest = divmod(
        steps, math.ceil(num_images / batch_size)
    )  # only an epoch's last step can be smaller
    return Fraction(STEP_COST * (epochs * num_images + rest * batch_size), num_images)


def steps_within(passes: int, num_images: int, batch_size: int = BATCH_SIZE) -> int:
    """How many gradient steps cost at most `passes` forward passes over the split."""
    batch_size = min(batch_size, num_images)
    epochs, rest = divmod(passes, STEP_COST)
    return epochs * math.ceil(num_images / batch_size) + rest * num_images // (
        STEP_COST * batch_size
    )


def _minibatches(
    split: Dataset[Any], batch_size: int, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end, the split in a new random order each time."""
    while True:
        order = torch.randperm(len(split), generator=rng)  # type: ignore[arg-type]
        yield from batches(Subset(split, order.tolist()), batch_size)


def _learned(bank: LogitBank, ledger: Ledger, order: Order) -> Trial:
    """Learned soup (Wortsman et al. 2022, appendix I): mixing weights by gradient, for all of the budget but one."""
    zoo, split = _live(bank, ledger)
    batch_size = min(BATCH_SIZE, getattr(ledger.evaluate, "batch_size", BATCH_SIZE))
    # The last evaluation tells how good the result is; with one ingredient there is nothing to learn.
    steps = steps_within(ledger.left - 1, bank.num_images, batch_size) if len(zoo) > 1 else 0
    if steps == 0:
        if len(zoo) > 1:
            least = math.ceil(training_cost(1, bank.num_images, batch_size)) + 1
            ledger.notes.append(
                f"too small a budget for one gradient step, so this is the uniform soup; {least} is enough"
            )
        return _uniform(bank, ledger, order)
    ledger.charge(training_cost(steps, bank.num_images, batch_size))
    device = getattr(ledger.evaluate, "device", "auto")
    found = learn(zoo, split, steps, batch_size=batch_size, seed=order.seed, device=device)
    return ledger.spend(found.weights)


def _live(bank: LogitBank, ledger: Ledger) -> tuple[Zoo, Dataset[Any]]:
    """The networks and images behind the evaluations."""
    zoo, split = getattr(ledger.evaluate, "zoo", None), getattr(ledger.evaluate, "split", None)
    if not isinstance(zoo, Zoo) or split is None:
        raise ParameterError(
            "This recipe needs real networks and images, not accuracies alone (a soup bench or a function of your "
            "own gives no more); pass evaluate=radin.evaluator(zoo, split)."
        )
    if (len(zoo), len(split)) != (bank.num_models, bank.num_images):
        raise ParameterError(
            f"The bank holds {bank.num_models} ingredients and {bank.num_images} images, but evaluate has {len(zoo)} "
            f"and {len(split)}; make both from one zoo and one split."
        )
    return zoo, split


# These look through `evaluate` at the networks and the images. They are kept apart because whoever loops over
# RECIPES, to draw a line for each, say, has a bench's look-up in hand as often as not.
LIVE_RECIPES: dict[str, Recipe] = {"learned": _learned}
