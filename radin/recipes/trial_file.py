"""The ledger of `AskTell` on disk: locked, written whole or not at all, and never changed back."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radin.errors import BankError, ParameterError, RadinError
from radin.files import atomic_path, expand_path
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import find_metric

if TYPE_CHECKING:
    from filelock import BaseFileLock

_FORMAT = "radin-trials-1"
_TOLD = "the value that is told must be"
# At most this many percent, told for a soup whose ensemble has more than the second
# number, is most often a fraction of 1.
MAX_FRACTION = 1.0
MIN_ESTIMATE_OF_FRACTION = 10.0


class TrialFile:
    """The soups that were asked for, with the values that were told, in a file that is locked.

    The lock lasts until `close`, or until the process ends, however it ends.

    Args:
        path: the file; it need not exist.

    Raises:
        RadinError: another process uses the file, or it cannot be written or read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand_path(path).absolute()  # another folder may become the current one
        if self.path.is_dir():
            raise ParameterError(f"{self.path} is a folder; give a file for the ledger.")
        self._release = weakref.finalize(self, _lock(self.path).release)

    def close(self) -> None:
        """Release the lock. Nothing else is lost: every value is on disk."""
        self._release()

    @property
    def exists(self) -> bool:
        """Whether the file was begun."""
        return self.path.exists()

    def read(self) -> dict[str, Any]:
        """The content of the file.

        Raises:
            BankError: there is no such file, or it is not a ledger or damaged.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BankError(f"{self.path}: no such ledger; begin it with radin ask.") from error
        except (OSError, ValueError) as error:
            raise BankError(
                f"{self.path}: damaged or not a ledger ({error}); give another path."
            ) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise BankError(f"{self.path}: not a ledger that radin ask wrote; give another path.")
        return content

    def begin(self, bank: str, options: Mapping[str, Any], source: Mapping[str, Any]) -> None:
        """Write a ledger without trials."""
        self._write(
            {
                "format": _FORMAT,
                "bank": bank,
                "options": dict(options),
                "source": dict(source),
                "trials": [],
            }
        )

    def move_source(self, source: Mapping[str, Any]) -> None:
        """Write down that what the file should remember has changed."""
        self._write(self.read() | {"source": dict(source)})

    def add(self, weights: list[float], estimate: float) -> None:
        """Write down that a soup was asked for."""
        content = self.read()
        content["trials"].append({"weights": weights, "estimate": estimate, "value": None})
        self._write(content)

    def tell(self, number: int, value: float, *, force: bool = False) -> None:
        """Write down the value of a soup that was asked for. The same value twice is one value.

        Args:
            number: of the trial, from 1.
            value: a number; an accuracy is in percent.
            force: take a percentage that looks like a fraction.

        Raises:
            ParameterError: the trial was not asked for or has another value already, or the value
                is impossible.
        """
        content = self.read()
        trials = content["trials"]
        if not 1 <= number <= len(trials):
            raise ParameterError(
                f"{self.path}: trial {number} was not asked for (so far {len(trials)} were); ask "
                "first, and evaluate the soup that is given."
            )
        trial = trials[number - 1]
        metric = _named_metric(content["options"].get("metric"))
        value = _check_value(value) if metric is None else metric.check_value(value, source=_TOLD)
        if trial["value"] == value:
            return
        if trial["value"] is not None:
            raise ParameterError(
                f"{self.path}: trial {number} has the value {trial['value']:g} already, and "
                f"{value:g} would spend it twice; ask for the next soup, or begin another ledger."
            )
        if metric is not None and metric.is_percentage:
            _check_percent(value, trial["estimate"], force=force)
        trial["value"] = value
        self._write(content)

    def _write(self, content: dict[str, Any]) -> None:
        if not self._release.alive:
            raise RadinError(f"{self.path}: this ledger was closed; open it again.")
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def open_number(content: Mapping[str, Any], path: Path) -> int:
    """The number of the one trial that waits for its value.

    Raises:
        ParameterError: none waits.
    """
    trials = content["trials"]
    if not trials or trials[-1]["value"] is not None:
        raise ParameterError(
            f"{path}: no soup waits for a value ({len(trials)} have theirs); ask for one first."
        )
    return len(trials)


def _lock(path: Path) -> BaseFileLock:
    """The lock of a ledger, held. In one process several objects may hold it."""
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True, thread_local=False)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RadinError(
            f"{path}: another process uses this ledger; wait until it ends, or take another ledger "
            "for an experiment of its own."
        ) from error
    except OSError as error:
        raise RadinError(
            f"{path}: cannot be locked ({error.strerror or error}); choose another folder."
        ) from error
    return lock


def _check_value(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ParameterError(f"The value of a soup is a finite number, not {value!r}.")
    return number


def _named_metric(name: str | None) -> Metric | None:
    """The metric of a ledger; None where it is a function, of which the file has a description."""
    try:
        return find_metric(name or "accuracy")
    except ParameterError:
        return None


def _check_percent(value: float, estimate: float, *, force: bool) -> None:
    if value <= MAX_FRACTION and estimate > MIN_ESTIMATE_OF_FRACTION and not force:
        raise ParameterError(
            f"{value:g} percent, where the ensemble has {estimate:.2f}? Values are in percent: "
            f"tell {100 * value:g} if this is a fraction, or force=True (--force) if the soup has "
            "really failed."
        )
