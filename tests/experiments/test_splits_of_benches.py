"""radin/experiments/splits.py: corrupted parts, and drawings with the classes of photographs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from radin.experiments.corruptions import corrupt
from radin.experiments.splits import load_experiment_split

TABLE = """wnid\tcategory\tin\tname
n01\tbird\tmini-imagenet-84\ta bird
n03\tbird\ttiny-imagenet,mini-imagenet-84\tanother bird
n02\tdog\tmini-imagenet-84,imagenette-96\ta dog
n09\tcat\ttiny-imagenet\ta cat
"""


def draw(path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), shade, dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    for k, wnid in enumerate(("n01", "n02", "n03")):
        for part, count in (("train", 2), ("val", 4)):
            for i in range(count):
                draw(tmp_path / "mini-imagenet-84" / part / wnid / f"{i}.png", 60 * k + 10 * i)
    shapes = tmp_path / "texture-vs-shape-96"
    for category in ("bird", "cat", "dog"):
        for i in range(3):
            draw(shapes / "edges" / category / f"{category}{i}.png", 40 * i)
    (shapes / "wnid_to_16class.tsv").write_text(TABLE, "utf-8")
    return tmp_path


def test_drawings_have_the_classes_that_the_photographs_have(root):
    split = load_experiment_split("mini-imagenet-84", "edges", root, progress=False)
    assert split.class_names == ["bird", "dog"]
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.projection.groups == ((0, 2), (1,))
    assert split.num_logits == 3
    assert split.images.shape == (6, 3, 16, 16)


def test_a_corrupted_part_is_the_part_corrupted(root):
    part = load_experiment_split("mini-imagenet-84", "val/report", root, progress=False)
    found = load_experiment_split("mini-imagenet-84", "val/report+noise3", root, progress=False)
    expected = corrupt(part, "noise", 3)
    assert torch.equal(found.images, expected.images)
    assert found.fingerprint == expected.fingerprint
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
