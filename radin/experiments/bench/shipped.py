"""The benches that come with the module: where they are and how they are checked."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from radin.errors import BankError
from radin.experiments.networks import SmallResNet
from radin.files import atomic_path, hash_file

BENCH_FORMAT = "radin-bench-2"
BENCH_FILE = "bench.safetensors"
MANIFEST_FILE = "manifest.json"
SMALL_NETWORK = "small-resnet"  # of the first benches, whose manifests do not name it
INIT_FILE = "init.safetensors"
SHIFTS_FILE = "shifts.safetensors"
# Beside the benches' folders: the network that all their zoos were trained from.
PRETRAINED_FILE = "pretrained.safetensors"
# Among the benches' folders: one that holds whole zoos of the collection, a folder each.
COLLECTION_FOLDER = "collection"


def shipped_root() -> Path:
    """The folder in the module that holds the shipped benches, one folder each."""
    return Path(str(resources.files("radin.experiments"))) / "benches"


def shipped_benches(network: str | None = None, *, complete: bool = False) -> list[str]:
    """The names of the benches that come with the module.

    Args:
        network: only those whose zoos start from it (see `radin.experiments.zoos.starts`).
        complete: only those that hold all soups of their zoo, not a sample of them.
    """
    names = sorted(path.parent.name for path in shipped_root().glob(f"*/{MANIFEST_FILE}"))
    if network is None and not complete:
        return names
    manifests = {name: read_manifest(shipped_root() / name) for name in names}
    return [
        name
        for name, manifest in manifests.items()
        if network in (None, manifest.get("network", SMALL_NETWORK))
        and not (complete and manifest.get("sampled"))
    ]


def collection_benches() -> list[str]:
    """The names of the zoos of the collection that come whole, not only as rows of its tables."""
    folder = shipped_root() / COLLECTION_FOLDER
    return sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST_FILE}"))


def find_bench(name: str) -> Path | None:
    """The folder of a bench that comes with the module; None where none has this name."""
    if name in shipped_benches():
        return shipped_root() / name
    if name in collection_benches():
        return shipped_root() / COLLECTION_FOLDER / name
    return None


def write_manifest(folder: Path, entries: Mapping[str, Any], files: list[Path]) -> None:
    """Write the manifest of a bench, last of all: a folder that has one is complete.

    Args:
        folder: of the bench.
        entries: of the manifest, without its format and its files.
        files: that belong to the bench; others in the folder are removed.
    """
    manifest = {
        "format": BENCH_FORMAT,
        **entries,
        "files": {path.name: hash_file(path) for path in files},
    }
    for path in folder.iterdir():  # files of an earlier, larger zoo
        if path not in files and path.is_file():
            path.unlink()
    with atomic_path(folder / MANIFEST_FILE) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


def made_with(device: torch.device) -> dict[str, str]:
    """The manifest's entry on the software and the hardware."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": str(device),
        "processor": _processor_name(),
    }


def _processor_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.machine()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a shipped folder; BankError when it is missing or not one of ours."""
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BankError(
            f"{path}: not a readable manifest ({error}); fetch the bench again."
        ) from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != BENCH_FORMAT
        or "files" not in manifest
    ):
        raise BankError(
            f"{path}: not the manifest of a bench of format {BENCH_FORMAT!r}; "
            "it is of another version."
        )
    return manifest


def check_file(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """BankError when a file of a shipped bench is missing or not the one in its manifest."""
    path = folder / name
    if not path.is_file():
        raise BankError(
            f"{path}: no such file, although the manifest beside it lists it; "
            "fetch the bench again."
        )
    if (found := hash_file(path)) != manifest["files"].get(name):
        raise BankError(
            f"{path}: damaged or changed (its SHA-256 is {found[:12]}...); fetch the bench again."
        )


def empty_network(manifest: Mapping[str, Any]) -> nn.Module:
    """An empty network of the architecture of a shipped bench's ingredients."""
    return SmallResNet(num_classes=len(manifest["class_names"]), widths=tuple(manifest["widths"]))
