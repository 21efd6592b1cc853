"""Tasks on more than one worker: joblib runs them, and what one has finished is kept whatever happens to the others.

Under `joblib.parallel_config("loky", n_jobs=4)` the workers are processes of this machine; backends that joblib
has for clusters put them on other machines. Nothing here knows which of them is in force.
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

PATIENCE = 30.0  # seconds that a cluster may need to notice that a node has gone


def num_workers() -> int:
    """How many workers the joblib backend in force has; 1 outside `joblib.parallel_config`, and inside a task."""
    import joblib

    return joblib.effective_n_jobs(None)


def task_device(device: str, index: int) -> str:
    """The device for task `index` on the machine that runs it.

    A scheduler that gives each task a GPU of its own shows it no other. Where several GPUs are in sight, tasks
    take them in turn.

    Args:
        device: "auto" and "cuda" are answered with one of the GPUs in sight; anything else is kept as it is.
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
    attempts: int = 3,
    desc: str = "tasks",
    progress: bool = True,
) -> None:
    """Run `function(item)` for every item on the workers of the joblib backend in force.

    With one worker the items are run here, in order. When a worker or a whole node is lost, the items that have
    not finished are run again, by as many workers as there is place for. An exception of `function` is raised as it
    is, with the worker's traceback as a note: no item is started after it, and those that run are finished and handed
    over first.

    Args:
        function: what a worker runs. It and the items are pickled, unless the backend's workers are threads.
        finished: called here with an item's index and result as soon as the result has come, in any order, one
            call at a time and from one thread that need not be the caller's.
        attempts: how often in a row workers may be lost before another item has finished.
        desc, progress: words before the progress bar, and whether to show it.

    Raises:
        ParameterError: an impossible `attempts`, workers that cannot be started, or a task that cannot be pickled.
        RadinError: workers were lost `attempts` times without any progress.
    """
    attempts = check_integer("attempts", attempts, minimum=1)
    left = dict(enumerate(items))
    with tqdm(total=len(left), desc=desc, disable=not progress, leave=False) as bar:

        def keep(index: int, result: Any) -> None:
            finished(index, result)
            del left[index]
            bar.update()

        workers = num_workers()
        if workers > 1:
            _run_on_workers(function, left, keep, workers, attempts)
        else:
            for index, item in list(left.items()):
                keep(index, function(item))


class _WorkersLostError(Exception):
    """The backend lost a worker; the cause says how."""


