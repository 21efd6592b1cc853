"""Where to compute: the device, its memory, and how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from radin.errors import ParameterError

ASSUMED_MEMORY_BYTES = 2**33  # of a machine that does not report its memory


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device to compute on; "auto" is the GPU when there is one, else the CPU.

    Raises:
        ParameterError: torch does not know the device, or this machine does not have it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # fails on a device that this machine does not have
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ParameterError(
            f"device={device!r} is not available here; use 'auto', 'cpu' or 'cuda'."
        ) from error
    return chosen


def network_memory_bytes() -> int:
    """Bytes that networks may use together on the CPU: a quarter of the machine's memory."""
    return (machine_memory_bytes() or ASSUMED_MEMORY_BYTES) // 4


def machine_memory_bytes() -> int | None:
    """Bytes of memory in this machine; None where the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one CPU thread.

    On tiny networks a second thread costs more time than it saves, and two programs that both ask
    for every core slow each other down tenfold.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
