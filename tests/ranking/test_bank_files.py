"""radin/ranking/bank_files.py and model_tables.py: logits that another program wrote."""

from __future__ import annotations

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import radin
from helpers import random_bank
from radin import LogitBank
from radin.errors import BankError
from radin.ranking.bank_files import find_files, names_of, read_labels

NAMES = ["cat", "dog", "emu"]


def tables(count: int = 3, images: int = 6, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(images, 3)).astype(np.float32) for _ in range(count)]


def labels(images: int = 6) -> np.ndarray:
    return np.arange(images) % 3


def frame(table: np.ndarray, **columns: object) -> pd.DataFrame:
    """A table with named classes, after other columns."""
    return pd.DataFrame(columns).join(pd.DataFrame(table, columns=NAMES), how="right")


def write(path: Path, table: np.ndarray, **extra: np.ndarray) -> Path:
    """One model's logits in the format that the ending names."""
    if path.suffix == ".npy":
        np.save(path, table)
    elif path.suffix == ".npz":
        np.savez(path, logits=table, **{f"{name}s": values for name, values in extra.items()})
    else:
        frame(table, **extra).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_every_format_gives_the_same_bank(tmp_path, suffix):
    arrays = tables()
    paths = [write(tmp_path / f"run_{k}{suffix}", table) for k, table in enumerate(arrays)]
    bank = LogitBank.from_files(paths, labels())
    expected = LogitBank(torch.from_numpy(np.stack(arrays)), torch.from_numpy(labels()))
    assert torch.equal(bank.logits, expected.logits)
    assert torch.equal(bank.labels, expected.labels)
    assert bank.names == ["run_0", "run_1", "run_2"]


def test_parquet_is_read_by_pandas(tmp_path, monkeypatch):
    table = tables(1)[0]
    (tmp_path / "a.parquet").write_bytes(b"")
    frames = [frame(table, id=[f"im{k}" for k in range(6)], label=labels())]
    frames.append(frames[0].set_index("id"))  # what pandas gives back of a table with an index
    for each in frames:
        monkeypatch.setattr(pd, "read_parquet", lambda path, each=each: each.copy())
        bank = LogitBank.from_files([tmp_path / "a.parquet"])
        assert torch.equal(bank.logits[0], torch.from_numpy(table))
        assert bank.labels.tolist() == labels().tolist()


def test_parquet_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(BankError, match=r"a.parquet: .*`pip install pyarrow`, or save .* as .csv"):
        LogitBank.from_files([tmp_path / "a.parquet"], [0])


# The order of images and classes -----------------------------------------------------------------


@st.composite
def shuffled_files(draw: st.DrawFn) -> list[tuple[str, list[int], list[int], bool]]:
    """For each model: format, order of rows, order of columns, whether labels are in it."""
    count = draw(st.integers(1, 4))
    rows = st.permutations(range(5))
    columns = st.permutations(range(3))
    one = st.tuples(st.sampled_from([".csv", ".npz"]), rows, columns, st.booleans())
    return [draw(one) for _ in range(count)]


@given(files=shuffled_files(), outside=st.booleans(), order=st.permutations(range(5)))
@settings(max_examples=60)
def test_rows_follow_the_ids_and_columns_the_names(tmp_path_factory, files, outside, order):
    folder = tmp_path_factory.mktemp("shuffled")
    arrays = tables(len(files), 5)
    ids = np.array(["b", "7", "a", "007", "c"])
    answers = np.array(["dog", "cat", "emu", "emu", "cat"])
    value = {}  # of model, image and class
    paths = []
    for k, (suffix, rows, columns, with_labels) in enumerate(files):
        columns = columns if suffix == ".csv" else range(3)
        table = arrays[k]
        for i, c in np.ndindex(5, 3):
            value[k, ids[i], c] = table[i, c]
        extra = {"id": ids[rows]}
        if with_labels or (k == 0 and not outside):
            as_text = suffix == ".csv" or files[0][0] == ".csv"
            number = np.array([NAMES.index(each) for each in answers])
            extra["label"] = answers[rows] if as_text else number[rows]
        path = folder / f"{k}{suffix}"
        if suffix == ".csv":
            content = frame(table[rows], **extra)
            named = [NAMES[c] for c in columns]
            content[[*extra, *named]].to_csv(path, index=False)
        else:
            write(path, table[rows], **extra)
        paths.append(path)
    given_labels = None
    if outside:
        given_labels = folder / "labels.csv"
        shuffled = pd.DataFrame({"id": ids[order], "label": answers[order]})
        shuffled.to_csv(given_labels, index=False)
        if files[0][0] == ".npz":  # has no names of classes
            number = [NAMES.index(each) for each in answers[order]]
            shuffled.assign(label=number).to_csv(given_labels, index=False)
    mixed = {suffix for suffix, *_ in files} == {".csv", ".npz"}
    moved = any(suffix == ".csv" and columns != [0, 1, 2] for suffix, _, columns, _ in files)
    if mixed and moved:
        return  # columns without names are in the first file's order, which is another one here
    bank = LogitBank.from_files(paths, given_labels)
    first_rows = files[0][1]
    first_columns = files[0][2] if files[0][0] == ".csv" else range(3)
    for k, (i, row), (c, column) in [
        (k, pair, other)
        for k in range(len(files))
        for pair in enumerate(first_rows)
        for other in enumerate(first_columns)
    ]:
        assert bank.logits[k, i, c].item() == np.float32(value[k, ids[row], column])
    expected = [list(first_columns).index(NAMES.index(answers[row])) for row in first_rows]
    assert bank.labels.tolist() == expected


