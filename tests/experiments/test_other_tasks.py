"""radin/experiments/zoos/other_tasks.py: tasks with other labels, and zoos that average well."""

from __future__ import annotations

import pytest
import torch

from radin import average
from radin.errors import ParameterError
from radin.experiments.zoos.other_tasks import PROPERTIES, other_task, other_zoo


@pytest.mark.parametrize("name", ["diabetes", "pixels", "properties"])
def test_parts_share_no_example(name):
    task = other_task(name)
    rows = [
        tuple(row) for pairs in task.parts.values() for row in pairs.tensors[0].flatten(1).tolist()
    ]
    assert len(set(rows)) == len(rows) == {"diabetes": 442}.get(name, 1797)


def test_labels_are_what_they_say():
    _, targets = other_task("diabetes").parts["train"].tensors
    assert (targets.mean().item(), targets.std().item()) == pytest.approx((0, 1), abs=1e-5)
    inputs, labels = other_task("pixels").parts["val"].tensors
    assert labels.unique().tolist() == [0, 1, 2]
    means = [inputs[:, 0][labels == c].mean().item() for c in range(3)]
    assert means == sorted(means), "noise hides the ink, but not on average"
    _, zeros_and_ones = other_task("properties").parts["val"].tensors
    assert zeros_and_ones.shape == (400, len(PROPERTIES))
    assert zeros_and_ones.unique().tolist() == [0, 1]


@pytest.mark.parametrize("name", ["diabetes", "pixels", "properties"])
def test_a_zoo_learns_its_task_and_is_found_again(name):
    task = other_task(name)
    zoo = other_zoo(task, 2, quick=True)
    inputs, labels = task.parts["val"].tensors
    soup = zoo.model(average(zoo, [0.5, 0.5]))
    empty = task.build()
    with torch.no_grad():
        assert task.loss(soup(inputs), labels) < task.loss(empty(inputs), labels)
    again = other_zoo(task, 3, quick=True)
    assert again.fingerprints[:2] == zoo.fingerprints


def test_another_task():
    with pytest.raises(ParameterError, match="task must be one of diabetes, pixels, properties"):
        other_task("speech")
