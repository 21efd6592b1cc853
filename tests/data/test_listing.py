"""radin/data/listing.py and overlap.py: which images count, and which are in two parts."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from radin import load_split
from radin.data import overlap
from radin.data.folders import PART_NAMES, part_files
from radin.data.listing import IMAGE_SUFFIXES, Aside, list_images
from radin.data.overlap import find_copies, find_same_files
from radin.errors import DataError


def draw(path: Path, seed: int = 0) -> Path:
    """A small image that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG" if path.suffix in (".jfif", ".JFIF") else None)
    return path


def draw_part(base: Path, part: str, count: int = 10, start: int = 0) -> None:
    """Cats and dogs, `count` of each, none of which another `start` draws."""
    for c, name in enumerate(("cat", "dog")):
        for k in range(count):
            draw(base / part / name / f"{k}.png", seed=1000 * start + 100 * c + k)


def load(base: Path, part: str) -> tuple[list[str], str]:
    """The files of a part by their paths in the folder, and the note, which is a warning too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split = load_split(str(base), part)
    told = [str(each.message) for each in caught]
    assert told == ([f"{base}, {part}: {split.note}."] if split.note else [])
    return [str(path.relative_to(base)) for path in split.files], split.note


# What counts -------------------------------------------------------------------------------------

SERVICE_FOLDERS = (".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX", ".AppleDouble")


@pytest.mark.parametrize("depth", ["", "more", "more/still"])
def test_hidden_and_service_folders_are_left_aside_at_any_depth(tmp_path, depth):
    draw_part(tmp_path, "train")
    for k, name in enumerate(SERVICE_FOLDERS):
        draw(tmp_path / "train" / "cat" / depth / name / "0.png" / "thumb.jpg", seed=k)
        draw(tmp_path / "train" / name / "9.png")  # beside the classes
    (tmp_path / "train" / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "train" / "cat" / "Thumbs.db").write_bytes(b"\0")
    train, note = load(tmp_path, "train")
    val, _ = load(tmp_path, "val")
    assert sorted(train + val) == sorted(
        f"train/{name}/{k}.png" for name in ("cat", "dog") for k in range(10)
    )
    assert "left aside, 5 hidden or system folders: .AppleDouble (1), .ipynb_check" in note
    assert "left aside, 1 hidden file" in note


def test_endings_are_those_of_torchvision_in_any_case():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert sorted(IMAGE_SUFFIXES) == sorted(IMG_EXTENSIONS)


def test_files_of_other_endings_are_counted_and_said(tmp_path):
    draw_part(tmp_path, "val", count=2)
    cat = tmp_path / "val" / "cat"
    for name in ("a.JPEG", "b.PGM", "c.Tiff"):
        Image.new("L", (6, 6)).save(cat / name)
    for name in ("d.gif", "e.GIF", "f.jfif"):
        Image.new("RGB", (6, 6)).save(cat / name, "JPEG" if name == "f.jfif" else None)
    for name in ("g.heic", "h.avif", "readme.txt", "boxes.xml"):
        (cat / name).write_text("no image that is read")
    files, note = load(tmp_path, "val")
    assert len(files) == 4 + 3
    assert note == (
        "left aside, 5 files of other endings: .avif (1), .gif (2), .heic (1), .jfif (1)"
    )


def test_a_class_of_other_endings_only_is_named_with_the_way_out(tmp_path):
    draw_part(tmp_path, "val", count=1)
    (tmp_path / "val" / "eel").mkdir()
    Image.new("RGB", (6, 6)).save(tmp_path / "val" / "eel" / "a.gif")
    with pytest.raises(DataError, match=r"eel: no images .* \.gif \(1\); save them as one of"):
        load_split(str(tmp_path), "val")


def test_links_to_folders_are_followed_as_torchvision_does(tmp_path):
    from torchvision.datasets import ImageFolder

    draw_part(tmp_path / "data", "val", count=3)
    draw_part(tmp_path, "store", count=5, start=1)
    for name in ("cat", "dog"):
        (tmp_path / "data" / "val" / name / "more").symlink_to(tmp_path / "store" / name)
    (tmp_path / "data" / "val" / "eel").symlink_to(tmp_path / "store" / "dog")
    files, note = load(tmp_path / "data", "val")
    assert len(files) == len(ImageFolder(tmp_path / "data" / "val")) == 2 * (3 + 5) + 5
    assert note == ""


def test_loops_of_links_end_and_each_image_counts_once(tmp_path):
    draw_part(tmp_path, "val", count=3)
    cat = tmp_path / "val" / "cat"
    (cat / "loop").symlink_to(cat)
    (cat / "up").symlink_to(tmp_path / "val" / "cat" / "..")
    (cat / "again.png").symlink_to(cat / "0.png")
    files, note = load(tmp_path, "val")
    assert sum(name.startswith("val/cat") for name in files) >= 3
    assert sorted(name for name in files if name.count("/") == 2) == sorted(
        f"val/{name}/{k}.png" for name in ("cat", "dog") for k in range(3)
    )
    assert " to images that count already" in note


@given(
    links=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6),
    counts=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_every_image_that_links_lead_to_counts_exactly_once(tmp_path_factory, links, counts):
    """Against a walk over the graph of folders: 0 is the class, the others lie elsewhere."""
    base = tmp_path_factory.mktemp("links")
    for number, count in enumerate(counts):
        (base / str(number)).mkdir()
        for k in range(count):
            (base / str(number) / f"{k}.png").touch()
    for order, (start, end) in enumerate(links):
        (base / str(start) / f"link{order}").symlink_to(base / str(end))
    reached = {0}
    while more := {end for start, end in links if start in reached} - reached:
        reached |= more
    found = list_images(base / "0", Aside())
    assert len(found) == len({os.path.realpath(path) for path in found})
    assert len(found) == sum(counts[number] for number in reached)
    shutil.rmtree(base)


def test_a_name_that_is_no_utf_8_is_a_class_like_any_other(tmp_path):
    name = os.fsdecode(b"b\xe4r")
    for k in range(10):
        draw(tmp_path / "train" / name / f"{k}.png", seed=k)
        draw(tmp_path / "train" / "cat" / f"{k}.png", seed=100 + k)
    split = load_split(str(tmp_path), "val")
    assert split.class_names == sorted(["cat", name])
    assert split.fingerprint != load_split(str(tmp_path), "train").fingerprint


# Parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PART_NAMES["val"], "Validation", "VAL"])
def test_every_usual_name_of_a_validation_part_is_known(tmp_path, name):
    draw_part(tmp_path, "train", start=1)
    draw_part(tmp_path, name, count=2, start=2)
    files, note = load(tmp_path, "val")
    assert {path.split("/")[0] for path in files} == {name}
    assert note == ("" if name == "val" else f"val is the folder {name}")
    assert len(load(tmp_path, "train")[0]) == 20  # nothing is held out
    assert load(tmp_path, name)[0] == files


def test_other_names_of_train_and_test(tmp_path):
    draw_part(tmp_path, "Training", start=1)
    draw_part(tmp_path, "testing", count=2, start=2)
    assert len(load(tmp_path, "train")[0]) == 18
    assert len(load(tmp_path, "val")[0]) == 2
    assert load(tmp_path, "test") == (load(tmp_path, "testing")[0], "test is the folder testing")


def test_a_second_folder_for_validation_is_not_passed_over_in_silence(tmp_path):
    draw_part(tmp_path, "train", start=1)
    draw_part(tmp_path, "val", count=2, start=2)
    draw_part(tmp_path, "dev", count=2, start=3)
    assert load(tmp_path, "val")[1] == "left aside, other folders of that kind: dev"
    assert load(tmp_path, "dev")[1] == "left aside, other folders of that kind: val"


def test_a_folder_beside_train_that_may_be_meant_is_named(tmp_path):
    draw_part(tmp_path, "train", start=1)
    draw_part(tmp_path, "holdout", count=2, start=2)
    assert load(tmp_path, "val")[1] == (
        "val is 10% of each class of train; left aside, other folders, each a part of its own: "
        "holdout"
    )


# The same image twice ----------------------------------------------------------------------------


def test_an_image_that_is_in_two_parts_is_said(tmp_path):
    draw_part(tmp_path, "train", start=1)
    draw_part(tmp_path, "val", count=3, start=2)
    assert load(tmp_path, "val")[1] == ""
    shutil.copy(tmp_path / "train" / "cat" / "7.png", tmp_path / "val" / "cat" / "copy.png")
    (tmp_path / "val" / "dog" / "link.png").symlink_to(tmp_path / "train" / "dog" / "1.png")
    for part, other in (("val", "train"), ("train", "val")):
        note = load(tmp_path, part)[1]
        assert note.startswith(f"2 of these images are in {other}, too, such as {tmp_path}/{part}")


def test_a_copy_that_the_shuffle_puts_into_the_other_share_is_said(tmp_path):
    draw_part(tmp_path, "train", count=20)
    (held_out, *_), note = load(tmp_path, "val")
    assert note == ""
    for k in range(10):
        shutil.copy(tmp_path / held_out, tmp_path / "train" / "cat" / f"copy of {k}.png")
    notes = [load(tmp_path, part)[1] for part in ("train", "val")]
    assert any("in another share of their folder, too, such as" in note for note in notes)


def test_a_part_that_is_a_link_to_another_is_said(tmp_path):
    draw_part(tmp_path, "train", count=3)
    (tmp_path / "val").symlink_to(tmp_path / "train")
    assert load(tmp_path, "val")[1].startswith("6 of these images are in train, too, such as")


def test_too_many_images_to_compare_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "MAX_COMPARED_IMAGES", 9)
    draw_part(tmp_path, "train", count=4)
    draw_part(tmp_path, "val", count=2)
    assert load(tmp_path, "val")[1] == ("not compared with train: more than 9 images together")


@given(st.lists(st.binary(max_size=2), max_size=8), st.lists(st.binary(max_size=2), max_size=8))
def test_copies_are_found_as_by_comparing_all_pairs(tmp_path_factory, ours, theirs):
    base = tmp_path_factory.mktemp("copies")
    paths = []
    for part, contents in (("a", ours), ("b", theirs)):
        paths.append([base / f"{part}{k}" for k in range(len(contents))])
        for path, content in zip(paths[-1], contents, strict=True):
            path.write_bytes(content)
    found = find_copies(*paths)
    assert [path for path, _ in found] == [
        path for path in paths[0] if path.read_bytes() in {*theirs} - {b""}
    ]
    assert all(path.read_bytes() == copy.read_bytes() for path, copy in found)
    shutil.rmtree(base)


def test_links_and_hard_links_are_the_same_file(tmp_path):
    one, two = (draw(tmp_path / f"{k}.png", seed=0) for k in range(2))
    os.link(one, tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to(one)
    for other in ("0.png", "hard.png", "soft.png"):
        assert find_same_files([one, two], [tmp_path / other]) == [one]
    assert find_same_files([one], [two, tmp_path / "gone.png"]) == []


def test_data_sets_that_radin_knows_are_not_searched_for_copies(tmp_path):
    from radin.data.download.catalog import DATA_SETS

    known = DATA_SETS["cifar10"]
    for name in known.classes:
        draw(tmp_path / "test" / name / "0.png")
        draw(tmp_path / "train" / name / "0.png")
    assert part_files(tmp_path, "test", known).notes == []
