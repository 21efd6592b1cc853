"""Reading what `torch.save` wrote, without running code.

torch's own reader takes tensors, numbers, texts and collections of them (`weights_only=True`).
Training programs save more beside the weights: options, paths, dates, numbers of NumPy. The classes
listed here are known to be harmless. Even so none of them is imported or called. An object of such
a class becomes an `Ignored`, which does nothing and forgets its content.
"""

from __future__ import annotations

import pickle
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from radin.checkpoints.file_types import describe_other_file, is_old_torch_file, is_pickle
from radin.errors import CheckpointError

_LOCK = threading.Lock()  # torch's list of safe classes is one for all threads

_NUMPY = [
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")  # before and since NumPy 2
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
    *(
        f"numpy.{name}"
        for name in (
            *("ndarray", "dtype", "bool_", "bool", "str_", "bytes_", "void"),
            *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64", "longdouble", "complex64", "complex128"),
            *("datetime64", "timedelta64", "intc", "longlong", "uintc", "ulonglong"),
        )
    ),
    *(
        f"numpy.random._pickle.__{name}_ctor"
        for name in ("generator", "bit_generator", "randomstate")
    ),
    *(f"numpy.random.{name}" for name in ("_mt19937.MT19937", "_pcg64.PCG64", "_pcg64.PCG64DXSM")),
]
_PYTHON = [
    *("argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "uuid.SafeUUID"),
    *("decimal.Decimal", "fractions.Fraction", "collections.UserDict", "ipaddress.IPv4Address"),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")  # the second in Python 3.13
        for name in (
            *("Path", "PosixPath", "WindowsPath"),
            *("PurePath", "PurePosixPath", "PureWindowsPath"),
        )
    ),
    *(
        f"builtins.{name}"
        for name in (
            *("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object"),
            *("range", "slice", "str", "tuple", "type"),
        )
    ),
]
_TRAINING = [
    "torch.torch_version.TorchVersion",
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(
        f"pytorch_lightning.callbacks.{name}"
        for name in ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
    ),
]
SAFE_CLASSES = (*_NUMPY, *_PYTHON, *_TRAINING)
# Dicts of other names: a state dict may be in one.
DICT_CLASSES = (
    "collections.defaultdict",
    *(
        f"{module}.AttributeDict"
        for module in (
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "lightning.pytorch.utilities.parsing",
            "pytorch_lightning.utilities.parsing",
        )
    ),
    *("easydict.EasyDict", "addict.addict.Dict", "munch.Munch"),
    *("yacs.config.CfgNode", "fvcore.common.config.CfgNode", "detectron2.config.config.CfgNode"),
    *("mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict"),
)
LIST_CLASSES = ("collections.deque",)


class Ignored:
    """Stands for an object that the weights do not need. It takes any content and keeps none.

    Attributes:
        class_name: of the object in the file.
    """

    class_name = ""

    def __new__(cls, *_: object) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _AsDict:
    """Makes a plain dict in place of another class of dicts."""

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _AsList:
    """Makes a plain list in place of another class of lists."""

    def __new__(cls, *_: object) -> list[Any]:  # type: ignore[misc]
        return []


_STAND_INS: list[Any] = [
    *((type("Ignored", (Ignored,), {"class_name": name}), name) for name in SAFE_CLASSES),
    *((_AsDict, name) for name in DICT_CLASSES),
    *((_AsList, name) for name in LIST_CLASSES),
]


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote, with tensors mapped from the file, and an `Ignored` for the rest.

    Raises:
        CheckpointError: the file is none that torch.save wrote, is damaged, or holds objects whose
            loading could run code.
    """
    try:
        return _load(path)
    except Exception as error:  # a damaged file raises errors of any type: struct, zip, assert, ...
        other = describe_other_file(path)
        if other:
            raise CheckpointError(f"{path}: not a checkpoint but {other}.") from error
        if isinstance(error, pickle.UnpicklingError) and (refusal := _refusal(path, str(error))):
            raise CheckpointError(f"{path}: refused, because {refusal}.") from error
        raise CheckpointError(
            f"{path}: truncated or not a checkpoint{_reason(error)}; copy or make it again."
        ) from error


def _load(path: Path) -> Any:
    try:
        return _load_mapped(path)
    except pickle.UnpicklingError as error:
        if not re.search(r"Unsupported global|Can only .*but got", str(error)):
            raise
    with _LOCK, torch.serialization.safe_globals(_STAND_INS):
        return _load_mapped(path)


def _load_mapped(path: Path) -> Any:
    if path.suffix == ".safetensors":  # torch believes the ending of a name
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        # Written before torch 1.6: not a zip file, so it cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True)


def _refusal(path: Path, message: str) -> str:
    """Why a pickle is refused, and the way out; "" for what is damaged."""
    found = re.search(r"GLOBAL (\S+)", message) or re.search(
        r"(?:unrecognized function|but got) (.+)", message
    )
    culprit = found[1].strip() if found else ""
    if "torch.distributed" in message:
        return (
            "it holds tensors in parts, of a run on several devices; gather them once, with "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True)), and save that"
        )
    if "nn.modules" in culprit:
        return (
            f"it is a whole pickled model ({culprit}) and loading it can run code; "
            "save model.state_dict() instead of the model"
        )
    if culprit:
        return (
            f"it holds pickled objects other than plain tensors and harmless ones ({culprit}) and "
            "loading those can run code; leave the file out if it is no model, else save "
            "model.state_dict() instead of the model. Where you trust the file: checkpoint = "
            "torch.load(path, weights_only=False); torch.save(checkpoint['state_dict'], "
            "'weights.pt'), or checkpoint['model'].state_dict() where an entry is a whole model"
        )
    if is_pickle(path) and not is_old_torch_file(path):
        return (
            "it is a pickle that torch.save did not write, and loading it can run code; where you "
            "trust the file, load it with pickle.load and save its weights with "
            "safetensors.torch.save_file"
        )
    return ""


def _reason(error: Exception) -> str:
    """torch's own words in brackets, without its advice to read the file unsafely."""
    text = str(error).strip()
    if "weights_only" in text:
        text = ""
    return f" ({text.splitlines()[0] if text else type(error).__name__})"
