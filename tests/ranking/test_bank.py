"""radin/ranking/bank.py: what makes a logit bank, and its file."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from helpers import random_bank, save
from radin import LogitBank, exhaustive, fast_estimate
from radin.errors import BankError, ParameterError
from radin.ranking.bank import accuracy


def test_a_bank_says_its_sizes():
    bank = random_bank(3, 20, 4)
    assert (len(bank), bank.num_models, bank.num_images, bank.num_classes) == (3, 3, 20, 4)
    assert bank.names == ["0", "1", "2"]


def test_double_is_rounded_and_half_is_kept():
    logits, labels = torch.rand(2, 3, 2, dtype=torch.float64), [0, 1, 0]
    assert LogitBank(logits, labels).logits.dtype == torch.float32
    assert LogitBank(logits.half(), labels).logits.dtype == torch.float16
    assert LogitBank(logits, torch.tensor(labels, dtype=torch.uint8)).labels.dtype == torch.int64


def test_accuracy_by_hand_with_the_lowest_class_winning_ties():
    logits = torch.tensor(
        [[[1.0, 1.0], [0.0, 2.0], [3.0, 3.0]], [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]]
    )
    assert accuracy(logits, torch.tensor([0, 1, 1])).tolist() == pytest.approx([200 / 3, 100 / 3])
    assert LogitBank(logits, [0, 1, 1]).accuracies().dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_saved_bank_comes_back_whole(tmp_path, dtype):
    bank = random_bank()
    bank = LogitBank(
        bank.logits.to(dtype).transpose(0, 1).contiguous().transpose(0, 1), bank.labels, "abc"
    )
    found = LogitBank.load(bank.save(tmp_path / "deep" / "bank.safetensors"))
    assert torch.equal(found.logits, bank.logits)
    assert found.logits.dtype == dtype
    assert torch.equal(found.labels, bank.labels)
    assert found.names == ["a", "b", "c"]


LOGITS = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (torch.zeros(3, 4), [0, 0, 0], r"shape \(N, n, C\).*\(3, 4\)"),
        (LOGITS.long(), [0, 0, 0], "floating point.*int64"),
        (torch.zeros(2, 0, 4), [], r"needs an ingredient, an image.*\(2, 0, 4\)"),
        (torch.zeros(0, 3, 4), [0, 0, 0], r"needs an ingredient.*\(0, 3, 4\)"),
        (torch.zeros(2, 3, 0), [0, 0, 0], r"and a class.*\(2, 3, 0\)"),
        (LOGITS, [0, 0], r"Labels must be 3 whole numbers.*\(2,\)"),
        (LOGITS, [[0], [0], [0]], r"Labels must be 3 whole numbers.*\(3, 1\)"),
        (LOGITS, [1j, 0j, 0j], "whole numbers.*complex64"),
        (LOGITS, [0, 4, 7], r"Image 1 has label 4, .* classes 0 to 3 \(2 such images\)"),
        (LOGITS, [0, 0, -1], "Image 2 has label -1"),
    ],
)
def test_what_is_no_bank(logits, labels, said):
    with pytest.raises(BankError, match=said):
        LogitBank(logits, labels)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite(value):
    logits = torch.zeros(3, 5, 2)
    logits[1, 2:4, 1] = value
    with pytest.raises(
        BankError,
        match="Ingredient bad gives NaN or infinite logits on 2 images, the first is image 2",
    ):
        LogitBank(logits, torch.zeros(5, dtype=torch.int64), ["good", "bad", "fine"])


def test_one_name_for_each_ingredient():
    with pytest.raises(BankError, match="3 names given for 2"):
        LogitBank(LOGITS, [0, 0, 0], ["a", "b", "c"])


def test_missing_file(tmp_path):
    with pytest.raises(BankError, match=r"gone\.safetensors: no such file"):
        LogitBank.load(tmp_path / "gone.safetensors")


def test_a_bank_cut_short_at_any_length(tmp_path):
    path = random_bank().save(tmp_path / "bank.safetensors")
    whole = path.read_bytes()
    for length in {*range(0, len(whole), len(whole) // 20), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(BankError, match=r"bank\.safetensors: damaged"):
            LogitBank.load(path)


def test_another_safetensors_file_is_no_bank(tmp_path):
    with pytest.raises(BankError, match=r"w\.safetensors: its format is None"):
        LogitBank.load(save({"w": torch.zeros(2)}, tmp_path / "w.safetensors"))


@pytest.mark.parametrize("lost", ["logits", "labels", "names"])
def test_a_bank_with_a_part_lost(tmp_path, lost):
    tensors = {"logits": LOGITS, "labels": torch.zeros(3, dtype=torch.int64)}
    header = {"format": "radin-bank-1", "names": '["a", "b"]'}
    for parts in (tensors, header):
        parts.pop(lost, None)
    save_file(tensors, tmp_path / "bank.safetensors", header)
    with pytest.raises(BankError, match=r"bank\.safetensors: not a whole logit bank .*" + lost):
        LogitBank.load(tmp_path / "bank.safetensors")


def test_logits_with_a_gradient_are_logits():
    bank = LogitBank(torch.randn(2, 5, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, 1]))
    assert not bank.logits.requires_grad
    assert fast_estimate(bank, exhaustive(2)).shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_bank_larger_than_memory_is_mapped_read_only(tmp_path, monkeypatch, dtype):
    bank = LogitBank(
        random_bank(3, 40, 5).logits.to(dtype), random_bank(3, 40, 5).labels, ["a", "b", "c"]
    )
    path = bank.save(tmp_path / "bank.safetensors")

    def refuse(*arguments, **options):
        raise RuntimeError(
            "unable to mmap 27044160336 bytes: Cannot allocate memory (12)"
        )  # torch's words

    monkeypatch.setattr("radin.files.safe_open", refuse)
    mapped = LogitBank.load(path)
    assert torch.equal(mapped.logits, bank.logits)
    assert torch.equal(mapped.labels, bank.labels)
    assert mapped.names == bank.names
    assert torch.equal(fast_estimate(mapped, exhaustive(3)), fast_estimate(bank, exhaustive(3)))


@pytest.mark.parametrize("cut", [4, 100, 400])
def test_a_damaged_large_bank_is_refused_too(tmp_path, monkeypatch, cut):
    path = random_bank(3, 40, 5).save(tmp_path / "bank.safetensors")
    path.write_bytes(
        path.read_bytes()[:-cut] if cut < 400 else b"\x10" + bytes(7) + b"not json at all!"
    )

    def refuse(*arguments, **options):
        raise RuntimeError("unable to mmap")

    monkeypatch.setattr("radin.files.safe_open", refuse)
    with pytest.raises(BankError, match="damaged"):
        LogitBank.load(path)


@pytest.mark.parametrize("device", ["cud", "cuda:99"])
def test_devices_that_are_not_there(device):
    with pytest.raises(ParameterError, match="cannot hold a bank here; use 'cpu' or 'cuda'"):
        random_bank().to(device)
