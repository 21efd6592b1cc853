"""Sentences and their classes as token ids, for the transformer of the book."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from radin.data.splits import ArraySplit
from radin.errors import DataError
from radin.experiments.pretrained import MINILM_PACKAGE
from radin.files import data_root

MAX_TOKENS = 64  # of a sentence; the few longer ones are cut
HELD_OUT_SHARE = 0.1  # of the training sentences of each class, where a data set has no "val"


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """A data set of sentences: `<name>/<part>.tsv`, a sentence and its class in each line.

    Attributes:
        name: of the data set and of its folder.
        page: where it comes from.
        licence: of the sentences.
        holds_out: whether "val" is a fixed tenth of each class of "train", because there is none.
    """

    name: str
    page: str
    licence: str
    holds_out: bool


TEXT_SETS = {
    "banking77": TextSet(
        name="banking77",
        page="https://github.com/PolyAI-LDN/task-specific-datasets",
        licence="CC BY 4.0",
        holds_out=True,
    ),
    "clinc150": TextSet(
        name="clinc150",
        page="https://github.com/clinc/oos-eval",
        licence="CC BY 3.0",
        holds_out=False,
    ),
}


def load_texts(name: str, part: str, root: str | Path | None = None) -> ArraySplit:
    """A part of a data set of sentences; its "images" are token ids (n, length), 0 after the end.

    Shorter sentences come first, so that a batch is not padded to the longest of all. A sentence of
    the test part that is also in the training part is left out of the test part.

    Args:
        name: a key of `TEXT_SETS`.
        part: "train", "val", "test", or another file of the data set.
        root: the folder of the data sets; `RADIN_DATA` or the user's cache directory when not
            given.

    Raises:
        DataError: a file or the package with the tokenizer is missing, or a line has no class.
    """
    text_set = TEXT_SETS[name]
    folder = data_root(root) / name
    train = _read_lines(folder / "train.tsv", text_set)
    class_names = sorted({label for _, label in train})
    if part in ("train", "val") and text_set.holds_out:
        lines = _hold_out(train, part)
    else:
        lines = train if part == "train" else _read_lines(folder / f"{part}.tsv", text_set)
    if part == "test":
        seen = {sentence for sentence, _ in train}
        lines = [line for line in lines if line[0] not in seen]
    if unknown := {label for _, label in lines} - set(class_names):
        raise DataError(
            f"{folder / part}.tsv has classes that train.tsv does not have: {sorted(unknown)[:3]}."
        )
    if not lines:
        raise DataError(f"{folder / part}.tsv holds no sentence for a part {part!r}.")
    encode = tokenizer()
    encoded = [(encode(sentence)[:MAX_TOKENS], label) for sentence, label in lines]
    encoded.sort(key=lambda item: len(item[0]))
    tokens = torch.zeros(len(encoded), max(len(ids) for ids, _ in encoded), dtype=torch.int64)
    for row, (ids, _) in zip(tokens, encoded, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    labels = torch.tensor([class_names.index(label) for _, label in encoded])
    return ArraySplit(name, part, tokens, labels, class_names)


def tokenizer() -> Callable[[str], list[int]]:
    """A function from a sentence to its token ids, as all-MiniLM-L6-v2 was trained with.

    Raises:
        DataError: the package is missing.
    """
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(MINILM_PACKAGE.find().with_name("tokenizer.json")))
    found.no_padding()
    found.no_truncation()
    return lambda sentence: found.encode(sentence).ids


def _read_lines(path: Path, text_set: TextSet) -> list[tuple[str, str]]:
    """The (sentence, class) of each line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: could not be read ({error}); get {text_set.name} from {text_set.page} and "
            "write it as one sentence, a tab and its class in each line, or point RADIN_DATA at "
            "the folder that holds it."
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        sentence, tab, label = line.rpartition("\t")
        if not tab or not sentence or not label:
            raise DataError(f"{path}, line {number}: it needs a sentence, a tab and a class.")
        found.append((sentence, label))
    return found


def _hold_out(lines: list[tuple[str, str]], part: str) -> list[tuple[str, str]]:
    """The lines of "train" or "val", by a shuffle of each class that depends on its name."""
    by_class: dict[str, list[int]] = {}
    for index, (_, label) in enumerate(lines):
        by_class.setdefault(label, []).append(index)
    held_out: set[int] = set()
    for label, indices in by_class.items():
        order = np.random.default_rng(list(label.encode())).permutation(len(indices))
        held_out |= {indices[k] for k in order[: int(HELD_OUT_SHARE * len(indices))]}
    return [line for k, line in enumerate(lines) if (k in held_out) == (part == "val")]
