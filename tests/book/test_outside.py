"""book/outside.md: its code and commands run as written, in order, in one folder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import radin
from radin.cli import main
from radin.experiments.bench.shipped import shipped_root

BLOCK = re.compile(r"^```(python|bash|yaml)\n(.*?)^```", re.M | re.S)
RANGE = re.compile(r"(\S*)\{(\d)\.\.(\d)\}")


def in_words(line: str) -> list[str]:
    """A command as bash gives it to a program: quotes and ranges are resolved."""

    def expand(match: re.Match[str]) -> str:
        return " ".join(f"{match[1]}{k}" for k in range(int(match[2]), int(match[3]) + 1))

    return shlex.split(RANGE.sub(expand, line))


@pytest.fixture(scope="module")
def executed(root, tmp_path_factory) -> dict[str, object]:
    """The folder after all blocks, what the commands printed, and the names of the code."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "downloads").mkdir()
    for k in range(3):
        source = shipped_root() / "cifar10" / f"ingredient_0{k}.safetensors"
        shutil.copy(source, folder / "downloads" / f"run_{k}.safetensors")
    save_file({"weight": torch.randn(8, 8)}, folder / "downloads" / "other.safetensors")
    names: dict[str, object] = {"__name__": "outside"}
    commands = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for kind, text in BLOCK.findall((root / "book" / "outside.md").read_text("utf-8")):
            if kind == "python":
                exec(compile(text, "outside.md", "exec"), names)
            for line in text.replace("\\\n", " ").splitlines() if kind == "bash" else ():
                program, *arguments = in_words(line)
                assert program == "radin"
                assert main(arguments) == 0, line
                commands.append(arguments[0])
    return {"folder": folder, "names": names, "commands": commands}


def test_all_commands_ran(executed):
    assert executed["commands"] == ["rank", "rank", "ask", "tell", "ask", "families", "average"]


def test_what_the_blocks_left(executed):
    folder: Path = executed["folder"]
    names = executed["names"]
    assert str(names["session"].soup) == str(
        radin.craft(names["bank"], names["bench"].evaluator(), 4)
    )
    ledger = json.loads((folder / "ledger.json").read_text("utf-8"))
    assert [trial["value"] for trial in ledger["trials"]] == [82.5, None]
    assert len((folder / "best.csv").read_text("utf-8").splitlines()) == 11
    assert (folder / "families.png").is_file()
    assert [path.stem for path in names["found"].largest] == ["run_0", "run_1", "run_2"]


def test_the_recipe_on_the_page_has_the_form_of_the_one_that_is_written(executed, root):
    text = (root / "book" / "outside.md").read_text("utf-8")
    (shown,) = [yaml.safe_load(block) for kind, block in BLOCK.findall(text) if kind == "yaml"]
    written = yaml.safe_load((executed["folder"] / "soup.yml").read_text("utf-8"))
    assert {k: v for k, v in shown.items() if k != "models"} == {
        k: v for k, v in written.items() if k != "models"
    }
    for recipe in (shown, written):
        assert all(re.fullmatch(r"models/run_\d", each["model"]) for each in recipe["models"])
        assert sum(each["parameters"]["weight"] for each in recipe["models"]) == pytest.approx(1)
        assert list(recipe) == ["merge_method", "models", "parameters", "dtype"]


def test_the_harness_s_samples_become_a_table(executed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        {"doc_id": 7, "target": "1", "filtered_resps": [["-3.5", "False"], ["-1.0", "True"]]},
        {"doc_id": 2, "target": "0", "filtered_resps": [["-0.5", "False"], ["-2.5", "False"]]},
    ]
    Path("samples.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    executed["names"]["logit_table"]("samples.jsonl").to_csv("model.csv", index=False)
    bank = radin.LogitBank.from_files(["model.csv"])
    assert bank.logits.tolist() == [[[-3.5, -1.0], [-0.5, -2.5]]]
    assert bank.labels.tolist() == [1, 0]
