"""radin/inference/forward.py: one pass over the images for many networks."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from helpers import Listed, build, state, tiny_split, tiny_zoo
from radin import average, load_split
from radin.data.splits import IMAGENET, Normalised
from radin.errors import DataError
from radin.inference.forward import _DeviceModels, batch_logits, forward_all

CPU = torch.device("cpu")
SPLIT = tiny_split(20)


def network(seed: int) -> nn.Module:
    model = build()
    model.load_state_dict(state(seed))
    return model.eval()


class Loader:
    """Tiny networks, and how often each was loader."""

    def __init__(self, count: int) -> None:
        self.loads = [0] * count
        self.make_models = [lambda k=k: self.load(k) for k in range(count)]

    def load(self, k: int) -> nn.Module:
        self.loads[k] += 1
        return network(k)


def logits_by_network(found: object, count: int) -> list[Tensor]:
    logits: list[list[Tensor]] = [[] for _ in range(count)]
    for k, batch, _ in found:  # type: ignore[attr-defined]
        logits[k].append(batch)
    return [torch.cat(batches) if batches else torch.empty(0, 3) for batches in logits]


def expected_logits(seed: int) -> Tensor:
    with torch.no_grad():
        return network(seed)(SPLIT.images)


@given(
    room=st.integers(1, 4),
    chunk=st.sampled_from([1, 64, 10**6]),
    batch=st.integers(1, 21),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_logits_do_not_depend_on_what_fits(room, chunk, batch, data):
    """Networks that stay, that take turns, and that skip some images; chunks of any size."""
    skips = [batch * data.draw(st.integers(0, 20 // batch)) for _ in range(4)]
    loader, split = Loader(4), Listed(SPLIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_DeviceModels, "_has_room", lambda models: len(models.resident) < room)
        patch.setattr("radin.inference.forward.MAX_CHUNK_BYTES", chunk)
        found = logits_by_network(
            forward_all(loader.make_models, split, CPU, batch_size=batch, skip=skips), 4
        )
    for k, skipped in enumerate(skips):
        torch.testing.assert_close(found[k], expected_logits(k)[skipped:], rtol=1e-6, atol=1e-6)
    assert split.asked == list(range(min(skips), 20)), "each image is read once"
    assert loader.loads[:room] == [1] * room
    if chunk == 10**6:
        assert max(loader.loads) == 1, (
            "a network that takes turns is loaded for a chunk, not for a batch"
        )


class Small(nn.Module):
    """A network for which the device has memory for `most` images at once."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.most, self.error = network(0), most, error

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise self.error
        return self.inner(images)


FULL = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you"),
)


@pytest.mark.parametrize("error", FULL)
def test_too_large_a_batch_is_run_in_smaller_pieces_with_a_warning(error):
    split = tiny_split(64)
    with pytest.warns(
        UserWarning, match="cpu has too little memory for 32 images at once; going on with 16"
    ) as caught:
        found = logits_by_network(
            forward_all([lambda: Small(5, error)], split, CPU, batch_size=32), 1
        )[0]
    assert [str(warning.message).rpartition(" ")[2] for warning in caught] == ["16.", "8.", "4."], (
        "once for each size"
    )
    with torch.no_grad():
        torch.testing.assert_close(found, network(0)(split.images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("error", FULL)
def test_one_image_that_is_too_large(error):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(torch.OutOfMemoryError):
            list(forward_all([lambda: Small(0, error)], SPLIT, CPU, batch_size=4))


def test_a_network_that_does_not_fit_takes_turns(monkeypatch):
    """The device is out of memory while the third network is loaded."""
    load = _DeviceModels._load

    def full(models: _DeviceModels, k: int) -> nn.Module:
        if k == 2 and len(models.resident) == 2 and not hasattr(models, "all_fit"):
            raise torch.OutOfMemoryError
        return load(models, k)

    monkeypatch.setattr(_DeviceModels, "_load", full)
    found = logits_by_network(forward_all(Loader(3).make_models, SPLIT, CPU, batch_size=8), 3)
    for k in range(3):
        torch.testing.assert_close(found[k], expected_logits(k), rtol=1e-6, atol=1e-6)


def test_an_unreadable_image_ends_the_pass(tmp_path):
    class Broken(Listed):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if index == 11:
                raise DataError("image 11 is broken")
            return super().__getitem__(index)

    with pytest.raises(DataError, match="image 11 is broken"):
        list(forward_all(Loader(2).make_models, Broken(SPLIT), CPU, batch_size=4))


def test_a_pass_with_other_tensors_leaves_the_model_alone(tmp_path):
    zoo = tiny_zoo(tmp_path)
    model, other = zoo.model(0), average(zoo, [0, 1, 0])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    borrowed = batch_logits(model, SPLIT.images, CPU, state=other)
    torch.testing.assert_close(borrowed, zoo.model(1)(SPLIT.images))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_unreadable_images_are_counted_and_named(tmp_path):
    """The first unreadable image ends the pass; the error counts all of them."""
    for i in range(12):
        path = tmp_path / "set" / "val" / f"class{i % 3}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (20 * i, 0, 0)).save(path)
        if i in (4, 9):
            path.write_bytes(path.read_bytes()[:40])
    split = load_split("set", "val", root=tmp_path)
    for wrapped in (split, Normalised(split, *IMAGENET)):
        with pytest.raises(
            DataError,
            match=r"2 of 12 images of .*(09|04)\.png.*(09|04)\.png.*replace or remove them",
        ):
            list(forward_all([nn.Flatten], wrapped, CPU, batch_size=4))
