"""radin/checkpoints/file_types.py: what is no checkpoint is called what it is, with the way out."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from helpers import build, save, state
from radin import Zoo
from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.file_types import describe_other_file
from radin.errors import CheckpointError

UNSAFE_ADVICE = ("will likely succeed", "weights_only", "pickled objects", "can run code")
SUFFIXES = (".pt", ".bin", ".ckpt", ".safetensors")


def torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_bytes(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def array_bytes(write: object, *arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *arrays)
    return buffer.getvalue()


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:5e1c309dae7f45e0f39b1bf3ac3cd9db12e7d689f7d0c1c5b0d0e5b7a3c0f4aa\nsize 99\n"
)
OTHER_FILES = {
    "pointer": (POINTER, "a Git LFS pointer, not the file; run `git lfs pull`"),
    "page": (b"\n <!doctype HTML>\n<title>Sign in</title>", "a web page or XML"),
    "feed": (b"<?xml version='1.0'?><Error>NoSuchKey</Error>", "a web page or XML"),
    "json": (json.dumps({"hidden_size": 8}).encode(), "JSON, not weights"),
    "note": (b"Weights are on request.\n" * 90, "a text, which begins with 'Weights are on"),
    "accents": ("modèle à télécharger ".encode() * 99, "a text, which begins with 'modèle"),
    "empty": (b"", "an empty file"),
    "zeros": (b"\0" * 4096, "a file of zeros"),
    "empty tar": (tar_bytes(), "a file of zeros"),
    "tar": (tar_bytes(a=torch_bytes(state(0))), "a tar archive; unpack it"),
    "gzip": (gzip.compress(torch_bytes(state(0))), "packed with gzip; unpack it"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 90, "an HDF5 file, as Keras writes"),
    "gguf": (b"GGUF\x03\0\0\0" + b"\0" * 90, "a GGUF file"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX model"),
    "tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 90, "a TensorFlow Lite model"),
    "npy": (array_bytes(np.save, np.arange(3.0)), "a NumPy array"),
    "npz": (array_bytes(np.savez, np.arange(3.0)), "a NumPy archive of arrays"),
    "keras": (zip_bytes({"config.json": b"{}", "model.weights.h5": b""}), "a Keras model"),
    "zip": (zip_bytes({"run/model.pt": b"x"}), "a zip archive of 1 file, such as 'run/model.pt'"),
    "tensorflow": (b"\x08\x01\x12\x99\x01" + b"\0" * 90, "a TensorFlow model"),
    "image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 90, "an image"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_called_what_they_are(tmp_path, name, suffix):
    content, what = OTHER_FILES[name]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        Zoo.open(path, progress=False)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a checkpoint but {what}")
    assert not any(words in message for words in UNSAFE_ADVICE)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.ckpt.index", "part of a TensorFlow checkpoint"),
        ("model.ckpt.data-00000-of-00001", "part of a TensorFlow checkpoint"),
        ("flax_model.msgpack", "a file of Flax"),
        ("net.onnx", "an ONNX model"),
    ],
)
def test_files_without_a_mark_are_told_by_their_ending(tmp_path, name, what):
    path = tmp_path / name
    path.write_bytes(bytes(range(128, 256)) * 9)
    with pytest.raises(CheckpointError) as caught:
        Zoo.open([path], progress=False)
    assert str(caught.value).startswith(f"{path}: not a checkpoint but {what}; radin reads what")


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_gives_its_weights_as_the_message_says(tmp_path, monkeypatch):
    path = tmp_path / "ViT.pt"
    torch.jit.save(torch.jit.script(nn.Linear(3, 2)), path)
    with pytest.raises(CheckpointError, match="but a TorchScript archive") as caught:
        Zoo.open(path, progress=False)
    assert "truncated" not in str(caught.value)
    monkeypatch.chdir(tmp_path)
    way_out = str(caught.value).split("save those once: ")[1].rstrip(".")
    exec(way_out, {"torch": torch, "path": path})
    assert sorted(open_checkpoint(tmp_path / "weights.pt")) == ["bias", "weight"]


def test_an_exported_program_gives_its_weights_as_the_message_says(tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),)), path)
    with pytest.raises(CheckpointError, match="a program that torch.export saved") as caught:
        Zoo.open(path, progress=False)
    monkeypatch.chdir(tmp_path)
    way_out = str(caught.value).split("its weights once: ")[1].rstrip(".")
    exec(way_out, {"torch": torch, "path": path})
    assert sorted(open_checkpoint(tmp_path / "weights.pt")) == ["bias", "weight"]


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.ckpt", "model"])
def test_safetensors_under_another_name_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(safetensors_bytes(state(0)))
    zoo = Zoo.open([tmp_path / name], build=build, progress=False)
    assert torch.equal(zoo[0]["1.weight"], state(0)["1.weight"])


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_named_safetensors_is_read(tmp_path, legacy):
    path = tmp_path / "model.safetensors"
    torch.save(state(0), path, _use_new_zipfile_serialization=not legacy)
    zoo = Zoo.open(path, build=build, progress=False)
    assert torch.equal(zoo[0]["1.weight"], state(0)["1.weight"])


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("optimizer", {"state": {}, "param_groups": [{"lr": 0.1}]}, "the state of an optimiser"),
        ("scheduler", {"last_epoch": 3, "base_lrs": [0.1]}, "the state of a learning rate"),
        ("scaler", {"scale": 65536.0, "growth_factor": 2.0}, "the state of a gradient scaler"),
        ("rng_state", {"cpu": torch.zeros(3), "python": (3, (1,), None)}, "the state of random"),
    ],
)
def test_what_training_saves_beside_the_model_is_named(tmp_path, name, content, what):
    save(state(0), tmp_path / "model.safetensors")
    path = save(content, tmp_path / f"{name}.pt")
    with pytest.raises(CheckpointError) as caught:
        Zoo.open([tmp_path / "model.safetensors", path], progress=False)
    message = str(caught.value)
    assert message.startswith(f"{path}: holds {what}")
    assert "not a model; leave this file out" in message
    assert "save model.state_dict()" not in message
    assert len(Zoo.open(str(tmp_path / "model*"), progress=False)) == 1


@pytest.mark.parametrize("suffix", [".pth.tar", ".pt.tar", ".pyth", ".th"])
def test_files_of_training_programs_are_found_in_folders(tmp_path, suffix):
    for k in range(2):
        save(state(k), tmp_path / f"model_{k}{suffix}")
    assert Zoo.open(tmp_path, progress=False).names == ["model_0", "model_1"]


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = save(state(0), tmp_path / "model.pt")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(
        CheckpointError, match="could not be read .Permission denied.; check the path"
    ):
        open_checkpoint(path)


def test_checkpoints_are_not_described(tmp_path):
    path = save(state(0), tmp_path / "model.pt")
    assert describe_other_file(path) == ""
    path.write_bytes(path.read_bytes()[:-99])
    assert describe_other_file(path) == ""
