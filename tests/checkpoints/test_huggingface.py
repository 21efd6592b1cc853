"""radin/checkpoints/huggingface.py and `--model hf:FOLDER`, on folders that transformers wrote."""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

import radin
from radin.checkpoints import huggingface
from radin.checkpoints.architectures import builder
from radin.checkpoints.huggingface import label_names, preprocessing
from radin.cli import main
from radin.errors import CheckpointError, ParameterError

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

CLASSES = ["cat", "dog", "owl"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3}
TEXT = {"vocab_size": 30, "max_position_embeddings": 16}
IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(1, 30, (6, 5), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 1, 0, 0]] * 3 + [[1] * 5] * 3)
LABELS = [0, 1, 2, 2, 1, 0]


def vit_config(**options: object) -> object:
    return transformers.ViTConfig(
        **SMALL, intermediate_size=32, image_size=8, patch_size=4, **options
    )


MODELS = {
    "ViTForImageClassification": vit_config,
    "ResNetForImageClassification": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3
    ),
    "BertForSequenceClassification": lambda: transformers.BertConfig(
        **SMALL, **TEXT, intermediate_size=32
    ),
    "DistilBertForSequenceClassification": lambda: transformers.DistilBertConfig(
        dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=3, **TEXT
    ),
    "GPT2ForSequenceClassification": lambda: transformers.GPT2Config(
        vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=16, num_labels=3, pad_token_id=0
    ),
    "LlamaForSequenceClassification": lambda: transformers.LlamaConfig(
        **SMALL, **TEXT, num_key_value_heads=2, intermediate_size=32, pad_token_id=0
    ),
}


def save_runs(folder: Path, name: str, count: int = 3, **options: object) -> list[nn.Module]:
    """Networks of one start, saved by transformers as run_0, run_1, ..."""
    torch.manual_seed(0)
    start = getattr(transformers, name)(MODELS[name]()).eval()
    models = []
    for k in range(count):
        model = copy.deepcopy(start)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder / f"run_{k}", **options)
        models.append(model)
    return models


def inputs_of(name: str) -> dict[str, Tensor]:
    if "Image" in name:
        return {"pixel_values": IMAGES}
    return {"input_ids": TOKENS, "attention_mask": MASK}


def items_of(name: str) -> list[dict[str, object]]:
    inputs = inputs_of(name)
    return [
        {key: tensor[i] for key, tensor in inputs.items()} | {"label": LABELS[i]} for i in range(6)
    ]


def logits_of(model: nn.Module, name: str) -> Tensor:
    with torch.no_grad():
        return model(**inputs_of(name)).logits


