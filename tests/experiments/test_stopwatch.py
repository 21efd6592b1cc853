"""radin/experiments/zoos/stopwatch.py: seconds add up over interrupted runs, and then stay."""

from __future__ import annotations

import pytest

from radin.experiments.zoos import stopwatch as module
from radin.experiments.zoos.stopwatch import read_seconds, stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `wait` moves."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def interrupted(path, clock, seconds: float) -> None:
    with stopwatch(path):
        clock(seconds)
        raise KeyboardInterrupt


def test_seconds_add_up_until_the_block_ends(tmp_path, clock):
    path = tmp_path / "zoo.seconds"
    for seconds in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            interrupted(path, clock, seconds)
        assert read_seconds(path) == 0
    with stopwatch(path):
        clock(5)
    assert read_seconds(path) == 12
    with stopwatch(path):
        clock(50)
    assert read_seconds(path) == 12
    assert [file.name for file in tmp_path.iterdir()] == ["zoo.seconds"]
