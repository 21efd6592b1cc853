"""radin/checkpoints/safe_pickles.py: harmless objects are read past, code is never run."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import os
import pathlib
import pickle
import subprocess
import sys
import threading
import types
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers import save, state
from radin import Zoo
from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.safe_pickles import SAFE_CLASSES, Ignored, load_torch
from radin.errors import CheckpointError

HARMLESS = {
    "namespace": argparse.Namespace(lr=1e-3, layers=[1, 2], other=argparse.Namespace()),
    "simple namespace": types.SimpleNamespace(a=1),
    "numpy scalars": [np.float64(0.5), np.float32(1), np.int64(3), np.bool_(True), np.str_("a")],
    "numpy arrays": [np.arange(6.0).reshape(2, 3), np.array(["x", "yy"]), np.zeros(0)],
    "numpy objects": np.array([1, "a", None], dtype=object),
    "numpy types": [np.float32, np.dtype("f4"), np.ndarray],
    "numpy random state": np.random.RandomState(0).get_state(),
    "paths": [Path("/x/y"), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("C:/a")],
    "dates": [
        datetime.datetime(2024, 2, 3, tzinfo=datetime.UTC),
        datetime.date(2024, 2, 3),
        datetime.timedelta(hours=1),
        datetime.time(3),
    ],
    "default dicts": collections.defaultdict(list, {"loss": [0.5], "n": {1: 2}}),
    "deque": collections.deque([1, 2, 3], maxlen=5),
    "ordered dict, counter": [collections.OrderedDict(a=1), collections.Counter("abca")],
    "python": [frozenset([1]), range(3), slice(1, 2), b"", b"bytes", 1 + 2j, {1, 2}, int, float],
    "numbers": [decimal.Decimal("1.5"), fractions.Fraction(1, 3), 2**70, -(2**40)],
    "uuid": uuid.UUID(int=5),
    "torch": [torch.Size([1]), torch.float16, torch.device("cpu"), torch.__version__],
}


def same(found: object, tensors: dict[str, torch.Tensor]) -> bool:
    own = dict(found)
    return own.keys() == tensors.keys() and all(torch.equal(own[k], tensors[k]) for k in tensors)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_objects_beside_the_weights_are_read_past(tmp_path, what, legacy):
    path = tmp_path / "a.pt"
    content = {"model": state(0), "extra": HARMLESS[what], "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert same(open_checkpoint(path), state(0))
    assert Zoo.open(path, progress=False).notes == [f"{path}: read its 'model'"]


def renamed(path: Path, old: bytes, new: bytes) -> Path:
    """The file with another module name in its pickle."""
    other = path.with_name(f"renamed_{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert old in content
                content = content.replace(old, new)
            target.writestr(name, content)
    return other


@pytest.mark.parametrize(
    ("value", "old", "new"),
    [
        (np.float64(0.5), b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"),
        (np.arange(3), b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"),
        (pathlib.PosixPath("/x"), b"cpathlib\n", b"cpathlib._local\n"),
        (pathlib.PurePosixPath("/x"), b"PurePosixPath\n", b"WindowsPath\n"),
        (collections.defaultdict(list), b"ccollections\ndefaultdict", b"ceasydict\nEasyDict"),
        (
            argparse.Namespace(a=1),
            b"cargparse\nNamespace",
            b"cmmengine.logging.history_buffer\nHistoryBuffer",
        ),
    ],
)
def test_classes_of_other_versions_and_of_missing_libraries(tmp_path, value, old, new):
    path = save({"state_dict": state(0), "extra": value}, tmp_path / "a.pt")
    assert same(open_checkpoint(renamed(path, old, new)), state(0))


def test_a_state_dict_may_be_in_a_dict_of_another_class(tmp_path):
    content = collections.defaultdict(dict, {"state_dict": collections.defaultdict(list, state(0))})
    path = save(content | {"lr": np.float64(1)}, tmp_path / "a.pt")
    assert same(open_checkpoint(path), state(0))


def test_nothing_of_a_harmless_object_is_kept_or_imported(tmp_path):
    stored = {"args": argparse.Namespace(a=1), "x": np.ones(3), "w": torch.ones(2)}
    path = save(stored, tmp_path / "a.pt")
    content = load_torch(path)
    for key, name in (("args", "argparse.Namespace"), ("x", "numpy.")):
        assert isinstance(content[key], Ignored)
        assert content[key].class_name.startswith(name)
        assert not vars(content[key])


def test_an_array_in_place_of_a_weight_is_named(tmp_path):
    path = save({"w": torch.ones(2), "v": np.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"not tensors: v .a NumPy array or number.; save model"
    ):
        open_checkpoint(path)


class Settings:
    """A class of a training program, as a configuration of omegaconf is."""


@pytest.mark.parametrize("content", [{"model": state(0), "cfg": Settings()}, {"cfg": Settings}])
def test_other_classes_are_refused_by_name_with_the_way_out(tmp_path, content):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert f"{path}: refused" in message
    assert "Settings)" in message
    assert "torch.save(checkpoint['state_dict'], 'weights.pt')" in message


def test_a_whole_model_is_called_one(tmp_path):
    path = save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="refused, because it is a whole pickled model"):
        open_checkpoint(path)


def test_a_pickle_of_another_program_is_called_one(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(pickle.dumps({"model": {"w": np.ones(2)}}))
    with pytest.raises(CheckpointError, match="refused, because it is a pickle that torch.save di"):
        open_checkpoint(path)


@pytest.mark.parametrize("module", ["_shard.sharded_tensor.api", "tensor.parts"])
def test_parts_of_a_distributed_run_are_called_so(tmp_path, module):
    path = save({"model": state(0), "a": argparse.Namespace(x=1)}, tmp_path / "a.pt")
    new = f"ctorch.distributed.{module}\nPart".encode()
    path = renamed(path, b"cargparse\nNamespace", new)
    with pytest.raises(CheckpointError, match="tensors in parts, of a run on several devices; gat"):
        open_checkpoint(path)


class Attack:
    """Unpickled, this calls a function with arguments."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


