"""The pages keep their word: every public name is there, every entry is cited, the example runs."""

from __future__ import annotations

import re

import torch
from PIL import Image
from safetensors.torch import save_file

import radin


def test_every_public_name_is_on_the_api_page(root):
    page = (root / "book" / "api.md").read_text("utf-8")
    missing = [name for name in radin.__all__ if not re.search(rf"\bradin\.(\w+\.)?{name}\b", page)]
    assert not missing


def test_every_module_is_on_the_api_page(root):
    page = (root / "book" / "api.md").read_text("utf-8")
    modules = {path.stem for path in (root / "radin").glob("*.py")} - {"__init__", "files", "cli"}
    exported = {
        vars(radin)[name].__module__
        for name in radin.__all__
        if hasattr(vars(radin)[name], "__module__")
    }
    missing = {name for name in modules if f"radin.{name}" not in page} - {
        name.split(".")[-1] for name in exported
    }
    assert not missing


def test_the_bibliography_holds_what_is_cited_and_nothing_else(root):
    entries = set(
        re.findall(r"^@\w+\{(\w+),", (root / "book" / "references.bib").read_text("utf-8"), re.M)
    )
    pages = [
        *(root / "book").glob("*.md"),
        *(root / "notebooks").glob("*.ipynb"),
    ]  # assignments cite nothing
    cites = re.findall(
        r"\{cite(?::\w+)?\}`([^`]+)`", "\n".join(page.read_text("utf-8") for page in pages)
    )
    assert {key.strip() for keys in cites for key in keys.split(",")} == entries


def test_the_glossary_is_in_order(root):
    words = re.findall(
        r"^(?!#|`|One|these|the )([\w’ -]+)\n  \S",
        (root / "book" / "glossary.md").read_text("utf-8"),
        re.M,
    )
    assert len(words) > 20
    assert words == sorted(words, key=str.lower)


def small_network(num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(3 * 7 * 7, num_classes)
    )


def test_the_example_on_own_checkpoints_runs_as_written(root, tmp_path, monkeypatch, capsys):
    page = (root / "book" / "rerun.md").read_text("utf-8").split("## Exercises")[0]
    blocks = [code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "radin." in code]
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.models.vit_b_32", small_network)  # 88 million weights less
    for part in ("val", "test"):
        for label in range(17):
            folder = tmp_path / "data" / "flowers" / part / f"class_{label:02d}"
            folder.mkdir(parents=True)
            Image.new("RGB", (40, 30), (15 * label, 255 - 15 * label, 90)).save(folder / "0.png")
    (tmp_path / "runs").mkdir()
    for k in range(3):
        torch.manual_seed(k)
        save_file(small_network(17).state_dict(), tmp_path / "runs" / f"{k}.safetensors")
    exec("\n".join(blocks), {})
    assert "radin: validation accuracy" in capsys.readouterr().out
    assert (tmp_path / "soup.safetensors").exists()
