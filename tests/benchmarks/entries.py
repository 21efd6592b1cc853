"""Measurements that take long, kept one by one: a killed script goes on with the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radin.files import atomic_path


class Entries:
    """Finished measurements, kept in one file."""

    def __init__(self, path: Path, zoos: str) -> None:
        self.path = path
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.content = known if known.get("zoos") == zoos else {"zoos": zoos, "entries": {}}

    def measure(self, name: str, work: Callable[[], Any]) -> None:
        if name in self.content["entries"]:
            return
        self.content["entries"][name] = work()
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")
        print(name, json.dumps(self.content["entries"][name]), flush=True)
