"""Write requirements-dev.txt and environment.yml. `make pins` calls this.

    python book/tools/pins.py _build/pins.txt

The argument holds the pins of everything; requirements.txt already has those of the book, and
requirements-dev.txt gets the others. environment.yml, for conda and Binder, has the book's. The
hashes are left out there: pip refuses an editable project in a file of hashes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

HEADER = """\
# Written by `make pins` from requirements.txt; change pyproject.toml instead.
name: radin
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def pins(requirements: str) -> list[str]:
    """The requirements, `name==version ; marker` each, without their hashes."""
    lines = (line.strip().removesuffix("\\").strip() for line in requirements.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "--hash"))]


def environment(requirements: str) -> str:
    """The whole text of environment.yml."""
    lines = [*pins(requirements), "-e ."]
    return HEADER + "".join(f'      - "{line}"\n' for line in lines)


def blocks(requirements: str) -> list[str]:
    """One text for each requirement: its own line, and the lines of hashes below it."""
    texts = re.split(r"\n(?=\S)", requirements.strip())
    return [text.strip() for text in texts if text and not text.startswith("#")]


def additional(everything: str, book: str) -> str:
    """The requirements that are not among the book's, as the text of a file.

    One that the book needs on some systems only stands in both, at the same version.
    """
    already = set(blocks(book))
    return "".join(f"{text}\n" for text in blocks(everything) if text not in already)


if __name__ == "__main__":
    book = (ROOT / "requirements.txt").read_text("utf-8")
    everything = Path(sys.argv[1]).read_text("utf-8")
    (ROOT / "requirements-dev.txt").write_text(additional(everything, book), "utf-8")
    (ROOT / "environment.yml").write_text(environment(book), "utf-8")
