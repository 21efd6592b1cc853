"""radin/data/imagenet.py: ImageNet's parts, the shifted test sets, and faults in their folders."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagenet_tree import TOPS, put, put_objectnet
from radin import load_split
from radin.data import imagenet, objectnet
from radin.data.splits import FolderSplit
from radin.errors import DataError
from radin.ranking.projection import Projection

PER_CLASS = {"train": 3, "test": 2}
SUBSTITUTE = "held out by seed 0: the published index file imagenet_98_idxs.npy is absent"


def load(part: str, root: Path, size: int | None = None) -> FolderSplit:
    """A part, without the warning about a missing index file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = load_split("imagenet", part, root, size=size)
    assert isinstance(split, FolderSplit)
    return split


# All classes -------------------------------------------------------------------------------------


def object_groups() -> dict[str, list[int]]:
    """113 objects, some of which are three of ImageNet's classes; not in the order of logits."""
    ids = list(dict.fromkeys([954, 849, 879, *range(900, 700, -1)]))
    sizes = [3 if k % 11 == 0 else 1 for k in range(objectnet.NUM_CLASSES)]
    starts = np.cumsum([0, *sizes[:-1]])
    return {
        f"thing_{k:03d}": ids[start : start + size]
        for k, (start, size) in enumerate(zip(starts, sizes, strict=True))
    }


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every part with all of its classes and a few images in each; no test changes it."""
    root = tmp_path_factory.mktemp("whole")
    put(root / "imagenet/train", imagenet.wnids(), PER_CLASS["train"])
    put(root / TOPS["test"], imagenet.wnids(), 1)
    put(root / TOPS["v2"], list(map(str, range(1000))), 1)
    put(root / TOPS["sketch"], imagenet.wnids(), 1)
    put(root / TOPS["r"], imagenet.wnids("imagenet_r"), 1)
    put(root / TOPS["a"], imagenet.wnids("imagenet_a"), 1)
    put_objectnet(root / "objectnet-1.0", object_groups(), ["paper", "toy"], 1000)
    (root / TOPS["r"] / "README.txt").write_text("not a class")
    return root


def test_the_lists_of_classes():
    wnids = imagenet.wnids()
    assert (len(wnids), wnids[0], wnids[954], wnids[999]) == (
        1000,
        "n01440764",
        "n07753592",
        "n15075141",
    )
    assert list(wnids) == sorted(wnids)
    for of in ("imagenet_r", "imagenet_a"):
        some = imagenet.wnids(of)
        assert (len(some), list(some)) == (200, sorted(set(some)))
        assert set(some) < set(wnids)


def test_the_parts_of_the_paper():
    assert [imagenet.PARTS[part].title for part in imagenet.TEST_SETS] == [
        *("ImageNet2p", "ImageNet", "ImageNetV2", "ImageNetSketch"),
        *("ImageNetR", "ImageNetA", "ObjectNet"),
    ]
    held_out = imagenet.PARTS["val"].num_images
    left = imagenet.PARTS["train"].num_images
    assert held_out + left == imagenet.NUM_TRAIN_IMAGES
    assert held_out == 1000 * imagenet.HELD_OUT_PER_CLASS


@pytest.mark.parametrize("part", imagenet.PARTS)
def test_every_part(whole, part):
    split = load(part, whole)
    sizes = {"train": 2000, "val": 1000, "r": 200, "a": 200, "objectnet": objectnet.NUM_CLASSES}
    assert len(split) == sizes.get(part, 1000)
    assert (split.name, split.part, split.size) == ("imagenet", part, 224)
    assert split.border == (2 if part == "objectnet" else 0)
    assert split.num_logits == 1000
    assert split.num_classes == min(1000, sizes.get(part, 1000))
    assert sorted(set(split.labels.tolist())) == list(range(split.num_classes))
    assert split.labels.tolist() == sorted(split.labels.tolist())
    for path, label in zip(split.files, split.labels.tolist(), strict=True):
        name = path.parent.name
        if split.projection is None:
            assert label == (int(name) if part == "v2" else imagenet.wnids().index(name))
        elif part == "objectnet":
            assert list(split.projection.groups[label]) == object_groups()[name]
        else:
            assert split.projection.groups[label] == (imagenet.wnids().index(name),)
            assert split.projection.is_selection
    image, _ = split[len(split) - 1]
    assert image.shape == (3, 224, 224)


def test_what_the_splits_say_of_themselves(whole):
    assert repr(load("v2", whole)).endswith("-format-val holds 1,000 images, the full set 10,000)")
    assert "val holds 1,000 images, the full set 50,000" in load("test", whole).note
    for part in ("train", "val"):
        split = load(part, whole)
        assert SUBSTITUTE in split.note
        assert SUBSTITUTE in repr(split)
        assert "train holds 3,000 images, the full set 1,281,167" in split.note


def test_a_full_set_needs_no_note(whole, monkeypatch):
    for part in ("test", "r"):
        count = len(load(part, whole))
        monkeypatch.setitem(
            imagenet.PARTS,
            part,
            imagenet.Part("Full", count, imagenet.PARTS[part].folders, "somewhere"),
        )
        assert load(part, whole).note == ""


def test_all_layouts_at_once(whole, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        imagenet.check_layouts(imagenet.PARTS, whole)
    faults = (
        r"^3 of 3 parts of imagenet cannot be used:\n- val: .*imagenet/train: no such folder.*"
        r"\n- v2: .*\n- tset: imagenet has no part"
    )
    with pytest.raises(DataError, match=faults):
        imagenet.check_layouts(["val", "v2", "tset"], tmp_path)


@pytest.mark.parametrize("part", ["", "Val", "imagenet", "v2/train", "test-a"])
def test_unknown_parts(part):
    with pytest.raises(
        DataError, match="has no part .*; it has train, val, test, v2, sketch, r, a, objectnet"
    ):
        load_split("imagenet", part)


# A few classes -----------------------------------------------------------------------------------


CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")
SOME = CLASSES[1:3]


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same layout for an ImageNet of five classes."""
    monkeypatch.setattr(
        imagenet, "wnids", lambda of="imagenet": CLASSES if of == "imagenet" else SOME
    )
    monkeypatch.setattr(objectnet, "NUM_CLASSES", 2)
    for part, folder in (
        ("train", "imagenet/train"),
        ("test", TOPS["test"]),
        ("sketch", TOPS["sketch"]),
    ):
        put(tmp_path / folder, CLASSES, PER_CLASS.get(part, 1))
    put(tmp_path / TOPS["v2"], "01234", 1)
    for part in ("r", "a"):
        put(tmp_path / TOPS[part], SOME, 2)
    put_objectnet(tmp_path / "objectnet-1.0", {"tie": [3, 1], "box": [4]}, ["paper"], 5)
    return tmp_path


