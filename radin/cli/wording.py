"""The words of Python in messages of the module, in the words of the command line."""

from __future__ import annotations

import re

# A pattern of what the module says, and what the command line says in its place.
_WORDS = (
    (r"\(print radin\.trust\(bank, zoo, trials=soup\) for all checks\)", "(all checks are below)"),
    (
        r"radin\.evaluator\(zoo, split, refresh=training_split\)",
        "--refresh-part PART, of training images",
    ),
    (r"radin\.open_adapters\(\.\.\., base\), or --base on the command line", "--base"),
    (r" \(radin\.open_adapters in Python\)", ""),
    (r"to radin\.open_adapters\(\.\.\., base\) or --base", "with --base"),
    (r"Open the zoo with init=\.\.\.", "Give --init FILE"),
    (r"pass load_split\(\.\.\., size=(\d+)\)", r"give --size \1"),
    (r"as in load_split\(\.\.\., size=(\d+)\)", r"as with --size \1"),
    (r"build the model with num_classes=(\d+)", r"give --data with \1 classes"),
    (r"give a build that has", "give a --model that has"),
    (r"give the init that was theirs", "give the --init that was theirs"),
    (r"open it without ema=True", "leave --ema out"),
    (r" \(or root=\.\.\.\)| or cache=\.\.\.", ""),
    (r", or a function of outputs and labels", ""),
    (r"(\w+)=True \((--\w+)\)", r"\2"),
    (r"\bprobabilities=True\b", "--probabilities"),
    (r"leave labels, names and probabilities out", "leave --labels, --names, --probabilities out"),
    (r"\blabels=\.\.\.", "--labels FILE"),
    (r"\bunused=\"(\w+)\"", r"--unused \1"),
    (r"\bdevice='([^']*)'", r"--device \1"),
    (r"\b(prior|size)=(\d+)", r"--\1 \2"),
)


def in_options(message: str) -> str:
    """A message of the module with options of the command line for arguments of Python.

    >>> in_options("No labels: a.npy holds none; give labels=..., one for each image.")
    'No labels: a.npy holds none; give --labels FILE, one for each image.'
    """
    for words, option in _WORDS:
        message = re.sub(words, option, message)
    return message
