"""radin/data/splits.py: attributes of a split, a part of it, and images that cannot be decoded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from imagenet_tree import pixels
from radin.data.splits import (
    CLIP,
    FolderSplit,
    Normalised,
    Split,
    check_readable,
    in_memory,
    projection_of,
    unreadable,
)
from radin.errors import DataError, ParameterError
from radin.ranking.projection import Projection


def folder_split(
    folder: Path, count: int = 10, size: int | None = 4, border: int = 0
) -> FolderSplit:
    files = []
    for k in range(count):
        path = folder / f"{k:03d}.png"
        path.write_bytes(pixels(k, 8, "PNG"))
        files.append((path, 2 * k // count))
    return FolderSplit("pets", "test", files, ["cat", "dog"], size=size, border=border)


def test_a_plain_split_needs_as_many_logits_as_classes(tmp_path):
    split = folder_split(tmp_path)
    assert (split.projection, split.note) == (None, "")
    assert projection_of(split) is None
    assert split.num_logits == split.num_classes == 2
    assert repr(split) == "FolderSplit(pets, test: 10 images, 2 classes)"


def test_projection_and_note_go_into_memory(tmp_path):
    split = folder_split(tmp_path)
    split.projection, split.note = Projection([[4, 0], [2]], 5), "half of it"
    for each in (split, in_memory(split, progress=False)):
        assert (each.num_classes, each.num_logits) == (2, 5)
        assert each.projection == split.projection
        assert repr(each).endswith("(pets, test: 10 images, 2 classes; half of it)")


def test_files_are_those_of_the_images(tmp_path):
    split = folder_split(tmp_path)
    assert split.files == sorted(tmp_path.iterdir())
    assert Normalised(split, *CLIP).files == split.files
    assert Normalised(split, *CLIP).subset([3, 1]).files == [split.files[3], split.files[1]]
    assert list(in_memory(split, progress=False).files) == []


def test_the_projection_of_any_data_set():
    pairs = TensorDataset(torch.zeros(2, 3), torch.zeros(2))
    assert projection_of(pairs) is None
    pairs.projection = Projection([[4, 0], [2]], 5)
    assert projection_of(pairs) == pairs.projection


def test_splits_do_not_share_their_notes(tmp_path):
    folder_split(tmp_path).note = "mine"
    assert Split.note == folder_split(tmp_path).note == ""


# Fingerprints ------------------------------------------------------------------------------------


def test_fingerprints_of_unresized_images_stay(tmp_path):
    """Shipped benches and stored banks are found by them."""
    split = FolderSplit(
        "pets", "test", [(tmp_path / "a", 0), (tmp_path / "b", 1)], ["cat", "dog"], size=None
    )
    stored = "6355687d47cd68bac7f37c3533ae253b"
    assert split.combine_hashes(["12", "34"])[:32] == stored


def test_fingerprints_tell_how_images_are_prepared(tmp_path):
    ways = [
        folder_split(tmp_path, size=size, border=border)
        for size in (None, 4, 5)
        for border in (0, 1, 2)
    ]
    assert len({split.fingerprint for split in ways}) == len(ways)


def test_a_border_is_cut_off_wherever_images_are_read(tmp_path):
    split, inner = folder_split(tmp_path, size=None, border=2), folder_split(tmp_path, size=None)
    for k in range(10):
        assert torch.equal(split[k][0], inner[k][0][:, 2:6, 2:6])
    assert torch.equal(
        in_memory(split, progress=False).images, torch.stack([image for image, _ in split])
    )


# A quick look ------------------------------------------------------------------------------------


@given(total=st.integers(1, 60), count=st.integers(1, 70))
def test_taken_images_are_evenly_spread(total, count):
    split = FolderSplit(
        "pets",
        "test",
        [(Path(str(k)), k) for k in range(total)],
        list(map(str, range(total))),
        size=4,
    )
    few = split.take(count)
    if count >= total:
        assert few is split
        return
    chosen = few.labels.tolist()
    assert [path.name for path in few.files] == list(map(str, chosen))
    assert (len(few), sorted(set(chosen))) == (count, chosen)
    gaps = torch.tensor(chosen).diff()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert abs(chosen[0] - (total - 1 - chosen[-1])) <= 1


def test_a_taken_split_keeps_what_it_must_and_says_what_it_is(tmp_path):
    split = folder_split(tmp_path, border=1)
    split.projection, split.note = Projection([[4, 0], [2]], 5), "half of it"
    before = split.fingerprint
    few = split.take(4)
    assert (few.class_names, few.projection, few.size, few.border) == (
        ["cat", "dog"],
        split.projection,
        4,
        1,
    )
    assert few.note == "half of it; 4 of 10 images"
    assert few.fingerprint != split.fingerprint == before
    assert few.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(few[3][0], split[8][0])
    assert (len(split), split.note) == (10, "half of it")


@pytest.mark.parametrize("count", [0, -1, 2.5, None])
def test_impossible_counts(tmp_path, count):
    with pytest.raises(ParameterError, match="count must be a whole number of at least 1"):
        folder_split(tmp_path).take(count)


# Images that cannot be decoded -------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3, 1024])
def test_every_unreadable_image_is_named(tmp_path, monkeypatch, block):
    monkeypatch.setattr("radin.data.splits._IMAGES_PER_BLOCK", block)
    split = folder_split(tmp_path)
    assert unreadable(split, progress=False) == []
    check_readable(split, progress=False)
    split.files[2].write_bytes(b"no image")
    split.files[7].write_bytes(split.files[7].read_bytes()[:-60])
    split.files[9].unlink()
    found = unreadable(split, progress=False)
    assert [path.name for path, _ in found] == ["002.png", "007.png", "009.png"]
    assert found[0][1] == "not a readable image (truncated or no image)"
    assert found[2][1].startswith("could not be read (No such file")
    assert unreadable(split, indices=[9, 0, 2], progress=False) == [found[2], found[0]]
    message = (
        r"^3 of 10 images of pets, test, cannot be decoded: .*002\.png: not a readable image "
        r"\(truncated or no image\), .*007\.png: .*009\.png: .*; replace or remove them\.$"
    )
    with pytest.raises(DataError, match=message):
        check_readable(split, progress=False)


def test_many_unreadable_images_are_counted(tmp_path):
    split = folder_split(tmp_path, count=20)
    for path in split.files:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^20 of 20 images .* and 12 more; replace") as caught:
        check_readable(split, progress=False)
    assert str(caught.value).count(".png") == 8


def test_checking_shows_a_bar(tmp_path, capfd):
    split = folder_split(tmp_path)
    unreadable(split)
    assert "checking pets, test: 100%" in capfd.readouterr().err
    unreadable(split, progress=False)
    assert capfd.readouterr().err == ""
