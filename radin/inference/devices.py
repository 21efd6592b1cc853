"""Where to compute: the device, and how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from radin.errors import ParameterError


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device to compute on; "auto" is the GPU when there is one, else the CPU.

    Raises ParameterError for a device that torch does not know or this machine does not have.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # a device that exists can give a number back
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ParameterError(
            f"device={device!r} is not available here; use 'auto', 'cpu' or 'cuda'."
        ) from error
    return chosen


def memory() -> int:
    """Bytes that networks may take on the CPU while they work together: a quarter of the machine's memory."""
    return (machine_memory() or 2**33) // 4


def machine_memory() -> int | None:
    """Bytes of memory in this machine, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one CPU thread.

    On tiny networks a second thread costs more than it brings, and two programs at once that both ask
    for every core slow each other down tenfold.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
