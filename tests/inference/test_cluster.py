"""Real clusters on this machine, Ray and Dask, that lose a node or worker; and their page."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch

import radin
from helpers import save, tiny_split, tiny_zoo
from radin.checkpoints.architectures import builder
from radin.data.imagenet import PARTS, TEST_SETS
from radin.data.splits import ArraySplit
from radin.inference.parallel import num_joblib_workers, run_tasks

pytestmark = pytest.mark.filterwarnings("ignore:no common start")  # random networks have none

NUM_ITEMS = 12
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def ray_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Ray cluster of two nodes with one core each."""
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    from ray.cluster_utils import Cluster
    from ray.util.joblib import register_ray

    register_ray()
    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 4,
    }
    cluster = Cluster(initialize_head=True, head_node_args=SMALL | {"_system_config": quick})
    try:
        cluster.add_node(**SMALL)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def dask() -> Iterator[Any]:
    """A Dask cluster of two worker processes; one that is killed is started again."""
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    quiet = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    with (
        distributed.LocalCluster(2, threads_per_worker=1, **quiet) as here,
        distributed.Client(here) as client,
    ):
        yield client


def work(
    folder: Path, where: Callable[[], Any], stuck: Any = None
) -> Callable[[int], tuple[int, Any]]:
    """A task that marks each start in a file; on the worker `stuck` it takes five minutes."""

    def function(item: int) -> tuple[int, Any]:
        with (folder / f"{item}").open("a") as file:
            file.write(".")
        time.sleep(300 if where() == stuck else 0.3)
        return item * item, where()

    return function


def begun(folder: Path) -> Counter[int]:
    """How often each item was begun."""
    return Counter({int(path.name): len(path.read_text()) for path in folder.iterdir()})


class Store:
    """Takes the results; `lose` is called with the worker of the third one.

    Attributes:
        results: what a task found, by index.
        workers: where each index ran.
        before: the indices that were there when the worker was lost.
    """

    def __init__(self, lose: Callable[[Any], None] | None = None) -> None:
        self.results: dict[int, int] = {}
        self.workers: dict[int, Any] = {}
        self.before: set[int] = set()
        self.lose = lose

    def finished(self, index: int, result: tuple[int, Any]) -> None:
        assert index not in self.results
        self.results[index], self.workers[index] = result
        if self.lose is not None and len(self.results) == 3:
            self.lose(result[1])


def ray_node() -> Callable[[], str]:
    """A function that says on which node of the Ray cluster it runs."""

    def node() -> str:  # pickled by value: no worker could import this file
        import ray

        return ray.get_runtime_context().get_node_id()

    return node


def test_ray_gives_the_same_bank_and_the_same_soup(ray_nodes, tmp_path):
    check_bank_and_soup(tmp_path, "ray", n_jobs=2, ray_remote_args={"num_cpus": 1})


@pytest.mark.whole
def test_ray_uses_all_nodes_and_a_lost_one_loses_nothing_that_was_finished(ray_nodes, tmp_path):
    both = {node.node_id for node in ray_nodes.list_all_nodes()}
    third = ray_nodes.add_node(**SMALL)
    ray_nodes.wait_for_nodes()

    def lose(_: str) -> None:
        store.before = set(store.results)
        ray_nodes.remove_node(third, allow_graceful=False)

    store = Store(lose)
    with (
        joblib.parallel_config(
            "ray", n_jobs=3, ray_remote_args={"num_cpus": 1}
        ),  # a node has room for one
        pytest.warns(RuntimeWarning, match="A worker was lost"),
    ):
        run_tasks(
            work(tmp_path, ray_node(), third.node_id),
            range(NUM_ITEMS),
            store.finished,
            progress=False,
        )
    assert store.results == {item: item * item for item in range(NUM_ITEMS)}
    assert set(store.workers.values()) == both
    again = begun(tmp_path) - Counter(range(NUM_ITEMS))
    assert not store.before & set(again)
    assert 1 <= again.total() <= 6  # what was under way, or next, on three nodes


def test_dask_gives_the_same_bank_and_the_same_soup(dask, tmp_path):
    check_bank_and_soup(tmp_path, "dask")


def test_dask_uses_both_workers_and_a_lost_one_loses_nothing_that_was_finished(dask, tmp_path):
    processes = set(dask.run(os.getpid).values())

    def lose(process: int) -> None:
        store.before = set(store.results)
        os.kill(process, signal.SIGKILL)

    store = Store(lose)
    with joblib.parallel_config("dask"):
        run_tasks(work(tmp_path, os.getpid), range(NUM_ITEMS), store.finished, progress=False)
    assert store.results == {item: item * item for item in range(NUM_ITEMS)}
    assert processes <= set(store.workers.values())
    again = begun(tmp_path) - Counter(range(NUM_ITEMS))
    # What was running on the lost worker; Dask may also repeat the last result there.
    assert again.total() <= 2
    assert len(store.before & set(again)) <= 1


