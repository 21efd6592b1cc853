"""Tasks on workers: every result comes once and at once; a lost worker costs only its own task."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import joblib
import pytest
import torch
from joblib.parallel import BACKENDS, ThreadingBackend

from radin.errors import CheckpointError, ParameterError, RadinError
from radin.inference import parallel
from radin.inference.parallel import num_joblib_workers, run_tasks, task_device


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "NODE_LOSS_TIMEOUT_SECONDS", 0.0)


def results_of(function: Callable[[Any], Any], items: list[Any], **options: Any) -> dict[int, Any]:
    """The results by index; fails if one comes twice."""
    results: dict[int, Any] = {}

    def finished(index: int, result: Any) -> None:
        assert index not in results
        results[index] = result

    run_tasks(function, items, finished, progress=False, **options)
    return results


class WorkerLostError(Exception):
    """What this backend raises for a lost worker."""


class Cluster(ThreadingBackend):
    """Threads that are lost like nodes of a cluster; joblib returns all results at the end.

    Attributes:
        losses: how many more tasks will be lost.
        capacity: how many workers there can be; each loss takes one.
        silent: whether only the future reports a lost task, never the callback.
        sizes: the number of workers of each call.
    """

    supports_return_generator = False
    losses, capacity, silent = 0, 8, False
    sizes: list[int]

    def effective_n_jobs(self, n_jobs: int) -> int:
        return Cluster.capacity if n_jobs == -1 else super().effective_n_jobs(n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        Cluster.sizes.append(n_jobs)
        if n_jobs > Cluster.capacity:
            raise ValueError(f"{n_jobs} workers, but a capacity of {Cluster.capacity}")
        return super().configure(n_jobs, parallel, **options)

    def submit(self, func: Any, callback: Any = None) -> Any:
        if not (Cluster.losses and "lose me" in str(func.items)):
            return super().submit(func, callback)
        Cluster.losses -= 1
        Cluster.capacity -= 1
        lost: Future[None] = Future()
        told = WorkerLostError("the node is gone\nand has left a long log")
        threading.Timer(0.2, lost.set_exception if Cluster.silent else callback, [told]).start()
        return lost


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Cluster]]:
    monkeypatch.setitem(BACKENDS, "nodes", Cluster)
    for name, value in {"losses": 0, "capacity": 8, "silent": False, "sizes": []}.items():
        monkeypatch.setattr(Cluster, name, value, raising=False)
    with joblib.parallel_config("nodes", n_jobs=4):
        yield Cluster


def test_without_workers_everything_runs_in_this_process_in_order():
    seen = []
    assert num_joblib_workers() == 1
    results = results_of(
        lambda item: seen.append(item) or (item * item, os.getpid(), threading.get_ident()),
        [3, 1, 2],
    )
    assert seen == [3, 1, 2]
    here = (os.getpid(), threading.get_ident())
    assert list(results.items()) == [(0, (9, *here)), (1, (1, *here)), (2, (4, *here))]


def test_an_exception_without_workers_comes_after_earlier_results():
    results: dict[int, int] = {}
    with pytest.raises(CheckpointError, match="model_2 is broken"):
        run_tasks(break_at(2), range(5), results.__setitem__, progress=False)
    assert results == {0: 0, 1: 1}


def break_at(bad: int) -> Callable[[int], int]:
    def function(item: int) -> int:
        if item == bad:
            raise CheckpointError(f"model_{item} is broken")
        return item

    return function


@pytest.mark.parametrize(
    ("backend", "jobs"), [("threading", 3), ("nodes", 3), ("threading", 1), ("sequential", 1)]
)
def test_all_results_come_once_with_their_index(cluster, backend, jobs):
    items = [f"image {k}" for k in range(11)]
    with joblib.parallel_config(backend, n_jobs=jobs):
        assert num_joblib_workers() == jobs
        assert results_of(str.upper, items) == {k: item.upper() for k, item in enumerate(items)}
        assert results_of(str.upper, []) == {}


def test_a_task_has_no_workers_of_its_own():
    with joblib.parallel_config("threading", n_jobs=4):
        assert set(results_of(lambda _: num_joblib_workers(), list(range(4))).values()) == {1}
        assert num_joblib_workers() == 4


@pytest.mark.parametrize("backend", ["threading", "nodes"])
def test_a_result_is_handed_over_while_others_still_run(cluster, backend):
    stored = threading.Event()

    def wait_for_the_other(item: str) -> bool:
        return item == "fast" or stored.wait(20)

    def finished(index: int, result: bool) -> None:
        results[index] = result
        stored.set()

    results: dict[int, bool] = {}
    with joblib.parallel_config(backend, n_jobs=2):
        run_tasks(wait_for_the_other, ["slow", "fast"], finished, progress=False)
    assert results == {0: True, 1: True}


def test_results_are_stored_one_at_a_time():
    storing = threading.Lock()

    def finished(index: int, result: int) -> None:
        assert storing.acquire(blocking=False)
        time.sleep(0.01)
        storing.release()

    with joblib.parallel_config("threading", n_jobs=8):
        run_tasks(abs, range(16), finished, progress=False)


def test_an_exception_is_raised_unchanged_after_the_results_of_the_others(cluster):
    started = []
    waiting = threading.Barrier(4, timeout=20)

    def function(item: int) -> int:
        started.append(item)
        if item < 4:
            waiting.wait()
        time.sleep(0.4 if item == 1 else 0.05)
        return break_at(0)(item)

    results: dict[int, int] = {}
    with pytest.raises(CheckpointError, match="^model_0 is broken$") as caught:
        run_tasks(function, range(100), results.__setitem__, progress=False)
    assert not hasattr(caught.value, "__notes__")
    assert results == {item: item for item in started if item != 0}  # the slow one too
    assert len(started) < 20
    assert cluster.sizes == [4]  # no second attempt


class StubbornError(Exception):
    """An exception that holds what cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def test_an_exception_that_cannot_be_pickled_keeps_its_message(cluster):
    def function(item: int) -> None:
        raise StubbornError("this and that")

    with pytest.raises(RuntimeError, match="StubbornError: this and that") as caught:
        results_of(function, [1, 2])
    assert "in function" in caught.value.__notes__[0]


