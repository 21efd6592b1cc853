"""radin/experiments/plots/dendrogram.py: the tree of checkpoints."""

from __future__ import annotations

import pytest
import torch

import radin
from helpers import save
from radin.errors import ParameterError
from radin.experiments.plots.dendrogram import dendrogram, save_dendrogram
from radin.recipes.families import CUT


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    rng = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 20, 20, generator=rng)
    for k in range(4):
        near = first if k < 3 else second
        save({"w": near + 0.1 * torch.randn(20, 20, generator=rng)}, folder / f"run_{k}.pt")
    save({"v": second}, folder / "other.pt")
    return radin.families(folder, progress=False)


def test_the_tree_shows_every_file_with_its_family(found):
    (axes,) = dendrogram(found).axes
    number_of = {k: n for n, members in enumerate(found.families, 1) for k in members}
    expected = {f"{path.name}  ({number_of[k]})" for k, path in enumerate(found.paths)}
    assert {label.get_text() for label in axes.get_yticklabels()} == expected
    lines = [line.get_xdata() for line in axes.get_lines()]
    assert [CUT, CUT] in [list(x) for x in lines]
    left, right = axes.get_xlim()
    joined = max(found.tree[:, 2])
    assert left > joined > right == 0


@pytest.mark.parametrize(
    ("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_files(found, tmp_path, suffix, begin):
    path = save_dendrogram(found, tmp_path / f"tree.{suffix}")
    assert path.read_bytes().startswith(begin)


def test_what_is_refused(found, tmp_path):
    with pytest.raises(ParameterError, match="tree.txt: a figure is saved as .png"):
        save_dendrogram(found, tmp_path / "tree.txt")
    alone = radin.families([found.paths[0]], progress=False)
    with pytest.raises(ParameterError, match="two files or more"):
        dendrogram(alone)
