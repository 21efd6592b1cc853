"""radin/checkpoints/zero_copy.py: zero-copy networks are equal to copies, and write no file."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers import CLASSES, build, save, save_states, state, tiny_split
from radin import Zoo
from radin.checkpoints.zero_copy import zero_copy_model
from radin.errors import ParameterError

IMAGES = tiny_split().images


def zoo_of(
    folder: Path, make: Callable[[], nn.Module], num_models: int = 2, suffix: str = ".safetensors"
) -> Zoo:
    states = []
    for seed in range(num_models):
        torch.manual_seed(seed)
        states.append(
            {
                key: torch.rand_like(t) if t.is_floating_point() else t
                for key, t in make().state_dict().items()
            }
        )
    return Zoo.open(save_states(folder, *states, suffix=suffix), make, progress=False)


def shares_memory(zoo: Zoo, k: int, model: nn.Module) -> bool:
    return all(t.data_ptr() == zoo[k][key].data_ptr() for key, t in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_zero_copy_model_is_equal_to_a_copy(tmp_path, suffix):
    zoo = zoo_of(tmp_path, build, suffix=suffix)
    for k in range(2):
        mapped = zoo.model(k, copy=False)
        copied = zoo.model(k)
        assert shares_memory(zoo, k, mapped)
        assert not any(
            t.data_ptr() == zoo[k][key].data_ptr() for key, t in copied.state_dict().items()
        )
        assert torch.equal(mapped(IMAGES), copied(IMAGES))
        assert not mapped.training
        assert not any(parameter.requires_grad for parameter in mapped.parameters())
        assert all(parameter.requires_grad for parameter in copied.parameters())
        assert repr(mapped) == repr(copied)


def test_a_state_dict_is_shared_with_the_caller(tmp_path):
    zoo, tensors = zoo_of(tmp_path, build), state(7)
    model = zoo.model(tensors, copy=False)
    tensors["3.bias"].fill_(5)
    assert model.state_dict()["3.bias"].tolist() == [5] * CLASSES


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_is_converted(tmp_path, dtype):
    tensors = {key: t.to(dtype) if "bias" in key else t for key, t in state(0).items()}
    zoo = Zoo.open([save(tensors, tmp_path / "a.pt")], build, progress=False)
    model = zoo.model(0, copy=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model(IMAGES), zoo.model(0)(IMAGES))
    assert model.state_dict()["1.weight"].data_ptr() == zoo[0]["1.weight"].data_ptr()


def test_writing_to_a_zero_copy_model_does_not_change_its_file(tmp_path):
    for suffix in (".safetensors", ".pt"):
        zoo = zoo_of(tmp_path / suffix, build, suffix=suffix)
        before = [path.read_bytes() for path in zoo.paths]
        for parameter in zoo.model(0, copy=False).parameters():
            parameter.zero_()
        assert [path.read_bytes() for path in zoo.paths] == before


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.linear = nn.Flatten(), nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.flatten(images)) + self.extra()

    def extra(self) -> Tensor | float:
        return 0.0


class Hidden(Base):
    """A buffer that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.arange(3.0), persistent=False)

    def extra(self) -> Tensor:
        return self.shift


class Plain(Base):
    """A tensor in a plain attribute, deep down."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = {"of": [("shift", torch.arange(3.0))]}

    def extra(self) -> Tensor:
        return self.tables["of"][0][1]


class Bound(Base):
    """A tensor inside a function."""

    def __init__(self) -> None:
        super().__init__()
        self.more = functools.partial(torch.add, torch.arange(3.0))

    def extra(self) -> Tensor:
        return self.more(1)


class Remembered(Base):
    """Its own parameters, in a list beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.all = list(self.linear.parameters())

    def extra(self) -> Tensor:
        return self.all[1] * 2