@pytest.mark.parametrize("silent", [False, True])
def test_after_a_loss_only_the_unfinished_are_run_again_by_fewer_workers(cluster, silent):
    cluster.losses, cluster.silent = 2, silent
    items = [0, 1, "lose me first", 3, 4, 5, "lose me next", 7, 8, 9]
    finished: set[Any] = set()
    again = []

    def function(item: Any) -> str:
        if item in finished:
            again.append(item)
        return str(item)

    def keep(index: int, result: str) -> None:
        assert result == str(items[index])
        assert items[index] not in finished
        finished.add(items[index])

    with pytest.warns(
        RuntimeWarning, match=r"A worker was lost \(WorkerLostError: the node is gone\)"
    ) as warned:
        run_tasks(function, items, keep, progress=False)
    assert finished == set(items)
    assert again == []
    assert 1 <= len(warned) <= 2
    assert warned[0].filename == __file__
    assert cluster.sizes[0] == 4
    left = int(str(warned[-1].message).split()[-3])
    assert cluster.sizes[-1] == min(4 * 6 // 8, max(2, left))  # six of eight workers are left


def test_a_result_that_comes_while_another_is_stored_is_not_lost_with_a_worker(cluster):
    cluster.losses = 1
    computed: Counter[Any] = Counter()

    def function(item: Any) -> Any:
        computed[item] += 1
        return item

    def finished(index: int, result: Any) -> None:
        time.sleep(0.4)  # the loss is reported in this time

    with pytest.warns(RuntimeWarning, match="1 to do"):
        run_tasks(function, ["a", "b", "lose me"], finished, progress=False)
    assert computed == {"a": 1, "b": 1, "lose me": 1}


def test_losses_without_progress_end_in_one_message(cluster):
    cluster.losses = 100
    results: dict[int, str] = {}
    with (
        pytest.warns(RuntimeWarning, match="A worker was lost"),
        pytest.raises(
            RadinError,
            match="lost 2 times in a row before another task finished, 1 not done .WorkerLost",
        ),
    ):
        run_tasks(str, ["a", "lose me", "b"], results.__setitem__, attempts=2, progress=False)
    assert results == {0: "a", 2: "b"}


def test_a_few_tasks_stay_on_workers_after_a_loss(cluster):
    cluster.losses = 1
    with pytest.warns(RuntimeWarning):
        assert len(results_of(str, ["a", "lose me"])) == 2
    assert cluster.sizes == [2, 2]  # there was room for three


def test_without_a_cluster_the_tasks_run_in_this_process(cluster):
    cluster.losses, cluster.capacity = 1, 2
    with joblib.parallel_config("nodes", n_jobs=2), pytest.warns(RuntimeWarning):
        assert results_of(str, ["a", "lose me", "b"]) == {0: "a", 1: "lose me", 2: "b"}
    assert cluster.sizes == [2, 1]


def test_a_cluster_is_given_time_to_notice_its_loss(cluster, monkeypatch):
    monkeypatch.setattr(parallel, "NODE_LOSS_TIMEOUT_SECONDS", 20.0)
    cluster.losses = 1
    threading.Timer(0.6, setattr, [Cluster, "capacity", 2]).start()
    monkeypatch.setattr(
        Cluster,
        "effective_n_jobs",
        lambda self, n_jobs: 8 if n_jobs == -1 and Cluster.capacity > 2 else 4,
    )
    start = time.monotonic()
    with pytest.warns(RuntimeWarning):
        assert len(results_of(str, ["a", "lose me", "b", "c", "d"])) == 5
    assert 0.4 < time.monotonic() - start < 10
    assert cluster.sizes == [4, 2]  # half of the capacity, half of the workers


def test_workers_that_cannot_be_started_are_refused_at_once(cluster):
    cluster.capacity = 3
    with pytest.raises(
        ParameterError, match="could not start 4 workers .4 workers, but a capacity of 3"
    ):
        results_of(str, ["a", "b", "c", "d"])
    assert cluster.sizes == [4]


@pytest.mark.parametrize(("num_items", "size"), [(1, 2), (2, 2), (3, 3), (9, 4)])
def test_no_more_workers_are_started_than_tasks_but_never_one(cluster, num_items, size):
    assert len(results_of(str, ["a"] * num_items)) == num_items
    assert cluster.sizes == [size]  # joblib would run the tasks of one worker here


@pytest.mark.filterwarnings("ignore:.*cancelled")  # joblib counts the tasks that it cancels
@pytest.mark.parametrize("backend", ["sequential", "threading", "nodes"])
def test_a_result_that_cannot_be_stored_stops_the_run(cluster, backend):
    started = []

    def function(item: int) -> int:
        started.append(item)
        time.sleep(0.02)
        return item

    def finished(index: int, result: int) -> None:
        raise OSError("No space left on device")

    with (
        joblib.parallel_config(backend, n_jobs=2),
        pytest.raises(OSError, match="No space left on device"),
    ):
        run_tasks(function, range(200), finished, progress=False)
    assert len(started) < 100


def test_tasks_that_cannot_be_pickled_are_refused_before_any_work():
    lock = threading.Lock()
    with (
        joblib.parallel_config("loky", n_jobs=2),
        pytest.raises(ParameterError, match="cannot be sent to another process .TypeError: .*lock"),
    ):
        results_of(lambda item: (lock, item), [1, 2])
    with joblib.parallel_config("threading", n_jobs=2):
        assert len(results_of(lambda item: (lock, item), [1, 2])) == 2


@pytest.mark.parametrize("attempts", [0, 2.5, True])
def test_attempts_must_be_a_whole_number(attempts):
    with pytest.raises(ParameterError, match="attempts must be a whole number of at least 1"):
        run_tasks(str, [1], print, attempts=attempts)


def test_the_bar_shows_the_description(capsys):
    run_tasks(str, [1, 2], lambda index, result: None, desc="predicting ingredients")
    assert "predicting ingredients" in capsys.readouterr().err


def test_a_process_that_is_killed_loses_only_its_own_task(tmp_path):
    """Real processes: one kills itself in its first attempt."""

    def function(item: int) -> tuple[int, int]:
        with (tmp_path / f"{item}").open("a") as file:
            file.write(".")
        if item == 3 and not (tmp_path / "killed").exists():
            time.sleep(0.5)  # others finish first
            (tmp_path / "killed").touch()
            os._exit(9)
        return item * item, os.getpid()

    stored: dict[int, int] = {}

    def finished(index: int, result: tuple[int, int]) -> None:
        done_before[index] = len((tmp_path / f"{index}").read_text())
        assert result[1] != os.getpid()
        stored[index] = result[0]

    done_before: dict[int, int] = {}
    with (
        joblib.parallel_config("loky", n_jobs=2),
        pytest.warns(RuntimeWarning, match="TerminatedWorkerError"),
    ):
        run_tasks(function, range(6), finished, progress=False)
    assert stored == {item: item * item for item in range(6)}
    counts = {item: len((tmp_path / f"{item}").read_text()) for item in range(6)}
    assert counts == done_before  # none that was stored ran again
    assert counts[3] == 2
    assert sum(counts.values()) <= 6 + 3  # and at most three were running


@pytest.mark.parametrize(
    ("device", "count", "devices"),
    [
        ("auto", 0, ["cpu", "cpu", "cpu"]),
        ("cuda", 0, ["cuda", "cuda", "cuda"]),  # `pick_device` refuses it later
        ("auto", 1, ["cuda", "cuda", "cuda"]),
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cpu", 2, ["cpu", "cpu", "cpu"]),
        ("cuda:1", 2, ["cuda:1", "cuda:1", "cuda:1"]),
    ],
)
def test_tasks_take_the_visible_gpus_in_turn(monkeypatch, device, count, devices):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert [task_device(device, index) for index in range(3)] == devices
