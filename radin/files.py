"""Files that are whole or absent: caches, atomic writes and content hashes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from radin.errors import ParameterError, RadinError

# What safetensors calls each kind of number. It lays tensors down from the last of these to the first, so that each
# begins at a multiple of its own size.
_KINDS = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}


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


def write_safetensors(
    path: str | Path,
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    make: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file, atomically, with one tensor in memory at a time; the bytes are those of `save_file`.

    Args:
        layout: of every tensor its dtype and shape, which the file says before the first number.
        make: gives a tensor by its name; called once for each, in the file's own order.
        metadata: texts for the header.

    Raises ParameterError for a kind of number that safetensors does not have, or a tensor unlike its layout,
    RadinError when the disk refuses.
    """
    kinds = list(_KINDS)
    for key, (dtype, _) in layout.items():
        if dtype not in _KINDS:
            raise ParameterError(f"{key}: {dtype} has no name in safetensors; convert that tensor first.")
    order = sorted(layout, key=lambda key: (-kinds.index(layout[key][0]), key))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key in order:
        dtype, shape = layout[key]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": _KINDS[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            tensor = make(key)
            if (tensor.dtype, tuple(tensor.shape)) != (layout[key][0], tuple(layout[key][1])):
                raise ParameterError(f"{key} is {tensor.dtype} of shape {tuple(tensor.shape)}, not as laid out.")
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


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
