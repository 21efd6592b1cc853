"""radin/data/samples.py: labelled data of any kind wherever a split is taken."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

import radin
from helpers import CLASSES, save_states, tiny_split, tiny_zoo
from radin.data.batches import batches, fingerprint
from radin.data.network_inputs import map_inputs, split_inputs
from radin.data.samples import OwnSplit, Samples, as_split, subset_of
from radin.errors import DataError
from radin.inference.batch_norm import refresh_batch_norm
from radin.inference.forward import functional_logits
from radin.theory.second_order import first_order_losses, pair_gaps

SPLIT = tiny_split(20)
PAIRS = [SPLIT[i] for i in range(len(SPLIT))]
TOKENS = torch.randint(1, 9, (20, 5), generator=torch.Generator().manual_seed(1))
MASK = torch.ones(20, 5, dtype=torch.int64).tril(-1) + torch.eye(20, 5, dtype=torch.int64)


class Table:
    """Rows in the manner of the library datasets: dicts of Python's own numbers."""

    def __init__(self, **columns: list) -> None:
        self.columns = columns
        self.column_names = list(columns)
        self.features = dict.fromkeys(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int | str) -> object:
        if isinstance(index, str):
            return self.columns[index]
        return {name: column[index] for name, column in self.columns.items()}


class Reader(nn.Module):
    """A network of two tensors: the mean of the tokens' vectors where the mask is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vectors = self.embedding(input_ids) * attention_mask[..., None]
        return self.head(vectors.sum(1) / attention_mask.sum(1, keepdim=True)).tanh()


def table(**others: list) -> Table:
    columns = {"text": ["a"] * 20, "input_ids": TOKENS.tolist(), "attention_mask": MASK.tolist()}
    return Table(**(columns | {"label": SPLIT.labels.tolist()} | others))


@pytest.fixture
def readers(tmp_path) -> radin.Zoo:
    torch.manual_seed(0)
    start = Reader().state_dict()
    states = [
        {key: tensor + 0.3 * torch.randn_like(tensor) for key, tensor in start.items()}
        for _ in range(3)
    ]
    paths = save_states(tmp_path / "readers", *states)
    init = save_states(tmp_path / "start", start)[0]
    return radin.Zoo.open(paths, Reader, init=init, progress=False)


FORMS = {
    "pairs": PAIRS,
    "lists": [list(pair) for pair in PAIRS],
    "arrays": [(image.numpy(), np.int64(label)) for image, label in PAIRS],
    "TensorDataset": TensorDataset(SPLIT.images, SPLIT.labels),
    "Subset": Subset(TensorDataset(SPLIT.images, SPLIT.labels), range(20)),
    "dicts": [{"pixel_values": image, "label": label} for image, label in PAIRS],
    "table": Table(pixel_values=SPLIT.images.tolist(), labels=SPLIT.labels.tolist()),
    "loader of a split": DataLoader(SPLIT, batch_size=3),
    "loader of pairs": DataLoader(PAIRS, batch_size=7),
    "loader of dicts": DataLoader(
        [{"pixel_values": image, "label": label} for image, label in PAIRS], batch_size=7
    ),
    "loader of a table": DataLoader(
        Table(pixel_values=SPLIT.images.tolist(), labels=SPLIT.labels.tolist()), batch_size=2
    ),
    "loader with a collate_fn": DataLoader(
        PAIRS,
        batch_size=3,
        collate_fn=lambda items: {
            "pixel_values": torch.stack([image for image, _ in items]),
            "labels": torch.tensor([label for _, label in items]),
        },
    ),
    "loader with a batch_sampler": DataLoader(
        PAIRS, batch_sampler=BatchSampler(SequentialSampler(PAIRS), 6, drop_last=False)
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_what_the_split_gives(name, tmp_path):
    zoo = tiny_zoo(tmp_path)
    data = FORMS[name]
    bank = radin.predict(zoo, data, "cpu", batch_size=6, cache=tmp_path / "c", progress=False)
    expected = radin.predict(zoo, SPLIT, "cpu", batch_size=6, cache=False, progress=False)
    assert torch.equal(bank.logits, expected.logits)
    assert torch.equal(bank.labels, expected.labels)
    weights = [0.5, 0.25, 0.25]
    assert radin.evaluator(zoo, data, "cpu")(weights) == radin.evaluator(zoo, SPLIT, "cpu")(weights)
    for found, wanted in zip(
        radin.soup_logits(zoo, weights, data, "cpu"),
        radin.soup_logits(zoo, weights, SPLIT, "cpu"),
        strict=True,
    ):
        assert torch.equal(found, wanted)
    assert fingerprint(data) == fingerprint(SPLIT)
    again = radin.predict(zoo, data, "cpu", batch_size=6, cache=tmp_path / "c", progress=False)
    assert torch.equal(again.logits, expected.logits)


@pytest.mark.parametrize("name", ["pairs", "table", "loader of dicts", "loader with a collate_fn"])
def test_a_bench_of_any_form(name, tmp_path):
    zoo = tiny_zoo(tmp_path)
    made = [
        radin.SoupBench.build(zoo, data, data, "cpu", cache=False, progress=False)
        for data in (FORMS[name], SPLIT)
    ]
    assert torch.equal(made[0].soups("val"), made[1].soups("val"))
    assert made[0].has_images_of("val", SPLIT)
    bank = made[0].val
    found, expected = (radin.trust(bank, zoo, data, device="cpu") for data in (FORMS[name], SPLIT))
    assert str(found) == str(expected)


def test_batch_norm_is_measured_on_a_loader(tmp_path):
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES), nn.BatchNorm1d(CLASSES))

    torch.manual_seed(0)
    zoo = radin.Zoo.open(
        save_states(tmp_path, build().state_dict(), build().state_dict()), build, progress=False
    )
    loader = DataLoader(PAIRS, batch_size=4)
    found, expected = (
        refresh_batch_norm(zoo, [0.5, 0.5], data, "cpu", batch_size=5) for data in (loader, SPLIT)
    )
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    values = [
        radin.evaluator(zoo, data, "cpu", refresh=data)([0.5, 0.5]) for data in (loader, SPLIT)
    ]
    assert values[0] == values[1]


# Several tensors ---------------------------------------------------------------------------------


def direct_logits(zoo: radin.Zoo, state: object) -> Tensor:
    with torch.no_grad():
        return zoo.model(state)(TOKENS, MASK)


@pytest.mark.parametrize(
    "make",
    [
        table,
        lambda: [table()[i] for i in range(20)],
        lambda: [
            ({"input_ids": t, "attention_mask": m}, label)
            for t, m, label in zip(TOKENS, MASK, SPLIT.labels.tolist(), strict=True)
        ],
        lambda: DataLoader(table(), batch_size=3),
    ],
)
def test_networks_of_several_tensors(make, readers, tmp_path, monkeypatch):
    data = make()
    expected = torch.stack([direct_logits(readers, k) for k in range(3)])
    for chunk_bytes in (1, 2**31):
        monkeypatch.setattr("radin.inference.forward.MAX_CHUNK_BYTES", chunk_bytes)
        bank = radin.predict(
            readers, data, "cpu", batch_size=6, cache=tmp_path / str(chunk_bytes), progress=False
        )
        torch.testing.assert_close(bank.logits, expected, rtol=1e-6, atol=1e-6)
    soup = direct_logits(readers, radin.average(readers, [0.5, 0.5, 0]))
    found, labels = radin.soup_logits(readers, [0.5, 0.5, 0], data, "cpu")
    torch.testing.assert_close(found, soup, rtol=1e-6, atol=1e-6)
    assert torch.equal(labels, SPLIT.labels)
    accuracy = (soup.argmax(1) == SPLIT.labels).double().mean().item() * 100
    evaluate = radin.evaluator(readers, data, "cpu", batch_size=4)
    assert evaluate([0.5, 0.5, 0]) == pytest.approx(accuracy)
    assert radin.craft(bank, evaluate, 2, "radin").evaluations == 2
    assert radin.craft(bank, evaluate, 8, "learned").evaluations <= 8


def test_the_theory_takes_several_tensors(readers):
    loss, slopes = first_order_losses(readers, table(), "cpu", batch_size=6, progress=False)
    direct = nn.functional.cross_entropy(direct_logits(readers, readers.init), SPLIT.labels)
    assert loss == pytest.approx(direct.item(), rel=1e-5)
    assert slopes.shape == (3,)
    gaps = pair_gaps(readers, table(), "cpu", method="midpoints", progress=False)
    soup = direct_logits(readers, radin.average(readers, [0.5, 0.5, 0]))
    ensemble = (direct_logits(readers, 0) + direct_logits(readers, 1)) / 2
    torch.testing.assert_close(gaps[0], soup - ensemble, rtol=1e-5, atol=1e-6)


def test_a_batch_too_large_is_run_in_pieces(readers, monkeypatch):
    forward = Reader.forward

    def limited(self: Reader, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if len(input_ids) > 5:
            raise torch.OutOfMemoryError("too many")
        return forward(self, input_ids, attention_mask)

    expected = torch.stack([direct_logits(readers, k) for k in range(3)])
    monkeypatch.setattr(Reader, "forward", limited)
    with pytest.warns(UserWarning, match="too little memory"):
        bank = radin.predict(readers, table(), "cpu", cache=False, progress=False)
    torch.testing.assert_close(bank.logits, expected, rtol=1e-6, atol=1e-6)


def test_half_precision_leaves_tokens_whole(readers):
    bank = radin.predict(readers, table(), "cpu", cache=False, progress=False, half=True)
    exact = radin.predict(readers, table(), "cpu", cache=False, progress=False)
    torch.testing.assert_close(bank.logits, exact.logits, rtol=0.1, atol=0.05)


def test_fingerprints_tell_the_tensors_apart():
    swapped = table(input_ids=MASK.tolist(), attention_mask=TOKENS.tolist())
    other = MASK.clone()
    other[-1, -1] = 0
    prints = [fingerprint(table()), fingerprint(swapped)]
    prints += [fingerprint(table(attention_mask=other.tolist())), fingerprint(SPLIT)]
    assert len(set(prints)) == 4
    assert fingerprint(DataLoader(table(), batch_size=3)) == prints[0]


@given(st.integers(1, 12), st.integers(1, 13))
def test_pieces_are_the_whole(count, size):
    inputs = {"a": torch.arange(count), "b": torch.arange(2 * count).view(count, 2)}
    pieces = list(split_inputs(inputs, size))
    for name, tensor in inputs.items():
        assert torch.equal(torch.cat([piece[name] for piece in pieces]), tensor)
        assert all(len(piece[name]) <= size for piece in pieces)
    assert torch.equal(torch.cat(list(split_inputs(inputs["b"], size))), inputs["b"])
    assert torch.equal(map_inputs(torch.neg, inputs)["a"], -inputs["a"])


class Holder:
    """What a network of transformers returns."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def test_a_network_that_returns_an_object_with_logits(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, CLASSES)

        def forward(self, images: Tensor) -> Holder:
            return Holder(self.head(images.flatten(1)))

    torch.manual_seed(0)
    zoo = radin.Zoo.open(save_states(tmp_path, Wrapped().state_dict()), Wrapped, progress=False)
    bank = radin.predict(zoo, SPLIT, "cpu", cache=False, progress=False)
    with torch.no_grad():
        expected = zoo.model(0)(SPLIT.images).logits
        assert torch.equal(functional_logits(zoo.model(0), zoo[0], SPLIT.images), expected)
    assert torch.equal(bank.logits[0], expected)