class Stateful:
    """Unpickled, its state is set by a function of its own."""

    def __reduce__(self) -> tuple[object, ...]:
        return argparse.Namespace, (), {"a": Attack(os.system, "true")}


def run_it(marker: str) -> None:
    Path(marker).write_text("it ran")


@pytest.mark.parametrize("harmless", [None, argparse.Namespace(a=1)])
def test_code_never_runs_beside_harmless_objects(tmp_path, harmless):
    marker = tmp_path / "marker"
    attacks = {
        "function": Attack(run_it, str(marker)),
        "method": Attack(Path.write_text, marker, "it ran"),
        "process": Attack(os.system, f"touch {marker}"),
        "subprocess": Attack(subprocess.call, ["touch", str(marker)]),
        "eval": Attack(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Attack(exec, f"open({str(marker)!r}, 'w')"),
        "getattr": Attack(getattr, argparse.Namespace, "__init__"),
        "class": Attack(type, "A", (), {}),
        "thread": Attack(threading.Thread),
        "in a state": Stateful(),
    }
    for name, attack in attacks.items():
        path = save({"state_dict": state(0), "a": harmless, "b": attack}, tmp_path / "a.pt")
        if name == "class":  # the name of the class is harmless, and stands for nothing
            assert same(open_checkpoint(path), state(0))
            continue
        with pytest.raises(CheckpointError, match="refused, because it holds pickled objects"):
            open_checkpoint(path)
    assert not marker.exists()
    torch.load(save({"a": attacks["function"]}, tmp_path / "a.pt"), weights_only=False)
    assert marker.exists()  # the attack does run: radin refused something


def test_the_list_of_safe_classes_is_put_back(tmp_path):
    before = torch.serialization.get_safe_globals()
    path = save({"model": state(0), "args": argparse.Namespace()}, tmp_path / "a.pt")
    threads = [threading.Thread(target=open_checkpoint, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.serialization.get_safe_globals() == before
    with pytest.raises(Exception, match="Unsupported global"):
        torch.load(path, weights_only=True)


def test_safe_classes_are_names_of_classes_and_rebuilders_only():
    risky = ("eval", "exec", "getattr", "system", "open", "import", "loads", "partial", "call")
    assert not [name for name in SAFE_CLASSES if name.split(".")[-1].strip("_") in risky]
    assert len(set(SAFE_CLASSES)) == len(SAFE_CLASSES)


def test_no_library_is_imported_for_an_object(tmp_path):
    path = save({"model": state(0), "a": argparse.Namespace(x=1)}, tmp_path / "a.pt")
    path = renamed(path, b"cargparse\nNamespace", b"ceasydict\nEasyDict")
    assert "easydict" not in sys.modules
    assert same(open_checkpoint(path), state(0))
    assert "easydict" not in sys.modules
