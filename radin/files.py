"""Files that are whole or absent: caches, atomic writes and content hashes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from radin.errors import RadinError


def user_cache() -> Path:
    """The user's cache directory for radin (not made here)."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "radin"


def data_root() -> Path:
    """Where data sets lie: `RADIN_DATA`, else `data` in the user's cache directory."""
    return Path(os.environ.get("RADIN_DATA") or user_cache() / "data")


def cache_root() -> Path:
    """Where what radin made is kept (zoos, banks, benches): `RADIN_CACHE`, else the user's cache directory."""
    return Path(os.environ.get("RADIN_CACHE") or user_cache())


def store_folder(cache: bool | Path, kind: str) -> Path | None:
    """The folder that a `cache` argument means: True the default one for this kind, False none, else the path."""
    if cache is True:
        return cache_root() / kind
    return Path(cache) if cache else None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it onto `path` only when the block ends well.

    An exception, Ctrl-C or a full disk leaves whatever `path` held before, and no half file. Two
    processes that write one path at once each move a whole file; the later one stays.

    Raises RadinError, naming the file, when the system refuses to write (disk full, no permission).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:  # on disk before the name appears, or a crash could show an empty file
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; a cache is shared like any other file
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's refusal in its own error
        reason = getattr(error, "strerror", None) or str(error)
        raise RadinError(
            f"{path}: could not be written ({reason}); free some space or choose another place."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def hash_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(*parts: str) -> str:
    """Hex SHA-256 of the parts, each kept apart from the next."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode() + part.encode())
    return digest.hexdigest()


def update_hash(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Feed a named tensor to a hash: name, dtype and shape first, so that no two tensors look alike."""
    digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
