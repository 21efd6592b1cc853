"""radin/checkpoints/dtypes.py: every dtype of torch is averaged, copied or refused, as the book's
table says.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers import build, save, save_states, state, tiny_split
from radin import Zoo, average, save_soup
from radin.checkpoints.dtypes import (
    AVERAGED,
    COMPLEX,
    COPIED,
    FLOATS,
    SMALL_FLOATS,
    WHOLE_NUMBERS,
    can_hold_nan,
    to_precision,
    widest,
)
from radin.errors import CheckpointError, ParameterError
from radin.inference.forward import images_for_model, move_model
from radin.recipes.mixture import Mixture
from radin.theory.second_order import single_precision
from radin.theory.taylor import directions
from radin.theory.weight_geometry import weight_products

ALL_DTYPES = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
SAVED_DTYPES = AVERAGED - {torch.complex32, torch.complex128}  # safetensors has no others


def open_zoo(*paths: Path, **options: object) -> Zoo:
    return Zoo.open(paths, progress=False, **options)


def table_rows(root: Path) -> list[list[str]]:
    """The cells of the rows of the page's table of dtypes."""
    page = (root / "book" / "inputs.md").read_text("utf-8")
    table = page.split(":name: tab-dtypes")[1].split("```")[0]
    rows = [re.split(r"\n  - ", row.strip()) for row in re.split(r"\n\* - ", table)[1:]]
    return rows[1:]


def test_the_book_s_table_is_what_the_code_does(root):
    found = {}
    for names, action, _, nan in table_rows(root):
        for name in re.findall(r"`(\w+)`", names):
            found[getattr(torch, name)] = (action, nan)
    *_, others = table_rows(root)
    assert others[0].startswith("all others")
    for dtype in ALL_DTYPES:
        action, nan = found.get(dtype, ("refused", "refused"))
        assert (action == "averaged") == (dtype in AVERAGED), dtype
        assert (action == "copied") == (dtype in COPIED), dtype
        if dtype in AVERAGED or dtype in WHOLE_NUMBERS:
            assert nan.startswith("refused" if can_hold_nan(dtype) else "none"), dtype


def numbers(dtype: torch.dtype, seed: int, *shape: int) -> Tensor:
    """Random eighths, which every floating-point dtype of eight bits or more holds exactly."""
    rng = torch.Generator().manual_seed(seed)
    real = torch.randint(-7, 8, (*shape, 2), generator=rng) / 8
    if dtype in COMPLEX:
        return torch.view_as_complex(real).to(dtype)
    return real[..., 0].to(dtype).clone()


def exact_mean(one: Tensor, other: Tensor) -> Tensor:
    wide = torch.complex128 if one.is_complex() else torch.float64
    return (one.to(wide) + other.to(wide)) / 2


@pytest.mark.parametrize("dtype", sorted(AVERAGED, key=str))
def test_each_averaged_dtype_is_averaged_in_both_parts(tmp_path, dtype):
    one, other = ({"w": numbers(dtype, seed, 5, 3)} for seed in range(2))
    paths = [save(tensors, tmp_path / f"{k}.pt") for k, tensors in enumerate((one, other))]
    soup = average(open_zoo(*paths), [0.5, 0.5])["w"]
    assert soup.dtype == dtype
    assert soup.shape == (5, 3)
    expected = exact_mean(one["w"], other["w"]).to(dtype)
    assert torch.equal(soup.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("dtype", sorted(SAVED_DTYPES, key=str))
def test_each_dtype_of_safetensors_is_saved_as_it_is_averaged(tmp_path, dtype):
    paths = save_states(tmp_path, *({"w": numbers(dtype, seed, 4)} for seed in range(2)))
    zoo = open_zoo(*paths)
    saved = load_file(save_soup(zoo, [0.25, 0.75], tmp_path / "soup.safetensors"))["w"]
    assert saved.dtype == dtype
    averaged = average(zoo, [0.25, 0.75])["w"]
    assert torch.equal(saved.view(torch.uint8), averaged.view(torch.uint8))


@pytest.mark.parametrize("dtype", sorted(COPIED - {torch.float4_e2m1fn_x2}, key=str))
def test_each_copied_dtype_is_copied_to_the_soup_s_file(tmp_path, dtype):
    one_byte = dtype.itemsize == 1 and dtype != torch.bool
    bits = torch.tensor([1, 2, 3, 120], dtype=torch.uint8)
    tensor = bits.view(dtype) if one_byte else bits.to(dtype)
    states = [{"w": torch.full((2,), float(k)), "q": tensor} for k in range(2)]
    zoo = open_zoo(*(save(each, tmp_path / f"{k}.pt") for k, each in enumerate(states)))
    assert torch.equal(average(zoo, [0.5, 0.5])["q"].view(torch.uint8), tensor.view(torch.uint8))
    path = save_soup(zoo, [0.5, 0.5], tmp_path / "soup.safetensors")
    saved = load_file(path)["q"]
    assert saved.dtype == dtype
    assert torch.equal(saved.view(torch.uint8), tensor.view(torch.uint8))
    assert torch.equal(open_zoo(path)[0]["q"].view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32])