# What is refused ---------------------------------------------------------------------------------


class Random(Dataset):
    """Augmented images: each time other ones."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return PAIRS[index][0] + torch.randn(1), PAIRS[index][1]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


class ShuffledBatches:
    """A batch sampler of one's own, as for texts of similar length."""

    def __iter__(self):
        return iter(torch.randperm(20).split(5))

    def __len__(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataLoader(PAIRS, shuffle=True), "another order each time.*shuffle=False"),
        (lambda: DataLoader(PAIRS, sampler=SubsetRandomSampler(range(20))), "another order"),
        (lambda: DataLoader(PAIRS, sampler=WeightedRandomSampler([1.0] * 20, 20)), "another order"),
        (lambda: DataLoader(PAIRS, batch_sampler=ShuffledBatches()), "another order"),
        (lambda: DataLoader(PAIRS, batch_size=None), "batch_size=None"),
        (lambda: DataLoader(Random(), batch_size=5), "other numbers for the same item"),
        (lambda: DataLoader(Stream(), batch_size=5), "no fixed length and order"),
        (
            lambda: DataLoader(
                PAIRS, sampler=DistributedSampler(PAIRS, num_replicas=3, rank=0, shuffle=False)
            ),
            "one of 3 parts",
        ),
        (Stream, "no fixed length and order"),
        (lambda: {"train": PAIRS, "validation": PAIRS}, r"dict of train, validation.*one part"),
        (lambda: SPLIT.images, "A Tensor holds no labelled items"),
        (lambda: "cifar10", "A str holds no labelled items"),
        (lambda: None, "A NoneType has no fixed length"),
        (lambda: [(*pair, 1) for pair in PAIRS], "An item of the data is 3 things"),
        (lambda: Table(text=["a"] * 20, label=[0] * 20), "text, label has no inputs.*tokenizer"),
        (lambda: Table(pixel_values=SPLIT.images.tolist()), "has no label"),
        (lambda: table(labels=[0] * 20), "several labels: labels and label"),
        (lambda: [(image, "cat") for image, _ in PAIRS], "A label is 'cat'"),
        (lambda: [(image, None) for image, _ in PAIRS], "A label is None"),
        (lambda: [("a sentence", 1)] * 20, "the first of a pair is a str"),
        (
            lambda: Table(input_ids=[[1] * (2 + k % 2) for k in range(20)], label=[0] * 20),
            "differ in size; resize images and pad texts",
        ),
        (
            lambda: DataLoader(PAIRS, batch_size=4, collate_fn=lambda items: items[0]),
            "4 items became a batch of 1",
        ),
        (list, "is empty"),
        (lambda: DataLoader([], batch_size=4), "is empty"),
    ],
)
def test_what_would_give_a_wrong_number_is_refused(make, message, tmp_path):
    zoo = tiny_zoo(tmp_path)
    data = make()
    with pytest.raises(DataError, match=message):
        radin.predict(zoo, data, "cpu", cache=tmp_path / "cache", progress=False)
    with pytest.raises(DataError, match=message):
        radin.evaluator(zoo, data, "cpu")([1.0, 0, 0])
    with pytest.raises(DataError, match=message):
        fingerprint(data)
    with pytest.raises(DataError, match=message):
        radin.SoupBench.build(zoo, data, data, "cpu", cache=False, progress=False)


