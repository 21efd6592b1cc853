"""The pages keep their word: every public name is there, every entry is cited, the example runs."""

from __future__ import annotations

import ast
import operator
import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

import architecture
import radin


def api_pages(root: Path) -> str:
    """The text of the pages on the module, one after the other."""
    return "\n".join(page.read_text("utf-8") for page in sorted((root / "book").glob("api*.md")))


def test_every_public_name_is_on_an_api_page(root):
    page = api_pages(root)
    missing = [name for name in radin.__all__ if not re.search(rf"\bradin\.(\w+\.)?{name}\b", page)]
    assert not missing


def modules(root: Path) -> set[str]:
    """The dotted name of every module and room below `radin`."""
    names = set()
    for path in (root / "radin").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names - {"radin"}


def test_the_first_api_page_leads_to_all_others_and_shows_ten_functions(root):
    page = (root / "book" / "api.md").read_text("utf-8")
    others = {path.name for path in (root / "book").glob("api_*.md")}
    assert set(re.findall(r"\((api_\w+\.md)\)", page)) == others
    functions = re.findall(r"^\| \{py:\w+\}`radin\.([\w.]+)(?: <[\w.]+>)?` \|", page, re.M)
    assert len(functions) == 10
    assert all(callable(operator.attrgetter(name)(radin)) for name in functions)


def test_the_example_of_the_api_page_runs(root, capsys):
    page = (root / "book" / "api.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(code, {})
    assert re.search(r"regret: \d\.\d\d points", capsys.readouterr().out)


def test_every_module_is_on_an_api_page(root):
    page = api_pages(root)
    found = modules(root)
    assert len(found) > 70
    missing = {name for name in found if not re.search(rf"\b{re.escape(name)}\b", page)}
    assert missing == set()


WALK = re.compile(r"^## A .*?(?=^## |\Z)", re.M | re.S)
STEP = re.compile(r"^\d+\. .*(?:\n {4}.*)*", re.M)
FILE = re.compile(r"`((?:radin|book|notebooks|tests)/[\w/.]+\.\w+)`")
FUNCTION = re.compile(r"`([A-Za-z_][\w.]*)`")


def steps(root: Path) -> list[str]:
    page = (root / "book" / "architecture.md").read_text("utf-8")
    walks = WALK.findall(page)
    assert len(walks) == 3
    return [step for walk in walks for step in STEP.findall(walk)]


def defined(path: Path) -> set[str]:
    """The functions, classes and methods of a file; of a notebook the words of its cells."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return set(re.findall(r"\w+", text))
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if hasattr(each, "name")}
    return names


def test_every_file_and_function_of_the_walks_exists(root):
    found = steps(root)
    assert len(found) > 25
    for step in found:
        files = FILE.findall(step)
        assert files, f"this step names no file: {step}"
        for file in files:
            assert (root / file).is_file(), file
            if file.endswith(".md"):
                continue
            functions = FUNCTION.findall(re.sub(r"\{term\}`[^`]*`", "", step))
            assert functions, f"this step names no function: {step}"
            assert set(functions) <= defined(root / file), (file, functions)


def test_the_map_is_drawn_from_the_imports(root, tmp_path):
    page = tmp_path / "book" / "architecture.md"
    page.parent.mkdir()
    page.write_bytes((root / "book" / "architecture.md").read_bytes())
    architecture.write_architecture(tmp_path, root / "radin")
    text = page.read_text("utf-8")
    assert "inference imports" in text
    assert all(f"**`{architecture.shown(room)}`**" in text for room in architecture.FLOOR)
    picture = page.parent / architecture.PICTURE
    first = picture.read_bytes()
    assert first.startswith(b"<?xml")
    page.write_bytes((root / "book" / "architecture.md").read_bytes())
    architecture.write_architecture(tmp_path, root / "radin")
    assert picture.read_bytes() == first, "the same imports give the same picture"


def test_arrows_follow_a_made_up_module(tmp_path):
    for room, source in {
        "ranking": "import radin.files",
        "soup": "from radin.ranking import bank",
        "theory": "def late():\n    from radin.soup.save import save_soup\n    import radin.files",
    }.items():
        (tmp_path / room).mkdir()
        (tmp_path / room / "module.py").write_text(source)
    found = architecture.arrows(tmp_path)
    assert {room: others for room, others in found.items() if others} == {
        "ranking": {"files"},
        "soup": {"ranking"},
        "theory": {"soup", "files"},
    }
    assert architecture.without_detours(found)["theory"] == {"soup"}


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


def test_the_examples_on_own_checkpoints_and_recipes_run_as_written(
    root, tmp_path, monkeypatch, capsys
):
    page = (root / "book" / "rerun.md").read_text("utf-8").split("## Exercises")[0]
    blocks = [code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "radin." in code]
    assert len(blocks) == 3
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


def test_the_map_is_described_alike_in_every_process(root):
    # The rooms come from sets, whose order changes with Python's hash seed.
    program = (
        "from pathlib import Path; import architecture as a; "
        "print(a.described(a.without_detours(a.arrows(Path('radin')))))"
    )
    found = set()
    for seed in "0123":
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root / "book/tools")}
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1
