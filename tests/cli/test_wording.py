"""radin/cli/wording.py: messages in the words of the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import radin
from radin.cli.wording import _WORDS, in_options


def _text(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "1"


@pytest.fixture(scope="module")
def messages() -> list[str]:
    """All texts of the module, with a 1 in the place of each value of an f-string."""
    texts = []
    for path in sorted(Path(radin.__file__).parent.rglob("*.py")):
        if "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(map(_text, node.values)))
    return texts


@pytest.mark.parametrize(("words", "option"), _WORDS)
def test_each_pattern_is_in_a_message(messages, words, option):
    if words.startswith(r"\bdevice"):  # written with !r
        words = r"\bdevice="
    assert any(re.search(words, text) for text in messages)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("or probabilities=True (--probabilities), which", "or --probabilities, which"),
        ("a.npy: probabilities=True, but", "a.npy: --probabilities, but"),
        ('unused="skip" leaves out the extra keys', "--unused skip leaves out the extra keys"),
        ("device='xpu' is not available", "--device xpu is not available"),
        ("point RADIN_DATA (or root=...) at the folder", "point RADIN_DATA at the folder"),
        ("pass load_split(..., size=32), say.", "give --size 32, say."),
        ("runs/lr=0.1/a.pt: no such checkpoint", "runs/lr=0.1/a.pt: no such checkpoint"),
    ],
)
def test_arguments_become_options(message, expected):
    assert in_options(message) == expected
