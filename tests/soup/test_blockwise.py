"""radin/soup/blockwise.py: the bits of an average depend on ingredients and weights only."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import finish, run_python, save
from radin.checkpoints.checkpoint import open_checkpoint
from radin.errors import CheckpointError
from radin.soup import blockwise
from radin.soup.blockwise import BLOCK_ELEMENTS, gather, mix_blocks, to_shares, weighted_sum

N = 6


@pytest.fixture(params=[1, 3])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def states(
    num_models: int = N, dtypes: tuple[torch.dtype, ...] = (torch.float32,)
) -> list[dict[str, Tensor]]:
    """Tensors that end in the middle of a block, in several dtypes of number, orders and sizes."""
    rng = torch.Generator().manual_seed(0)

    def random(k: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(dtypes[k % len(dtypes)])

    return [
        {
            "long": random(k, 2 * BLOCK_ELEMENTS + 7),
            "wide": random(k, 3, BLOCK_ELEMENTS // 2 + 1),
            "turned": random(k, BLOCK_ELEMENTS, 2).t(),
            "short": random(k, 5),
            "single": random(k),
            "empty": random(k, 0, 3),
            "count": torch.tensor(10 * k),
            "ids": torch.arange(BLOCK_ELEMENTS + 3) + k,
            "mask": torch.arange(9) % (k + 2) == 0,
        }
        for k in range(num_models)
    ]


def mixed(
    sources: list[Mapping[str, Tensor]], rows: Tensor, keys: list[str] | None = None
) -> list[dict[str, Tensor]]:
    """The blocks of `mix_blocks` joined: each element is written exactly once."""
    keys = keys or list(sources[0])
    found: dict[tuple[int, str], dict[int, Tensor]] = {
        (m, key): {} for m in range(len(rows)) for key in keys
    }
    lock = threading.Lock()

    def write_block(row: int, key: str, start: int, block: Tensor) -> None:
        with lock:
            assert start not in found[row, key]
            found[row, key][start] = block.clone()

    with gather(sources, to_shares(rows), keys) as gathered:
        counted = sum(mix_blocks(gathered, to_shares(rows), write_block))
    whole: list[dict[str, Tensor]] = [{} for _ in rows]
    for (row, key), pieces in found.items():
        end = 0
        for start, block in sorted(pieces.items()):
            assert start == end
            end += len(block)
        assert end == sources[0][key].numel()
        whole[row][key] = (
            torch.cat([pieces[start] for start in sorted(pieces)]) if pieces else torch.empty(0)
        )
    assert counted == sum(sources[0][key].numel() for key in keys)
    return whole


def reference(parts: list[Tensor], p: Tensor) -> Tensor:
    """Products and sums rounded to double precision, one after the other."""
    total = None
    for tensor, weight in zip(parts, (p / p.sum()).tolist(), strict=True):
        if weight > 0:
            product = tensor.to(torch.float64).contiguous().numpy().reshape(-1) * np.float64(weight)
            total = product if total is None else total + product
    return torch.from_numpy(total).to(parts[0].dtype)


def same_bits(one: Tensor, other: Tensor) -> bool:
    one, other = one.reshape(-1), other.reshape(-1)
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


ROWS = torch.tensor(
    [[1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0.0]],
    dtype=torch.double,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_bits_are_those_of_one_sum_after_another(dtype, threads):
    sources = states(dtypes=(dtype,))
    for p, soup in zip(ROWS, mixed(sources, ROWS), strict=True):
        for key in ("long", "wide", "turned", "short", "single"):
            assert same_bits(soup[key], reference([source[key] for source in sources], p)), key
        for key in ("count", "ids", "mask"):
            assert same_bits(soup[key], sources[int(p.argmax())][key]), key


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_compiled_and_plain_sums_have_the_same_bits(data):
    num_models = data.draw(st.integers(1, 10))
    size = data.draw(st.integers(BLOCK_ELEMENTS, 3 * BLOCK_ELEMENTS))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    tensors = [
        torch.randn(size, generator=rng, dtype=dtype) * 10.0 ** (k - 5) for k in range(num_models)
    ]
    rows = [
        [(k, data.draw(st.floats(1e-3, 1))) for k in data.draw(st.permutations(range(num_models)))]
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    from radin.soup.cpu_kernel import weighted_sums

    for row, compiled in zip(rows, weighted_sums(tensors, rows), strict=True):
        assert same_bits(compiled, weighted_sum([(tensors[k], p) for k, p in row], dtype))


def test_extreme_numbers_pass_through_the_compiled_sum():
    values = torch.tensor(
        [0.0, -0.0, torch.inf, -torch.inf, torch.finfo().max, torch.finfo().tiny, 1e-45]
    )
    tensor = values.repeat(BLOCK_ELEMENTS)
    soup = mixed([{"w": tensor}, {"w": tensor}], torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    assert all(same_bits(each["w"], tensor) for each in soup)
    broken = mixed(
        [{"w": tensor}, {"w": torch.full_like(tensor, torch.nan)}], torch.tensor([[1.0, 1.0]])
    )
    assert broken[0]["w"].isnan().all()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    "dtypes", [(torch.float32,), (torch.bfloat16,), (torch.float16, torch.float64, torch.float32)]
)
def test_files_that_are_read_give_the_bits_of_those_that_are_mapped(
    tmp_path, monkeypatch, threads, suffix, dtypes
):
    tensors = states(dtypes=dtypes)
    if suffix == ".safetensors":  # it keeps tensors in their own order only
        tensors = [{key: tensor.contiguous() for key, tensor in each.items()} for each in tensors]
    sources = [
        open_checkpoint(save(each, tmp_path / f"{k}{suffix}")) for k, each in enumerate(tensors)
    ]
    from_memory = mixed(tensors, ROWS)
    asked = []
    for large, cached, piece in (
        (1 << 40, 1, BLOCK_ELEMENTS),
        (0, 1, BLOCK_ELEMENTS),
        (0, 1 << 30, 3 * BLOCK_ELEMENTS),
        (0, 1 << 30, 1 << 20),
    ):
        monkeypatch.setattr(blockwise, "MIN_BYTES_TO_READ_FILES", large)
        monkeypatch.setattr(blockwise, "CACHE_BYTES", cached)
        monkeypatch.setattr(blockwise, "PIECE_ELEMENTS", piece)
        with gather(sources, to_shares(ROWS), list(tensors[0])) as gathered:
            asked.append(
                {
                    source.region is not None
                    for of_key in gathered.by_key.values()
                    for source in of_key.values()
                }
            )
        for soup, expected in zip(mixed(sources, ROWS), from_memory, strict=True):
            assert all(same_bits(soup[key], expected[key]) for key in expected)
    if sys.platform == "linux":
        assert asked[0] == {False}
        assert asked[1] >= {True}


def test_several_rows_at_once_are_what_each_gives_alone(threads):
    sources = states(dtypes=(torch.float32, torch.float16))
    together = mixed(sources, ROWS)
    for p, soup in zip(ROWS, together, strict=True):
        alone = mixed(sources, p.unsqueeze(0))[0]
        assert all(same_bits(soup[key], alone[key]) for key in soup)


class Forbidden(Mapping):
    """An ingredient that must not be touched."""

    def __getitem__(self, key: str) -> Tensor:
        raise AssertionError("read")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("read")

    def __len__(self) -> int:
        raise AssertionError("read")


@pytest.mark.parametrize("large", [0, 1 << 40])
def test_an_ingredient_of_weight_zero_is_not_touched(monkeypatch, large):
    monkeypatch.setattr(blockwise, "MIN_BYTES_TO_READ_FILES", large)
    sources = [states(1)[0], Forbidden(), states(2)[1]]
    rows = torch.tensor([[1.0, 0, 0], [0.5, 0, 0.5]])
    soup = mixed(sources, rows, list(sources[0]))
    assert same_bits(soup[0]["long"], sources[0]["long"])


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, CheckpointError])
def test_a_failure_ends_the_work(monkeypatch, threads, failure):
    """It reaches the caller, and pieces that were not begun are left alone."""
    monkeypatch.setattr(blockwise, "PIECE_ELEMENTS", BLOCK_ELEMENTS)
    sources = [{"w": torch.zeros(200 * BLOCK_ELEMENTS)}]
    calls = []

    def write_block(*_: object) -> None:
        calls.append(1)
        raise failure("on purpose")

    with (
        gather(sources, to_shares(torch.ones(1, 1)), ["w"]) as gathered,
        pytest.raises(failure, match="on purpose"),
    ):
        for _ in mix_blocks(gathered, to_shares(torch.ones(1, 1)), write_block):
            pass
    assert len(calls) < 100
    assert not [thread for thread in threading.enumerate() if "radin-averaging" in thread.name]


def test_a_caller_who_leaves_ends_the_work(monkeypatch, threads):
    monkeypatch.setattr(blockwise, "PIECE_ELEMENTS", BLOCK_ELEMENTS)
    with gather(
        [{"w": torch.zeros(50 * BLOCK_ELEMENTS)}], to_shares(torch.ones(1, 1)), ["w"]
    ) as gathered:
        for _ in mix_blocks(gathered, to_shares(torch.ones(1, 1)), lambda *_: None):
            break
    assert not [thread for thread in threading.enumerate() if "radin-averaging" in thread.name]


MEMORY = """
import resource, torch
from pathlib import Path
from helpers import save
from radin import Zoo, average, save_soup
from radin.checkpoints.checkpoint import open_checkpoint

folder, suffix, size = Path(sys.argv[1]), sys.argv[2], 8 << 20
paths = [
    save({f"w{i}": torch.full((size // 8,), k + i / 8) for i in range(8)}, folder / f"{k}{suffix}")
    for k in range(8)
]
zoo = Zoo(paths, [open_checkpoint(path) for path in paths], ["0"] * 8)
small = Zoo(paths[:1], [open_checkpoint(paths[0])], ["0"])
save_soup(small, [1], folder / "first.safetensors")  # loads and compiles what is needed once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_soup(zoo, [1 / 8] * 8, folder / "soup.safetensors")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (4 * size))
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere mapped files stay in memory until it is needed"
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_memory_stays_below_one_model(tmp_path, suffix):
    """Pages of the ingredients' files count, too: eight models of 32 MB are read."""
    assert float(finish(run_python(MEMORY, tmp_path, suffix))) < 1