def test_items_that_a_loader_leaves_out_are_counted():
    loader = DataLoader(PAIRS, batch_size=6, drop_last=True)
    with pytest.warns(UserWarning, match="leaves out 2 of 20 items"):
        split = as_split(loader)
    assert len(split) == 18
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(as_split(DataLoader(PAIRS, sampler=range(3, 9)))) == 6


def test_the_order_of_a_loader_is_kept():
    order = [5, 3, 19, 0]
    split = as_split(DataLoader(PAIRS, sampler=order, batch_size=2))
    ((images, labels),) = batches(split, 10)
    assert torch.equal(images, SPLIT.images[order])
    assert torch.equal(labels, SPLIT.labels[order])
    images, labels = next(batches(subset_of(split, [2, 0]), 10))
    assert torch.equal(images, SPLIT.images[[19, 5]])


def test_splits_stay_what_they_are():
    assert as_split(SPLIT) is SPLIT
    assert as_split(DataLoader(SPLIT, batch_size=3)) is SPLIT
    samples = as_split(PAIRS)
    assert isinstance(samples, Samples)
    assert as_split(samples) is samples
    assert torch.equal(subset_of(SPLIT, [4, 2])[0][0], SPLIT.images[4])
    assert [label for _, label in samples] == SPLIT.labels.tolist()


