"""Averaging files of one architecture: radin, three peers, and reading every byte once.

    # 13 files of 456 MB in two formats; some 15 minutes
    python tests/benchmarks/averaging.py --folder FOLDER
    python tests/benchmarks/averaging.py --quick           # tiny files, printed only

The files have the tensors of the published CLIP ViT-B/32 classifiers, with the unused text tensors,
filled with random numbers. They are made once (`--folder` needs 13 GB for both formats) and used
again. Each measurement runs in its own process and begins after its imports; the methods take
turns. Peak memory is the growth of the resident set, which includes pages of mapped files; the part
private to the process is shown apart. With `--cold-repeats` the files are dropped from the page
cache first. The result goes to `radin/experiments/results/averaging.json`.

The peers read the same files, and each writes its average: mergekit's linear merge of raw state
dicts (in its own environment, whose Python is given as `--mergekit-python`; left out without it),
the method of timm's script (load one state dict after another, add it in double precision, divide,
convert), and torch's AveragedModel.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

# Imported where they are needed: the floor needs neither, and mergekit's Python may have no radin.

ROOT = Path(__file__).resolve().parent.parent.parent
FORMATS = ("pt", "safetensors")
Results = dict[str, Any]
Work = Callable[[], Results]


def shapes(scale: int = 1) -> dict[str, tuple[int, ...]]:
    """The 160 tensors of a published ingredient; every side divided by `scale`, at least 1."""
    width, text, block = 768, 512, "model.visual.transformer.resblocks."
    found = {
        "model.positional_embedding": (77, text),
        "model.text_projection": (text, text),
        "model.logit_scale": (),
    }
    found |= {
        "model.visual.class_embedding": (width,),
        "model.visual.positional_embedding": (50, width),
    }
    found |= {"model.visual.proj": (width, text), "model.visual.conv1.weight": (width, 3, 32, 32)}
    found |= {f"model.visual.ln_pre.{end}": (width,) for end in ("weight", "bias")}
    for layer in range(12):
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            found |= {
                f"{block}{layer}.{name}weight": (rows, columns),
                f"{block}{layer}.{name}bias": (rows,),
            }
        found |= {
            f"{block}{layer}.ln_{i}.{end}": (width,) for i in (1, 2) for end in ("weight", "bias")
        }
    found |= {f"model.visual.ln_post.{end}": (width,) for end in ("weight", "bias")}
    found |= {"model.token_embedding.weight": (49_408, text)}
    found |= {f"model.ln_final.{end}": (text,) for end in ("weight", "bias")}
    found |= {"classification_head.weight": (1000, text), "classification_head.bias": (1000,)}
    return {name: tuple(max(1, side // scale) for side in shape) for name, shape in found.items()}


def make_files(folder: Path, number: int, scale: int, kind: str) -> list[Path]:
    """The ingredients' files; those that are there stay."""
    import torch
    from safetensors.torch import save_file

    paths = [folder / f"{kind}-{scale}" / f"model_{k}.{kind}" for k in range(number)]
    for k, path in enumerate(paths):
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        start, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(k + 1)
        state = {name: torch.randn(shape, generator=start) for name, shape in shapes(scale).items()}
        for name, tensor in state.items():
            if name.startswith(
                ("model.visual", "classification")
            ):  # the text half is the same in all
                tensor += 0.01 * torch.randn(tensor.shape, generator=own)
        half = path.with_suffix(".half")
        (save_file if kind == "safetensors" else torch.save)(state, half)
        half.rename(path)
    return paths


# The methods. Each imports what it needs, and returns the work that is measured. ----


def reading(paths: list[Path], out: Path) -> Work:
    """The floor: read every byte, a megabyte at a time, into the same megabyte."""
    buffer = memoryview(bytearray(1 << 20))

    def work() -> Results:
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        return {}

    return work


