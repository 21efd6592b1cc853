"""Files: the folders radin uses, atomic writes, locks, hashes, and reading tensors."""

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
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from safetensors import SafetensorError, safe_open

from radin.errors import BankError, ParameterError, RadinError, list_names

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows has no such locks: files left by a killed process stay
    fcntl = None  # type: ignore[assignment]

CLONE = Path(__file__).resolve().parent.parent  # of the repository, if radin runs from one
NO_SUCH_FILE = os.strerror(errno.ENOENT)
_UNFINISHED_SUFFIX = ".writing"  # of hidden files that a process has locked and is writing


def expand_path(path: str | Path) -> Path:
    """The path with a home folder in the place of a leading `~` or `~user`.

    A name such as `~backup.pt`, which is no user's, stays as it is, and so do variables such as
    `$HOME`: the shell replaces those.

    Raises:
        ParameterError: the path begins with `~/`, and this user has no home folder.
    """
    text = os.path.expanduser(path)
    if text == "~" or text.startswith(("~/", "~\\")):
        raise ParameterError(
            f"{path}: this user has no home folder, so ~ means nothing; write the whole path, or "
            "set HOME."
        )
    return Path(text)


def natural_order(path: Path) -> list[int | str]:
    """A sort key that puts model_2 before model_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def describe_unreadable(path: Path) -> str:
    """Why a file or folder cannot be read, such as "Permission denied"; empty when it can."""
    try:
        if os.path.isdir(path):
            os.scandir(path).close()
        elif os.path.isfile(path):  # to open a pipe would wait for its writer
            with open(path, "rb"):
                pass
        else:
            os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:
        return "no file can have this name"
    return ""


def encode_text(text: str) -> bytes:
    """The text in UTF-8. A name on disk that is no UTF-8 has bytes of its own, too."""
    return text.encode("utf-8", "surrogatepass")


def user_cache() -> Path:
    """The user's cache folder for radin. It is not created here.

    Raises:
        ParameterError: this user has no home folder.
    """
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return expand_path(base) / "radin"
    except ParameterError as error:
        raise ParameterError(
            "This user has no home folder to keep files in; set RADIN_CACHE to a folder that radin "
            "may write to, and RADIN_DATA to the folder of the data sets."
        ) from error


def data_root(root: str | Path | None = None) -> Path:
    """The folder of the data sets: `root`, else `RADIN_DATA`, else `data` in the user's cache."""
    if root is not None:
        return expand_path(root)
    given = os.environ.get("RADIN_DATA")
    return expand_path(given) if given else user_cache() / "data"


def cache_root() -> Path:
    """The folder of zoos, banks and benches.

    It is `RADIN_CACHE`; else what `make` has filled, where radin runs from a clone; else the user's
    cache folder.
    """
    given = os.environ.get("RADIN_CACHE")
    if given:
        return expand_path(given)
    kept = CLONE / "_build" / "cache"
    return kept if (CLONE / "Makefile").is_file() and kept.is_dir() else user_cache()


