"""Everything that radin refuses, as one family of errors.

Each message is one sentence or list that names the file, key or value at fault and how to mend it.
"""

from __future__ import annotations


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


class BudgetError(RadinError):
    """A recipe asked for an evaluation after its budget was spent."""