def test_quantised_tensors_are_refused_by_name(tmp_path, dtype):
    tensor = torch.quantize_per_tensor(torch.rand(4), 0.1, 0, dtype)
    with pytest.raises(CheckpointError, match=f"w is quantised .{dtype}., .*; dequantise it"):
        open_zoo(save({"w": tensor}, tmp_path / "a.pt"))


@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex128, torch.float4_e2m1fn_x2])
def test_a_dtype_that_safetensors_lacks_is_refused_by_name(tmp_path, dtype):
    tensor = torch.ones(4 * dtype.itemsize, dtype=torch.uint8).view(dtype)
    zoo = open_zoo(save({"w": tensor}, tmp_path / "a.pt"))
    assert torch.equal(average(zoo, [1.0])["w"].view(torch.uint8), tensor.view(torch.uint8))
    with pytest.raises(ParameterError, match=f"w: {dtype} has no name in safetensors"):
        save_soup(zoo, [1.0], tmp_path / "soup.safetensors")


@pytest.mark.parametrize("one", [*FLOATS, *SMALL_FLOATS])
@pytest.mark.parametrize("other", [*FLOATS, *SMALL_FLOATS])
def test_real_dtypes_mix_and_lose_nothing(tmp_path, one, other):
    tensors = [{"w": numbers(dtype, k, 6)} for k, dtype in enumerate((one, other))]
    zoo = open_zoo(*save_states(tmp_path, *tensors))
    soup = average(zoo, [0.5, 0.5])["w"]
    assert soup.dtype == widest([one, other])
    for each in tensors:
        assert torch.equal(each["w"].to(soup.dtype).double(), each["w"].double())
    expected = exact_mean(tensors[0]["w"], tensors[1]["w"]).to(soup.dtype)
    assert torch.equal(soup.double(), expected.double())


@pytest.mark.parametrize("dtype", SMALL_FLOATS)
def test_half_precision_holds_every_value_of_8_bits(dtype):
    values = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    finite = values[values.isfinite()]
    assert torch.equal(finite.half().double(), finite)