@pytest.mark.parametrize("name", MODELS)
def test_networks_give_the_logits_of_the_library(name, tmp_path):
    models = save_runs(tmp_path, name)
    build = builder(f"hf:{tmp_path / 'run_0'}", 3)
    zoo = radin.Zoo.open(f"{tmp_path}/run_*", build, progress=False)
    assert list(build().state_dict()) == list(models[0].state_dict())
    bank = radin.predict(zoo, items_of(name), "cpu", batch_size=4, cache=False, progress=False)
    for k, model in enumerate(models):
        expected = logits_of(model, name)
        torch.testing.assert_close(bank.logits[k], expected, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            own = zoo.model(k)
            assert torch.equal(own(**inputs_of(name)), expected)
            assert torch.equal(own(inputs_of(name)), expected)
            only = next(iter(inputs_of(name).values()))
            assert torch.equal(own(only), model(only).logits)
    assert torch.equal(
        pickle.loads(pickle.dumps(zoo.model(0)))(inputs_of(name)), zoo.model(0)(inputs_of(name))
    )
    loader = DataLoader(items_of(name), batch_size=2)
    assert radin.evaluator(zoo, loader, "cpu")([1 / 3] * 3) == radin.evaluator(
        zoo, items_of(name), "cpu"
    )([1 / 3] * 3)


@pytest.mark.parametrize("name", list(MODELS)[:3])
def test_the_library_opens_the_soup(name, tmp_path):
    save_runs(tmp_path, name)
    zoo = radin.Zoo.open(
        f"{tmp_path}/run_*", builder(f"hf:{tmp_path / 'run_0'}", 3), progress=False
    )
    soup = tmp_path / "soup"
    soup.mkdir()
    shutil.copy(tmp_path / "run_0" / "config.json", soup)
    radin.save_soup(zoo, [0.5, 0.25, 0.25], soup / "model.safetensors")
    model, report = getattr(transformers, name).from_pretrained(soup, output_loading_info=True)
    assert not any(report.values())
    found, _ = radin.soup_logits(zoo, [0.5, 0.25, 0.25], items_of(name), "cpu")
    torch.testing.assert_close(logits_of(model.eval(), name), found, rtol=1e-5, atol=1e-6)


def test_a_bench_of_sentences(tmp_path):
    name = "BertForSequenceClassification"
    save_runs(tmp_path, name)
    zoo = radin.Zoo.open(
        f"{tmp_path}/run_*", builder(f"hf:{tmp_path / 'run_0'}", 3), progress=False
    )
    bench = radin.SoupBench.build(
        zoo, items_of(name), items_of(name), "cpu", cache=False, progress=False
    )
    evaluate = radin.evaluator(zoo, items_of(name), "cpu")
    for weights, accuracy in zip(radin.exhaustive(3), bench.soups("val"), strict=True):
        assert evaluate(weights) == pytest.approx(accuracy.item())


# Folders -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_runs(folder, "ViTForImageClassification", 1)
    return folder / "run_0"


def with_config(saved: Path, folder: Path, **changes: object) -> Path:
    """A copy of a saved folder, with other entries in its config.json; None removes one."""
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text("utf-8")) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def test_a_model_type_with_one_classifier_needs_no_name(saved, tmp_path):
    folder = with_config(saved, tmp_path / "run", architectures=None)
    assert type(builder(f"hf:{folder}", 3)()).__name__ == "ViTForImageClassification"
    assert builder(f"hf:{folder / 'config.json'}", 3)().num_labels == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["ViTModel"]}, "is of a ViTModel, which classifies neither"),
        ({"model_type": "no_such_model"}, "transformers knows no model"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}},
            "needs code that comes with the model, and radin does not run that",
        ),
        ({"hidden_act": "no_such_act"}, "cannot build ViTForImageClassification"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": None}, "has 2 classes .*the data 3"),
    ],
)
def test_configs_that_fit_no_network(saved, tmp_path, changes, message):
    folder = with_config(saved, tmp_path / "run", **changes)
    (folder / "code.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(ParameterError, match=message):
        builder(f"hf:{folder}", 3)()


def test_folders_without_a_config(tmp_path):
    for found in ("no folder", "no config.json in"):
        with pytest.raises(ParameterError, match=f"there is {found} .*--online"):
            builder(f"hf:{tmp_path / 'run'}", 3)
        (tmp_path / "run").mkdir(exist_ok=True)
    for content, message in (("{", "could not be read"), ("[]", "holds no object")):
        (tmp_path / "run" / "config.json").write_text(content)
        with pytest.raises(ParameterError, match=message):
            builder(f"hf:{tmp_path / 'run'}", 3)


def test_the_network_is_asked_only_where_the_user_says_so(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))
    builder(f"hf:{saved}", 3)()
    with pytest.raises(ParameterError, match="allow --online"):
        builder("hf:owner/name", 3)
    asked = []

    def from_hub(name, *, local_files_only, trust_remote_code):
        asked.append((str(name), local_files_only, trust_remote_code))
        return vit_config()

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", from_hub)
    builder("hf:owner/name", 3, online=True)()
    builder(f"hf:{saved}", 3, online=True)()
    assert asked == [("owner/name", False, False), (str(saved), True, False)]


def test_without_the_library(monkeypatch, saved):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr("radin.checkpoints.libraries.importlib.import_module", missing)
    with pytest.raises(ParameterError, match="pip install transformers"):
        builder(f"hf:{saved}", 3)