def store_folder(cache: bool | str | Path, name: str) -> Path | None:
    """The folder that a `cache` argument means.

    Args:
        cache: True for the default folder, False for none, or a path.
        name: of the default folder, below `cache_root()`.
    """
    if cache is True:
        return cache_root() / name
    return expand_path(cache) if cache else None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it onto `path` when the block ends without error.

    After an exception, Ctrl-C or a full disk, `path` holds what it held before, and no
    half-written file is left. If two processes write one path at the same time, each moves a
    complete file, and the later one stays.

    Raises:
        RadinError: the system refuses to write (disk full, no permission). It names the file.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # before the move: a crash could otherwise show an empty file
        temporary.chmod(_default_mode())  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    # safetensors wraps the system's error in its own
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RadinError(
            f"{path}: could not be written ({reason}); free some space or choose another folder."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_files(paths: Sequence[Path], *, stale: Iterable[Path] = ()) -> Iterator[list[BinaryIO]]:
    """Yield an empty open file for each path; move all of them onto their paths at the end.

    The files are moved in the order given, after all of them are on disk. If the block is
    interrupted or its process is killed, every path stays as it was. The hidden files of a
    killed process are removed the next time the same paths are written: an unfinished file is
    locked, and the lock ends with its process.

    Args:
        paths: all different. The shards of one checkpoint count as one path.
        stale: files to remove just before the first move.

    Raises:
        RadinError: the system refuses to write (disk full, no permission). It names the first
            file.
    """
    hidden: list[Path] = []
    try:
        with ExitStack() as stack:
            for path in dict.fromkeys(map(_without_shard_number, paths)):
                _remove_abandoned(path)
            files = []
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                file, temporary = _open_locked(_without_shard_number(path))
                hidden.append(temporary)
                files.append(stack.enter_context(file))
            yield files
            for file, temporary in zip(files, hidden, strict=True):
                os.fsync(file.fileno())  # before the move, as in `atomic_path`
                temporary.chmod(_default_mode())
                if fcntl is None:
                    file.close()  # Windows cannot move an open file; elsewhere the lock must last
            for path in stale:
                path.unlink(missing_ok=True)
            for path in paths:
                os.replace(hidden[0], path)
                del hidden[0]
    except OSError as error:
        raise RadinError(
            f"{list_names(paths, most=1)}: could not be written ({error.strerror or error}); "
            "free some space or choose another folder."
        ) from error
    finally:
        for temporary in hidden:
            temporary.unlink(missing_ok=True)


def _without_shard_number(path: Path) -> Path:
    """The path without `-00001-of-00003` at the end of its stem."""
    return path.with_name(re.sub(r"-\d{5}-of-\d{5}(?=\.)", "", path.name))


def _open_locked(path: Path) -> tuple[BinaryIO, Path]:
    """A new hidden file beside a path, locked by this process if the system has locks."""
    while True:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=_UNFINISHED_SUFFIX, dir=path.parent
        )
        file = os.fdopen(handle, "wb", buffering=0)
        # Before the lock, another process can take the file for abandoned and remove it.
        # Then it has no link any more, and a new one is made.
        if not lock(file, wait=True) or os.fstat(handle).st_nlink:
            return file, Path(temporary)
        file.close()


def _remove_abandoned(path: Path) -> None:
    """Remove the hidden files beside a path that no process has locked."""
    for hidden in path.parent.glob(f".{glob.escape(path.name)}.*{_UNFINISHED_SUFFIX}"):
        with suppress(OSError), open(hidden, "rb+") as file:
            if lock(file, wait=False):
                hidden.unlink()


def lock(file: IO[Any], *, wait: bool) -> bool | None:
    """Lock an open file until it is closed or its process ends.

    Returns:
        True when this process has the lock; False when another process has it, unless `wait`;
        None when the system or the file system has no locks.
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


def reserve(file: BinaryIO, num_bytes: int) -> None:
    """Reserve space on disk for an open file, if the system can: a full disk fails early."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise


def _default_mode() -> int:
    """The permissions that a new file has for this user."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def hash_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(*parts: str) -> str:
    """Hex SHA-256 of several texts; ("ab", "c") and ("a", "bc") have different hashes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode() + encode_text(part))
    return digest.hexdigest()


def update_hash(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Add a tensor with its name, dtype and shape to a hash."""
    import torch

    digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)


_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "I64": "int64"}  # of torch


def load_tensors(
    path: str | Path, expected_format: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file that radin wrote in the given format, and its metadata.

    Raises:
        BankError: the file is missing, damaged, or of another format.
    """
    path = expand_path(path)
    reason = describe_unreadable(path)
    if reason not in ("", NO_SUCH_FILE):
        raise BankError(f"{path}: could not be read ({reason}).")
    if not os.path.isfile(path):
        raise BankError(f"{path}: no such file.")
    try:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except RuntimeError:  # torch cannot map a file larger than memory for writing
            tensors, metadata = _map_read_only(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BankError(
            f"{path}: damaged or not a safetensors file ({error}); make it again."
        ) from error
    if metadata.get("format") != expected_format:
        raise BankError(
            f"{path}: its format is {metadata.get('format')!r}, not {expected_format!r}; "
            "make it again."
        )
    return tensors, metadata


def _map_read_only(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file of any size. Writing to one of them ends the program."""
    import numpy as np
    import torch

    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    data_start = 8 + header_bytes
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        content = np.memmap(path, np.uint8, "r", data_start + begin, (end - begin,))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")
            flat = torch.frombuffer(content, dtype=getattr(torch, _DTYPES[entry["dtype"]]))
        tensors[key] = flat.view(entry["shape"])
    return tensors, metadata
