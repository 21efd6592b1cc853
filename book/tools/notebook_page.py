"""Make an executed notebook a page: what it says about its own run, and what it keeps to itself."""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat

from fingerprint import installed_version
from parameters import Parameters, parameter_table

PROGRESS_BAR = re.compile(r"\d+%\||\dit/s|\ds/it|\?it/s")


def finish_notebook(
    path: Path,
    name: str,
    declared: Parameters,
    given: Parameters,
    execution: Parameters,
    *,
    times: str = "",
) -> None:
    """Make the executed notebook a page: its parameters explained, provenance at the foot.

    Nothing of this machine stays, and no time but that of the execution.

    Args:
        execution: what `describe_execution` says.
        times: the path from the page to the execution times; empty without such a page.
    """
    table = parameter_table(path, name)
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.papermill = {"parameters": given}
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
            cell.id = "injected-parameters"  # papermill's own is random
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress_bar(output)]
    if table:
        add_below_parameters(notebook, table, "parameters-table")
    if given:
        note = f"*This page was rerun with {assignments(given)} in place of the values above.*"
        add_below_parameters(notebook, note, "rerun-note")
    foot = provenance(name, declared | given, execution, times)
    notebook.cells.append(nbformat.v4.new_markdown_cell(foot, id="provenance"))
    nbformat.write(notebook, path)


def is_progress_bar(output: Any) -> bool:
    if output.output_type != "stream" or output.name != "stderr":
        return False
    return not output.text.strip() or bool(PROGRESS_BAR.search(output.text))


def add_below_parameters(notebook: Any, text: str, cell_id: str) -> None:
    """Put a text below the cell of defaults, or below the values given instead of them."""
    places = [
        index
        for index, cell in enumerate(notebook.cells)
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
    ]
    if places:
        notebook.cells.insert(places[-1] + 1, nbformat.v4.new_markdown_cell(text, id=cell_id))


def assignments(parameters: Parameters) -> str:
    return ", ".join(f"`{name} = {value!r}`" for name, value in parameters.items())


def papermill_command(name: str, parameters: Parameters) -> str:
    """The command that runs a notebook with these parameters; "5" stays a text."""
    flags = "".join(
        f" {flag(value)} {key} {shlex.quote(str(value))}" for key, value in parameters.items()
    )
    return f"papermill {name} out.ipynb{flags}"


def flag(value: Any) -> str:
    """The option of papermill that keeps a value as it is."""
    return "-r" if isinstance(value, str) and not is_plain_text(value) else "-p"


def is_plain_text(text: str) -> bool:
    """Whether papermill's -p leaves a text as it is."""
    try:
        float(text)
    except ValueError:
        return text not in {"True", "False", "None"}
    return False


def describe_execution(
    parameters: Parameters, root: Path, *, seconds: float, threads: int
) -> Parameters:
    """When and with what a notebook was executed, for the foot of its page."""
    versions = (f"{package} {installed_version(package)}" for package in ("torch", "radin"))
    return {
        "executed": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "seconds": round(seconds, 1),
        "commit": commit(root),
        "device": device_in_use(str(parameters.get("device", "auto")), threads),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
    }


def provenance(name: str, parameters: Parameters, execution: Parameters, times: str = "") -> str:
    """A folded box: what ran, when and on what, and the command that runs it again."""
    more = f"; see [Execution times]({times})" if times else ""
    return f"""\
::::{{admonition}} Provenance
:class: dropdown provenance

Parameters
: {assignments(parameters) or "none"}

Executed
: {execution["executed"]}, in {execution["seconds"]:.0f} s{more}

Commit
: {execution["commit"]}

Device
: {execution["device"]}

Versions
: {execution["versions"]}

To run this page again, at the same commit:

```bash
{papermill_command(name, parameters)}
```
::::"""


def commit(root: Path) -> str:
    revision = git(root, "rev-parse", "--short", "HEAD")
    if not revision:
        return "unknown"
    return f"`{revision}`" + (
        " with uncommitted changes" if git(root, "status", "--porcelain") else ""
    )


def device_in_use(choice: str, threads: int | None = None) -> str:
    """The device that the parameter `device` chose on this machine, for readers."""
    import torch

    from radin.inference.devices import pick_device

    device = pick_device(choice)
    if device.type == "cpu":
        number = threads or torch.get_num_threads()
        return f"cpu ({platform.machine()}, {number} thread{'s' * (number > 1)})"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device} ({name})"


def git(root: Path, *arguments: str) -> str:
    """What git prints; empty when it fails, is not installed, or root is not its top folder."""
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
