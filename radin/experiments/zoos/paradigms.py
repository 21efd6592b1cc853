"""Other ways to train an ingredient: few examples, a teacher, an adversary, or no labels first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from radin.data.splits import ArraySplit
from radin.experiments.zoos.augment import augment

TEMPERATURE = 0.05  # of the contrastive loss (Gao et al. 2021, section 3)
WARM_BATCH_SIZE = 64
WARM_RATE = 3e-5  # Gao et al. 2021, appendix A
SENTENCES_AT_ONCE = 256


def few_examples(split: ArraySplit, per_class: int, *, seed: int) -> ArraySplit:
    """A split of some examples of each class, drawn at random, in their order.

    Args:
        split: the training part.
        per_class: examples of a class; all of a class that has no more.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    for label in range(split.num_classes):
        of_class = (split.labels == label).nonzero().flatten()
        order = torch.randperm(len(of_class), generator=generator)[:per_class]
        chosen += of_class[order].tolist()
    return split.subset(sorted(chosen))


def teacher_targets(teachers: Sequence[nn.Module], split: ArraySplit, temperature: float) -> Tensor:
    """What the ensemble of some networks says about the training part, as targets (n, C).

    Args:
        teachers: networks in evaluation mode; their logits are averaged.
        split: the training part, not augmented.
        temperature: the averaged logits are divided by it before the softmax.

    Source: Hinton et al. 2015, section 2.
    """
    device = next(teachers[0].parameters()).device
    with torch.no_grad():
        logits = [
            torch.stack([teacher(inputs.to(device)) for teacher in teachers]).mean(0)
            for inputs in split.images.split(SENTENCES_AT_ONCE)
        ]
    return torch.cat(logits).div(temperature).softmax(1).cpu()


def adversarial_loss(
    model: Any, tokens: Tensor, targets: Tensor, *, size: float, label_smoothing: float
) -> Tensor:
    """The mean of the loss and of the loss after the worst small step of the embeddings.

    Args:
        model: a network with `embed`, `features` and `head`, such as `MiniLmClassifier`.
        tokens: (n, length).
        targets: (n, C).
        size: length of the step, as a share of the length of a sentence's embeddings.
        label_smoothing: of both losses.

    Source: Miyato et al. 2017, section 3.
    """
    embedded = model.embed(tokens).requires_grad_()

    def loss_at(point: Tensor) -> Tensor:
        logits = model.head(model.features(tokens, point))
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)

    loss = loss_at(embedded)
    (gradient,) = torch.autograd.grad(loss, embedded, retain_graph=True)
    # The padding has no gradient, so it does not count in the length either.
    lengths = embedded.detach().masked_fill((tokens == 0)[..., None], 0).flatten(1).norm(dim=1)
    steepest = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
    step = size * lengths[:, None, None] * steepest
    return (loss + loss_at(embedded.detach() + step)) / 2


def warm_start(
    model: Any, split: ArraySplit, *, epochs: int, drop_words: float, seed: int, progress: str = ""
) -> None:
    """Train the body without labels, in place: two views of a sentence attract each other.

    The views lose different words. All other sentences of the batch repel.

    Args:
        model: a network with `features`.
        split: the training part; its labels are not used.
        epochs: passes over it.
        drop_words: probability with which a view loses a word.
        seed: of the order and of the views.
        progress: the title of a progress bar; none without a title.

    Source: Gao et al. 2021 (SimCSE), section 3, with dropped words in the place of dropout.
    """
    device = next(model.parameters()).device
    rng = torch.Generator().manual_seed(seed)
    body = [tensor for name, tensor in model.named_parameters() if not name.startswith("head.")]
    optimizer = torch.optim.AdamW(body, lr=WARM_RATE)
    model.train()
    for _ in range(epochs):
        batches = torch.randperm(len(split), generator=rng).split(WARM_BATCH_SIZE)
        for chosen in tqdm(batches, desc=progress, disable=not progress):
            tokens = split.images[chosen]
            first, second = (
                F.normalize(
                    model.features(augment(tokens, {"drop_words": drop_words}, rng).to(device)),
                    dim=1,
                )
                for _ in range(2)
            )
            similar = first @ second.T / TEMPERATURE
            loss = F.cross_entropy(similar, torch.arange(len(chosen), device=device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    model.eval()
