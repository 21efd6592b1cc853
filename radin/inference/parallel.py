"""Tasks on joblib's workers: a finished result is kept even if a worker is lost later.

Under `joblib.parallel_config("loky", n_jobs=4)` the workers are processes of this machine; joblib's
backends for clusters put them on other machines. This module works the same with all of them.
"""

from __future__ import annotations

import copy
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from radin.errors import ParameterError, RadinError, check_integer

if TYPE_CHECKING:
    from joblib.parallel import ParallelBackendBase

NODE_LOSS_TIMEOUT_SECONDS = 30.0  # a cluster may need as long to notice that a node is lost
POLL_SECONDS = 0.2


def num_joblib_workers() -> int:
    """The number of workers of joblib's active backend.

    It is 1 outside `joblib.parallel_config`, and inside a task.
    """
    import joblib

    return joblib.effective_n_jobs(None)


def task_device(device: str, index: int) -> str:
    """The device for task `index` on the machine that runs it.

    Some schedulers show each task one GPU of its own. Where several GPUs are visible, tasks take
    them in turn.

    Args:
        device: for "auto" and "cuda" the answer is one of the visible GPUs; any other device is
            returned unchanged.
    """
    if device not in ("auto", "cuda"):
        return device
    count = torch.cuda.device_count()
    if count == 0:
        return "cpu" if device == "auto" else device
    return "cuda" if count == 1 else f"cuda:{index % count}"


def run_tasks(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    finished: Callable[[int, Any], None],
    *,
    attempts: int = 3,
    desc: str = "tasks",
    progress: bool = True,
) -> None:
    """Run `function(item)` for every item on the workers of joblib's active backend.

    With one worker the items are run in this process, in order. When a worker or a whole node is
    lost, its unfinished items are run again, on as many workers as the backend still has. An
    exception of `function` is raised unchanged, with the worker's traceback as a note: no item is
    started after it, and the items that are running are finished and handed over first.

    Args:
        function: what a worker runs. It and the items are pickled, unless the workers are threads.
        finished: called in this process with an item's index and result as soon as the result is
            there, in any order. There is one call at a time, from one thread that may differ from
            the caller's.
        attempts: how often in a row workers may be lost before another item has finished.
        desc: text before the progress bar.
        progress: whether to show the bar.

    Raises:
        ParameterError: an impossible `attempts`, workers that cannot be started, or a task that
            cannot be pickled.
        RadinError: workers were lost `attempts` times while no item finished.
    """
    attempts = check_integer("attempts", attempts, minimum=1)
    unfinished = dict(enumerate(items))
    with tqdm(total=len(unfinished), desc=desc, disable=not progress, leave=False) as bar:

        def keep(index: int, result: Any) -> None:
            finished(index, result)
            del unfinished[index]
            bar.update()

        num_workers = num_joblib_workers()
        if num_workers > 1:
            _run_on_workers(function, unfinished, keep, num_workers=num_workers, attempts=attempts)
        else:
            for index, item in list(unfinished.items()):
                keep(index, function(item))


class _WorkersLostError(Exception):
    """The backend lost a worker; the cause tells how."""


