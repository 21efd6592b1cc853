"""radin/checkpoints/architectures.py: networks by name, and the colours of their training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers import save, tiny_split
from radin import Zoo, evaluator, load_split
from radin.checkpoints import architectures
from radin.checkpoints.architectures import builder
from radin.data.batches import fingerprint
from radin.data.splits import CLIP, ArraySplit, Normalised
from radin.errors import DataError, ParameterError

OWN = """
from torch import nn
from functools import partial

def build(num_classes):
    return nn.Linear(4, num_classes)

def plain():
    return nn.Linear(4, 3)

def optional(width=4, *, num_classes=3, **rest):
    return nn.Linear(width, num_classes)

def greedy(width):
    return nn.Linear(width, 3)

def number():
    return 7

def failing():
    raise ValueError("no such width\\nand more")

ready = partial(nn.Linear, 4, 5)
constant = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Modules of the user's own on Python's path."""
    (tmp_path / "my_own_networks.py").write_text(OWN)
    (tmp_path / "my_broken_networks.py").write_text("import a_library_that_is_not_there\n")
    (tmp_path / "my_unfinished_networks.py").write_text("def build(:\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(scope="module")
def clip():
    """The classifier of the published ingredients, with random weights.

    It is built once, because it has 88 million parameters.
    """
    torch.manual_seed(0)
    return builder("open_clip:ViT-B-32-quickgelu", 1000)().eval()


def test_the_clip_classifier_has_the_published_names_and_shapes(clip):
    state = clip.state_dict()
    visual = [key for key in state if key.startswith("model.visual.")]
    assert len(visual) == 152
    assert set(state) - set(visual) == {"classification_head.weight", "classification_head.bias"}
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    assert shapes["classification_head.weight"] == (1000, 512)
    assert shapes["classification_head.bias"] == (1000,)
    assert shapes["model.visual.conv1.weight"] == (768, 3, 32, 32)
    assert "model.visual.conv1.bias" not in shapes
    assert shapes["model.visual.class_embedding"] == (768,)
    assert shapes["model.visual.positional_embedding"] == (50, 768)
    assert shapes["model.visual.proj"] == (768, 512)
    assert shapes["model.visual.transformer.resblocks.11.attn.in_proj_weight"] == (2304, 768)
    assert shapes["model.visual.transformer.resblocks.0.mlp.c_fc.weight"] == (3072, 768)
    leftovers = (
        77 * 512 + 512 * 512 + 1 + 49408 * 512 + 2 * 512
    )  # of the text tower, in the published files
    assert sum(tensor.numel() for tensor in state.values()) + leftovers == 113_961_705


def test_the_clip_classifier_is_linear_in_features_of_length_one(clip):
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    seen = []
    hook = clip.classification_head.register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    with torch.inference_mode():
        logits = clip(images)
    hook.remove()
    assert logits.shape == (2, 1000)
    assert torch.allclose(seen[0].norm(dim=-1), torch.ones(2), atol=1e-5)
    head = clip.classification_head
    with torch.inference_mode():
        assert torch.allclose(logits, seen[0] @ head.weight.T + head.bias, atol=1e-5)
    assert not torch.equal(logits[0], logits[1])


def test_the_clip_classifier_has_the_other_gelu(clip):
    kinds = {type(module).__name__ for module in clip.modules()}
    assert "QuickGELU" in kinds
    assert "GELU" not in kinds


def test_published_files_fit_once_their_text_leftovers_are_skipped(tmp_path, monkeypatch):
    """With an image tower of one layer instead of the 88 million parameters."""
    import open_clip

    small = {
        "embed_dim": 8,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 8, "layers": 1, "width": 64},
    }
    small["vision_cfg"] |= {"patch_size": 4, "head_width": 32}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: small)
    build = builder("open_clip:ViT-B-32-quickgelu", 5)
    text = {
        key: torch.randn(3)
        for key in ("positional_embedding", "text_projection", "token_embedding.weight")
    }
    paths = []
    for k in range(2):
        torch.manual_seed(k)
        tensors = {
            **build().state_dict(),
            **{f"model.{key}": tensor for key, tensor in text.items()},
        }
        paths.append(save(tensors, tmp_path / f"model_{k}.pt"))
    zoo = Zoo.open(paths, build, progress=False, unused="skip")
    assert set(zoo.keys()) == set(build().state_dict())
    assert "skipped 3 keys" in zoo.notes[0]
    assert zoo.model(1)(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("spec", "size"),
    [("timm:resnet18", 32), ("timm:resnet18.a1_in1k", 32), ("torchvision:mobilenet_v3_small", 32)],
)
def test_other_libraries(spec, size):
    build = builder(spec, 7)
    assert build() is not build()
    with torch.inference_mode():
        assert build().eval()(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("build", 11), ("plain", 3), ("optional", 11), ("ready", 5)],
    ids=lambda value: str(value),
)
def test_a_function_of_the_users_own(own, name, outputs):
    model = builder(f"my_own_networks:{name}", 11)()
    assert isinstance(model, nn.Linear)
    assert model.out_features == outputs


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "",
            (
                "'' names no model; write open_clip:NAME, timm:NAME, torchvision:NAME, hf:FOLDER "
                "or package.module:function."
            ),
        ),
        ("resnet50", "'resnet50' names no model"),
        ("timm:", "'timm:' names no model"),
        (":build", "':build' names no model"),
        (
            "open_clip:ViT-B-32-quikgelu",
            "open_clip has no model 'ViT-B-32-quikgelu'; nearest are ViT-B-32-quickgelu,",
        ),
        ("open_clip:hf-hub:laion/CLIP", "open_clip has no model 'hf-hub:laion/CLIP'"),
        ("timm:resnet5O", "timm has no model 'resnet5O'; nearest are resnet50"),
        ("timm:hf-hub:timm/resnet18", "timm has no model 'hf-hub:timm/resnet18'"),
        ("torchvision:resnet5", "torchvision has no model 'resnet5'; nearest are resnet50"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no model"),
        (
            "torchvison:resnet50",
            "there is no module 'torchvison'; did you mean torchvision:resnet50?",
        ),
        ("open-clip:RN50", "there is no module 'open-clip'; did you mean open_clip:RN50?"),
        (
            "no_such_module_at_all.nets:build",
            "no module 'no_such_module_at_all'; write open_clip:NAME, timm:NAME",
        ),
        ("my_own_networks:bulid", "my_own_networks has no function 'bulid'; nearest is build."),
        ("my_own_networks:constant", "my_own_networks has no function 'constant'"),
        (
            "my_own_networks:greedy",
            "my_own_networks:greedy asks for width; a build function takes no argument",
        ),
        (
            "my_broken_networks:build",
            "importing my_broken_networks failed (No module named 'a_library_that_is_not",
        ),
        ("my_unfinished_networks:build", "importing my_unfinished_networks failed (invalid syntax"),
        ("...:build", "importing ... failed"),
    ],
)
def test_wrong_specs(own, spec, message):
    with pytest.raises(ParameterError) as refused:
        builder(spec, 3)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_functions_that_build_nothing(own):
    with pytest.raises(
        ParameterError,
        match="my_own_networks:number returned a int; it must return a torch.nn.Module",
    ):
        builder("my_own_networks:number", 3)()
    with pytest.raises(
        ParameterError, match="my_own_networks:failing failed .no such width.; fix that function"
    ):
        builder("my_own_networks:failing", 3)()
    with pytest.raises(
        ParameterError, match="num_classes must be a whole number of at least 1, not 0"
    ):
        builder("my_own_networks:build", 0)


@pytest.mark.parametrize(
    ("spec", "package"),
    [("open_clip:RN50", "open_clip_torch"), ("timm:resnet18", "timm"), ("torchvision:a", "torchv")],
)
def test_a_library_that_is_not_installed(spec, package, monkeypatch):
    ordinary = architectures.importlib.import_module

    def without(name, *rest):
        if name.split(".")[0] == spec.split(":")[0]:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return ordinary(name, *rest)

    monkeypatch.setattr(architectures.importlib, "import_module", without)
    with pytest.raises(
        ParameterError, match=f"cannot be imported .No module named .*pip install {package}"
    ):
        builder(spec, 3)


def test_nothing_is_downloaded(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))
    builder("open_clip:RN50", 3)
    builder("timm:resnet10t", 3)()
    builder("torchvision:squeezenet1_1", 3)()


# Colours -----------------------------------------------------------------------------------------


def photos() -> ArraySplit:
    """Two images of three channels, from -1 to 1."""
    images = torch.stack([torch.full((3, 2, 2), -1.0), torch.full((3, 2, 2), 1.0)])
    return ArraySplit("photos", "val", images, torch.tensor([0, 1]), ["a", "b"])


def test_colours_are_those_of_torchvision():
    from torchvision.transforms import Normalize

    split = Normalised(photos(), *CLIP)
    for i, level in enumerate((0.0, 1.0)):
        image, label = split[i]
        assert torch.allclose(image, Normalize(*CLIP)(torch.full((3, 2, 2), level)), atol=1e-6)
        assert label == i
    assert (len(split), split.num_classes, split.class_names) == (2, 2, ["a", "b"])
    assert repr(split) == "Normalised(photos, val: 2 images, 2 classes)"


def test_a_mean_and_deviation_of_one_half_change_nothing():
    split = Normalised(photos(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert all(torch.equal(split[i][0], photos()[i][0]) for i in range(2))


def test_fingerprints_tell_colours_and_images_apart():
    half = (0.5, 0.5, 0.5)
    splits = [photos(), Normalised(photos(), half, half), Normalised(photos(), *CLIP)]
    prints = [fingerprint(split) for split in splits]
    assert len(set(prints)) == 3
    assert prints[2] == fingerprint(Normalised(photos(), *CLIP))


def test_a_normalised_split_is_evaluated(tmp_path):
    class Shifted(nn.Module):
        """Answers by the sign of the first pixel."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, images):
            first = images[:, 0, 0, 0] * self.scale
            return torch.stack([-first, first], 1)

    zoo = Zoo.open(
        [save(Shifted().state_dict(), tmp_path / "a.safetensors")], Shifted, progress=False
    )
    assert evaluator(zoo, photos())([1.0]) == 100
    assert (
        evaluator(zoo, Normalised(photos(), (2, 2, 2), (1, 1, 1)))([1.0]) == 50
    )  # everything is below the mean


def test_impossible_colours():
    for mean, std in (
        ((0.5,), (0.5, 0.5)),
        ((), ()),
        ((0.5,) * 3, (0.5, 0.0, 0.5)),
        ((float("nan"),), (1.0,)),
    ):
        with pytest.raises(ParameterError, match="mean and std"):
            Normalised(photos(), mean, std)
    with pytest.raises(DataError, match="an image of 1 channel, but mean and std have 3 numbers"):
        Normalised(load_split("digits", "val"), *CLIP)[0]
    with pytest.raises(DataError, match="an image of 1 channel,"):
        Normalised(tiny_split(), *CLIP)[0]
