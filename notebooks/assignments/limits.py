"""Limits for the process that runs a student's cells: output, memory and files.

Without them a loop that prints, or a list that grows, takes the memory of the whole machine, and
with it the grading of everybody else.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_OUTPUT_CHARACTERS = 5_000_000  # of one cell
MIN_CHARACTERS_PER_WRITE = 20  # what a message costs however short it is
MAX_ERROR_CHARACTERS = 100_000
MAX_FILE_BYTES = 2 << 30
MIN_MEMORY_BYTES = 4 << 30  # torch and numba ask for much that they never use
MEMORY_VARIABLE = "RADIN_KERNEL_MEMORY"  # bytes, in the environment of the process


class OutputLimitError(RuntimeError):
    """A cell prints or shows too much."""


class _Used:
    """The characters that the present cell has sent."""

    def __init__(self) -> None:
        self.characters = 0

    def reset(self, _: object = None) -> None:
        self.characters = 0

    def add(self, characters: int) -> bool:
        """Whether so many more may be sent; they count only then."""
        fits = self.characters + characters <= MAX_OUTPUT_CHARACTERS
        if fits:
            self.characters += max(characters, MIN_CHARACTERS_PER_WRITE)
        return fits


def memory_per_process(workers: int) -> int:
    """Bytes that each of so many processes may use, on this machine or in its container."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # Windows
        return MIN_MEMORY_BYTES
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(MIN_MEMORY_BYTES, total // workers)


def limit_process() -> None:
    """Limit the memory and the files of this process, where the system can; for good."""
    try:
        import resource
    except ImportError:  # Windows
        return
    memory = int(os.environ.get(MEMORY_VARIABLE, 0))
    with contextlib.suppress(ValueError, OSError):
        if memory:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))


def install(shell: Any) -> None:
    """Limit the kernel whose shell this is. A cell that goes beyond stops with an error."""
    used = _Used()
    shell.events.register("pre_run_cell", used.reset)
    _limit_streams(used)
    _limit_displays(shell, used)
    _limit_errors(shell)
    limit_process()


def write_startup(ipython_folder: Path) -> None:
    """Write the start-up file with which every kernel of an IPYTHONDIR limits itself."""
    startup = ipython_folder / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    # One expression, so that the student's cells find no new names.
    text = f"__import__('runpy').run_path({str(Path(__file__))!r})['install'](get_ipython())\n"
    (startup / "00-limits.py").write_text(text, "utf-8")


def _too_much() -> OutputLimitError:
    return OutputLimitError(
        f"the cell prints or shows more than {MAX_OUTPUT_CHARACTERS:,} characters; print less"
    )


def _limit_streams(used: _Used) -> None:
    from ipykernel.iostream import OutStream

    write = OutStream.write

    def limited(self: Any, string: str) -> int | None:
        if used.add(len(string)):
            return write(self, string)
        if threading.current_thread() is threading.main_thread():
            raise _too_much()
        return len(string)  # an error would end the thread that reads what programs print

    OutStream.write = limited  # type: ignore[method-assign]
    _silence_copies()


def _silence_copies() -> None:
    """Keep what programs print in a cell off the teacher's terminal; ipykernel copies it there."""
    for stream in (sys.stdout, sys.stderr):
        descriptor = getattr(stream, "_original_stdstream_copy", None)
        if descriptor is not None:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), descriptor)


def _limit_displays(shell: Any, used: _Used) -> None:
    publish = shell.display_pub.publish
    write_result = shell.displayhook.write_format_data

    def check(data: Mapping[str, Any]) -> None:
        texts = [each for each in data.values() if isinstance(each, str | bytes)]
        if not used.add(sum(map(len, texts))):
            raise _too_much()

    def limited_publish(data: Mapping[str, Any], *arguments: Any, **options: Any) -> None:
        check(data)
        publish(data, *arguments, **options)

    def limited_result(data: Mapping[str, Any], *arguments: Any, **options: Any) -> None:
        check(data)
        write_result(data, *arguments, **options)

    shell.display_pub.publish = limited_publish
    shell.displayhook.write_format_data = limited_result


def _limit_errors(shell: Any) -> None:
    show = shell._showtraceback

    def limited(kind: type[BaseException], error: BaseException, lines: list[str]) -> None:
        with contextlib.suppress(Exception):  # of an exception of the student's own
            if len(str(error)) > MAX_ERROR_CHARACTERS:
                error.args = (f"{str(error)[:1000]}...",)
        if sum(map(len, lines)) > MAX_ERROR_CHARACTERS:
            lines = [f"{line[:1000]}..." for line in lines[-20:]]
        show(kind, error, lines)

    shell._showtraceback = limited