def test_other_names_of_the_module_do_not_exist():
    with pytest.raises(AttributeError, match="no attribute 'NoSuchModel'"):
        huggingface.NoSuchModel  # noqa: B018


def test_names_of_classes(saved, tmp_path):
    assert label_names(str(saved)) == []  # LABEL_0, LABEL_1 are no names
    folder = with_config(saved, tmp_path / "run", id2label={"1": "b", "0": "a", "10": "c"})
    assert label_names(str(folder)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_mean": [0.1], "image_std": [0.2], "size": {"height": 8, "width": 8}}, ([0.1], 8)),
        ({"image_mean": [0.1], "image_std": [0.2], "size": 12}, ([0.1], 12)),
        (
            {
                "image_mean": [0.1],
                "image_std": [0.2],
                "size": {"shortest_edge": 16},
                "crop_size": {"height": 8, "width": 8},
            },
            ([0.1], 8),
        ),
        ({"do_normalize": False, "size": {"height": 8, "width": 9}}, ([0.0] * 3, None)),
    ],
)
def test_colours_and_size_are_those_of_the_processor(saved, tmp_path, options, expected):
    folder = with_config(saved, tmp_path / "run")
    assert preprocessing(str(folder)) is None
    (folder / "preprocessor_config.json").write_text(json.dumps(options))
    found = preprocessing(str(folder))
    assert (found.mean, found.size) == expected


def test_pixels_of_another_range_are_refused(saved, tmp_path):
    folder = with_config(saved, tmp_path / "run")
    (folder / "preprocessor_config.json").write_text('{"rescale_factor": 0.5}')
    with pytest.raises(ParameterError, match=r"pixels do not run from 0 to 1.*--mean"):
        preprocessing(str(folder))


# The command line --------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """Three runs of a vision transformer in shards, and images of three classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    save_runs(tmp_path / "runs", "ViTForImageClassification", max_shard_size="8KB")
    for label, name in enumerate(CLASSES):
        for k in range(4):
            file = tmp_path / "data" / "val" / name / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), (80 * label, 60 * k, 200 - 50 * label)).save(file)
    return tmp_path


def set_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def evaluate_run(capsys, *options: str) -> float:
    """The loss of run_1, as the command line prints it."""
    command = ["evaluate", "runs/run_1", "--model", "hf:runs/run_1", "--metric", "nll"]
    assert main([*command, "--data", "imagenet-folder:data", "--device", "cpu", *options]) == 0
    return float(re.search(r"nll ([\d.]+)", capsys.readouterr().out)[1])


def test_craft_and_evaluate_sharded_folders(workplace, capsys):
    assert (workplace / "runs" / "run_0" / "model.safetensors.index.json").is_file()
    folders = [f"runs/run_{k}/" for k in range(3)]
    options = ["--model", "hf:runs/run_0", "--data", "imagenet-folder:data", "--device", "cpu"]
    options += ["--size", "8"]
    assert main(["craft", *folders, *options, "--budget", "2", "--out", "soup.safetensors"]) == 0
    assert "wrote soup.safetensors" in capsys.readouterr().out
    assert main(["evaluate", "soup.safetensors", *options]) == 0
    assert "on val, 12 images" in capsys.readouterr().out
    assert main(["rank", "runs/*/", *options]) == 0


def test_colours_come_from_the_folder(workplace, capsys):
    own = {"image_mean": [0.9, 0.1, 0.3], "image_std": [0.1, 0.2, 0.3], "size": {"height": 8}}
    path = workplace / "runs" / "run_1" / "preprocessor_config.json"
    path.write_text(json.dumps(own), "utf-8")
    same = ["--size", "8", "--mean", "0.9,0.1,0.3", "--std", "0.1,0.2,0.3"]
    other = ["--size", "8", "--normalise", "none"]
    found = [evaluate_run(capsys, *options) for options in ([], same, other)]
    assert found[0] == found[1] != found[2]


