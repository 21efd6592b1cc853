"""Files of logits that another program wrote: .npy, .npz, .csv and .parquet, one for each model.

Nothing is ever unpickled. pandas reads tables of text, and is loaded when there is one.
"""

from __future__ import annotations

import glob
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from radin.errors import BankError, counted, list_names
from radin.files import expand_path, natural_order
from radin.ranking.logit_values import is_number, to_array, to_ids
from radin.ranking.model_tables import ModelLabels, ModelLogits

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
LABEL_NAMES = ("label", "labels")  # of the column or entry that holds labels
ID_NAMES = ("id", "ids")  # of the column or entry that names the images
_UNNAMED = "Unnamed: 0"  # what pandas calls the row numbers that its own to_csv writes


def find_files(
    paths: str | Path | Iterable[str | Path], labels: str | Path | None = None
) -> list[Path]:
    """The files that are meant: themselves, those of one folder, or those that a glob matches.

    Those of a folder or glob are in natural order, model_2 before model_10.

    Args:
        labels: a file of labels, which is not a model where a folder or glob holds it too.

    Raises:
        BankError: there is no such file, or none of a known kind in the folder.
    """
    if not isinstance(paths, str | Path):
        files = [expand_path(path) for path in paths]
    else:
        path = expand_path(paths)
        if path.is_dir():
            files = [each for each in path.iterdir() if each.suffix.lower() in SUFFIXES]
        else:
            files = [path] if path.is_file() else [Path(match) for match in glob.glob(str(path))]
        files.sort(key=natural_order)
        if not files:
            raise BankError(
                f"{paths}: no logits found there; give files, a folder or a glob of "
                f"{', '.join(SUFFIXES)}."
            )
    if labels is not None and len(files) > 1:  # a glob of the shell may hold the labels, too
        own = expand_path(labels).resolve()
        files = [file for file in files if file.resolve() != own]
    for file in files:
        if not os.path.isfile(file):
            raise BankError(f"{file}: no such file of logits.")
    return files


def names_of(files: Sequence[Path]) -> list[str]:
    """The files' stems, or their whole paths where two stems are the same."""
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [str(file) for file in files]


def read_model(path: Path) -> ModelLogits:
    """The logits of one model, with the labels and ids that its file holds.

    Raises:
        BankError: the file cannot be read or holds something else; it names the file.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return ModelLogits(str(path), to_array(str(path), _load_numpy(path)))
    if suffix == ".npz":
        return _model_of_npz(path)
    if suffix in (".csv", ".parquet"):
        return _model_of_table(path, _read_table(path))
    raise _unknown_suffix(path)


def read_labels(path: Path) -> ModelLabels:
    """Labels, with ids where the file holds them.

    A .npy file holds the labels alone. A .npz file or a table calls them "labels" or "label", or
    holds nothing else but ids.

    Raises:
        BankError: the file cannot be read or holds something else; it names the file.
    """
    if not os.path.isfile(path):
        raise BankError(f"{path}: no such file of labels.")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return ModelLabels(str(path), np.asarray(_load_numpy(path)))
    if suffix == ".npz":
        entries = _load_npz(path)
        ids = _pop(path, entries, ID_NAMES)
        labels = _only(path, entries, LABEL_NAMES, "labels")
        return ModelLabels(str(path), labels, None if ids is None else to_ids(ids))
    if suffix in (".csv", ".parquet"):
        table = _read_table(path)
        table_ids = _pop_ids(path, table)
        columns = {str(name).strip(): table[name].to_numpy() for name in table.columns}
        return ModelLabels(str(path), _only(path, columns, LABEL_NAMES, "labels"), table_ids)
    raise _unknown_suffix(path)


def labels_of(
    labels: str | Path | Sequence[Any] | np.ndarray | Tensor | None, ids: Sequence[Any] | None
) -> ModelLabels | None:
    """The labels that a caller gives: a file, or an array with its ids."""
    if labels is None:
        return None
    if isinstance(labels, str | Path):
        return read_labels(expand_path(labels))
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    return ModelLabels("labels", values, None if ids is None else to_ids(ids))


def _unknown_suffix(path: Path) -> BankError:
    return BankError(
        f"{path}: not a file of logits that radin reads; save it as {', '.join(SUFFIXES)}."
    )


# numpy ------------------------------------------------------------------------------------------


def _load_numpy(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise BankError(
                f"{path}: refused, because it holds pickled objects and loading those can run "
                "code; save one array of numbers with numpy.save."
            ) from error
        raise BankError(f"{path}: damaged or not a numpy file ({error}); save it again.") from error


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    archive = _load_numpy(path)
    if isinstance(archive, np.ndarray):  # a .npy file under another name
        return {"logits": archive}
    entries = {}
    with archive:
        for name in archive.files:
            try:
                entries[name] = archive[name]
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise BankError(
                    f"{path}: its entry {name!r} holds pickled objects or is damaged ({error}); "
                    "save arrays of numbers with numpy.savez."
                ) from error
    return entries


def _model_of_npz(path: Path) -> ModelLogits:
    entries = _load_npz(path)
    labels = _pop(path, entries, LABEL_NAMES)
    ids = _pop(path, entries, ID_NAMES)
    logits = _only(path, entries, ("logits",), "logits")
    return ModelLogits(
        str(path), to_array(str(path), logits), labels, None if ids is None else to_ids(ids)
    )


def _pop(path: Path, entries: dict[str, Any], names: Sequence[str]) -> Any:
    """Remove and return the entry that has one of the names, None if there is none."""
    found = [name for name in entries if name.lower() in names]
    if len(found) > 1:
        raise BankError(f"{path}: holds {list_names(found)}; keep one of them.")
    return entries.pop(found[0]) if found else None


def _only(path: Path, entries: dict[str, Any], names: Sequence[str], what: str) -> Any:
    """The entry that has one of the names, else the only one."""
    others = list(entries)
    named = _pop(path, entries, names)
    if named is not None:
        return named
    if len(others) == 1:
        return entries[others[0]]
    raise BankError(
        f"{path}: holds {list_names(map(repr, others)) or 'nothing'}, none of them called "
        f"{what!r}; name the one that is meant {what!r}."
    )


# Tables -----------------------------------------------------------------------------------------


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except ImportError as error:
        raise BankError(
            f"{path}: pandas needs pyarrow to read .parquet files; `pip install pyarrow`, or save "
            "the table as .csv."
        ) from error
    except UnicodeDecodeError as error:
        raise BankError(f"{path}: not UTF-8 text ({error}); save it as UTF-8.") from error
    except Exception as error:  # pandas and pyarrow raise errors of many types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BankError(f"{path}: cannot be read as a table ({reason}); save it again.") from error


def _read_csv(path: Path) -> pd.DataFrame:
    """A table of text; commas, semicolons or tabs separate its columns, a header is optional."""
    import pandas as pd

    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().rstrip("\r\n")
        second = file.readline()
    separator = next((mark for mark in (";", "\t") if mark in first), ",")
    names = [cell.strip('"') for cell in first.split(separator)]
    return pd.read_csv(
        path,
        sep=separator,
        decimal="," if separator != "," and "," in (second or first) else ".",
        header=0 if _is_header(names) else None,
        encoding="utf-8-sig",
        dtype={name: str for name in names if name.strip().lower() in ID_NAMES},  # 007 is not 7
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    """A table whose index, where it says more than the row's number, is a column."""
    import pandas as pd

    table = pd.read_parquet(path)
    if table.index.equals(pd.RangeIndex(len(table))):
        return table
    return table.reset_index(names=table.index.name or _UNNAMED)


