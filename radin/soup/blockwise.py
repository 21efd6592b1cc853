"""Averages of state dicts that together are larger than memory, some elements at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from radin.checkpoints.dtypes import is_averaged, real_numbers, widest
from radin.soup.file_regions import FileRegion, FileRegions

# torch adds up to this many elements in the calling thread. For more it starts its own threads,
# which wait for one another after every block.
BLOCK_ELEMENTS = 1 << 15
CACHE_BYTES = 1 << 23  # of all sources, read together and added while they are in the cache
PIECE_ELEMENTS = 1 << 20  # of a tensor, which a thread takes at a time
MIN_BYTES_TO_READ_FILES = 1 << 26  # to average; with less, mapped files are used as they are
MAX_BYTES_FOR_ONE_THREAD = (
    1 << 22
)  # to average; with less, a second thread costs more than it saves
MAX_THREADS = 4  # disks and memory are not faster with more
PROGRESS_DELAY_SECONDS = 2.0
_ALIGNMENT_BYTES = 64
_COMPILED_DTYPES = ({torch.float32}, {torch.float64})  # numba has no half precision

Shares = list[tuple[int, float]]  # the sources of one average, and the share of each
WriteBlock = Callable[[int, str, int, Tensor], None]


class Source(NamedTuple):
    """A tensor of one state dict, and its file region if it is to be read from there."""

    tensor: Tensor
    region: FileRegion | None


class Sources(NamedTuple):
    """What is to be averaged.

    Attributes:
        by_key: for each key the sources, by the index of their state dict.
        num_bytes: of all of them together.
    """

    by_key: dict[str, dict[int, Source]]
    num_bytes: int


class Piece(NamedTuple):
    """Consecutive elements of a flat tensor."""

    key: str
    start: int
    stop: int


def to_shares(weights: Tensor) -> list[Shares]:
    """For each row of weights (M, N), the sources of positive weight and their shares."""
    return [
        [(k, p) for k, p in enumerate(row) if p > 0]
        for row in (weights / weights.sum(1, keepdim=True)).tolist()
    ]


@contextmanager
def gather(
    states: Sequence[Mapping[str, Tensor]], rows: Sequence[Shares], keys: Sequence[str]
) -> Iterator[Sources]:
    """Yield the tensors that any row needs, with their files open.

    A state dict that no row needs is not read.
    """
    needed = sorted({k for row in rows for k, _ in row})
    num_bytes = len(needed) * sum(states[needed[0]][key].nbytes for key in keys)
    if num_bytes < MIN_BYTES_TO_READ_FILES:
        by_key = {key: {k: Source(states[k][key].detach(), None) for k in needed} for key in keys}
        yield Sources(by_key, num_bytes)
        return
    by_key = {key: {} for key in keys}
    for k in needed:
        states[k][keys[0]]  # a zoo that was unpickled opens its files only now
    with FileRegions() as regions:
        for k in needed:
            for key in keys:
                tensor = states[k][key].detach()
                by_key[key][k] = Source(tensor, regions.find(tensor))
            # Mapping a tensor reads its first bytes, and the system up to two megabytes more.
            for key in keys:
                regions.release(by_key[key][k].tensor)
        yield Sources(by_key, num_bytes)


def result_dtype(sources: Mapping[int, Source], row: Shares) -> torch.dtype:
    """The widest dtype of the sources of an average, or the heaviest one's where it is copied."""
    dtype = sources[heaviest(row)].tensor.dtype
    if not is_averaged(dtype):
        return dtype
    return widest(sources[k].tensor.dtype for k, _ in row)


def heaviest(row: Shares) -> int:
    """The source of the largest share, the first of equals."""
    return max(row, key=lambda share: share[1])[0]


def mix_blocks(sources: Sources, rows: Sequence[Shares], write_block: WriteBlock) -> Iterator[int]:
    """Average the tensors with each row of shares, in one reading of all of them.

    Elements that were read are averaged for every row before more are read, by as many threads as
    torch uses, four at most. The bits of an average depend on its own row only.

    Args:
        sources: from `gather`.
        rows: the shares of each average.
        write_block: called as (row index, key, start, block) with consecutive elements of the flat
            average in its result dtype, from several threads, in any order.

    Yields:
        After each piece, the number of its elements.
    """
    num_threads = 1
    if sources.num_bytes > MAX_BYTES_FOR_ONE_THREAD:
        num_threads = min(torch.get_num_threads(), MAX_THREADS)
    work = partial(_mix_piece, sources, rows, write_block, Scratch())
    pieces = _pieces(sources)
    done = map(work, pieces) if num_threads == 1 else _threaded(work, pieces, num_threads)
    with tqdm(
        total=sources.num_bytes,
        desc="averaging",
        unit="B",
        unit_scale=True,
        delay=PROGRESS_DELAY_SECONDS,
        disable=sources.num_bytes < MIN_BYTES_TO_READ_FILES,
        leave=False,
    ) as bar:
        for num_bytes, num_elements in done:
            bar.update(num_bytes)
            yield num_elements


A = TypeVar("A")
B = TypeVar("B")


def _threaded(work: Callable[[A], B], items: Iterable[A], num_threads: int) -> Iterator[B]:
    """`map` in several threads. After an error, or if the caller stops, no new item is begun."""
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="radin-averaging")
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(sources: Sources) -> list[Piece]:
    """All elements in pieces, in the order of the files."""

    def address(key: str) -> int:
        return next(iter(sources.by_key[key].values())).tensor.data_ptr()

    pieces = []
    for key in sorted(sources.by_key, key=address):
        tensors = [source.tensor for source in sources.by_key[key].values()]
        count = tensors[0].numel()
        step = PIECE_ELEMENTS if are_contiguous(tensors) else max(1, count)
        pieces += [Piece(key, i, min(i + step, count)) for i in range(0, count, step)]
    return pieces


