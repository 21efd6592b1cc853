"""Sums over state dicts that together are larger than memory: a piece of a tensor at a time, at the disk's speed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, reduce
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from radin.soup.file_regions import Place, Places

# Numbers. Of no more than these torch makes sums in the calling thread; of more it would have its own threads make
# them, which wait for one another after every block, for long where another program has a core.
BLOCK = 1 << 15
CACHED = (
    1 << 23
)  # bytes of all sources that are read at once, and summed while the cache still has them
PIECE = 1 << 20  # numbers of a tensor that a thread takes at a time
LARGE = 1 << 26  # bytes to average, from which on files are read and not their mappings
ALONE = 1 << 22  # bytes to average, up to which a second thread is not worth its start
MOST_THREADS = 4  # neither a disk nor memory gives more to a fifth
SLOW = 2.0  # seconds before a progress bar appears
_ALIGNMENT = 64  # bytes
_COMPILED = (
    {torch.float32},
    {torch.float64},
)  # kinds of number that numba knows; half precision it does not

Shares = list[tuple[int, float]]  # the sources of one average and their shares of it
Put = Callable[[int, str, int, Tensor], None]
Piece = tuple[str, int, int]


class Part(NamedTuple):
    """A tensor, mapped where it was mapped, and the place in its file where it is to be read from there."""

    tensor: Tensor
    place: Place | None


class Gathered(NamedTuple):
    """What is to be averaged: of each key, the parts by the number of their source; and their bytes in all."""

    parts: dict[str, dict[int, Part]]
    size: int


def shares(rows: Tensor) -> list[Shares]:
    """Of each row of weights (M, N): the sources of positive weight, and their shares of the row's sum."""
    return [
        [(k, p) for k, p in enumerate(row) if p > 0]
        for row in (rows / rows.sum(1, keepdim=True)).tolist()
    ]


@contextmanager
def gather(
    sources: Sequence[Mapping[str, Tensor]], rows: Sequence[Shares], keys: Sequence[str]
) -> Iterator[Gathered]:
    """The tensors that some row needs, with their files open; a source that no row needs is not touched."""
    parts: dict[str, dict[int, Part]] = {key: {} for key in keys}
    needed = sorted({k for row in rows for k, _ in row})
    size = len(needed) * sum(sources[needed[0]][key].nbytes for key in keys)
    if size < LARGE:
        yield Gathered(
            {key: {k: Part(sources[k][key].detach(), None) for k in needed} for key in keys}, size
        )
        return
    with Places() as places:
        for k in needed:
            for key in keys:
                tensor = sources[k][key].detach()
                parts[key][k] = Part(tensor, places.find(tensor))
            for key in keys:  # to map a tensor, safetensors reads its first bytes, and the system up to two megabytes
                places.release(parts[key][k].tensor)
        yield Gathered(parts, size)


def kind(parts: Mapping[int, Part], row: Shares) -> torch.dtype:
    """The kind of number of an average: the widest of its ingredients', or the heaviest one's when that is whole."""
    first = parts[heaviest(row)].tensor
    if not first.is_floating_point():
        return first.dtype
    return reduce(torch.promote_types, (parts[k].tensor.dtype for k, _ in row))


def heaviest(row: Shares) -> int:
    """The source of the largest share, the first of equals."""
    return max(row, key=lambda share: share[1])[0]


def mix_blocks(gathered: Gathered, rows: Sequence[Shares], put: Put) -> Iterator[int]:
    """Average the tensors with each row of shares, in one reading of all of them.

    What is read is averaged for every row before more is read, by as many threads as torch has, four at most. The
    bits of an average depend on nothing but its own row.

    Args:
        put: called as (number of the row, key, start, block) with consecutive numbers of the flat average, in its own
            kind; from several threads, in any order.

    Yields after every piece how many numbers of each average it had.
    """
    threads = min(torch.get_num_threads(), MOST_THREADS) if gathered.size > ALONE else 1
    work, pieces = partial(_mix_piece, gathered, rows, put, _Scratch()), _pieces(gathered)
    quick = gathered.size < LARGE
    with tqdm(
        total=gathered.size,
        desc="averaging",
        unit="B",
        unit_scale=True,
        delay=SLOW,
        disable=quick,
        leave=False,
    ) as bar:
        for size, count in map(work, pieces) if threads == 1 else _threaded(work, pieces, threads):
            bar.update(size)
            yield count


A = TypeVar("A")
B = TypeVar("B")