def _run_on_workers(
    function: Callable[[Any], Any],
    left: dict[int, Any],
    keep: Callable[[int, Any], None],
    workers: int,
    attempts: int,
) -> None:
    from joblib.parallel import get_active_backend

    backend = _mended(get_active_backend()[0])
    if not getattr(backend, "uses_threads", False):
        _check_pickles(function, list(left.values()))
    try:
        places = backend.effective_n_jobs(-1)
    except Exception as error:
        raise ParameterError(
            f"joblib's workers cannot be reached ({error}); connect to the cluster first."
        ) from error
    all_workers, all_places, first, in_vain = workers, places, True, 0
    while left:
        before = len(left)
        # No more workers than tasks; but the tasks of a single one joblib would run here, where no GPU may be.
        jobs = min(workers, max(2, before))
        try:
            outcomes = _outcomes(function, left, backend, jobs, first)
            first = False
            _keep_all(outcomes, keep)
        except _WorkersLostError as lost:
            reason = f"{type(lost.__cause__).__name__}: {lost.__cause__}".splitlines()[0]
            in_vain = in_vain + 1 if len(left) == before else 0
            if in_vain == attempts:
                raise RadinError(
                    f"Workers were lost {attempts} times in a row before another task finished, {len(left)} not done "
                    f"({reason}); what has finished is kept, so run again with fewer workers or more memory."
                ) from lost.__cause__
            warnings.warn(
                f"A worker was lost ({reason}); what has not finished is run again, {len(left)} to do.",
                RuntimeWarning,
                stacklevel=3,
            )
            # Workers that a smaller cluster has no place for would be waited for without end.
            places = _places_left(backend, places)
            workers = max(1, all_workers * places // all_places)


def _places_left(backend: ParallelBackendBase, places: int) -> int:
    """How many places the backend has, at least 1, once it has had time to notice that a node is gone."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            now = backend.effective_n_jobs(-1)
        except Exception:  # no worker is left, or none has come back yet
            now = 0
        if now < places or time.monotonic() > deadline:
            return max(1, min(now, places))
        time.sleep(0.2)


def _outcomes(
    function: Callable[[Any], Any],
    left: dict[int, Any],
    backend: ParallelBackendBase,
    jobs: int,
    first: bool,
) -> Generator[tuple[int, Any], None, None]:
    """(index, result) of each item as it comes.

    Raises _WorkersLostError when the backend fails, but ParameterError when it does not even start at `first`.
    """
    import joblib

    failed: list[Exception] = []
    todo = list(left.items())  # while it is worked off, what has finished leaves `left`

    def tasks() -> Iterator[Any]:
        for index, item in todo:
            if failed:
                return
            yield joblib.delayed(_task)(function, index, item)

    return_as = "generator_unordered" if backend.supports_return_generator else "list"
    try:
        answers = iter(joblib.Parallel(jobs, backend, return_as=return_as, batch_size=1)(tasks()))
    except Exception as error:
        if first:
            raise ParameterError(f"joblib could not start {jobs} workers ({error}).") from error
        raise _WorkersLostError from error
    while True:
        try:
            answer = next(answers, None)
        except Exception as error:  # `function` cannot raise here: its exceptions come as answers
            if failed:
                raise failed[0] from None
            raise _WorkersLostError from error
        if answer is None:
            break
        index, result, problem = answer
        if problem is None:
            yield index, result
        else:
            failed.append(problem)
    if failed:
        raise failed[0]


def _task(
    function: Callable[[Any], Any], index: int, item: Any
) -> tuple[int, Any, Exception | None]:
    """What a worker runs: an exception is an answer like any other, so that it is not taken for a lost worker."""
    import joblib

    try:
        with joblib.parallel_config(
            "sequential"
        ):  # some backends would hand tasks of this task to the cluster
            return index, function(item), None
    except Exception as error:
        return index, None, _portable(error)


def _portable(error: Exception) -> Exception:
    """The exception as one that another process can read, with its traceback as a note."""
    import cloudpickle

    where = traceback.format_exc()
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, RadinError):  # whose one sentence says it all
        error.add_note(f"In a task:\n{where}")
    return error


def _keep_all(
    outcomes: Generator[tuple[int, Any], None, None], keep: Callable[[int, Any], None]
) -> None:
    """Hand every outcome to `keep` from a thread of its own.

    What arrives while another result is being stored would be lost together with a worker, were it not taken
    from joblib at once.
    """
    calls: list[Future[None]] = []
    with ThreadPoolExecutor(1, "finished") as keeper:
        try:
            for index, result in outcomes:
                calls.append(keeper.submit(keep, index, result))
                calls = [
                    call for call in calls if not call.done() or call.result()
                ]  # a full disk is heard of here
        finally:
            outcomes.close()
    for call in calls:
        call.result()


def _check_pickles(function: Callable[[Any], Any], items: list[Any]) -> None:
    """ParameterError for what no other process could be given; some backends would wait for it without end."""
    import cloudpickle

    try:
        cloudpickle.dumps((function, items))
    except Exception as error:
        raise ParameterError(
            f"A task cannot be sent to another process ({type(error).__name__}: {error})."
        ) from error


def _mended(backend: ParallelBackendBase) -> ParallelBackendBase:
    """A copy of joblib's backend that gives each result at once and raises what happens to its workers.

    Two gaps in backends for clusters: one does not claim to give results one by one, though it receives them so,
    and one never mentions a task whose workers have all died.
    """
    mended = copy.copy(backend)
    if mended.supports_retrieve_callback and not mended.supports_return_generator:
        mended.supports_return_generator = True
    submit = mended.submit

    def submit_and_tell(func: Any, callback: Any = None) -> Any:
        task = submit(func, callback)
        if isinstance(task, Future):
            task.add_done_callback(
                lambda done: callback(done.exception()) if _has_failed(done) else None
            )
        return task

    mended.submit = submit_and_tell
    return mended


def _has_failed(task: Future[Any]) -> bool:
    return not task.cancelled() and task.exception() is not None
