"""radin/experiments/zoos/paradigms.py: other ways to train an ingredient."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radin.data.splits import ArraySplit
from radin.experiments.zoos.paradigms import (
    adversarial_loss,
    few_examples,
    teacher_targets,
    warm_start,
)
from radin.experiments.zoos.train import train


class WordMean(nn.Module):
    """A classifier of the mean of frozen embeddings, with the methods of `MiniLmClassifier`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(30, 6))
        self.layer = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def features(self, tokens: Tensor, embedded: Tensor | None = None) -> Tensor:
        states = self.embed(tokens) if embedded is None else embedded
        mask = (tokens != 0)[..., None]
        return torch.tanh(self.layer((states * mask).sum(1) / mask.sum(1)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.features(tokens))


@pytest.fixture
def model() -> WordMean:
    torch.manual_seed(0)
    return WordMean()


@pytest.fixture
def split() -> ArraySplit:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 30, (60, 9), generator=generator)
    tokens[::2, 6:] = 0
    labels = torch.arange(60) % 3
    return ArraySplit("sentences", "train", tokens, labels, ["a", "b", "c"])


def test_few_examples_are_as_many_of_each_class(split):
    few = few_examples(split, 4, seed=0)
    assert few.labels.bincount().tolist() == [4, 4, 4]
    rows = {tuple(row) for row in split.images.tolist()}
    assert {tuple(row) for row in few.images.tolist()} <= rows
    assert few_examples(split, 4, seed=1).fingerprint != few.fingerprint
    assert len(few_examples(split, 100, seed=0)) == 60


def test_targets_of_teachers_are_the_softened_ensemble(model, split):
    torch.manual_seed(1)
    teachers = [model.eval(), WordMean().eval()]
    targets = teacher_targets(teachers, split, 2.0)
    with torch.no_grad():
        expected = ((teachers[0](split.images) + teachers[1](split.images)) / 4).softmax(1)
    assert torch.allclose(targets, expected, atol=1e-6)


def test_a_student_learns_what_its_teacher_says(model, split):
    teacher = copy.deepcopy(model).eval()
    targets = teacher_targets([teacher], split, 1.0)
    student = WordMean()
    student.table = model.table.clone()
    run = {"lr": 0.05, "weight_decay": 0.0, "epochs": 60, "label_smoothing": 0.0}
    train(student, split, run, 0, targets=targets)
    with torch.no_grad():
        agree = student(split.images).argmax(1) == teacher(split.images).argmax(1)
    assert agree.double().mean() > 0.9
    # With the true labels, which are at random here, it does not.
    other = WordMean()
    other.table = model.table.clone()
    train(other, split, run, 0)
    with torch.no_grad():
        agree_less = other(split.images).argmax(1) == teacher(split.images).argmax(1)
    assert agree_less.double().mean() < agree.double().mean()


def test_the_adversary_takes_the_steepest_step(model, split):
    tokens = split.images[:8]
    targets = F.one_hot(split.labels[:8], 3).float()
    plain = F.cross_entropy(model(tokens), targets)
    attacked = adversarial_loss(model, tokens, targets, size=0.05, label_smoothing=0.0)
    worse = 2 * attacked - plain
    assert worse > plain
    # No random step of the same length is worse.
    embedded = model.embed(tokens)
    mask = (tokens != 0)[..., None]
    lengths = (embedded * mask).flatten(1).norm(dim=1)
    for seed in range(20):
        noise = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(seed)) * mask
        noise = noise / noise.flatten(1).norm(dim=1)[:, None, None]
        moved = embedded + 0.05 * lengths[:, None, None] * noise
        random = F.cross_entropy(model.head(model.features(tokens, moved)), targets)
        assert random < worse


def test_adversarial_training_changes_the_weights_otherwise(model, split):
    run = {"lr": 0.05, "weight_decay": 0.0, "epochs": 2, "label_smoothing": 0.1}
    plain = train(copy.deepcopy(model), split, run, 0)
    robust = train(copy.deepcopy(model), split, {**run, "adversarial": 0.1}, 0)
    assert not torch.equal(plain.head.weight, robust.head.weight)


def test_a_warm_start_brings_views_together_and_leaves_the_head(model, split):
    def similarity() -> float:
        with torch.no_grad():
            whole = F.normalize(model.features(split.images), dim=1)
            shorter = split.images.clone()
            shorter[:, 5:] = 0
            part = F.normalize(model.features(shorter), dim=1)
            own = (whole * part).sum(1).mean()
            others = (whole @ part.T).mean()
        return (own - others).item()

    head = copy.deepcopy(model.head)
    before = similarity()
    twin = copy.deepcopy(model)
    warm_start(model, split, epochs=200, drop_words=0.3, seed=0)
    assert similarity() > before
    assert torch.equal(model.head.weight, head.weight)
    assert not torch.equal(model.layer.weight, twin.layer.weight)
    warm_start(twin, split, epochs=200, drop_words=0.3, seed=0)
    assert torch.equal(model.layer.weight, twin.layer.weight)  # the seed decides
