"""What an executed notebook depends on, as short texts: the same texts need no new run.

jupyter-cache, which comes with Jupyter Book, looks at the code cells and the kernel's name alone.
It sees no change of radin, a shipped bench, a parameter, a package or a data set. So the book has
its own key, for `make book` and `make rerun` alike. The prose of a notebook is not part of it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

from parameters import BuildError, Parameters

TOOLS = Path(__file__).resolve().parent
PINS = TOOLS.parent.parent / "requirements.txt"
PINNED = re.compile(r"^([\w.-]+)==", re.MULTILINE)
LISTED_LEVELS = 3  # of a data folder: imagenet/val/n01440764


def make_mark(notebook: Path, parameters: Parameters) -> Parameters:
    """Everything that an execution of the notebook with all these parameters depends on."""
    return {
        "parameters": parameters,
        "fingerprint": fingerprint(notebook),
        "data": data_fingerprint(parameters),
    }


def fingerprint(notebook: Path) -> str:
    """Changes with the code of the notebook, any file of radin, a package, Python or the device."""
    return digest(code_of(notebook), *surroundings())


def code_of(notebook: Path) -> str:
    """The code cells with their tags, one of which lets a cell fail."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = [
        (cell.source, cell.metadata.get("tags", [])) for cell in cells if cell.cell_type == "code"
    ]
    return json.dumps(code)


@functools.cache  # nothing of this changes while a command runs
def surroundings() -> tuple[str, ...]:
    """What all notebooks share: radin, the pinned packages, the machine, and how they are run."""
    spec = importlib.util.find_spec("radin")
    if spec is None or spec.origin is None:
        raise BuildError("radin is not installed beside the book's tools; `make` does that")
    execution = (TOOLS / "execution.py").read_text("utf-8")
    return (folder_digest(Path(spec.origin).parent), *packages(), accelerator(), execution)


def packages() -> list[str]:
    """Python, and what is installed of the packages that the book is pinned to."""
    pins = PINS.read_text("utf-8") if PINS.is_file() else ""
    names = {"torch", *PINNED.findall(pins)}
    versions = [f"{name} {installed_version(name)}" for name in sorted(names)]
    return [f"Python {platform.python_version()}", *versions]


def installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def accelerator() -> str:
    """The processor's architecture, and the GPU where there is one."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {gpu}"


def folder_digest(folder: Path) -> str:
    """Changes with the name or the content of any file in a folder."""
    parts = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            parts.append(path.relative_to(folder).as_posix())
            parts.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return digest(*parts)


def data_fingerprint(parameters: Parameters) -> str:
    """Changes with the data sets on the disk; empty for a notebook that reads none.

    A notebook may download what it reads, so this text is taken after an execution, too.
    """
    from radin.files import data_root

    if "data_root" not in parameters and parameters.get("source") != "live":
        return ""
    folders = {data_root(), Path(parameters.get("data_root") or data_root())}
    return digest(*(line for folder in sorted(folders) for line in listing(folder)))


def listing(folder: Path, levels: int = LISTED_LEVELS) -> Iterator[str]:
    """Names, and the sizes and times of files; at the deepest level the times of folders instead.

    The time of a folder higher up changes with every lock, so it is left out, and so are hidden
    files. The images of a class are too many to list.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        state = path.stat()
        inner = path.is_dir()
        size = "" if inner else str(state.st_size)
        time = "" if inner and levels > 1 else str(state.st_mtime_ns)
        yield f"{path.name} {size} {time}"
        if inner and levels > 1:
            yield from (f"{path.name}/{line}" for line in listing(path, levels - 1))


def digest(*parts: str) -> str:
    """A short text that changes with any of the parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
