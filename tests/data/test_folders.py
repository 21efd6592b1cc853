"""radin/data/folders.py: the parts of folders of images, held-out shares, halves and domains."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radin.data.download.catalog import DATA_SETS
from radin.data.folders import _halve, _hold_out, part_files
from radin.errors import DataError

PACS = DATA_SETS["pacs"]


def put(base: Path, top: str, class_name: str, count: int) -> None:
    """Empty files with the names of images: a part depends on nothing else."""
    folder = base / top / class_name
    folder.mkdir(parents=True)
    for k in range(count):
        (folder / f"{k:04d}.jpg").touch()


def names(base: Path, part: str, data_set=None) -> list[str]:
    """The images of a part, by their paths in the data set."""
    return [str(path.relative_to(base)) for path, _ in part_files(base, part, data_set).files]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """20 cats and 31 dogs for training, 3 of each for the test."""
    for name, count in (("cat", 20), ("dog", 31)):
        put(tmp_path / "pets", "train", name, count)
        put(tmp_path / "pets", "test", name, 3)
    return tmp_path / "pets"


def test_the_parts_of_train(pets):
    parts = {
        part: set(names(pets, part)) for part in ("train", "val", "pretrain", "finetune", "test")
    }
    assert {part: len(files) for part, files in parts.items()} == {
        "train": 18 + 28,
        "val": 2 + 3,
        "pretrain": 9 + 14,
        "finetune": 9 + 14,
        "test": 6,
    }
    assert parts["train"].isdisjoint(parts["val"])
    assert parts["pretrain"].isdisjoint(parts["finetune"])
    assert parts["pretrain"] | parts["finetune"] == parts["train"]
    assert Counter(name.split("/")[1] for name in parts["pretrain"]) == {"cat": 9, "dog": 14}


def test_the_shuffles_never_change(pets):
    """Models are validated on these held-out images: another shuffle would make old results
    too optimistic.
    """
    assert [name[-8:-4] for name in names(pets, "val")] == ["0010", "0018", "0003", "0012", "0024"]
    cats = [name[-8:-4] for name in names(pets, "finetune") if "cat" in name]
    assert cats == ["0000", "0001", "0007", "0008", "0009", "0013", "0014", "0016", "0017"]


def test_with_a_val_of_its_own_nothing_is_held_out(pets):
    put(pets, "val", "dog", 2)
    assert names(pets, "val") == ["val/dog/0000.jpg", "val/dog/0001.jpg"]
    halves = [names(pets, part) for part in ("pretrain", "finetune")]
    assert sorted(halves[0] + halves[1]) == names(pets, "train")
    assert [len(half) for half in halves] == [10 + 16, 10 + 15]
    assert all(name.startswith("train/") for name in halves[0])


def test_a_folder_of_its_own_goes_before_a_half(pets):
    put(pets, "pretrain", "cat", 2)
    assert names(pets, "pretrain") == ["pretrain/cat/0000.jpg", "pretrain/cat/0001.jpg"]


@given(count=st.integers(0, 300), name=st.text(max_size=10))
def test_shares_divide_any_class(count, name):
    found = [Path(str(k)) for k in range(count)]
    val, train = (_hold_out(found, part, name) for part in ("val", "train"))
    assert sorted(val + train) == sorted(found)
    assert len(val) == count // 10
    pretrain, finetune = (_halve(train, part, name) for part in ("pretrain", "finetune"))
    assert sorted(pretrain + finetune) == sorted(train)
    assert len(pretrain) - len(finetune) in (0, 1)


def test_labels_without_a_train_are_those_of_all_parts(tmp_path):
    put(tmp_path, "val", "cat", 1)
    put(tmp_path, "val", "eel", 1)
    put(tmp_path, "test", "dog", 1)
    put(tmp_path, "test", "eel", 1)
    for part, labels in (("val", [0, 2]), ("test", [1, 2])):
        files, class_names, _ = part_files(tmp_path, part)
        assert class_names == ["cat", "dog", "eel"]
        assert [label for _, label in files] == labels


@pytest.mark.parametrize(
    "part", ["", ".", "..", "train/cat", "../pets/train", "without-test", "Train", "train/val"]
)
def test_what_is_no_part(pets, part):
    with pytest.raises(
        DataError, match="has no part .*; it has finetune, pretrain, test, train, val"
    ):
        part_files(pets, part)


def test_hidden_files_are_no_images(pets):
    (pets / "test" / "cat" / "._0000.jpg").write_bytes(b"made by another system")
    (pets / ".cache").mkdir()
    assert len(names(pets, "test")) == 6


# Domains -----------------------------------------------------------------------------------------


@pytest.fixture
def pacs(tmp_path: Path) -> Path:
    """Ten images of each class in each domain, and twenty sketches."""
    for domain in PACS.domains:
        for name in PACS.classes:
            put(tmp_path / "pacs", domain, name, 20 if domain == "sketch" else 10)
    return tmp_path / "pacs"


def test_the_parts_of_domains(pacs):
    every = {domain: names(pacs, domain, PACS) for domain in PACS.domains}
    assert {domain: len(files) for domain, files in every.items()} == {
        "art_painting": 70,
        "cartoon": 70,
        "photo": 70,
        "sketch": 140,
    }
    train, val = (names(pacs, f"sketch/{share}", PACS) for share in ("train", "val"))
    assert sorted(train + val) == every["sketch"]
    assert (len(train), len(val)) == (7 * 18, 7 * 2)
    assert Counter(name.split("/")[1] for name in val) == dict.fromkeys(PACS.classes, 2)
    for left_out in PACS.domains:
        for share in ("train", "val"):
            others = [
                names(pacs, f"{domain}/{share}", PACS)
                for domain in PACS.domains
                if domain != left_out
            ]
            union = names(pacs, f"without-{left_out}/{share}", PACS)
            assert sorted(union) == sorted(name for other in others for name in other)
            assert not any(name.startswith(left_out) for name in union)


def test_labels_of_domains_agree(pacs):
    for part in ("photo", "photo/val", "without-photo/train"):
        files, class_names, _ = part_files(pacs, part, PACS)
        assert class_names == sorted(PACS.classes)
        assert [label for _, label in files] == sorted(label for _, label in files)
        assert all(path.parent.name == class_names[label] for path, label in files)


@pytest.mark.parametrize(
    "part",
    [
        *("train", "val", "test", "", "/", "photo/", "photo/test", "/train"),
        *("without-photo", "without-photo/", "without-", "without-/train", "without-train/val"),
        *("without-without-photo/val", "photo/train/dog", "../pacs/photo"),
    ],
)
def test_what_is_no_part_of_domains(pacs, part):
    with pytest.raises(
        DataError,
        match=r"has no part .*art_painting, cartoon, photo, sketch, .*without-<domain>/val",
    ):
        part_files(pacs, part, PACS)


def test_any_folder_of_domains(tmp_path):
    put(tmp_path, "indoor", "cup", 10)
    put(tmp_path, "outdoor", "cup", 10)
    put(tmp_path, "outdoor", "tree", 10)
    put(tmp_path, "without-people", "tree", 10)
    files, class_names, _ = part_files(tmp_path, "without-people")
    assert (len(files), files[0][1], class_names) == (10, 1, ["cup", "tree"])
    assert len(names(tmp_path, "without-indoor/train")) == 27
    assert len(names(tmp_path, "indoor/val")) == 1


def test_one_domain_has_no_others(tmp_path):
    put(tmp_path, "only", "cup", 10)
    with pytest.raises(DataError, match="has no part 'without-only/train'"):
        part_files(tmp_path, "without-only/train")


def test_a_missing_domain_is_named(pacs):
    (pacs / "cartoon").rename(pacs / "comics")
    for part in ("photo", "without-photo/val", "cartoon"):
        with pytest.raises(
            DataError,
            match=r"domains are missing: cartoon; it needs all of art_painting, cartoon, ph",
        ):
            part_files(pacs, part, PACS)


def test_other_folders_beside_domains_are_left_alone(pacs):
    put(pacs, "splits", "old", 1)
    assert len(names(pacs, "without-photo/val", PACS)) == 7 * (1 + 1 + 2)


# The data sets that radin knows ------------------------------------------------------------------


def cifar10(base: Path, train: int = 20, test: int = 1) -> Path:
    for name in DATA_SETS["cifar10"].classes:
        put(base, "train", name, train)
        put(base, "test", name, test)
    return base


def test_a_small_copy_is_accepted(tmp_path):
    base = cifar10(tmp_path)
    sizes = {
        part: len(names(base, part, DATA_SETS["cifar10"]))
        for part in ("train", "val", "test", "pretrain", "finetune")
    }
    assert sizes == {"train": 180, "val": 20, "test": 10, "pretrain": 90, "finetune": 90}


def test_a_copy_too_small_for_a_split(tmp_path):
    base = cifar10(tmp_path, train=9)
    assert len(names(base, "train", DATA_SETS["cifar10"])) == 90
    with pytest.raises(
        DataError, match=r"train.airplane: too few images for a split 'val' \(there are 9\)"
    ):
        part_files(base, "val", DATA_SETS["cifar10"])


def test_missing_and_unknown_classes_are_named(tmp_path):
    base = cifar10(tmp_path)
    (base / "test" / "cat").rename(base / "test" / "cats")
    with pytest.raises(
        DataError, match=r"test: 1 of the 10 classes of cifar10 are missing: cat\. .*another name\."
    ):
        part_files(base, "test", DATA_SETS["cifar10"])
    assert len(names(base, "train", DATA_SETS["cifar10"])) == 180
    put(base, "test", "cat", 1)
    with pytest.raises(DataError, match="test: classes that cifar10 does not have: cats"):
        part_files(base, "test", DATA_SETS["cifar10"])


def test_many_missing_classes_are_counted(tmp_path):
    put(tmp_path, "train", "n01443537", 1)
    with pytest.raises(
        DataError,
        match=r"199 of the 200 classes of tiny-imagenet are missing: n0\S+, .* and 191 more\.",
    ):
        part_files(tmp_path, "train", DATA_SETS["tiny-imagenet"])


def test_a_class_missing_from_one_domain(pacs):
    (pacs / "photo" / "dog").rename(pacs / "photo" / "dogs")
    with pytest.raises(DataError, match=r"photo: 1 of the 7 classes of pacs are missing: dog\."):
        part_files(pacs, "without-sketch/train", PACS)


def test_tiny_imagenet_has_no_test(tmp_path):
    put(tmp_path, "test", "n01443537", 1)
    with pytest.raises(
        DataError, match="tiny-imagenet has no part 'test': the labels .* were never published"
    ):
        part_files(tmp_path, "test", DATA_SETS["tiny-imagenet"])


def test_an_archive_unpacked_by_hand_is_recognised(tmp_path):
    base = tmp_path / "tiny-imagenet-200"
    put(base, "val", "images", 2)
    (base / "val" / "val_annotations.txt").touch()
    with pytest.raises(
        DataError, match=r"laid out like the official archive .* put the archive itself into"
    ):
        part_files(base, "val", DATA_SETS["tiny-imagenet"])
