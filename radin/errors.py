"""The errors that radin raises, and the checks and texts that many modules share.

Each message names the file, key or value at fault and says what to do.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class RadinError(Exception):
    """Base of every error that radin raises on purpose.

    >>> import radin
    >>> try:
    ...     radin.exhaustive(0)
    ... except radin.RadinError as error:
    ...     print(error)
    num_models must be a whole number of at least 1, not 0.
    """


class CheckpointError(RadinError):
    """A checkpoint cannot be read, is not plain tensors, or does not fit the others of its zoo."""


class DataError(RadinError):
    """A split is missing, empty, or holds an image or label that cannot be used."""


class BankError(RadinError):
    """Logits and labels do not fit together, or a stored bank or bench is damaged."""


class ParameterError(RadinError, ValueError):
    """An argument has an impossible value: mixing weights, budget, prior, recipe, device, ..."""


class OffGridError(ParameterError):
    """A soup bench was asked for a soup that it does not hold."""


class BudgetError(RadinError):
    """A recipe asked for an evaluation after its budget was spent."""


MAX_SEED = 2**32 - 1  # the largest seed that every random generator takes


def check_seed(seed: Any) -> int:
    """The seed as an int.

    Raises:
        ParameterError: it is not an integer from 0 to `MAX_SEED`.
    """
    number = check_integer("seed", seed, minimum=0)
    if number > MAX_SEED:
        raise ParameterError(f"seed must be at most {MAX_SEED}, not {seed!r}.")
    return number


def check_integer(name: str, value: Any, *, minimum: int) -> int:
    """The value as an int.

    Args:
        name: what the error message calls the value.

    Raises:
        ParameterError: it is not an integer, or smaller than `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ParameterError(f"{name} must be a whole number of at least {minimum}, not {value!r}.")
    return int(value)


def check_word(name: str, value: Any, words: Sequence[str]) -> str:
    """The value, one of some words.

    Raises:
        ParameterError: it is another one.
    """
    if value not in words:
        raise ParameterError(f"{name} must be one of {', '.join(words)}, not {value!r}.")
    return str(value)


def list_names(names: Iterable[object], *, most: int = 8) -> str:
    """The first names in one line, and how many more there are: "a, b and 3 more"."""
    texts = [str(name) for name in names]
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """The nearest of some names as a question for a message; empty where none is near.

    >>> did_you_mean("gredy", ["radin", "greedy"])
    'did you mean greedy? '
    """
    near = get_close_matches(word, list(names), 1)
    return f"did you mean {near[0]}? " if near else ""


def counted(number: int, noun: str) -> str:
    """A number of things in words.

    >>> counted(1, "file"), counted(2, "file"), counted(1204, "family")
    ('1 file', '2 files', '1,204 families')
    """
    plural = re.sub("(?<![aeiou])y$", "ie", noun) + "s"
    return f"{number:,} {noun if number == 1 else plural}"