def test_classes_in_another_order_are_put_in_order(workplace, capsys):
    ordered = evaluate_run(capsys, "--size", "8")
    names = {str(k): name for k, name in enumerate(CLASSES)}
    set_config(workplace / "runs" / "run_1", id2label=names)
    assert evaluate_run(capsys, "--size", "8") == ordered
    model = transformers.ViTForImageClassification.from_pretrained("runs/run_1")
    order = [2, 0, 1]  # logit k of the other network is class order[k]
    model.classifier.weight.data = model.classifier.weight.data[order]
    model.classifier.bias.data = model.classifier.bias.data[order]
    model.config.id2label = {k: CLASSES[c] for k, c in enumerate(order)}
    shutil.rmtree("runs/run_1")
    model.save_pretrained("runs/run_1")
    assert evaluate_run(capsys, "--size", "8") == ordered


def test_runs_with_other_classes_are_not_averaged(workplace, capsys):
    for k, order in enumerate(((0, 1, 2), (0, 1, 2), (0, 2, 1))):
        names = {str(j): CLASSES[c] for j, c in enumerate(order)}
        set_config(workplace / "runs" / f"run_{k}", id2label=names)
    options = ["--model", "hf:runs/run_0", "--data", "imagenet-folder:data", "--size", "8"]
    assert main(["rank", "runs/*/", *options, "--device", "cpu"]) == 1
    assert "'owl' in the place of 'dog'; such networks cannot" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        huggingface.check_same_classes([Path(f"runs/run_{k}/model.bin") for k in range(3)])


# Other savers ------------------------------------------------------------------------------------


def test_what_a_trainer_leaves_beside_the_weights(workplace, capsys):
    """The files of transformers' Trainer, by their names."""
    for k in range(3):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            torch.save({"step": 1}, workplace / "runs" / f"run_{k}" / name)
        (workplace / "runs" / f"run_{k}" / "trainer_state.json").write_text("{}")
    options = ["--model", "hf:runs/run_0", "--data", "imagenet-folder:data", "--size", "8"]
    assert main(["rank", "runs/*/", *options, "--device", "cpu"]) == 0


def test_checkpoints_of_lightning_by_their_layout(tmp_path):
    """What Trainer.save_checkpoint writes of a LightningModule whose `model` is a transformer."""
    models = save_runs(tmp_path, "ViTForImageClassification")
    for k, model in enumerate(models):
        content = {
            "epoch": 3,
            "global_step": 40,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {f"model.{key}": t for key, t in model.state_dict().items()},
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {},
            "optimizer_states": [{"state": {}, "param_groups": []}],
            "lr_schedulers": [],
            "hyper_parameters": {"lr": 0.1},
        }
        torch.save(content, tmp_path / f"epoch={k}.ckpt")
    build = builder(f"hf:{tmp_path / 'run_0'}", 3)
    zoo = radin.Zoo.open(f"{tmp_path}/*.ckpt", build, progress=False)
    for k, model in enumerate(models):
        with torch.no_grad():
            assert torch.equal(zoo.model(k)(IMAGES), model(IMAGES).logits)


def test_checkpoints_of_the_saver_of_timm(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from timm.utils import CheckpointSaver, ModelEmaV3

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3)
    optimizer = torch.optim.AdamW(model.parameters())
    averaged = ModelEmaV3(model)
    saver = CheckpointSaver(
        model,
        optimizer,
        args=argparse.Namespace(model="resnet10t", lr=0.1),
        model_ema=averaged,
        checkpoint_dir=str(tmp_path),
        max_history=3,
    )
    first_key = next(iter(model.state_dict()))
    weights = []
    for epoch in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01
        weights.append(model.state_dict()[first_key].clone())
        saver.save_checkpoint(epoch, metric=float(epoch % 2))
    build = builder("timm:resnet10t", 3)
    zoo = radin.Zoo.open(tmp_path, build, progress=False)
    assert len(zoo) == 3, "last and model_best are further names of two of the epochs"
    stored = [zoo[k][first_key] for k in range(3)]
    assert all(torch.equal(*pair) for pair in zip(stored, weights, strict=True))
    ema = radin.Zoo.open(tmp_path, build, ema=True, progress=False)
    assert torch.equal(ema[0][first_key], averaged.module.state_dict()[first_key])
