"""Run a program where it sees no network and no files but what grading needs.

    python sandbox.py bwrap folder program argument ...

The program may write below `folder` and in a /tmp of its own. It can read the folders of the system
and the paths of `READABLE_VARIABLE`: this Python, radin, the cache of trained zoos; not the class
and not the hidden tests. It is the same Python with the same packages as outside, so results are
the same. This file imports nothing slow, because it runs once for each submission.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

SANDBOXES = ("docker", "podman", "bwrap")
# Only that there is an image matters: programs and libraries are those of this machine.
IMAGE = "docker.io/library/busybox:stable"
MAX_SECONDS = 7200  # a container that nobody ends any more ends itself
READABLE_VARIABLE = "RADIN_SANDBOX_READABLE"  # paths, joined like those of PATH
SYSTEM_PATHS = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"),
    *("/etc/ld.so.cache", "/etc/alternatives", "/etc/passwd", "/etc/fonts", "/etc/localtime"),
)
# A kernel ends when the process of this number does, which it cannot see from inside.
PARENT = "JPY_PARENT_PID"
# Variables that a container gets from outside; bwrap hands on all of them.
VARIABLES = ("RADIN_", "OMP_", "IPYTHONDIR", "MPLBACKEND", "PYTHON", "TQDM_", "LANG", "LC_")


def check_sandbox(name: str) -> None:
    """Check that programs run in a sandbox on this machine.

    Raises:
        ClassroomError: there is no sandbox of this name, or it does not start; with the reason.
    """
    from submissions import ClassroomError

    if name not in SANDBOXES:
        raise ClassroomError(f"SANDBOX is one of {', '.join(SANDBOXES)}, not {name!r}")
    if not sys.platform.startswith("linux"):
        raise ClassroomError(f"SANDBOX={name} needs Linux; grade in a virtual machine instead")
    if shutil.which(name) is None:
        others = [other for other in SANDBOXES if shutil.which(other)]
        advice = f"use SANDBOX={others[0]}, which is there" if others else "install it"
        raise ClassroomError(
            f"SANDBOX={name}: there is no program {name} on this machine; {advice}, or grade "
            "without a sandbox"
        )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            wrap(name, folder, [sys.executable, "-c", "import radin"]),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=os.environ | sandbox_environment(),
        )
    if done.returncode:
        reason = (done.stderr.strip() or f"status {done.returncode}").splitlines()[0]
        raise ClassroomError(f"SANDBOX={name} does not start: {reason}")


def wrap(name: str, folder: str, command: list[str]) -> list[str]:
    """The command that runs another one in a sandbox; without a name the command itself.

    Args:
        name: of the sandbox, or empty.
        folder: in which the command may write. The path of a file means the folder of the file.
        command: a program and its arguments.
    """
    return [sys.executable, __file__, name, folder, *command] if name else command


def sandbox_environment() -> dict[str, str]:
    """What `main` needs in its environment: PATH, and what programs in the sandbox may read."""
    import radin
    from radin.files import cache_root

    cache = cache_root().absolute()
    cache.mkdir(parents=True, exist_ok=True)
    room = Path(radin.__file__).absolute().parent
    scripts = sorted(Path(__file__).resolve().parent.glob("*.py"))
    paths = [Path(sys.prefix), Path(sys.base_prefix), room, cache, *scripts]
    return {
        READABLE_VARIABLE: os.pathsep.join(dict.fromkeys(map(str, paths))),
        "RADIN_CACHE": str(cache),
        "PYTHONPATH": str(room.parent),
        # Worker processes that are used again have the PATH of the time they started.
        "PATH": os.environ["PATH"],
    }


def bwrap_command(folder: str, readable: list[str]) -> list[str]:
    """The start of a command for bubblewrap."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    for path in SYSTEM_PATHS:
        command += ["--ro-bind-try", path, path]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in readable:
        command += ["--ro-bind", path, path]
    command += ["--bind", folder, folder, "--chdir", "/tmp", "--setenv", "HOME", "/tmp"]
    return [*command, "--setenv", PARENT, "1"]


def container_command(name: str, folder: str, readable: list[str]) -> list[str]:
    """The start of a command for docker or podman."""
    command = [name, "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL"]
    command += ["--security-opt", "no-new-privileges", "--tmpfs", "/tmp:exec", "--workdir", "/tmp"]
    command += ["--name", f"radin-{uuid.uuid4().hex[:12]}", "--pids-limit", "512"]
    command += ["--userns", "keep-id"] if name == "podman" else []
    command += ["--user", f"{os.getuid()}:{os.getgid()}", "--env", "HOME=/tmp"]
    command += ["--env", f"{PARENT}=1"]
    for variable in sorted(os.environ):
        if variable.startswith(VARIABLES):
            command += ["--env", variable]
    for path in [*filter(os.path.exists, SYSTEM_PATHS), *readable]:
        command += ["--volume", f"{path}:{path}:ro"]
    command += ["--volume", f"{folder}:{folder}", IMAGE]
    return [*command, "/usr/bin/timeout", "-k", "5", str(MAX_SECONDS)]


def main(name: str, folder: str, *program: str) -> None:
    """Replace this process by a program in a sandbox."""
    writable = os.path.abspath(folder if os.path.isdir(folder) else os.path.dirname(folder))
    readable = os.environ[READABLE_VARIABLE].split(os.pathsep)
    readable += filter(None, [os.environ.get("IPYTHONDIR")])
    if name == "bwrap":
        command = bwrap_command(writable, readable)
    else:
        command = container_command(name, writable, readable)
    os.execvp(command[0], [*command, *program])


if __name__ == "__main__":
    main(*sys.argv[1:])