def check_bank_and_soup(folder: Path, backend: str, **options: Any) -> None:
    """A cluster predicts and crafts exactly what this process does."""
    zoo, val = tiny_zoo(folder / "zoo", num_models=5), tiny_split(60)
    zoo.build = local_build()
    alone = radin.predict(zoo, val, cache=False, progress=False)
    soup = radin.craft(alone, radin.evaluator(zoo, val), budget=4)
    with joblib.parallel_config(backend, **options):
        assert num_joblib_workers() == 2
        together = radin.predict(zoo, val, cache=folder / "cache", progress=False)
        same = radin.craft(together, radin.evaluator(zoo, val), budget=4)
    assert torch.equal(together.logits, alone.logits)
    assert torch.equal(together.labels, alone.labels)
    assert together.names == alone.names
    assert torch.equal(same.weights, soup.weights)
    assert [trial.accuracy for trial in same.trials] == [trial.accuracy for trial in soup.trials]
    averaged, again = radin.average(zoo, soup.weights), radin.average(zoo, same.weights)
    assert all(torch.equal(averaged[key], again[key]) for key in averaged)


def local_build() -> Callable[[], torch.nn.Module]:
    """`helpers.build` as a function that is pickled by value: no worker could import the tests."""

    def build() -> torch.nn.Module:
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    return build


# The page of the book ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "book" / "cluster.md").read_text("utf-8")


def blocks(page: str, language: str, word: str) -> list[str]:
    """The page's blocks of code in a language that contain a word."""
    return [code for code in re.findall(rf"```{language}\n(.*?)```", page, re.S) if word in code]


def test_the_arithmetic_on_the_page_is_what_its_code_prints(page, capsys):
    (code,) = blocks(page, "python", "operations each")
    (printed,) = blocks(page, "text", "forward passes")
    exec(code, {})
    assert capsys.readouterr().out == printed


def test_the_sets_on_the_page_have_their_sizes(page):
    (code,) = blocks(page, "python", "operations each")
    names: dict[str, Any] = {}
    exec(code, names)
    assert list(names["images"].values()) == [PARTS[part].num_images for part in TEST_SETS]
    with torch.device("meta"):  # shapes are enough
        network = builder("open_clip:ViT-B-32-quickgelu", 1000)()
    weights = sum(p.numel() for p in network.parameters() if p.ndim > 1)
    blocks_alone = (
        12 * 12 * 768**2
    )  # used for each of 50 tokens; the others for each of 49 patches, or once
    assert names["operations"] > 2 * 50 * blocks_alone
    assert names["operations"] == pytest.approx(2 * 50 * weights, rel=0.02)


def test_the_experiment_on_the_page_runs_as_written(page, tmp_path, monkeypatch, capsys):
    (code,) = blocks(page, "python", "def main")
    monkeypatch.setenv("RADIN_DATA", str(tmp_path))
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def build() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))

    for k in range(3):
        torch.manual_seed(k)
        save(build().state_dict(), tmp_path / "model-soups" / f"model_{k}.pt")

    def load_split(name: str, part: str) -> ArraySplit:
        rng = torch.Generator().manual_seed(TEST_SETS.index(part))
        images = torch.rand(30, 3, 2, 2, generator=rng) * 2 - 1
        return ArraySplit(name, part, images, torch.randint(4, (30,), generator=rng), list("abcd"))

    monkeypatch.setattr("radin.checkpoints.architectures.builder", lambda spec, num_classes: build)
    monkeypatch.setattr("radin.load_split", load_split)
    names: dict[str, Any] = {}
    exec(code, names)
    with joblib.parallel_config("threading", n_jobs=2):
        names["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert all(
        sum(line.startswith(f"{part} ") for line in lines) == 2 for part in TEST_SETS
    )  # a bank, an accuracy
    assert (tmp_path / "soup.safetensors").exists()


def test_the_scripts_on_the_page_are_whole(page):
    for code in blocks(page, "python", "from all72 import main"):
        compile(code, "page", "exec")
    scripts = blocks(page, "bash", "srun")
    assert len(scripts) == 2
    for script in scripts:
        done = subprocess.run(
            ["bash", "-n"], input=script, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
