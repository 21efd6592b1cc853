"""Write environment.yml, for conda and Binder, from the pins in requirements.txt. `make pins` calls this.

The hashes stay behind: pip refuses an editable project in a file of hashes.
"""

from __future__ import annotations

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


if __name__ == "__main__":
    text = environment((ROOT / "requirements.txt").read_text("utf-8"))
    (ROOT / "environment.yml").write_text(text, "utf-8")
