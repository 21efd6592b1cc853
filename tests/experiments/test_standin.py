"""The drawings that stand in for ImageNet in tests: folders and files like the real ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import standin_images
import standin_zoo
from helpers import files_below
from radin import Zoo, load_split, predict
from radin.data.batches import batches
from radin.data.imagenet import PARTS, check_layouts, wnids
from radin.data.objectnet import read_mappings
from radin.data.splits import CLIP, Normalised
from radin.errors import DataError, ParameterError
from radin.experiments.model_soups.experiment import network_builder
from standin_images import (
    NUM_CLASSES,
    NUM_TRAINED_CLASSES,
    TEST_IMAGES,
    TRAIN_IMAGES,
    VAL_IMAGES,
    draw,
    keep_trained_classes,
    make_images,
    trained_classes,
)
from standin_zoo import make_ingredients, small_builder

CHANCE = 100 / NUM_TRAINED_CLASSES


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("drawn") / "data", progress=False)


def contents(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in files_below(folder)
    }


# Images -----------------------------------------------------------------------------------------


def test_every_layout_is_the_real_one(root):
    check_layouts(PARTS, root)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_images_of_every_trained_class(root, part):
    split = load_split("imagenet", part, root)
    kept = keep_trained_classes(split)
    groups = (
        [(k,) for k in range(NUM_CLASSES)] if split.projection is None else split.projection.groups
    )
    counts = dict.fromkeys(trained_classes(), 0)
    for label in kept.labels.tolist():
        (number,) = set(groups[label]) & set(counts)
        counts[number] += 1
    assert set(counts.values()) == {
        {"train": TRAIN_IMAGES, "val": VAL_IMAGES}.get(part, TEST_IMAGES)
    }
    assert kept.projection == split.projection
    assert kept.border == split.border
    assert kept[0][0].shape == (3, 224, 224)
    assert "stand-in" in repr(kept)


def test_the_labels_of_a_file_are_those_of_its_folder(root):
    v2 = keep_trained_classes(load_split("imagenet", "v2", root))
    for path, label in zip(v2.files, v2.labels, strict=True):
        assert path.parent.name == str(int(label))
    sketch = keep_trained_classes(load_split("imagenet", "sketch", root))
    assert [wnids()[label] for label in sketch.labels] == [
        path.parent.name for path in sketch.files
    ]


def test_no_training_image_is_held_out(root):
    train, val = (
        keep_trained_classes(load_split("imagenet", part, root)) for part in ("train", "val")
    )
    assert len(train) == NUM_TRAINED_CLASSES * TRAIN_IMAGES
    assert len(val) == NUM_TRAINED_CLASSES * VAL_IMAGES
    assert not {path.read_bytes() for path in train.files} & {
        path.read_bytes() for path in val.files
    }


def test_objects_have_labels_of_their_own(root):
    groups = read_mappings(root / "objectnet-1.0" / "mappings", NUM_CLASSES)
    numbers = [number for labels in groups.values() for number in labels]
    assert len(numbers) == len(set(numbers))
    assert {len(labels) for labels in groups.values()} == {1, 2, 3}
    assert groups == standin_images._objects()


def test_existing_drawings_are_not_drawn_again(root, monkeypatch):
    before = contents(root)
    monkeypatch.setattr(standin_images, "draw", lambda *_, **__: pytest.fail("drawn again"))
    assert make_images(root, progress=False) == root
    assert contents(root) == before


def test_a_file_depends_on_its_seed_part_class_and_number_only(root, tmp_path):
    label = trained_classes()[3]
    for position, (part, of_part) in enumerate(PARTS.items()):
        if part in ("val", "objectnet"):
            continue
        folder = str(label) if part == "v2" else wnids()[label]
        path = root / of_part.folders[0] / folder / f"{folder}_00.JPEG"
        for seed in (0, 1):
            standin_images._save_image(
                draw(label, part, np.random.default_rng([seed, position, label, 0])),
                tmp_path / "a.JPEG",
            )
            assert ((tmp_path / "a.JPEG").read_bytes() == path.read_bytes()) == (seed == 0)
    assert sum(name.endswith((".JPEG", ".png")) for name in files_below(root)) > 4000


def test_without_a_folder_they_are_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    monkeypatch.setattr(standin_images, "_draw_all", lambda *_, **__: None)
    one, same, other = (make_images(seed=seed, progress=False) for seed in (0, 0, 1))
    assert one == same != other
    assert one.is_relative_to(tmp_path)


@pytest.mark.parametrize("existing", ["file", "photographs", "another seed"])
def test_other_folders_are_not_changed(tmp_path, monkeypatch, existing):
    folder = tmp_path / "data"
    monkeypatch.setattr(standin_images, "_draw_all", lambda *_, **__: None)
    if existing == "file":
        folder.write_text("precious")
    elif existing == "photographs":
        (folder / "imagenet").mkdir(parents=True)
    else:
        make_images(folder, seed=1, progress=False)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=r"data is not this stand-in"):
        make_images(folder, progress=False)
    assert contents(tmp_path) == before


def test_a_stopped_drawing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_: object, **__: object) -> object:
        if len(files_below(tmp_path)) > 5:
            raise KeyboardInterrupt
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(standin_images, "draw", stop)
    with pytest.raises(KeyboardInterrupt):
        make_images(tmp_path / "data", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_reported_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data: could not be written") as caught:
        make_images(tmp_path / "file" / "data", progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 0.5, "x", None])
def test_an_impossible_seed(tmp_path, seed):
    with pytest.raises(ParameterError, match="seed"):
        make_images(tmp_path / "data", seed=seed)
    assert list(tmp_path.iterdir()) == []


@given(
    st.integers(0, NUM_CLASSES - 1),
    st.sampled_from(list(PARTS)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([32, 64]),
)
def test_a_drawing_is_an_image_in_the_manner_of_its_part(label, part, seed, edge):
    image = draw(label, part, np.random.default_rng(seed), edge=edge)
    assert image.dtype == np.uint8
    assert image.shape == ((edge + 4,) * 2 if part == "objectnet" else (edge,) * 2) + (3,)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 2
    line = np.concatenate([image[0], image[1], image[:, 0], image[:, -1]])
    assert (line == (255, 0, 0)).all() == (part == "objectnet")
    grey = np.ptp(image.astype(int), axis=-1).mean() < 20
    assert grey or part != "sketch"


# Ingredients ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(root, tmp_path_factory) -> Zoo:
    paths = make_ingredients(
        root, 2, quick=True, folder=tmp_path_factory.mktemp("zoo"), progress=False
    )
    return Zoo.open(paths, build=small_builder(quick=True), unused="skip", progress=False)


def test_the_network_is_the_published_one():
    with torch.device("meta"):
        state = network_builder()().state_dict()
        few = small_builder(quick=True)().state_dict()
    visual = [key for key in state if key.startswith("model.visual.")]
    assert len(visual) == 152
    assert sum(tensor.numel() for tensor in state.values()) == 88_362_216
    assert set(state) - set(visual) == {"classification_head.weight", "classification_head.bias"}
    assert all(few[key].shape == state[key].shape for key in few)
    assert {key.split(".")[4] for key in few if "resblocks" in key} == {"0", "1"}


def test_the_files_have_the_published_names_and_the_text_part(zoo):
    first, second = (torch.load(path, weights_only=True) for path in zoo.paths)
    text_part = set(first) - set(zoo.keys())
    assert [path.name for path in zoo.paths] == ["model_0.pt", "model_1.pt"]
    assert text_part == {
        "model.positional_embedding",
        "model.text_projection",
        "model.logit_scale",
        "model.token_embedding.weight",
        "model.ln_final.weight",
        "model.ln_final.bias",
    }
    assert all(torch.equal(first[key], second[key]) for key in text_part)
    assert all(tensor.dtype == torch.float32 for tensor in first.values())
    assert not any(
        torch.equal(first[key], second[key])
        for key in first
        if key.startswith("classification_head")
    )


def test_the_ingredients_have_learned_something_and_not_the_same(root, zoo):
    val = Normalised(keep_trained_classes(load_split("imagenet", "val", root)), *CLIP)
    bank = predict(zoo, val, device="cpu", cache=False, progress=False)
    assert (bank.accuracies() > 2 * CHANCE).all()
    answers = bank.logits.argmax(-1)
    assert (answers[0] != answers[1]).any()
    assert set(answers.flatten().tolist()) <= set(trained_classes())


def test_the_tail_computes_the_rest_of_the_network(root, zoo):
    model = zoo.model(0)
    split = Normalised(keep_trained_classes(load_split("imagenet", "test", root)), *CLIP)
    with torch.no_grad():
        expected = torch.cat([model(images) for images, _ in batches(split, 5)])
        found = standin_zoo._Tail(model)(standin_zoo._class_tokens(model, split))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_ridge_is_the_textbook_formula():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(30, 6, generator=rng)
    labels = torch.randint(5, (30,), generator=rng)
    weight, bias = standin_zoo._ridge(features, labels)
    targets = torch.nn.functional.one_hot(labels, NUM_CLASSES).double()
    x = (features - features.mean(0)).double()
    strength = standin_zoo.RIDGE_STRENGTH * (x * x).sum(1).mean()
    primal = torch.linalg.solve(
        x.T @ x + strength * torch.eye(6), x.T @ (targets - targets.mean(0))
    )
    torch.testing.assert_close(weight.double(), primal.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        (features @ weight.T + bias).mean(0).double(), targets.mean(0), rtol=1e-4, atol=1e-5
    )


def test_missing_and_damaged_files_are_made_again_with_the_same_bytes(
    root, zoo, tmp_path, monkeypatch
):
    whole = contents(zoo.paths[0].parent)
    kept, damaged = tmp_path / "model_0.pt", tmp_path / "model_1.pt"
    kept.write_bytes(zoo.paths[0].read_bytes())
    damaged.write_bytes(zoo.paths[1].read_bytes()[:-1000])
    before = kept.stat().st_mtime_ns
    torch.manual_seed(12345)  # the caller's own randomness is not ours
    make_ingredients(root, 2, quick=True, folder=tmp_path, progress=False)
    assert kept.stat().st_mtime_ns == before
    assert contents(tmp_path) == whole
    monkeypatch.setattr(standin_zoo, "build_seeded", lambda *_: pytest.fail("made again"))
    make_ingredients(root, 2, quick=True, folder=tmp_path, progress=False)


@pytest.mark.parametrize("wrong", [{"num_models": 0}, {"num_models": 1.5}, {"seed": -1}])
def test_impossible_numbers_stop_before_any_work(tmp_path, wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        make_ingredients(tmp_path, folder=tmp_path / "zoo", **wrong)
    assert files_below(tmp_path) == []
