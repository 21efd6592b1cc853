"""book/builders.md: its code and its command run as written, in order, in one folder."""

from __future__ import annotations

import glob
import os
import re
import shlex

import pytest
import torch
from PIL import Image

import radin
from radin.checkpoints.libraries import SPEC_FORMS
from radin.cli import main
from radin.data.samples import LABEL_KEYS

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "book" / "builders.md").read_text("utf-8")


@pytest.fixture(scope="module")
def executed(page, tmp_path_factory) -> dict[str, object]:
    """The folder after all blocks, and the names of the code."""
    folder = tmp_path_factory.mktemp("builders")
    torch.manual_seed(0)
    for name in "abc":
        config = transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=224,
            patch_size=112,
            num_labels=2,
        )
        model = transformers.ViTForImageClassification(config)
        model.save_pretrained(folder / "runs" / name)
    for label in range(2):
        for k in range(3):
            file = folder / "data" / "val" / f"class_{label}" / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 40), (250 * label, 80 * k, 100)).save(file)
    names: dict[str, object] = {"__name__": "builders"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for kind, text in BLOCK.findall(page):
            if kind == "python":
                exec(compile(text, "builders.md", "exec"), names)
            else:
                program, *words = shlex.split(text)
                assert program == "radin"
                arguments = [part for word in words for part in (sorted(glob.glob(word)) or [word])]
                assert main(arguments) == 0
    return {"folder": folder, "names": names}


def test_what_the_blocks_left(executed):
    names = executed["names"]
    assert names["bank"].logits.shape == (3, 12, 3)
    assert names["soup"].evaluations == 2
    direct = transformers.BertForSequenceClassification.from_pretrained(
        executed["folder"] / "texts" / "b"
    ).eval()
    batch = {
        key: torch.stack([row[key] for row in names["rows"]])
        for key in ("input_ids", "attention_mask")
    }
    with torch.no_grad():
        torch.testing.assert_close(
            names["bank"].logits[1], direct(**batch).logits, rtol=1e-5, atol=1e-6
        )
    for name in ("soup.safetensors", "texts.safetensors"):
        assert (executed["folder"] / name).is_file()


def test_the_tables_have_all_forms(page):
    for form in re.findall(r"[\w.]+:\w+", SPEC_FORMS):
        assert f"`{form}`" in page
    assert all(f"`{key}`" in page for key in LABEL_KEYS)
    assert radin.predict.__doc__.count("as_split")