def test_numbered_columns_are_in_the_order_of_their_numbers(tmp_path):
    """As text, "10" comes before "2"; the labels are numbers."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(12, 11)).astype(np.float32)
    by_text = sorted(map(str, range(11)))
    content = pd.DataFrame(table, columns=list(map(str, range(11))))[by_text]
    content.to_csv(tmp_path / "a.csv", index=False)
    bank = LogitBank.from_files([tmp_path / "a.csv"], np.arange(12) % 11)
    np.testing.assert_array_equal(bank.logits[0].numpy(), table)


def test_numbers_as_labels_are_ambiguous_where_columns_move(tmp_path):
    first, second = tables(2)
    frame(first).to_csv(tmp_path / "a.csv", index=False)
    frame(second)[["emu", "cat", "dog"]].to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(BankError, match="b.csv: its columns are in another order than .*a.csv"):
        LogitBank.from_files(tmp_path / "*.csv", labels())
    bank = LogitBank.from_files(tmp_path / "*.csv", np.array(NAMES)[labels()])
    np.testing.assert_array_equal(bank.logits.numpy(), np.stack([first, second]))


def test_arrays_follow_their_ids():
    first, second = tables(2)
    order = [3, 1, 0, 5, 4, 2]
    bank = LogitBank.from_arrays(
        [first, torch.from_numpy(second[order])],
        labels()[::-1],
        ids=[range(6), order],
        label_ids=range(5, -1, -1),
    )
    np.testing.assert_array_equal(bank.logits.numpy(), np.stack([first, second]))
    assert bank.labels.tolist() == labels().tolist()
    assert bank.names == ["0", "1"]


# Tables of text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_with_and_without_header(tmp_path, separator, header, mark):
    table = tables(1)[0].round(3)
    lines = [separator.join(map(str, row)) for row in table.tolist()]
    if header:
        lines.insert(0, separator.join(NAMES))
    (tmp_path / "a.csv").write_text(mark + "\n".join(lines), "utf-8")
    bank = LogitBank.from_files([tmp_path / "a.csv"], labels())
    np.testing.assert_allclose(bank.logits[0].numpy(), table, rtol=1e-6)


def test_decimal_commas_of_a_spreadsheet(tmp_path):
    (tmp_path / "a.csv").write_text("id;cat;dog\nx;1,5;-2\ny;0,25;3,5\n", "utf-8")
    (tmp_path / "labels.csv").write_text("id;label\ny;dog\nx;cat\n", "utf-8")
    bank = LogitBank.from_files([tmp_path / "a.csv"], tmp_path / "labels.csv")
    assert bank.logits[0].tolist() == [[1.5, -2.0], [0.25, 3.5]]
    assert bank.labels.tolist() == [0, 1]


def test_row_numbers_of_pandas_are_no_class(tmp_path):
    first, second = tables(2)
    frame(first).to_csv(tmp_path / "a.csv")
    frame(second).to_csv(tmp_path / "b.csv")
    bank = LogitBank.from_files(tmp_path / "*.csv", labels())
    np.testing.assert_array_equal(bank.logits.numpy(), np.stack([first, second]))


def test_row_numbers_that_tell_of_another_order_are_ids(tmp_path):
    first, second = tables(2)
    frame(first).sample(frac=1, random_state=3).to_csv(tmp_path / "a.csv")
    frame(second).sample(frac=1, random_state=5).to_csv(tmp_path / "b.csv")
    pd.DataFrame({"id": range(6), "label": labels()}).to_csv(tmp_path / "l.csv", index=False)
    bank = LogitBank.from_files([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "l.csv")
    order = frame(first).sample(frac=1, random_state=3).index.to_numpy()
    np.testing.assert_array_equal(bank.logits.numpy(), np.stack([first, second])[:, order])
    assert bank.labels.tolist() == labels()[order].tolist()
    with pytest.raises(BankError, match="labels: has no ids of its images"):
        LogitBank.from_files(tmp_path / "a.csv", labels())


@pytest.mark.parametrize("name", ["labels.npy", "labels.npz", "labels.csv", "headless.csv"])
def test_files_of_labels(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, labels())
    elif path.suffix == ".npz":
        np.savez(path, y=labels())
    else:
        pd.DataFrame({"answer": labels()}).to_csv(path, index=False, header=name[0] == "l")
    found = read_labels(path)
    assert found.labels.tolist() == labels().tolist()
    assert found.ids is None


# Which files -------------------------------------------------------------------------------------


def test_folders_globs_and_home(tmp_path, monkeypatch):
    for name in ("run_10.npy", "run_2.npy", "labels.npy", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    expected = ["run_2.npy", "run_10.npy"]
    own = tmp_path / "labels.npy"
    for paths in (
        tmp_path,
        f"{tmp_path}/*.npy",
        sorted(tmp_path.glob("run_?*.npy"), key=str)[::-1],
    ):
        assert [path.name for path in find_files(paths, own)] == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [path.name for path in find_files("~/run_2.npy")] == ["run_2.npy"]
    assert names_of([Path("a/x.npy"), Path("b/x.npy")]) == ["a/x.npy", "b/x.npy"]
    with pytest.raises(BankError, match="nothing.npy: no such file of logits"):
        find_files([tmp_path / "nothing.npy"])
    with pytest.raises(BankError, match="no logits found there"):
        find_files(tmp_path / "*.csv")


def test_a_saved_bank_is_one_of_the_files(tmp_path):
    bank = random_bank()
    path = bank.save(tmp_path / "bank.safetensors")
    assert torch.equal(LogitBank.from_files(path).logits, bank.logits)
    with pytest.raises(BankError, match="has its labels and names"):
        LogitBank.from_files(path, labels())


# What is refused ---------------------------------------------------------------------------------


class Harmful:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_nothing_is_unpickled(tmp_path, suffix):
    witness = tmp_path / "witness"
    objects = np.array([Harmful(witness)], dtype=object)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, objects, allow_pickle=True)
    else:
        np.savez(path, logits=objects)
    with pytest.raises(BankError, match=rf"a{suffix}: .*pickled objects"):
        LogitBank.from_files([path], [0])
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Harmful(witness)))
    with pytest.raises(BankError, match="b.npy: "):
        LogitBank.from_files([tmp_path / "b.npy"], [0])
    assert not witness.exists()


def nan_table() -> np.ndarray:
    table = tables(1)[0].copy()
    table[4, 1] = np.nan
    return table


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (np.zeros((5, 3)), "array 1: has 5 images, array 0 has 6"),
        (np.zeros((6, 4)), "array 1: has 4 classes, array 0 has 3"),
        (np.zeros(6), r"array 1: its shape is \(6,\).*look like predicted classes"),
        (np.zeros((1, 6, 3)), r"array 1: its shape is \(1, 6, 3\)"),
        (nan_table(), "array 1: 1 image with a logit that is missing.* in row 4"),
        (np.full((6, 3), -np.inf), "array 1: 6 images with a logit"),
        (np.full((6, 3), 1e300), "array 1: the largest logit, 1e\\+300, is too large"),
        (np.full((6, 3), 1 / 3), "array 1: these are probabilities"),
        (np.eye(3)[labels()], "array 1: these are probabilities"),
        (np.full((6, 3), "high"), "array 1: holds <U4, not numbers"),
        (np.ones((6, 3), bool), "array 1: holds bool, not numbers"),
        ([[1.0], [1.0, 2.0]], "array 1: cannot be read as one table of numbers"),
    ],
)
def test_a_table_that_does_not_fit(second, message):
    with pytest.raises(BankError, match=message):
        LogitBank.from_arrays([tables(1)[0], second], labels())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "No labels"),
        ([0, 1], r"labels have shape \(2,\), and there are 6 images"),
        ([1, 2, 3, 1, 2, 3], "count from 1 to 3.* subtract 1"),
        ([0, 1, 2, 0, 1, 3], "label 3, but the logits have classes 0 to 2"),
        ([0, 1, 2, 0, 1, 0.5], r"row 5 \(from 0\): 0.5; labels are whole numbers"),
        ([0, 1, float("nan"), 0, 1, float("inf")], r"2 labels missing.* in row 2 \(from 0\): nan"),
        ([0, -np.inf, 2, 0, 1, 2], r"1 label missing or impossible.* in row 1 \(from 0\): -inf"),
        (["0", "1", "2", "0", "zebra", "1"], r"row 4 \(from 0\): 'zebra'; labels are whole"),
        (["0", "1", None, "0", "1", "2"], r"row 2 \(from 0\): None"),
        ([0j] * 6, "these are complex128, such as"),
    ],
)
def test_labels_that_do_not_fit(given, message):
    with pytest.raises(BankError, match=message):
        LogitBank.from_arrays(tables(), given)


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("texts", [True, False])
def test_a_gap_in_a_column_of_labels_is_named(tmp_path, ids, texts):
    labels = ["cat", "dog", "", "cat", "dog", "owl"] if texts else [0, 1, "", 0, 1, 2]
    rows = [f"{label},{k}.5,1.25,0.75" for k, label in enumerate(labels)]
    header = "label,cat,dog,owl"
    if ids:
        header = f"id,{header}"
        rows = [f"im_{k},{row}" for k, row in enumerate(rows)]
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]), "utf-8")
    image = ", image im_2" if ids else ""
    with pytest.raises(BankError, match=rf"a\.csv: 1 label missing.*row 2 \(from 0\){image}: nan"):
        LogitBank.from_files(tmp_path / "a.csv")


def test_a_gap_in_an_archive_is_named(tmp_path):
    labels = np.array([0, 1, 2, np.inf, 1, 0])
    np.savez(tmp_path / "a.npz", logits=tables()[0], labels=labels)
    with pytest.raises(BankError, match=r"a\.npz: 1 label missing.*row 3 \(from 0\): inf"):
        LogitBank.from_files(tmp_path / "a.npz")


def test_labels_must_agree(tmp_path):
    first, second = tables(2)
    write(tmp_path / "a.csv", first, label=labels())
    write(tmp_path / "b.csv", second, label=np.roll(labels(), 1))
    with pytest.raises(BankError, match=r"b.csv: its labels are not those of .*a.csv \(6 of 6"):
        LogitBank.from_files(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a", "b", "c", "d", "e", "a"]}, "b.csv: 1 id given several times.*'a'"),
        ({"id": list("abcdeg")}, "b.csv: its images are not those .* 2 ids .*'f', 'g'"),
        ({}, "b.csv: has no ids of its images"),
        ({"id": ["a", "b", None, "d", "e", "f"]}, "b.csv: 1 image without an id"),
        ({"id": list("abcdef"), "file": list("abcdef")}, "b.csv: the columns 'file' hold no num"),
        ({"id": list("abcdef"), "ids": list("abcdef")}, "b.csv: holds id, ids; keep one"),
        ({"id": list("abcdef"), "fox": range(6)}, "b.csv: its columns are not those .*'fox'"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, columns, message):
    first, second = tables(2)
    write(tmp_path / "a.csv", first, id=list("abcdef"))
    write(tmp_path / "b.csv", second, **columns)
    with pytest.raises(BankError, match=message):
        LogitBank.from_files([tmp_path / "a.csv", tmp_path / "b.csv"], labels())


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "b.csv").write_bytes("naïve,ü\n1,2\n".encode("latin-1"))
    (tmp_path / "c.csv").write_text("", "utf-8")
    (tmp_path / "d.pkl").write_bytes(b"")
    np.savez(tmp_path / "e.npz", one=np.zeros((2, 2)), two=np.zeros((2, 2)))
    for name, message in {
        "a.npy": "damaged or not a numpy file",
        "b.csv": "not UTF-8 text",
        "c.csv": "cannot be read as a table",
        "d.pkl": "not a file of logits that radin reads",
        "e.npz": "holds 'one', 'two', none of them called 'logits'",
    }.items():
        with pytest.raises(BankError, match=f"{name}: .*{message}"):
            LogitBank.from_files([tmp_path / name], labels())
    with pytest.raises(BankError, match="labels.npy: no such file of labels"):
        LogitBank.from_files([tmp_path / "e.npz"], tmp_path / "labels.npy")


def test_labels_among_the_logits_are_no_class(tmp_path):
    table = tables(1, 12)[0]
    content = pd.DataFrame(table, columns=NAMES).assign(target=labels(12))
    content.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(BankError, match="a.csv: the column 'target' holds whole numbers only"):
        LogitBank.from_files([tmp_path / "a.csv"], labels(12))
    stacked = np.column_stack([np.arange(12), table])
    with pytest.raises(BankError, match=r"array 0: the column number 0 \(from 0\) holds whole"):
        LogitBank.from_arrays([stacked], labels(12))
    stacked[:, 0] = -1e4  # a class that no image can have
    LogitBank.from_arrays([stacked], labels(12))
    LogitBank.from_arrays([np.round(10 * table)], labels(12))  # whole numbers everywhere


def test_numbers_of_names_and_ids():
    with pytest.raises(BankError, match="2 names given for 3 arrays"):
        LogitBank.from_arrays(tables(), labels(), names=["a", "b"])
    with pytest.raises(BankError, match="2 id lists given for 3 arrays"):
        LogitBank.from_arrays(tables(), labels(), ids=[range(6), range(6)])
    with pytest.raises(BankError, match="array 0: has 5 ids for 6 images"):
        LogitBank.from_arrays(tables(1), labels(), ids=[range(5)], label_ids=range(6))
    with pytest.raises(BankError, match="have names already"):
        LogitBank.from_arrays({"a": tables()[0]}, labels(), names=["b"])
    with pytest.raises(BankError, match="at least one model"):
        LogitBank.from_arrays([], labels())


# Probabilities -----------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 5))
@settings(max_examples=30)
def test_logarithms_of_probabilities_rank_as_the_logits_do(seed, scale):
    arrays = [scale * table.astype(np.float64) for table in tables(3, 40, seed)]
    shares = [np.exp(table) / np.exp(table).sum(1, keepdims=True) for table in arrays]
    candidates = radin.exhaustive(3)
    answers = np.random.default_rng(seed).integers(0, 3, 40)
    by_logits = LogitBank.from_arrays(arrays, answers)
    by_shares = LogitBank.from_arrays(shares, answers, probabilities=True)
    for metric in ("accuracy", "nll"):
        torch.testing.assert_close(
            radin.fast_estimate(by_shares, candidates, metric),
            radin.fast_estimate(by_logits, candidates, metric),
            rtol=0,
            atol=1e-5,
        )


def test_probabilities_of_0_are_counted():
    table = np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2]])
    with pytest.warns(UserWarning, match="array 0: 2 probabilities of 0 taken as 0.2"):
        bank = LogitBank.from_arrays([table], [0, 1], probabilities=True)
    np.testing.assert_allclose(bank.logits[0, 0].exp().numpy(), [1, 0.2, 0.2], rtol=1e-6)
    with pytest.raises(BankError, match="array 0: probabilities=True, but these are no prob"):
        LogitBank.from_arrays(tables(1), labels(), probabilities=True)


# What is said ------------------------------------------------------------------------------------


def good_tables(images: int = 120) -> tuple[list[np.ndarray], np.ndarray]:
    answers = np.arange(images) % 3
    return [table + 4 * np.eye(3)[answers] for table in tables(3, images)], answers


def test_rows_in_another_order_without_ids_are_noticed():
    arrays, answers = good_tables()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogitBank.from_arrays(arrays, answers)
    shuffled = [arrays[0], np.roll(arrays[1], 1, 0), arrays[2]]
    with pytest.warns(UserWarning, match="^array 1: right on no more images than a guess"):
        LogitBank.from_arrays(shuffled, answers)


def test_the_same_logits_twice_are_noticed():
    first, second = tables(2)
    with pytest.warns(UserWarning, match="array 2 holds the same logits as array 0"):
        LogitBank.from_arrays([first, second, first], labels())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_precisions(dtype):
    bank = LogitBank.from_arrays([np.array([[1, 2], [3, 0]], dtype)], [0, 1])
    assert bank.logits.dtype == (torch.float16 if dtype == np.float16 else torch.float32)
    both = LogitBank.from_arrays(
        [np.zeros((1, 2), np.float16), np.full((1, 2), 1.0001, np.float32)], [0]
    )
    assert both.logits[1, 0, 0].item() == np.float32(1.0001)
    half = LogitBank.from_arrays([torch.tensor([[1.0, 3.0]], dtype=torch.bfloat16)], [0])
    assert half.logits.tolist() == [[[1.0, 3.0]]]
