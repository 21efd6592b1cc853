"""The page that says how long each notebook took, and on what machine."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from fingerprint import installed_version
from notebook_page import device_in_use
from parameters import Parameters, list_table
from radin.inference.devices import machine_memory_bytes


def times_page(executions: list[tuple[str, Parameters]]) -> str:
    """Hardware, and the seconds of each notebook by its name, as Markdown."""
    rows = [
        [f"[](../{name})", f"{execution['seconds']:.0f}", execution["executed"]]
        for name, execution in executions
    ]
    total = sum(execution["seconds"] for _, execution in executions)
    rows.append(["**All notebooks**", f"**{total:.0f}**", ""])
    head = ["Page", "Seconds", "Executed"]
    return f"{hardware()}\n\n{list_table([head, *rows], 'Execution times', 'tab-times')}\n"


def hardware() -> str:
    """This machine in a definition list."""
    facts = {
        "Processor": processor(),
        "Threads": f"{os.cpu_count()} in the machine",
        "Memory": memory(),
        "Device": device_in_use("auto"),
        "System": f"{platform.system()}, Python {platform.python_version()}",
        "Versions": ", ".join(
            f"{package} {installed_version(package)}" for package in ("torch", "numpy", "radin")
        ),
    }
    return "\n\n".join(f"{name}\n: {value}" for name, value in facts.items())


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        named = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE
        )
    except OSError:  # not Linux
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def memory() -> str:
    known = machine_memory_bytes()
    return f"{known / 2**30:.0f} GiB" if known else "unknown"