def reading_mapped(paths: list[Path], out: Path) -> Work:
    """The same through mappings: the largest of every file's bytes."""
    import numpy as np

    def work() -> Results:
        for path in paths:
            with (
                open(path, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            ):
                np.frombuffer(mapped, np.uint8).max()
        return {}

    return work


def radin_alone(paths: list[Path], out: Path) -> Work:
    """`save_soup` of an open zoo. Opening it reads every file, too: see `radin_open`."""
    import radin
    from radin.checkpoints.checkpoint import open_checkpoint

    warm_up_radin()
    zoo = radin.Zoo(paths, [open_checkpoint(path) for path in paths], ["-"] * len(paths))

    def work() -> Results:
        radin.save_soup(zoo, equal(len(paths)), out)
        return {}

    return work


def radin_open(paths: list[Path], out: Path) -> Work:
    """`Zoo.open` and `save_soup`."""
    import radin

    warm_up_radin()

    def work() -> Results:
        start = time.perf_counter()
        zoo = radin.Zoo.open(paths, progress=False)
        opened = time.perf_counter() - start
        radin.save_soup(zoo, equal(len(paths)), out)
        return {"open_seconds": opened}

    return work


def radin_four(paths: list[Path], out: Path) -> Work:
    """Four soups in one reading."""
    import radin
    from radin.checkpoints.checkpoint import open_checkpoint
    from radin.soup.save import save_soups

    warm_up_radin()
    zoo = radin.Zoo(paths, [open_checkpoint(path) for path in paths], ["-"] * len(paths))

    def work() -> Results:
        first = [m % len(paths) for m in range(4)]  # all ingredients, then all but the first, ...
        rows = [[1 / (len(paths) - m) if k >= m else 0.0 for k in range(len(paths))] for m in first]
        save_soups(zoo, rows, [out, *(out.with_name(f"{m}-{out.name}") for m in range(1, 4))])
        return {}

    return work


def warm_up_radin() -> None:
    """Load the compiled loop, as an import: it is compiled once for each machine."""
    import torch

    from radin.soup.cpu_kernel import weighted_sums

    weighted_sums([torch.zeros(1 << 15)] * 5, [[(k, 0.2) for k in range(5)]])


def timm_method(paths: list[Path], out: Path) -> Work:
    """timm's script: a dict of sums in double precision, divided and converted at the end."""
    import torch

    def work() -> Results:
        sums: dict[str, torch.Tensor] = {}
        for path in paths:
            for name, tensor in load(path).items():
                if name in sums:
                    sums[name] += tensor.to(torch.float64)
                else:
                    sums[name] = tensor.clone().to(torch.float64)
        largest = torch.finfo(torch.float32).max
        save(
            {
                name: (total / len(paths)).clamp(-largest, largest).float()
                for name, total in sums.items()
            },
            out,
        )
        return {}

    import_savers()
    return work


def torch_swa(paths: list[Path], out: Path) -> Work:
    """torch's AveragedModel, updated with one loaded model after another."""
    import torch
    from torch.optim.swa_utils import AveragedModel

    def holder(state: dict[str, torch.Tensor]) -> torch.nn.Module:
        """A network without a forward pass: what is measured is averaging."""
        model = torch.nn.Module()
        for name, tensor in state.items():
            model.register_parameter(
                name.replace(".", "/"), torch.nn.Parameter(torch.empty_like(tensor))
            )
        return model

    def work() -> Results:
        model = averaged = None
        for path in paths:
            state = load(path)
            if model is None or averaged is None:
                model = holder(state)
                averaged = AveragedModel(model)
            model.load_state_dict(
                {name.replace(".", "/"): tensor for name, tensor in state.items()}
            )
            averaged.update_parameters(model)
        assert averaged is not None
        save(
            {
                name.replace("/", "."): tensor
                for name, tensor in averaged.module.state_dict().items()
            },
            out,
        )
        return {}

    import_savers()
    return work


def mergekit_linear(paths: list[Path], out: Path) -> Work:
    """mergekit's linear merge of raw state dicts, equal weights.

    Its lazy unpickler has no scalars (0.1.5).
    """
    import yaml
    from mergekit.scripts.merge_raw_pytorch import main as merge

    def work() -> Results:
        models = [{"model": str(path), "parameters": {"weight": 1.0}} for path in paths]
        config = out.with_suffix(".yaml")
        config.write_text(
            yaml.safe_dump({"merge_method": "linear", "models": models, "dtype": "float32"})
        )
        folder = out.with_suffix(".merged")
        merge([str(config), str(folder), "--quiet"], standalone_mode=False)
        return {"written": [str(path) for path in sorted(folder.glob("*.safetensors"))]}

    return work


def equal(number: int) -> list[float]:
    return [1 / number] * number


def load(path: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    return (
        load_file(path)
        if path.suffix == ".safetensors"
        else torch.load(path, "cpu", weights_only=True)
    )


def save(state: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state, path)


def import_savers() -> None:
    import safetensors.torch  # noqa: F401


METHODS: dict[str, Callable[[list[Path], Path], Work]] = {
    "read": reading,
    "read_mapped": reading_mapped,
    "radin": radin_alone,
    "radin_open": radin_open,
    "radin_four": radin_four,
    "mergekit": mergekit_linear,
    "timm": timm_method,
    "swa": torch_swa,
}
PEERS = ("mergekit", "timm", "swa")


# One measurement ----------------------------------------------------------------------------------


def measure(method: str, paths: list[Path], out: Path, cold: bool) -> Results:
    """Seconds and memory of one method, in this process, after its imports."""
    work = METHODS[method](paths, out)
    if cold:
        drop_from_cache(paths)
    with suppress(
        OSError, AttributeError
    ):  # what the imports have freed is not to serve the work unseen
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with memory() as grown:
        start = time.perf_counter()
        more = work()
        seconds = time.perf_counter() - start
    return {"seconds": seconds, **grown, **more}


@contextmanager
def memory() -> Iterator[dict[str, int]]:
    """Peak growth in bytes of the resident set and of its private part (Linux; else nothing)."""
    grown: dict[str, int] = {}
    if not Path("/proc/self/status").exists():
        yield grown
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before, peak, done = status(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, status()["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        done.set()
        watcher.join()
        grown["peak_bytes"] = status()["VmHWM"] - before["VmRSS"]
        grown["private_bytes"] = max(0, peak - before["RssAnon"])


def status() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) << 10
        for words in lines
        if words[0].startswith(("VmHWM", "VmRSS", "Rss"))
    }


def drop_from_cache(paths: list[Path]) -> None:
    for path in paths:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def difference(one: Path, others: list[Path]) -> float:
    """The largest difference between two averages that were written."""
    from safetensors.torch import load_file

    first = load_file(one)
    second = {name: tensor for path in others for name, tensor in load_file(path).items()}
    assert first.keys() == second.keys()
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


# All of them --------------------------------------------------------------------------------------


def run_all(options: argparse.Namespace) -> Results:
    from stage_one import hardware

    scale, number = (16, 5) if options.quick else (options.scale, options.number)
    numbers = sum(math.prod(shape) for shape in shapes(scale).values())
    results: Results = {
        "hardware": hardware(),
        "sizes": {
            "N": number,
            "tensors": len(shapes(scale)),
            "numbers": numbers,
            "bytes": 4 * numbers,
        },
        "formats": {},
    }
    rows = [row for row in METHODS if row in options.rows]
    if "mergekit" in rows and options.mergekit_python is None:
        rows.remove("mergekit")
        print("mergekit is left out: no --mergekit-python was given")
    for kind in options.formats:
        print(f"making {number} {kind} files where they are missing ...", flush=True)
        paths = make_files(options.folder, number, scale, kind)
        results["formats"][kind] = {
            name: compare(rows, paths, options, repeats, name == "cold", numbers)
            for name, repeats in (("warm", options.repeats), ("cold", options.cold_repeats))
            if repeats
        }
    return results


def compare(
    rows: list[str],
    paths: list[Path],
    options: argparse.Namespace,
    repeats: int,
    cold: bool,
    numbers: int,
) -> Results:
    """Every method in turn, several times; the median of each, and what it says of radin."""
    runs: dict[str, list[Results]] = {row: [] for row in rows}
    apart: dict[str, float] = {}
    place = options.folder / "out"
    for repeat in range(repeats):
        for row in rows:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            if not cold:
                in_process(
                    sys.executable, "read", paths, place, cold=False
                )  # all of them are in the cache, if they fit
            python = options.mergekit_python if row == "mergekit" else sys.executable
            runs[row].append(in_process(python, row, paths, place, cold))
            print(
                f"{'cold' if cold else 'warm'} {row} {runs[row][-1]['seconds']:.2f} s", flush=True
            )
            written = [Path(name) for name in runs[row][-1].pop("written", [])] or [
                place / "out.safetensors"
            ]
            if repeat == 0 and row == "radin":
                shutil.copy(written[0], options.folder / "radin.safetensors")
            elif repeat == 0 and row in PEERS and (options.folder / "radin.safetensors").exists():
                apart[row] = difference(options.folder / "radin.safetensors", written)
    shutil.rmtree(place, ignore_errors=True)
    (options.folder / "radin.safetensors").unlink(missing_ok=True)
    found = {row: summary(runs[row], 4 * numbers) for row in rows}
    for row, value in apart.items():
        found[row]["largest_difference_from_radin"] = value
    for row in rows:
        for floor in ("read", "read_mapped"):
            if floor in found:
                found[row][f"times_{floor}"] = found[row]["seconds"] / found[floor]["seconds"]
        if row in PEERS and "radin" in found:
            found[row]["radin_times_faster"] = found[row]["seconds"] / found["radin"]["seconds"]
            if "peak_models" in found[row]:
                found[row]["radin_times_leaner"] = (
                    found[row]["peak_models"] / found["radin"]["peak_models"]
                )
    return found


def summary(runs: list[Results], model_bytes: int) -> Results:
    found: Results = {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "runs": len(runs),
    }
    found["fastest_seconds"] = min(run["seconds"] for run in runs)
    for name in ("peak", "private"):
        if f"{name}_bytes" in runs[0]:
            found[f"{name}_models"] = max(run[f"{name}_bytes"] for run in runs) / model_bytes
    if "open_seconds" in runs[0]:
        found["open_seconds"] = statistics.median(run["open_seconds"] for run in runs)
    return found


def in_process(python: str | Path, row: str, paths: list[Path], place: Path, cold: bool) -> Results:
    """One measurement in a process of its own."""
    command = [
        python,
        __file__,
        "--worker",
        row,
        "--out",
        place / "out.safetensors",
        *(["--cold"] if cold else []),
    ]
    done = subprocess.run(
        [*map(str, command), *map(str, paths)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"error: {row} failed; its own words are above")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: Results) -> str:
    columns = {  # name, width, form
        "seconds": ("seconds", 8, ".2f"),
        "times_read": ("x read", 7, ".2f"),
        "times_read_mapped": ("x mapped", 9, ".2f"),
        "peak_models": ("peak", 6, ".2f"),
        "private_models": ("private", 8, ".2f"),
        "radin_times_faster": ("faster", 7, ".1f"),
        "radin_times_leaner": ("leaner", 7, ".1f"),
    }
    lines = []
    for kind, conditions in results["formats"].items():
        for condition, rows in conditions.items():
            lines.append(
                " ".join(
                    [
                        f"{kind}, {condition}".ljust(18),
                        *(f"{n:>{w}}" for n, w, _ in columns.values()),
                    ]
                )
            )
            for row, cells in rows.items():
                text = (
                    f"{cells[key]:{w}{form}}" if key in cells else " " * w
                    for key, (_, w, form) in columns.items()
                )
                lines.append(" ".join([row.ljust(18), *text]).rstrip())
    return "\n".join([*lines, "peak, private: in models; faster, leaner: how many times radin is"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Benchmarks of averaging.", allow_abbrev=False)
    parser.add_argument(
        "--folder", type=Path, help="where the files are made and kept (a temporary folder)"
    )
    parser.add_argument("--number", type=int, default=13, help="files (%(default)s)")
    parser.add_argument(
        "--scale", type=int, default=1, help="divide every side of every tensor by it (%(default)s)"
    )
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--rows", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument(
        "--repeats", type=int, default=5, help="with the files in the page cache (%(default)s)"
    )
    parser.add_argument(
        "--cold-repeats", type=int, default=1, help="with none of them there (%(default)s)"
    )
    parser.add_argument(
        "--mergekit-python", type=Path, help="the Python of an environment that has mergekit"
    )
    parser.add_argument(
        "--quick", action="store_true", help="five tiny files; printed, and kept nowhere"
    )
    parser.add_argument(
        "--result", type=Path, default=ROOT / "radin" / "experiments" / "results" / "averaging.json"
    )
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        with redirect_stdout(
            sys.stderr
        ):  # the last line here is the result, whatever a peer may say
            result = measure(options.worker, options.paths, options.out, options.cold)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        results = run_all(options)
    print(table(results))
    if not options.quick:
        options.result.write_text(json.dumps(results, indent=1) + "\n")
        print(options.result)


if __name__ == "__main__":
    main()
