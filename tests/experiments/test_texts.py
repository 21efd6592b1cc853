"""radin/experiments/texts.py: sentences as token ids, and what is wrong with a file."""

from __future__ import annotations

import pytest
import torch

from radin.errors import DataError
from radin.experiments import texts
from radin.experiments.splits import load_experiment_split

WORDS = ["<pad>", "where", "is", "my", "card", "money", "<start>", "<end>"]


@pytest.fixture
def sentences(tmp_path, monkeypatch):
    """A data set of three classes, and a tokenizer that knows eight words."""

    def encode(sentence: str) -> list[int]:
        return [6, *(WORDS.index(word) for word in sentence.split()), 7]

    monkeypatch.setattr(texts, "tokenizer", lambda: encode)
    folder = tmp_path / "banking77"
    folder.mkdir()
    lines = [f"{'my ' * (k % 5)}card\tclass {k % 3}" for k in range(60)]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    test = ["where is my money\tclass 1", "is my card\tclass 0", "my card\tclass 2"]
    (folder / "test.tsv").write_text("\n".join(test) + "\n", "utf-8")
    return tmp_path


def test_shorter_sentences_come_first(sentences):
    split = texts.load_texts("banking77", "train", sentences)
    assert split.images.dtype == torch.int64
    lengths = (split.images != 0).sum(1)
    assert lengths.tolist() == sorted(lengths.tolist())
    assert split.class_names == ["class 0", "class 1", "class 2"]


def test_val_is_a_fixed_tenth_of_each_class(sentences):
    parts = {part: texts.load_texts("banking77", part, sentences) for part in ("train", "val")}
    assert len(parts["train"]) + len(parts["val"]) == 60
    assert parts["val"].labels.bincount().tolist() == [2, 2, 2]
    again = texts.load_texts("banking77", "val", sentences)
    assert again.fingerprint == parts["val"].fingerprint


def test_a_test_sentence_that_was_trained_on_is_left_out(sentences):
    split = texts.load_texts("banking77", "test", sentences)
    assert split.images.tolist() == [[6, 2, 3, 4, 7, 0], [6, 1, 2, 3, 5, 7]]
    assert split.labels.tolist() == [0, 1]


def test_long_sentences_are_cut(sentences, monkeypatch):
    monkeypatch.setattr(texts, "MAX_TOKENS", 4)
    assert texts.load_texts("banking77", "test", sentences).images.shape == (2, 4)


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("test", "a sentence without a class\n", r"test.tsv, line 1: it needs a sentence, a tab"),
        ("test", "is my card\tclass 9\n", r"classes that train.tsv does not have: \['class 9'\]"),
        ("test", "my card\tclass 0\n", "holds no sentence for a part 'test'"),
        ("test", None, "could not be read .* one sentence, a tab and its class in each line"),
        ("train", b"\xff\xfe\t1", "could not be read"),
    ],
)
def test_what_is_wrong_with_a_file(sentences, part, content, message):
    path = sentences / "banking77" / f"{part}.tsv"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        texts.load_texts("banking77", part, sentences)


def test_halves_of_a_part_share_no_sentence(sentences):
    whole = load_experiment_split("banking77", "train", sentences)
    halves = [
        load_experiment_split("banking77", f"train/{half}", sentences)
        for half in ("choose", "report")
    ]
    assert sum(len(half) for half in halves) == len(whole)
    for half in halves:
        assert half.labels.bincount().tolist() == [9, 9, 9]
    assert halves[0].part == "train/choose"
    assert halves[0].fingerprint != halves[1].fingerprint
    rows = [row for half in halves for row in half.images.tolist()]
    assert sorted(rows) == sorted(whole.images.tolist())