def are_contiguous(tensors: Iterable[Tensor]) -> bool:
    """Whether tensors can be cut. One in another order, as channels last, is copied as a whole."""
    return all(tensor.is_contiguous() for tensor in tensors)


class Scratch(threading.local):
    """Memory of each thread to read into, allocated once.

    New pages cost the system as much time as filling them.
    """

    buffer = torch.empty(0, dtype=torch.uint8)

    def take(self, num_bytes: int) -> Tensor:
        if len(self.buffer) < num_bytes:
            self.buffer = torch.empty(num_bytes, dtype=torch.uint8)
        return self.buffer[:num_bytes]


def _mix_piece(
    sources: Sources,
    rows: Sequence[Shares],
    write_block: WriteBlock,
    scratch: Scratch,
    piece: Piece,
) -> tuple[int, int]:
    """Average a piece for all rows; returns its bytes and elements."""
    key, start, stop = piece
    of_key = sources.by_key[key]
    dtypes = [result_dtype(of_key, row) for row in rows]
    element_bytes = sum(source.tensor.element_size() for source in of_key.values())
    can_cut = are_contiguous(source.tensor for source in of_key.values())
    step = stop - start
    if can_cut:
        cached = CACHE_BYTES // element_bytes // BLOCK_ELEMENTS * BLOCK_ELEMENTS
        step = min(step, max(BLOCK_ELEMENTS, cached))
    for begin in range(start, stop, step):
        blocks = {k: source.tensor for k, source in of_key.items()}
        if can_cut:
            blocks = read_elements(of_key, begin, min(begin + step, stop), scratch)
        for row, block in enumerate(_averages(blocks, rows, dtypes)):
            write_block(row, key, begin, block)
    return (stop - start) * element_bytes, stop - start


def read_elements(
    of_key: Mapping[int, Source], start: int, stop: int, scratch: Scratch
) -> dict[int, Tensor]:
    """Some elements of the flat tensors, read from their files if they have a region."""
    sizes = {
        k: (stop - start) * source.tensor.element_size()
        for k, source in of_key.items()
        if source.region is not None
    }
    buffer = scratch.take(sum(map(_aligned, sizes.values())))
    blocks = {}
    begin = 0
    for k, source in of_key.items():
        if source.region is None:
            blocks[k] = source.tensor.view(-1)[start:stop]
            continue
        target = buffer[begin : begin + sizes[k]]
        source.region.read(start * source.tensor.element_size(), target.numpy())
        blocks[k] = target.view(source.tensor.dtype)
        begin += _aligned(sizes[k])
    return blocks


def _aligned(num_bytes: int) -> int:
    """The next multiple of the alignment."""
    return num_bytes + -num_bytes % _ALIGNMENT_BYTES


def _averages(
    blocks: dict[int, Tensor], rows: Sequence[Shares], dtypes: Sequence[torch.dtype]
) -> list[Tensor]:
    if not is_averaged(dtypes[0]):
        return [blocks[heaviest(row)].reshape(-1) for row in rows]
    tensors = list(blocks.values())
    if _suits_compiled_kernel(tensors):
        from radin.soup.cpu_kernel import weighted_sums

        position = {k: i for i, k in enumerate(blocks)}
        return weighted_sums(tensors, [[(position[k], p) for k, p in row] for row in rows])
    return [
        weighted_sum([(blocks[k], p) for k, p in row], dtype)
        for row, dtype in zip(rows, dtypes, strict=True)
    ]


def _suits_compiled_kernel(tensors: Sequence[Tensor]) -> bool:
    """Whether numba supports the tensors, and they are large enough to be worth its import."""
    if not are_contiguous(tensors) or tensors[0].numel() < BLOCK_ELEMENTS:
        return False
    return {tensor.dtype for tensor in tensors} in _COMPILED_DTYPES and all(
        tensor.is_cpu for tensor in tensors
    )


def weighted_sum(terms: Sequence[tuple[Tensor, float]], dtype: torch.dtype) -> Tensor:
    """sum_k p_k theta_k of a few tensors, flat.

    The parts of complex numbers are summed as real numbers. Every product and every sum is rounded
    to double precision, one after the other. So neither the length of a block nor the compiled loop
    of `radin.soup.cpu_kernel` changes a bit.
    """
    if dtype.is_complex:
        parts = [(real_numbers(tensor), p) for tensor, p in terms]
        return torch.view_as_complex(weighted_sum(parts, dtype.to_real()).view(-1, 2))
    count = terms[0][0].numel()
    if count > BLOCK_ELEMENTS and are_contiguous(tensor for tensor, _ in terms):
        flat = [(tensor.view(-1), p) for tensor, p in terms]
        blocks = [
            weighted_sum([(tensor[i : i + BLOCK_ELEMENTS], p) for tensor, p in flat], dtype)
            for i in range(0, count, BLOCK_ELEMENTS)
        ]
        return torch.cat(blocks)
    total = terms[0][0].reshape(-1).to(torch.float64, copy=True).mul_(terms[0][1])
    for tensor, p in terms[1:]:
        total.add_(tensor.reshape(-1).to(torch.float64, copy=True).mul_(p))
    return total.to(dtype)