def _is_header(names: Sequence[str]) -> bool:
    """Whether the first line of a table names the columns.

    A line of numbers is an image, unless they are 0, 1, 2, ... in some order: the names that pandas
    gives to the columns of an array.
    """
    texts = [name.strip().lower() for name in names]
    others = [text for text in texts if text not in (*ID_NAMES, *LABEL_NAMES, "")]
    if len(others) < len(texts) or not all(is_number(text.replace(",", ".")) for text in others):
        return True
    return len(others) > 1 and set(others) == {str(k) for k in range(len(others))}


def _pop_ids(path: Path, table: pd.DataFrame) -> np.ndarray | None:
    """Remove and return the column of ids.

    Row numbers that pandas wrote are ids where they tell that rows were moved or left out.
    """
    columns = {str(name).strip(): name for name in table.columns}
    name = _pop(path, columns, ID_NAMES)
    if _UNNAMED in columns:
        numbers = table.pop(columns[_UNNAMED])
        if name is None and numbers.is_unique and numbers.tolist() != list(range(len(numbers))):
            return to_ids(numbers)
    if name is None:
        return None
    ids = table.pop(name)
    if ids.isna().any():
        missing = counted(int(ids.isna().sum()), "image")
        raise BankError(f"{path}: {missing} without an id; fill in what is missing.")
    return to_ids(ids)


def _model_of_table(path: Path, table: pd.DataFrame) -> ModelLogits:
    ids = _pop_ids(path, table)
    columns = {str(name).strip(): name for name in table.columns}
    label_column = _pop(path, columns, LABEL_NAMES)
    labels = None if label_column is None else table.pop(label_column).to_numpy()
    texts = [name for name, column in columns.items() if table[column].dtype.kind not in "fiu"]
    if texts:
        example = table[columns[texts[0]]].iloc[0] if len(table) else ""
        raise BankError(
            f"{path}: the columns {list_names(map(repr, texts))} hold no numbers (such as "
            f"{example!r}); keep the logits, and call labels 'label' and the names of images 'id'."
        )
    classes = list(columns)
    is_named = not all(isinstance(name, int | np.integer) for name in table.columns)
    return ModelLogits(
        str(path), table.to_numpy(), labels, ids, classes if is_named and classes else None
    )
