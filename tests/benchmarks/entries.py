"""Long measurements, saved one by one: a killed script continues with the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radin.files import atomic_path


class Entries:
    """Finished measurements in one JSON file.

    Args:
        zoos: what was measured; entries of other zoos are measured again.
    """

    def __init__(self, path: Path, zoos: str) -> None:
        self.path = path
        stored = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.content = stored if stored.get("zoos") == zoos else {"zoos": zoos, "entries": {}}

    def measure(self, name: str, work: Callable[[], Any]) -> None:
        """Call `work` and save what it returns, unless the file has the entry."""
        if name in self.content["entries"]:
            return
        self.content["entries"][name] = work()
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")
        print(name, json.dumps(self.content["entries"][name]), flush=True)