def test_images_of_pillow_are_read_as_those_of_files():
    from PIL import Image

    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
    for key in ("image", "img"):
        image, label = as_split([{key: Image.fromarray(pixels), "label": 1}])[0]
        assert torch.equal(image, radin.images.scale(torch.from_numpy(pixels)))
        assert label == 1
    grey, _ = as_split([(Image.fromarray(pixels[..., 0]), 0)])[0]
    assert grey.shape == (3, 2, 3)
    with pytest.raises(DataError, match="mode F"):
        as_split([(Image.new("F", (2, 2)), 0)])[0]


def test_the_real_library_of_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed")
    data = datasets.Dataset.from_dict(
        {"pixel_values": SPLIT.images.tolist(), "label": SPLIT.labels.tolist()}
    )
    zoo = tiny_zoo(tmp_path)
    found, expected = (
        radin.predict(zoo, each, "cpu", cache=False, progress=False) for each in (data, SPLIT)
    )
    assert torch.equal(found.logits, expected.logits)
    with pytest.raises(DataError, match="one part"):
        as_split(datasets.DatasetDict({"train": data}))


def test_other_processes_read_the_items(tmp_path):
    zoo = tiny_zoo(tmp_path)
    loader = DataLoader(PAIRS, batch_size=4, num_workers=1)
    found, expected = (
        radin.predict(zoo, each, "cpu", cache=False, progress=False) for each in (loader, SPLIT)
    )
    assert torch.equal(found.logits, expected.logits)