class Computing(Base):
    """Numbers that the constructor computes from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]

    def extra(self) -> float:
        return self.rates[2]


class Nameless(Base):
    """A function that cannot be pickled may hold a tensor."""

    def __init__(self) -> None:
        super().__init__()
        shift = torch.arange(3.0)
        self.more = lambda: shift

    def extra(self) -> Tensor:
        return self.more()


class Elsewhere(Base):
    """A buffer on a named device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.arange(3.0, device="cpu"), persistent=False)

    def extra(self) -> Tensor:
        return self.shift


def reparametrised() -> nn.Module:  # cannot be pickled either
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))


@pytest.mark.parametrize(
    "make", [Hidden, Plain, Bound, Remembered, Computing, Nameless, reparametrised]
)
def test_networks_that_need_computed_tensors_are_copied(tmp_path, make):
    zoo = zoo_of(tmp_path, make)
    model = zoo.model(1, copy=False)
    assert torch.equal(model(IMAGES), zoo.model(1)(IMAGES))
    assert not shares_memory(zoo, 1, model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert zero_copy_model(make, zoo[1], {}) is None


@pytest.mark.parametrize(
    "make",
    [
        Elsewhere,
        lambda: nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Flatten(2), nn.LSTM(4, 3, batch_first=True)),
        lambda: nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
    ],
)
def test_other_networks_share_memory(tmp_path, make):
    zoo = zoo_of(tmp_path, make)
    model, copied = zoo.model(1, copy=False), zoo.model(1)
    assert shares_memory(zoo, 1, model)
    answers = [each(IMAGES) for each in (model, copied)]
    assert torch.equal(*(answer[0] if isinstance(answer, tuple) else answer for answer in answers))


def test_tied_weights(tmp_path):
    def tied() -> nn.Module:
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second)

    torch.manual_seed(0)
    zoo = Zoo.open(save_states(tmp_path, tied().state_dict(), suffix=".pt"), tied, progress=False)
    assert torch.equal(zoo.model(0, copy=False)(IMAGES), zoo.model(0)(IMAGES))


def test_a_build_that_loads_weights_of_its_own(tmp_path):
    def pretrained() -> nn.Module:
        model = build()
        model.load_state_dict(state(50))
        return model

    zoo = zoo_of(tmp_path, pretrained)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = zoo.model(0, copy=False)
    assert torch.equal(model(IMAGES), zoo.model(0)(IMAGES))


def test_a_build_that_returns_one_network_twice(tmp_path):
    network = build()
    zoo = zoo_of(tmp_path, lambda: network)
    assert torch.equal(zoo.model(1, copy=False)(IMAGES), zoo.model(1)(IMAGES))


def test_a_build_that_fails_says_so(tmp_path):
    zoo = zoo_of(tmp_path, build)

    def broken() -> nn.Module:
        raise ValueError("no such width")

    zoo.build = broken
    for copy in (False, True):
        with pytest.raises(ValueError, match="no such width"):
            zoo.model(0, copy=copy)
    zoo.build = None
    with pytest.raises(ParameterError, match="build="):
        zoo.model(0, copy=False)


def test_a_state_dict_of_another_network_is_refused(tmp_path):
    zoo = zoo_of(tmp_path, build)
    short = {key: t for key, t in state(0).items() if key != "1.bias"}
    for tensors in (
        short,
        state(0) | {"more": torch.zeros(1)},
        state(0) | {"1.bias": torch.zeros(9)},
    ):
        for copy in (False, True):
            with pytest.raises(RuntimeError, match="Error\\(s\\) in loading state_dict"):
                zoo.model(tensors, copy=copy)


def test_many_threads_at_once_leave_warnings_as_they_were(tmp_path):
    zoo, before = zoo_of(tmp_path, build), list(warnings.filters)
    wrong = []

    def work(k: int) -> None:
        wrong.extend(
            1
            for _ in range(20)
            if not torch.equal(zoo.model(k, copy=False)(IMAGES), zoo.model(k)(IMAGES))
        )

    threads = [threading.Thread(target=work, args=(k % 2,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert warnings.filters == before