def test_sizes_enter_the_split(few):
    assert load("test", few).size == 224
    assert load("test", few, size=8)[0][0].shape == (3, 8, 8)
    prints = {load("test", few, size=size).fingerprint for size in (8, 9, None)}
    assert len(prints) == 3


def test_the_environment_says_where(few, monkeypatch):
    monkeypatch.setenv("RADIN_DATA", str(few))
    assert len(load_split("imagenet", "a")) == 4


def test_projected_classes(few):
    split = load("objectnet", few)
    assert (split.class_names, split.projection) == (["box", "tie"], Projection([[4], [3, 1]], 5))
    assert [path.parent.name for path in split.files] == ["box", "tie"]
    split = load("r", few)
    assert (split.class_names, split.projection) == (list(SOME), Projection([[1], [2]], 5))
    assert split.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("folder", imagenet.PARTS["sketch"].folders)
def test_the_possible_folders_of_sketches(few, folder):
    (few / "sketch").rename(few / "moved")
    (few / folder).parent.mkdir(exist_ok=True)
    (few / "moved").rename(few / folder)
    assert len(load("sketch", few)) == 5


def test_validation_images_by_their_other_name(few):
    (few / "imagenet/val").rename(few / "imagenet/val_in_folder")
    assert len(load("test", few)) == 10
    put(few / "imagenet/val", CLASSES, 1)
    assert len(load("test", few)) == 5


@pytest.mark.parametrize("part", imagenet.PARTS)
def test_a_part_that_is_absent(tmp_path, part):
    info = imagenet.PARTS[part]
    with pytest.raises(
        DataError, match=f"{info.folders[0]}: no such folder. Get {info.title} from "
    ) as caught:
        load_split("imagenet", part, tmp_path)
    assert info.source in str(caught.value)
    assert f"{info.folders[0]}/{info.class_folder}/ under {tmp_path}, or point RADIN_DATA" in str(
        caught.value
    )


def test_objectnet_without_its_mappings(few):
    shutil.rmtree(few / "objectnet-1.0" / "mappings")
    with pytest.raises(
        DataError, match=r"mappings/\S+: could not be read .*; it comes with ObjectNet's images"
    ):
        load("objectnet", few)


def test_missing_class_folders(few):
    for name in CLASSES[3:]:
        shutil.rmtree(few / "imagenet/val" / name)
    with pytest.raises(
        DataError,
        match=r"val: 2 of the 5 class folders of ImageNet are missing: n01491361, n01494475; ",
    ):
        load("test", few)
    shutil.rmtree(few / "objectnet-1.0/images/box")
    with pytest.raises(
        DataError, match=r"images: 1 of the 2 class folders of ObjectNet are missing: box; unpack"
    ):
        load("objectnet", few)


