"""Files that are whole or absent: caches, atomic writes and content hashes."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from radin.errors import BankError, RadinError

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves is then not removed
    fcntl = None  # type: ignore[assignment]

_IN_THE_MAKING = ".writing"  # how the names of hidden, locked files end


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
        with open(
            temporary, "rb+"
        ) as file:  # on disk before the name appears, or a crash could show an empty file
            os.fsync(file.fileno())
        temporary.chmod(
            0o666 & ~_umask()
        )  # mkstemp makes private files; a cache is shared like any other file
        os.replace(temporary, path)
    except (
        OSError,
        SafetensorError,
    ) as error:  # safetensors wraps the system's refusal in its own error
        reason = getattr(error, "strerror", None) or str(error)
        raise RadinError(
            f"{path}: could not be written ({reason}); free some space or choose another place."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_files(paths: Sequence[Path], stale: Iterable[Path] = ()) -> Iterator[list[BinaryIO]]:
    """Yield a new file for each path, open and empty; move all of them onto their paths when the block ends well.

    They are moved in the order given, after every one of them is on disk. Whatever interrupts the block, or kills
    the process in it, leaves every path as it was. The hidden files that a killed process has left are removed by
    the next one to write the same paths: a file in the making is locked, and the lock ends with its process.

    Args:
        paths: where the files go, no two the same; shards of one checkpoint count as one path.
        stale: files to remove just before the first move.

    Raises RadinError, naming the first file, when the system refuses to write (disk full, no permission).
    """
    hidden: list[Path] = []
    try:
        with ExitStack() as stack:
            for whole in dict.fromkeys(map(_whole, paths)):
                _remove_abandoned(whole)
            files = []
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                file, temporary = _open_locked(_whole(path))
                hidden.append(temporary)
                files.append(stack.enter_context(file))
            yield files
            for file, temporary in zip(files, hidden, strict=True):
                os.fsync(
                    file.fileno()
                )  # on disk before the name appears, or a crash could show an empty file
                temporary.chmod(0o666 & ~_umask())
                if fcntl is None:
                    file.close()  # Windows moves no open file; elsewhere the lock lasts until the file has moved
            for path in stale:
                path.unlink(missing_ok=True)
            for path in paths:
                os.replace(hidden[0], path)
                del hidden[0]
    except OSError as error:
        what = f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"
        raise RadinError(
            f"{what}: could not be written ({error.strerror or error}); free some space or choose another place."
        ) from error
    finally:
        for temporary in hidden:
            temporary.unlink(missing_ok=True)


def _whole(path: Path) -> Path:
    """A path, less the number of a shard."""
    return path.with_name(re.sub(r"-\d{5}-of-\d{5}(?=\.)", "", path.name))


def _open_locked(path: Path) -> tuple[BinaryIO, Path]:
    """A new hidden file beside a path, locked by this process where there are locks."""
    while True:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=_IN_THE_MAKING, dir=path.parent
        )
        file = os.fdopen(handle, "wb", buffering=0)
        # Between its making and its lock another process may take it for abandoned: then it is gone, and made again.
        if not lock(file, wait=True) or os.fstat(handle).st_nlink:
            return file, Path(temporary)
        file.close()


def _remove_abandoned(path: Path) -> None:
    """Remove the hidden files beside a path that no process has locked."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_IN_THE_MAKING}"):
        with suppress(OSError), open(left, "rb+") as file:
            if lock(file, wait=False):
                left.unlink()


def lock(file: IO[Any], wait: bool) -> bool | None:
    """Lock an open file until it is closed, or its process ends.

    Returns True; False where another process has it, unless `wait`; None where the system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def reserve(file: BinaryIO, size: int) -> None:
    """Have the system set room aside for an open file, where it can: a full disk is known before any work is lost."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise


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


_DTYPES = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


def load_tensors(
    path: str | Path, expected_format: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the header of a safetensors file that radin wrote in the given format.

    Raises BankError when the file is missing, damaged, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise BankError(f"{path}: no such file.")
    try:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (
            RuntimeError
        ):  # of torch: a mapping that could be written to may not be larger than memory
            tensors, metadata = _map_read_only(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BankError(
            f"{path}: damaged or not a safetensors file ({error}); make it again."
        ) from error
    if metadata.get("format") != expected_format:
        raise BankError(
            f"{path}: its format is {metadata.get('format')!r}, not {expected_format!r}; make it again."
        )
    return tensors, metadata


def _map_read_only(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file of any size; writing to one of them ends the program."""
    with path.open("rb") as file:
        start = 8 + (length := int.from_bytes(file.read(8), "little"))
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for key, entry in header.items():
        first, last = entry["data_offsets"]
        numbers = np.memmap(path, np.uint8, "r", start + first, (last - first,))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")
            flat = torch.frombuffer(numbers, dtype=_DTYPES[entry["dtype"]])
        tensors[key] = flat.view(entry["shape"])
    return tensors, metadata