def _run_on_workers(
    function: Callable[[Any], Any],
    unfinished: dict[int, Any],
    keep: Callable[[int, Any], None],
    *,
    num_workers: int,
    attempts: int,
) -> None:
    from joblib.parallel import get_active_backend

    backend = _with_immediate_results(get_active_backend()[0])
    if not getattr(backend, "uses_threads", False):
        _check_pickles(function, list(unfinished.values()))
    all_capacity = _capacity(backend)
    capacity = all_capacity
    num_jobs = num_workers
    first_start = True
    failed_attempts = 0
    while unfinished:
        num_before = len(unfinished)
        # No more jobs than tasks. With a single job joblib would run the tasks in this process,
        # and this machine may have no GPU.
        jobs = min(num_jobs, max(2, num_before))
        try:
            results = _results(function, unfinished, backend, jobs=jobs, first_start=first_start)
            first_start = False
            _keep_all(results, keep)
        except _WorkersLostError as lost:
            failed_attempts = failed_attempts + 1 if len(unfinished) == num_before else 0
            _report_loss(lost, len(unfinished), attempts, give_up=failed_attempts == attempts)
            # A smaller cluster would let workers wait for ever that it has no room for.
            capacity = _capacity_after_loss(backend, capacity)
            num_jobs = max(1, num_workers * capacity // all_capacity)


def _report_loss(
    lost: _WorkersLostError, num_unfinished: int, attempts: int, *, give_up: bool
) -> None:
    reason = f"{type(lost.__cause__).__name__}: {lost.__cause__}".splitlines()[0]
    if give_up:
        raise RadinError(
            f"Workers were lost {attempts} times in a row before another task finished, "
            f"{num_unfinished} not done ({reason}); what has finished is kept, so run again with "
            "fewer workers or more memory."
        ) from lost.__cause__
    warnings.warn(
        f"A worker was lost ({reason}); what has not finished is run again, {num_unfinished} to "
        "do.",
        RuntimeWarning,
        stacklevel=4,
    )


def _capacity(backend: ParallelBackendBase) -> int:
    """How many workers the backend can have."""
    try:
        return backend.effective_n_jobs(-1)
    except Exception as error:
        raise ParameterError(
            f"joblib's workers cannot be reached ({error}); connect to the cluster first."
        ) from error


def _capacity_after_loss(backend: ParallelBackendBase, before: int) -> int:
    """How many workers the backend can have, at least 1, once it has noticed a lost node."""
    deadline = time.monotonic() + NODE_LOSS_TIMEOUT_SECONDS
    while True:
        try:
            now = backend.effective_n_jobs(-1)
        except Exception:  # no worker is left, or none has come back yet
            now = 0
        if now < before or time.monotonic() > deadline:
            return max(1, min(now, before))
        time.sleep(POLL_SECONDS)


def _results(
    function: Callable[[Any], Any],
    unfinished: dict[int, Any],
    backend: ParallelBackendBase,
    *,
    jobs: int,
    first_start: bool,
) -> Generator[tuple[int, Any], None, None]:
    """(index, result) of each item as soon as it is there.

    Raises:
        ParameterError: the backend does not start at the first attempt.
        _WorkersLostError: the backend fails later.
    """
    import joblib

    exceptions: list[Exception] = []  # of `function`
    todo = list(unfinished.items())  # a copy: `unfinished` shrinks in the meantime

    def delayed_tasks() -> Iterator[Any]:
        for index, item in todo:
            if exceptions:
                return
            yield joblib.delayed(_run_task)(function, index, item)

    return_as = "generator_unordered" if backend.supports_return_generator else "list"
    parallel = joblib.Parallel(jobs, backend, return_as=return_as, batch_size=1)
    try:
        answers = iter(parallel(delayed_tasks()))
    except Exception as error:
        if first_start:
            raise ParameterError(f"joblib could not start {jobs} workers ({error}).") from error
        raise _WorkersLostError from error
    while True:
        try:
            answer = next(answers, None)
        except Exception as error:  # of the backend: `_run_task` returns those of `function`
            if exceptions:
                raise exceptions[0] from None
            raise _WorkersLostError from error
        if answer is None:
            break
        index, result, exception = answer
        if exception is None:
            yield index, result
        else:
            exceptions.append(exception)
    if exceptions:
        raise exceptions[0]


def _run_task(
    function: Callable[[Any], Any], index: int, item: Any
) -> tuple[int, Any, Exception | None]:
    """What a worker runs. An exception is returned, so that it does not look like a lost worker."""
    import joblib

    try:
        # Otherwise some backends would send tasks of this task to the cluster.
        with joblib.parallel_config("sequential"):
            return index, function(item), None
    except Exception as error:
        return index, None, _picklable(error)


def _picklable(error: Exception) -> Exception:
    """The exception, or one that another process can read, with its traceback as a note."""
    import cloudpickle

    where = traceback.format_exc()
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, RadinError):  # the message of a RadinError is enough
        error.add_note(f"In a task:\n{where}")
    return error


def _keep_all(
    results: Generator[tuple[int, Any], None, None], keep: Callable[[int, Any], None]
) -> None:
    """Hand every result to `keep`, from a thread of its own.

    Results are taken from joblib at once, also while another one is being stored: when joblib
    loses a worker, it drops the results that nobody has taken.
    """
    calls: list[Future[None]] = []
    with ThreadPoolExecutor(1, "finished") as keeper:
        try:
            for index, result in results:
                calls.append(keeper.submit(keep, index, result))
                # `result()` raises what went wrong in a finished call, such as a full disk.
                calls = [call for call in calls if not call.done() or call.result()]
        finally:
            results.close()
    for call in calls:
        call.result()


def _check_pickles(function: Callable[[Any], Any], items: list[Any]) -> None:
    """ParameterError for tasks that cannot be pickled; some backends would wait for ever."""
    import cloudpickle

    try:
        cloudpickle.dumps((function, items))
    except Exception as error:
        raise ParameterError(
            f"A task cannot be sent to another process ({type(error).__name__}: {error})."
        ) from error


def _with_immediate_results(backend: ParallelBackendBase) -> ParallelBackendBase:
    """A copy of joblib's backend that returns each result at once and reports lost workers.

    It closes two gaps in backends for clusters: one does not claim to return results one by one,
    though it receives them so, and one never reports a task whose workers have all died.
    """
    backend = copy.copy(backend)
    if backend.supports_retrieve_callback and not backend.supports_return_generator:
        backend.supports_return_generator = True
    submit = backend.submit

    def submit_and_report(func: Any, callback: Any = None) -> Any:
        task = submit(func, callback)
        if isinstance(task, Future):
            task.add_done_callback(
                lambda done: callback(done.exception()) if _has_failed(done) else None
            )
        return task

    backend.submit = submit_and_report
    return backend


def _has_failed(task: Future[Any]) -> bool:
    return not task.cancelled() and task.exception() is not None
