"""radin/inference/partial_logits.py: logits on disk, and what a killed run leaves of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from radin.errors import RadinError
from radin.inference.partial_logits import PartialLogits


def block(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, classes, generator=rng), torch.randint(
        classes, (count,), generator=rng
    )


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    classes=st.integers(1, 4),
    half=st.booleans(),
    lost=st.integers(0, 60),
    on_disk=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whole_rows_are_found_again(tmp_path_factory, sizes, classes, half, lost, on_disk):
    """After any loss of bytes at the end, the rows that count are those that were written."""
    dtype = torch.float16 if half else torch.float32
    path = tmp_path_factory.mktemp("rows") / "a.rows" if on_disk else None
    rows, given = (
        PartialLogits(path, dtype),
        [block(size, classes, seed) for seed, size in enumerate(sizes)],
    )
    for logits, labels in given:
        rows.append(logits, labels)
    logits, labels = (torch.cat(parts) for parts in zip(*given, strict=True))
    if path is not None:
        rows.close()
        content = path.read_bytes()
        path.write_bytes(content[: max(0, len(content) - lost)])
        rows = PartialLogits(path, dtype)
    count = len(rows)
    row = 8 + classes * dtype.itemsize
    assert count == (max(0, sum(sizes) * row - lost) // row if on_disk else sum(sizes))
    if count:
        assert torch.equal(rows.read(count)[0], logits[:count].to(dtype))
        assert torch.equal(rows.read(count)[1], labels[:count])
    rows.truncate(count // 2)
    rows.append(logits[count // 2 :], labels[count // 2 :])
    assert torch.equal(rows.read(sum(sizes))[0], logits.to(dtype))
    rows.discard()
    assert path is None or not path.exists()


def test_rows_of_another_width_start_again(tmp_path: Path):
    rows = PartialLogits(tmp_path / "a.rows", torch.float32)
    rows.append(*block(3, 4))
    rows.truncate(0)
    rows.append(*block(2, 3))
    assert rows.read(2)[0].shape == (2, 3)


def test_a_second_process_holds_its_rows_in_memory(tmp_path: Path):
    pytest.importorskip("fcntl")
    one, other = (
        PartialLogits(tmp_path / "a.rows", torch.float32),
        PartialLogits(tmp_path / "a.rows", torch.float32),
    )
    one.append(*block(3, 4))
    other.append(*block(2, 4))
    assert (len(one), len(other)) == (3, 2)
    other.discard()
    assert (tmp_path / "a.rows").exists()
    one.close()
    assert len(PartialLogits(tmp_path / "a.rows", torch.float32)) == 3


def test_no_row_leaves_no_file(tmp_path: Path):
    PartialLogits(tmp_path / "a.rows", torch.float32).close()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_opened(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RadinError, match="could not be opened"):
        PartialLogits(tmp_path / "file" / "a.rows", torch.float32)
