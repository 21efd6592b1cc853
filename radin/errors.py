"""Everything that radin refuses, as one family of errors.

Each message is one sentence or list that names the file, key or value at fault and how to mend it.
"""

from __future__ import annotations

import numbers
from typing import Any


class RadinError(Exception):
    """Base of every error that radin raises on purpose."""


class CheckpointError(RadinError):
    """A checkpoint cannot be read, is not plain tensors, or does not fit the others of its zoo."""


class DataError(RadinError):
    """A split is missing, empty, or holds an image or label that cannot be used."""


class BankError(RadinError):
    """Logits and labels do not make a logit bank, or a stored bank or bench is damaged."""


class ParameterError(RadinError, ValueError):
    """A value given by the caller is impossible: mixing weights, budget, prior, recipe, device, ..."""


class OffGridError(ParameterError):
    """A soup bench was asked for a soup that it does not hold."""


class BudgetError(RadinError):
    """A recipe asked for an evaluation after its budget was spent."""


LARGEST_SEED = 2**32 - 1


def check_seed(seed: Any) -> int:
    """The seed as an int; ParameterError unless it is a whole number that every generator takes."""
    if check_whole("seed", seed, least=0) > LARGEST_SEED:
        raise ParameterError(f"seed must be at most {LARGEST_SEED}, not {seed!r}.")
    return int(seed)


def check_whole(name: str, value: Any, least: int) -> int:
    """The value as an int; ParameterError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ParameterError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return int(value)