@given(st.lists(st.tuples(st.integers(-99, 99), st.integers(-99, 99)), min_size=2, max_size=5))
def test_complex_averages_against_fractions(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("complex")
    tensors = [{"w": torch.tensor([complex(*pair)], dtype=torch.complex128)} for pair in pairs]
    zoo_paths = [save(each, folder / f"{k}.pt") for k, each in enumerate(tensors)]
    with pytest.warns() if len(set(pairs)) < len(pairs) else nullcontext():
        zoo = open_zoo(*zoo_paths)
    found = average(zoo, [1 / len(pairs)] * len(pairs))["w"][0].item()
    for part, values in zip((found.real, found.imag), zip(*pairs, strict=True), strict=True):
        assert part == pytest.approx(float(Fraction(sum(values), len(pairs))), abs=1e-12)


# NaN ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(AVERAGED | {torch.float8_e8m0fnu}, key=str))
def test_nan_is_found_in_every_dtype_that_has_it(tmp_path, dtype):
    good = torch.ones(3).to(dtype)
    assert len(open_zoo(save({"w": good}, tmp_path / "good.pt"))) == 1
    bad = torch.tensor([1.0, float("nan"), 1.0]).to(dtype)
    with pytest.raises(CheckpointError, match="w holds 1 NaN or infinite weight;"):
        open_zoo(save({"w": bad}, tmp_path / "bad.pt"))


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("value", [complex(0, float("nan")), complex(float("inf"), 1), 1j * 1e999])
def test_a_bad_part_of_a_complex_number_is_enough(tmp_path, dtype, value):
    tensor = torch.ones(4, dtype=dtype)
    tensor[2] = value
    with pytest.raises(CheckpointError, match="w holds 1 NaN or infinite weight;"):
        open_zoo(save({"w": tensor}, tmp_path / "bad.pt"))


# Real, complex and whole numbers are not mixed ---------------------------------------------------


@pytest.mark.parametrize("one", [torch.float32, torch.complex64, torch.int32])
@pytest.mark.parametrize("other", [torch.float16, torch.complex64, torch.bool])
def test_real_complex_and_whole_numbers_are_not_mixed(tmp_path, one, other):
    states = [{"w": torch.ones(2, dtype=dtype)} for dtype in (one, other)]
    paths = save_states(tmp_path, *states)
    kinds = ((torch.float32, torch.float16), (torch.complex64,), (torch.int32, torch.bool))
    if any(one in kind and other in kind for kind in kinds):
        with pytest.warns() if one == other else nullcontext():
            open_zoo(*paths)
        return
    with pytest.raises(CheckpointError, match=f"w is {other}, not {one}"):
        open_zoo(*paths)


# Everywhere else that asks for the dtype ---------------------------------------------------------


class Spectral(nn.Module):
    """A network with a complex weight before its real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(images.float(), dim=-1) * self.filter
        filtered = torch.fft.irfft(spectrum, n=2, dim=-1)
        return self.head(filtered.flatten(1).to(self.head.weight.dtype))


def spectral(seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)
        for key, tensor in Spectral().state_dict().items()
    }


@pytest.fixture
def spectral_zoo(tmp_path) -> Zoo:
    start = spectral(9)
    states = [
        {key: tensor + spectral(seed)[key] / 10 for key, tensor in start.items()}
        for seed in range(3)
    ]
    init = save(start, tmp_path / "init.pt")
    return open_zoo(*save_states(tmp_path, *states), build=Spectral, init=init)


def as_vector(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat(
        [
            torch.view_as_real(t).double().flatten() if t.is_complex() else t.double().flatten()
            for t in (tensors[key] for key in sorted(tensors))
        ]
    )


def test_distances_and_products_count_both_parts(spectral_zoo):
    start = as_vector(dict(spectral_zoo.init))
    vectors = [as_vector(dict(spectral_zoo[k])) for k in range(3)]
    for k, vector in enumerate(vectors):
        expected = (vector - start).norm() / start.norm()
        assert spectral_zoo.distances[k].item() == pytest.approx(expected.item(), rel=1e-9)
        cosine = vector @ start / vector.norm() / start.norm()
        assert spectral_zoo.cosines[k].item() == pytest.approx(cosine.item(), rel=1e-9)
    products = sum(weight_products(spectral_zoo, progress=False).values())
    rows = torch.stack([*vectors, start])
    torch.testing.assert_close(products, rows @ rows.T)
    assert "filter" in spectral_zoo.parameter_keys()


def test_networks_with_complex_weights_keep_them(spectral_zoo):
    model = move_model(spectral_zoo.model(0), torch.device("cpu"), torch.bfloat16)
    assert torch.equal(model.filter, spectral_zoo[0]["filter"])
    assert model.head.weight.dtype == torch.bfloat16
    images = torch.stack([image for image, _ in tiny_split(4)])
    assert images_for_model(images, model, torch.device("cpu")).dtype == torch.bfloat16
    start, other = (single_precision(spectral_zoo[k], torch.device("cpu")) for k in range(2))
    (delta,) = directions(start, [other])
    assert torch.equal(delta["filter"], other["filter"] - start["filter"])
    with Mixture(spectral_zoo, torch.device("cpu")) as mixture:
        mixed = mixture.load(torch.tensor([0.2, 0.3, 0.5])).state_dict()
    for key, tensor in average(spectral_zoo, [0.2, 0.3, 0.5]).items():
        torch.testing.assert_close(mixed[key], tensor)


def test_to_precision_changes_only_the_precision():
    for dtype, expected in (
        (torch.complex128, torch.complex64),
        (torch.float64, torch.float32),
        (torch.float8_e5m2, torch.float32),
        (torch.int64, torch.int64),
        (torch.bool, torch.bool),
    ):
        assert to_precision(torch.ones(2).to(dtype), torch.float32).dtype == expected


def test_8_bit_files_for_a_model_in_single_precision(tmp_path):
    small = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in state(0).items()}
    zoo = open_zoo(*save_states(tmp_path, small, state(1)), build=build)
    model = zoo.model(0, copy=False)
    assert torch.equal(model.state_dict()["1.weight"], small["1.weight"].float())
