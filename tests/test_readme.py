"""README.md: its example runs as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys


def test_the_example_runs_as_written(root, radin_cache, tmp_path):
    readme = root / "README.md"
    assert readme.is_file(), "there is no README.md"
    blocks = re.findall(r"^```python\n(.*?)^```", readme.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert blocks, "README.md has no python example"
    done = subprocess.run(
        [sys.executable, "-c", blocks[0]],
        cwd=tmp_path,
        env=os.environ | {"RADIN_CACHE": str(radin_cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(lines) <= 10, "it is called ten lines"
    summary, tested = done.stdout.splitlines()
    assert summary.startswith("radin: validation accuracy ")
    assert "4 of 4 evaluations spent" in summary
    assert 50 < float(tested.removeprefix("test accuracy: ")) <= 100
    assert (tmp_path / "soup.safetensors").is_file()