def test_folders_that_are_no_class(few):
    (few / "imagenet-r" / "n99999999").mkdir()
    (few / "imagenet-r" / ".cache").mkdir()
    with pytest.raises(
        DataError, match=r"imagenet-r: n99999999: no class of ImageNetR; move that elsewhere\."
    ):
        load("r", few)
    (few / "imagenet-r" / "n99999999").rmdir()
    assert len(load("r", few)) == 4


def test_labels_of_v2_are_numbers_and_not_positions(few):
    (few / TOPS["v2"] / "4").rename(few / TOPS["v2"] / "04")
    with pytest.raises(DataError, match=r"1 of the 5 class folders of ImageNetV2 are missing: 4;"):
        load("v2", few)


def test_class_folders_one_level_too_deep(few):
    (few / "imagenet/val").rename(few / "inner")
    (few / "imagenet/val").mkdir()
    (few / "inner").rename(few / "imagenet/val/val")
    with pytest.raises(
        DataError,
        match=r"imagenet/val: the class folders are one level too deep, in val; move them up",
    ):
        load("test", few)


def test_images_without_class_folders(few):
    shutil.rmtree(few / "imagenet/val")
    (few / "imagenet/val").mkdir()
    for k in range(3):
        (few / "imagenet/val" / f"ILSVRC2012_val_0000000{k}.JPEG").touch()
    with pytest.raises(
        DataError, match=r"val: 3 images are there without class folders; .*valprep\.sh"
    ):
        load("test", few)


def test_archives_that_were_not_unpacked(few):
    shutil.rmtree(few / "imagenet/train")
    (few / "imagenet/train").mkdir()
    (few / "imagenet/train/n01440764.tar").touch()
    with pytest.raises(
        DataError,
        match=r"train: holds n01440764\.tar; unpack every archive into a folder of its name",
    ):
        load("val", few)


def test_images_one_level_too_deep(few):
    (few / "imagenet/train/n01443537/images").mkdir()
    with pytest.raises(
        DataError,
        match=r"n01443537/images: a folder inside a class; the images belong directly into ",
    ):
        load("train", few)


def test_classes_without_images(few):
    for name in CLASSES[:2]:
        for path in (few / "sketch" / name).iterdir():
            path.unlink()
    (few / "sketch" / CLASSES[0] / "notes.txt").touch()
    (few / "sketch" / CLASSES[0] / "._hidden.JPEG").touch()
    with pytest.raises(
        DataError,
        match=r"sketch: 2 of 5 class folders hold no images: n01440764, n01443537; unpack",
    ):
        load("sketch", few)


# The held-out 2% ---------------------------------------------------------------------------------


def test_the_order_is_that_of_torchvision(whole):
    from torchvision.datasets import ImageFolder

    samples = ImageFolder(str(whole / "imagenet/train")).samples
    held = np.random.default_rng(0).random(len(samples)) < 0.4
    np.save(whole / imagenet.INDEX_FILE, held.astype(np.float64))
    try:
        for part, wanted in (("val", held), ("train", ~held)):
            split = load(part, whole)
            found = [
                (str(path), label)
                for path, label in zip(split.files, split.labels.tolist(), strict=True)
            ]
            assert found == [samples[i] for i in np.flatnonzero(wanted)]
            assert SUBSTITUTE not in split.note
    finally:
        (whole / imagenet.INDEX_FILE).unlink()
    files = imagenet.find_images("test", whole).files
    assert [(str(path), label) for path, label in files] == ImageFolder(
        str(whole / "imagenet/val")
    ).samples


def save_index(root: Path, held: object, folder: str = "imagenet") -> Path:
    np.save(root / folder / imagenet.INDEX_FILE, np.asarray(held))
    return root / folder / imagenet.INDEX_FILE


