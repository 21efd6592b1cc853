"""Run notebooks, some side by side: one kernel for all, and one sentence for what fails."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import joblib

from parameters import BuildError, Parameters
from radin.experiments.notebook import write_kernel

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def prepare_environment(out: Path) -> None:
    """What the kernels inherit: this interpreter, no progress bars, absolute paths."""
    os.environ |= write_kernel(out)
    # Libraries' notes to their own developers are not for readers of the book.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore:IProgress not found")
    os.environ.setdefault("RADIN_CACHE", str(out / "cache"))
    for name in ("RADIN_CACHE", "RADIN_DATA"):
        if name in os.environ:
            os.environ[name] = os.path.abspath(os.environ[name])


def set_threads(threads: int) -> None:
    """Limit each kernel that this process starts, where the user has not done so."""
    for variable in THREADS:
        os.environ.setdefault(variable, str(threads))


@contextlib.contextmanager
def kernels_speak_to(log: Path) -> Iterator[None]:
    """Send to `log` what kernels write to the terminal, such as tracebacks when they stop."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def run_notebook(path: Path, name: str, parameters: Parameters, target: Path | None = None) -> Any:
    """Execute the notebook, into `target` or in place.

    Raises BuildError, one sentence, when a cell fails; the notebook so far stays in `target`.
    """
    import papermill

    target = target or path
    try:
        return papermill.execute_notebook(
            path,
            target,
            parameters=parameters,
            cwd=path.parent,
            kernel_name="python3",
            language="python",
            progress_bar=False,
        )
    except papermill.PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}".strip().splitlines()[-1].rstrip(".")
        raise BuildError(
            f"{name}, cell [{error.exec_count}]: {reason} (as it failed: {target})"
        ) from error
    except Exception as error:  # a kernel that died or never came up has many classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise BuildError(
            f"{name} did not run to its end: {reason} (the notebook so far: {target})"
        ) from error


# ---------------------------------------------------------------- side by side


def parse_jobs(asked: str) -> int | None:
    """The number that JOBS means; None where it is empty."""
    if asked and (not asked.isdecimal() or int(asked) < 1):
        raise BuildError(f"JOBS must be a whole number of at least 1, not {asked!r}")
    return int(asked) if asked else None


def jobs_at_once(asked: int | None, runs: int) -> int:
    """How many notebooks run at a time: as asked, else one for each core.

    Never more than have 4 GiB of memory each: `network_memory_bytes` is a quarter of the machine's.
    """
    from radin.inference.devices import network_memory_bytes

    wanted = asked or joblib.cpu_count()
    room = max(1, network_memory_bytes() // 2**30)
    if asked and room < wanted:
        print(f"{room} runs at a time instead of {wanted}: there is no memory for more")
    return min(wanted, room, max(1, runs))


def threads_of_each(jobs: int) -> int:
    return max(1, joblib.cpu_count() // jobs)


def side_by_side(function: Callable[..., Any], tasks: Iterable[tuple], jobs: int) -> Iterator[Any]:
    """Yield what the function returns for each task, in the order in which they end."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # Workers whose master was killed end the run they are at, and go a little later.
    pool = joblib.Parallel(
        n_jobs=jobs,
        backend="loky",
        return_as="generator_unordered",
        batch_size=1,
        idle_worker_timeout=10,
    )
    try:
        with warnings.catch_warnings():  # joblib warns of tasks that a failed one has ended
            warnings.filterwarnings("ignore", "[0-9]+ tasks which were still being processed")
            yield from pool(joblib.delayed(function)(*task) for task in tasks)
    except TerminatedWorkerError as error:
        raise BuildError(
            "the system killed a run, most likely for memory: try again with fewer JOBS"
        ) from error
