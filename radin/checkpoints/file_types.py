"""What a file is that is no checkpoint, told from its first bytes, and the way out.

A file's ending says little: a download may have left a web page or a Git LFS pointer in its place.
"""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path

from radin.errors import counted

HEAD_BYTES = 1024  # enough for every mark below
_OLD_TORCH_MARK = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of torch's magic number
_OTHER_PROGRAM = (
    "radin reads what torch.save and safetensors write; load it with the program that made it, and "
    "save the weights with safetensors.torch.save_file"
)
_UNPACK = "unpack it, and give the checkpoint inside"
_DOWNLOAD = "download the file again, and look at the address in a browser"
# (position, bytes, what begins so, the way out)
_MARKS = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file", "run `git lfs pull`"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", _OTHER_PROGRAM),
    (0, b"GGUF", "a GGUF file, as llama.cpp reads", _OTHER_PROGRAM),
    (0, b"lmgg", "a GGML file", _OTHER_PROGRAM),
    (0, b"tjgg", "a GGML file", _OTHER_PROGRAM),
    (0, b"\x93NUMPY", "a NumPy array", _OTHER_PROGRAM),
    (0, b"\x08\x01\x12", "a TensorFlow model", _OTHER_PROGRAM),
    (4, b"TFL3", "a TensorFlow Lite model", _OTHER_PROGRAM),
    (0, b"\x1f\x8b", "packed with gzip", _UNPACK),
    (0, b"BZh", "packed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "packed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "packed with zstd", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"PAR1", "a Parquet table", _OTHER_PROGRAM),
    (0, b"SQLite format 3\0", "an SQLite data base", _OTHER_PROGRAM),
    (0, b"%PDF", "a PDF document", _DOWNLOAD),
    (0, b"\x89PNG", "an image", _DOWNLOAD),
    (0, b"\xff\xd8\xff", "an image", _DOWNLOAD),
    (0, b"\x7fELF", "a program", _DOWNLOAD),
)
# By their endings, where the first bytes say nothing
_ENDINGS = {
    ".onnx": "an ONNX model",
    ".pb": "a TensorFlow model",
    ".index": "part of a TensorFlow checkpoint",
    ".meta": "part of a TensorFlow checkpoint",
    ".data-00000-of-00001": "part of a TensorFlow checkpoint",
    ".msgpack": "a file of Flax",
    ".mlmodel": "a Core ML model",
    ".engine": "a TensorRT engine",
    ".pdparams": "a file of PaddlePaddle",
}
_PRODUCERS = (b"pytorch", b"onnx", b"ONNX", b"tf2", b"keras2")  # at the front of an ONNX file


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header, and the header's JSON."""
    head = read_head(path)
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= path.stat().st_size - 8


def is_pickle(path: Path) -> bool:
    """Whether a file begins as a pickle of protocol 2 to 5; torch.save wrote such until 1.6."""
    head = read_head(path)
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def is_old_torch_file(path: Path) -> bool:
    """Whether a file begins as those of torch.save before version 1.6."""
    return read_head(path).startswith(_OLD_TORCH_MARK)


def read_head(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def describe_other_file(path: Path) -> str:
    """What a file that is no checkpoint is, and the way out; "" where it is not recognised."""
    head = read_head(path)
    if not head:
        return "an empty file; copy or download it again"
    if head[:2] == b"PK":
        return _describe_zip(path)
    for position, mark, what, way_out in _MARKS:
        if head.startswith(mark, position):
            return f"{what}; {way_out}"
    if head[:1] == b"\x08" and any(name in head[:80] for name in _PRODUCERS):
        return f"an ONNX model; {_OTHER_PROGRAM}"
    if not head.strip(b"\0"):
        return (
            "a file of zeros, as an interrupted download or an empty tar archive leaves it; copy "
            "or download it again"
        )
    if path.suffix in _ENDINGS:
        return f"{_ENDINGS[path.suffix]}; {_OTHER_PROGRAM}"
    return _describe_text(head)


def _describe_text(head: bytes) -> str:
    text = _decode(head).lstrip("\ufeff \t\r\n")
    if not text or any(ord(letter) < 32 and letter not in "\t\r\n\f" for letter in text):
        return ""
    start = text[:60].splitlines()[0]
    if text[:200].lower().startswith(("<!doctype html", "<html", "<head", "<?xml", "<!--", "<")):
        return f"a web page or XML, which begins with {start!r}; {_DOWNLOAD}"
    if text.startswith(("{", "[")):
        return f"JSON, not weights; give the checkpoint that belongs to it, not {start!r}"
    return f"a text, which begins with {start!r}; give the checkpoint itself"


def _decode(head: bytes) -> str:
    """The text, without a letter that the end may have cut; "" for what is no UTF-8."""
    for end in range(len(head), max(0, len(head) - 4), -1):
        with suppress(UnicodeDecodeError):
            return head[:end].decode("utf-8")
    return ""


def _describe_zip(path: Path) -> str:
    """What a whole zip archive is that torch.save did not write; "" where it did, or it is cut."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return ""
    ends = {name.partition("/")[2] or name for name in names}
    if "constants.pkl" in ends:
        return (
            "a TorchScript archive, which is a program with its weights; save those once: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pt')"
        )
    if "data.pkl" in ends:
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return f"a NumPy archive of arrays; {_OTHER_PROGRAM}"
    if "model.weights.h5" in names:
        return f"a Keras model; {_OTHER_PROGRAM}"
    if ends & {"archive_format", "serialized_exported_program.json"}:
        return (
            "a program that torch.export saved; save its weights once: "
            "torch.save(torch.export.load(path).state_dict, 'weights.pt')"
        )
    if not names:
        return f"a zip archive without files; {_UNPACK}"
    number = counted(len(names), "file")
    return f"a zip archive of {number}, such as {names[0]!r}; {_UNPACK}"