# Arrays, and data of the user's own on the command line ------------------------------------------


@pytest.mark.parametrize("make", [torch.as_tensor, np.asarray], ids=["tensors", "arrays"])
def test_two_arrays_are_images_and_labels(make):
    images, labels = torch.rand(5, 1, 4, 4), torch.tensor([0, 2, 1, 1, 0])
    split = as_split((make(images), make(labels)))
    assert len(split) == 5
    pairs = list(split)
    assert torch.equal(torch.stack([image for image, _ in pairs]), images)
    assert [int(label) for _, label in pairs] == labels.tolist()
    (batch,) = split.batches(8)
    assert batch[0].dtype == torch.float32
    double = as_split((images.double().numpy(), labels.numpy()))
    assert double[0][0].dtype == torch.float32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.zeros((4, 8, 8), np.uint8), np.zeros(4, int)), "bytes from 0 to 255"),
        ((np.zeros((4, 1, 8, 8)), np.zeros(3, int)), "one label for each image"),
        ((np.zeros(()), np.zeros(3, int)), "one label for each image"),
    ],
)
def test_arrays_that_are_no_images_with_labels(data, message):
    with pytest.raises(DataError, match=message):
        as_split(data)


def test_data_of_one_s_own_have_the_face_of_a_split():
    images, labels = torch.rand(6, 1, 2, 2), torch.tensor([0, 2, 1, 1, 0, 2])
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    for data in ((images, labels), loader, list(zip(images, labels.tolist(), strict=True))):
        split = OwnSplit("mine:load", "val", data)
        assert (split.name, split.part, len(split)) == ("mine:load", "val", 6)
        assert split.class_names == ["0", "1", "2"]
        assert split.num_logits == 3
        assert torch.equal(split.labels, labels)
        assert torch.equal(split[1][0], images[1])
        fewer = split.take(2)
        assert fewer.labels.tolist() == [int(label) for _, label in as_split(fewer)]
        assert "2 of 6" in fewer.note
    digits = radin.load_split("digits", "test")
    same = OwnSplit("mine:load", "test", digits)
    assert as_split(same) is digits
    assert (same.class_names, same.num_classes) == (digits.class_names, 10)


def test_classes_may_have_names():
    data = TensorDataset(torch.rand(2, 3), torch.tensor([0, 1]))
    data.classes = ["cat", "dog", "eel"]
    assert OwnSplit("mine", "val", data).class_names == ["cat", "dog", "eel"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [(torch.rand(3), "whole numbers from 0"), (torch.tensor([0, -1, 1]), "whole numbers from 0")],
)
def test_labels_that_are_no_classes(labels, message):
    with pytest.raises(DataError, match=message):
        OwnSplit("mine", "val", (torch.rand(3, 2), labels))
    with pytest.raises(DataError, match="holds no images"):
        OwnSplit("mine", "val", (torch.rand(0, 2), torch.zeros(0)))