def _threaded(work: Callable[[A], B], items: Iterable[A], threads: int) -> Iterator[B]:
    """`map` in several threads; on an error, or when the caller leaves, what has not begun is not done."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="radin-averaging")
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(gathered: Gathered) -> list[Piece]:
    """What to average at a time, (key, start, stop), in the order of the files."""
    pieces = []
    for key, parts in sorted(
        gathered.parts.items(), key=lambda item: next(iter(item[1].values())).tensor.data_ptr()
    ):
        tensors = [part.tensor for part in parts.values()]
        count = tensors[0].numel()
        step = PIECE if _can_be_cut(tensors) else max(1, count)
        pieces += [(key, start, min(start + step, count)) for start in range(0, count, step)]
    return pieces


def _can_be_cut(tensors: Iterable[Tensor]) -> bool:
    """Not where one lies in another order, as with channels last: it is put in order as a whole."""
    return all(tensor.is_contiguous() for tensor in tensors)


class _Scratch(threading.local):
    """Memory of each thread to read into, made once: fresh pages cost the system as much as filling them."""

    buffer = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> Tensor:
        """So many bytes."""
        if len(self.buffer) < size:
            self.buffer = torch.empty(size, dtype=torch.uint8)
        return self.buffer[:size]


def _mix_piece(
    gathered: Gathered, rows: Sequence[Shares], put: Put, scratch: _Scratch, piece: Piece
) -> tuple[int, int]:
    """Average a piece for all rows; returns how many bytes and numbers it is."""
    key, start, stop = piece
    parts = gathered.parts[key]
    kinds = [kind(parts, row) for row in rows]
    width = sum(part.tensor.element_size() for part in parts.values())
    step = stop - start
    if cut := _can_be_cut(part.tensor for part in parts.values()):
        step = min(step, max(BLOCK, CACHED // width // BLOCK * BLOCK))
    for begin in range(start, stop, step):
        blocks = {k: part.tensor for k, part in parts.items()}
        if cut:
            blocks = _read(parts, begin, min(begin + step, stop), scratch)
        for number, block in enumerate(_averages(blocks, rows, kinds)):
            put(number, key, begin, block)
    return (stop - start) * width, stop - start


def _read(parts: Mapping[int, Part], start: int, stop: int, scratch: _Scratch) -> dict[int, Tensor]:
    """Some numbers of the flat tensors: those that have a place are read from there."""
    if not any(part.place for part in parts.values()):
        return {k: part.tensor.view(-1)[start:stop] for k, part in parts.items()}
    sizes = [
        (stop - start) * part.tensor.element_size() if part.place else 0 for part in parts.values()
    ]
    room = scratch.take(sum(size + -size % _ALIGNMENT for size in sizes))
    blocks, begin = {}, 0
    for (k, part), size in zip(parts.items(), sizes, strict=True):
        if part.place is None:
            blocks[k] = part.tensor.view(-1)[start:stop]
            continue
        target = room[begin : begin + size]
        part.place.read(start * part.tensor.element_size(), target.numpy())
        blocks[k] = target.view(part.tensor.dtype)
        begin += size + -size % _ALIGNMENT
    return blocks


def _averages(
    blocks: dict[int, Tensor], rows: Sequence[Shares], kinds: Sequence[torch.dtype]
) -> list[Tensor]:
    if not kinds[0].is_floating_point:
        return [blocks[heaviest(row)].reshape(-1) for row in rows]
    tensors = list(blocks.values())
    if _is_for_the_compiler(tensors):
        from radin.soup.cpu_kernel import averages

        numbers = {k: number for number, k in enumerate(blocks)}
        return averages(tensors, [[(numbers[k], p) for k, p in row] for row in rows])
    return [
        average([(blocks[k], p) for k, p in row], kind)
        for row, kind in zip(rows, kinds, strict=True)
    ]


def _is_for_the_compiler(tensors: Sequence[Tensor]) -> bool:
    """Whether numba knows these numbers and can reach them, and they are enough to be worth its import."""
    if not _can_be_cut(tensors) or tensors[0].numel() < BLOCK:
        return False
    return {tensor.dtype for tensor in tensors} in _COMPILED and all(
        tensor.is_cpu for tensor in tensors
    )


def average(parts: Sequence[tuple[Tensor, float]], dtype: torch.dtype) -> Tensor:
    """sum_k p_k theta_k of a few tensors, flat.

    Every product and every sum is rounded to double precision, one after the other: neither the length of a block nor
    the compiled loop of `radin.soup.cpu_kernel`, which takes large tensors, changes a bit.
    """
    count = parts[0][0].numel()
    if count > BLOCK and _can_be_cut(tensor for tensor, _ in parts):
        flat = [(tensor.view(-1), p) for tensor, p in parts]
        return torch.cat(
            [
                average([(tensor[i : i + BLOCK], p) for tensor, p in flat], dtype)
                for i in range(0, count, BLOCK)
            ]
        )
    total = parts[0][0].reshape(-1).to(torch.float64, copy=True).mul_(parts[0][1])
    for tensor, p in parts[1:]:
        total.add_(tensor.reshape(-1).to(torch.float64, copy=True).mul_(p))
    return total.to(dtype)