HELD = [0, 1, 0] * 5  # the second image of each class, in the order of their names


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, bool])
@pytest.mark.parametrize("folder", ["imagenet", "."])
def test_the_published_index_file(few, dtype, folder):
    save_index(few, np.array(HELD, dtype=dtype), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = load_split("imagenet", "val", few)
    assert [path.name for path in split.files] == [
        f"{name}_19.JPEG" for name in CLASSES
    ]  # 12, 19, 5
    assert "seed" not in split.note
    left = load("train", few)
    assert sorted(left.files + split.files) == sorted((few / "imagenet/train").rglob("*.JPEG"))
    assert len(left) == 10


@pytest.fixture
def real(few: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if these were the 1,281,167 images, one held out of each class, and number 3 checked."""
    monkeypatch.setattr(imagenet, "NUM_TRAIN_IMAGES", len(HELD))
    monkeypatch.setattr(imagenet, "HELD_OUT_PER_CLASS", 1)
    monkeypatch.setattr(imagenet, "CHECKED_NAME", (3, "n01491361_19.JPEG"))
    return few


def test_the_check_of_the_published_index_file(real):
    save_index(real, HELD)
    assert load("val", real).note == ""
    for wrong in (
        [*HELD[:9], 1, 0, 0, *HELD[12:]],
        [*HELD[:-3], 1, 1, 0],
        [0] * 15,
        [*HELD[:-3], 0, 0, 0],
    ):
        path = save_index(real, wrong)
        fault = (
            rf"{path} does not fit .*: it must hold out 1 images of each class, and number 3 of "
            r"them, counted from 0, must be n01491361_19\.JPEG; get both again"
        )
        with pytest.raises(DataError, match=fault):
            load("val", real)


def test_an_index_file_of_another_set(few):
    path = save_index(few, [0, 1] * 7)
    for part in ("train", "val"):
        with pytest.raises(
            DataError, match=rf"{path} has 14 entries, but .*train 15 images, .*remove the file"
        ):
            load(part, few)
    path.unlink()
    save_index(few, [0] * 15)
    assert len(load("train", few)) == 15
    with pytest.raises(DataError, match="too few images for a part 'val'"):
        load("val", few)


@pytest.mark.parametrize(
    "content",
    [
        *([0.0, 0.5, 1.0] * 5, [0, 1, 2] * 5, [-1, 0, 1] * 5, [0, 1, np.nan] * 5),
        *([[0], [1], [0]] * 5, ["0", "1", "0"] * 5, [1j, 0, 0] * 5),
    ],
)
def test_an_index_file_of_other_numbers(few, content):
    save_index(few, content)
    with pytest.raises(
        DataError, match=r"imagenet_98_idxs\.npy: not the published index file \(it "
    ):
        load("val", few)


class Malicious:
    def __reduce__(self):
        return os._exit, (3,)


def test_a_damaged_or_malicious_index_file(few):
    path = save_index(few, HELD)
    whole_file = path.read_bytes()
    wrong_header = whole_file.replace(b"(15,), }", b"(15000000000,), }").replace(
        b"          \n", b"\n"
    )
    for content in (
        b"",
        whole_file[:5],
        whole_file[:60],
        whole_file[:-1],
        b"PK\x03\x04",
        wrong_header,
        b"no numbers" * 9,
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not the published index file"):
            load("val", few)
    np.save(path, np.array([Malicious()] * 15, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not the published index file"):
        load("val", few)
    with open(path, "wb") as file:
        np.savez(file, np.zeros(15))
    with pytest.raises(DataError, match="not the published index file"):
        load("val", few)


def test_the_substitute_says_what_it_is(few):
    with pytest.warns(
        UserWarning,
        match=r"2% is held out by seed 0: .*not comparable with published ones.*github\.com",
    ):
        split = load_split("imagenet", "val", few)
    assert split.note.startswith(SUBSTITUTE)
    assert SUBSTITUTE in repr(split)
    assert Counter(split.labels.tolist()) == dict.fromkeys(range(5), 1)
    assert sorted(split.files + load("train", few).files) == sorted(
        (few / "imagenet/train").rglob("*.JPEG")
    )
    assert load("val", few).files == split.files


def test_the_substitute_never_changes():
    """Models are chosen on it: another draw would make old results too optimistic."""
    assert np.flatnonzero(imagenet._draw("n01440764", 200)).tolist() == [3, 77, 119, 186]
    assert np.flatnonzero(imagenet._draw("n01443537", 200)).tolist() == [8, 42, 61, 174]


@given(count=st.integers(1, 1400), name=st.text(max_size=12))
@settings(max_examples=50)
def test_the_size_of_the_substitute(count, name):
    held = imagenet._draw(name, count)
    assert (held.shape, held.dtype) == ((count,), bool)
    assert held.sum() == (round(0.02 * count) or (1 if count > 1 else 0))
    assert (imagenet._draw(name, 1300).sum(), imagenet._draw(name, 732).sum()) == (26, 15)


# Real data: only where RADIN_DATA has it ---------------------------------------------------------


@pytest.mark.parametrize("part", imagenet.PARTS)
def test_real_imagenet(part):
    base = Path(os.environ.get("RADIN_DATA", "/nowhere"))
    if not any((base / folder).is_dir() for folder in imagenet.PARTS[part].folders):
        pytest.skip(f"no {imagenet.PARTS[part].title} under RADIN_DATA")
    split = load(part, base)
    if not split.note:
        assert len(split) == imagenet.PARTS[part].num_images
    assert split[0][0].shape == (3, 224, 224)
