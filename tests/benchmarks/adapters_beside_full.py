"""The soup of LoRA adapters beside that of the same networks as full checkpoints.

    python tests/benchmarks/adapters_beside_full.py            # 8 adapters of a 64-million network
    python tests/benchmarks/adapters_beside_full.py --quick    # a tiny one

Each measurement runs in its own process and begins after its imports: opening the files with all
checks, and writing the soup. Peak memory is the growth of the resident set, mapped files included.
Files are in the page cache. Nothing is kept; ratios above 1 are in favour of adapters.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RANK = 8
LAYERS = 16


def make_files(folder: Path, number: int, width: int) -> None:
    """A base of square layers, adapters of every layer, and full checkpoints of the same."""
    rng = torch.Generator().manual_seed(0)
    base = {f"layers.{i}.weight": torch.randn(width, width, generator=rng) for i in range(LAYERS)}
    save_file(base, folder / "base.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": [f"layers.{i}" for i in range(LAYERS)],
    }
    (folder / "full").mkdir()
    for k in range(number):
        adapter = folder / "adapters" / f"run_{k}"
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        factors: dict[str, torch.Tensor] = {}
        full = {}
        for i in range(LAYERS):
            down = torch.randn(RANK, width, generator=rng) / width
            up = torch.randn(width, RANK, generator=rng)
            factors[f"base_model.model.layers.{i}.lora_A.weight"] = down
            factors[f"base_model.model.layers.{i}.lora_B.weight"] = up
            full[f"layers.{i}.weight"] = base[f"layers.{i}.weight"] + 2 * up @ down
        save_file(factors, adapter / "adapter_model.safetensors")
        save_file(full, folder / "full" / f"model_{k}.safetensors")


def disk_bytes(*paths: Path) -> int:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


class Peak(threading.Thread):
    """Watches the resident set of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes = self.bytes = resident_bytes()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.bytes = max(self.bytes, resident_bytes())

    def grown(self) -> int:
        self.done.set()
        self.join()
        return max(self.bytes, resident_bytes()) - self.start_bytes


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def measure(kind: str, folder: Path) -> dict[str, float]:
    """Open one kind of files and write their soup."""
    import radin

    peak = Peak()
    peak.start()
    begin = time.perf_counter()
    if kind == "adapters":
        zoo = radin.open_adapters(folder / "adapters", folder / "base.safetensors", progress=False)
    else:
        zoo = radin.Zoo.open(folder / "full", progress=False)
    opened = time.perf_counter()
    radin.save_soup(zoo, [1 / len(zoo)] * len(zoo), folder / f"{kind}.safetensors")
    end = time.perf_counter()
    return {"open": opened - begin, "save": end - opened, "peak": peak.grown()}


def run_worker(kind: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", kind, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def difference(folder: Path) -> float:
    """The largest difference of the two soups."""
    first, second = (load_file(folder / f"{kind}.safetensors") for kind in ("adapters", "full"))
    return max((first[key] - second[key]).abs().max().item() for key in first)


def compare(folder: Path, number: int, width: int, repeats: int) -> dict[str, float]:
    """Full checkpoints divided by adapters, in time, memory and disk space."""
    make_files(folder, number, width)
    runs: dict[str, list[dict[str, float]]] = {"full": [], "adapters": []}
    for _ in range(repeats):
        for kind, results in runs.items():
            results.append(run_worker(kind, folder))
    medians = {
        kind: {name: statistics.median(each[name] for each in results) for name in results[0]}
        for kind, results in runs.items()
    }
    ratios = {
        name: medians["full"][name] / max(medians["adapters"][name], 1e-9)
        for name in medians["full"]
    }
    on_disk = disk_bytes(folder / "base.safetensors", folder / "adapters")
    ratios["disk"] = disk_bytes(folder / "full") / on_disk
    ratios["largest difference of the soups"] = difference(folder)
    return ratios


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Adapters beside full checkpoints.")
    parser.add_argument("--number", type=int, default=8, help="adapters (%(default)s)")
    parser.add_argument("--width", type=int, default=2048, help="of a layer (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny files, once")
    parser.add_argument("--worker", choices=("adapters", "full"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(measure(options.worker, options.folder)))
        return
    if options.quick:
        options.number, options.width, options.repeats = 3, 64, 1
    with tempfile.TemporaryDirectory() as folder:
        ratios = compare(Path(folder), options.number, options.width, options.repeats)
    print(f"{options.number} full checkpoints divided by as many adapters of rank {RANK}:")
    for name, value in ratios.items():
        print(f"  {name:32} {value:.3g}")


if __name__ == "__main__":
    main()
