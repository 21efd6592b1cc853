"""radin/soup/average.py: the average is exact in any precision, order and dtype."""

from __future__ import annotations

import json
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers import (
    build,
    files_below,
    finish,
    mixing_weights,
    run_python,
    save,
    save_states,
    state,
    tiny_split,
    tiny_zoo,
)
from radin import Zoo, average, interpolate, save_soup
from radin.checkpoints.checkpoint import open_checkpoint
from radin.errors import ParameterError, RadinError
from radin.inference.batch_norm import refresh_batch_norm
from radin.ranking.candidates import check_weights
from radin.soup.average import average_many
from radin.soup.save import save_soups
from radin.soup.shards import write_at

N = 4


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"), N)


def open_states(folder, *states: dict[str, Tensor], suffix: str = ".safetensors", init=None) -> Zoo:
    return Zoo.open(save_states(folder, *states, suffix=suffix), progress=False, init=init)


def same_bits(one: Tensor, other: Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.numpy().tobytes() == other.numpy().tobytes()
    )


@given(weights=mixing_weights(N))
@settings(max_examples=50)
def test_average_is_the_weighted_mean(zoo, weights):
    p = [Fraction(w) for w in weights.tolist()]
    for key, tensor in average(zoo, weights).items():
        assert tensor.dtype == torch.float32
        columns = zip(*(zoo[k][key].flatten().tolist() for k in range(N)), strict=True)
        exact = [
            float(sum(w * Fraction(x) for w, x in zip(p, column, strict=True)) / sum(p))
            for column in columns
        ]
        assert np.allclose(tensor.flatten().numpy(), exact, rtol=1e-6, atol=1e-7)


@given(p=mixing_weights(N), q=mixing_weights(N), share=st.floats(0, 1))
@settings(max_examples=50)
def test_average_is_linear(zoo, p, q, share):
    p, q = p.double() / p.double().sum(), q.double() / q.double().sum()
    both, one, other = average(zoo, share * p + (1 - share) * q), average(zoo, p), average(zoo, q)
    for key, tensor in both.items():
        torch.testing.assert_close(
            tensor, share * one[key] + (1 - share) * other[key], rtol=1e-5, atol=1e-6
        )


@given(weights=mixing_weights(N), order=st.permutations(range(N)))
@settings(max_examples=50)
def test_average_does_not_depend_on_the_order_of_ingredients(zoo, weights, order):
    shuffled = Zoo.open([zoo.paths[k] for k in order], build, progress=False)
    for key, tensor in average(shuffled, weights[list(order)]).items():
        torch.testing.assert_close(tensor, average(zoo, weights)[key], rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_soup_of_one_is_the_ingredient_bit_for_bit(tmp_path, dtype):
    values = torch.tensor(
        [0.0, -0.0, 1.1, -1.1, torch.finfo(dtype).max, torch.finfo(dtype).tiny], dtype=dtype
    )
    zoo = open_states(tmp_path, {"w": values}, {"w": values + 1})
    soup = average(zoo, [1, 0])["w"]
    assert soup.dtype == dtype
    assert torch.equal(soup, values)
    assert soup.signbit().tolist() == values.signbit().tolist(), "minus zero became zero"


def test_a_soup_of_one_does_not_share_memory_with_the_ingredient(tmp_path):
    zoo = open_states(tmp_path, {"w": torch.ones(2), "i": torch.ones(2, dtype=torch.int64)})
    for key, tensor in average(zoo, [1]).items():
        tensor.zero_()
        assert zoo[0][key].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (torch.float16, [2048.0, 1.0, 1.0, 2.0]),  # 512 + 0.25 is 512 in half precision
        (torch.bfloat16, [1024.0, 8.0, 8.0, 8.0]),
        (torch.float32, [2.0**26, 1.0, 1.0, 14.0]),
    ],
)
def test_sums_run_in_double(tmp_path, dtype, values):
    states = [
        {"w": torch.tensor([value], dtype=dtype), "id": torch.tensor(k)}
        for k, value in enumerate(values)
    ]
    zoo = open_states(tmp_path, *states)
    exact = torch.tensor([float(sum(map(Fraction, values)) / N)], dtype=torch.float64).to(dtype)
    assert torch.equal(average(zoo, [0.25] * N)["w"], exact)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_counters_are_copied_from_the_heaviest_ingredient(tmp_path, dtype, suffix):
    states = [
        {
            "w": torch.ones(1) * k,
            "counter": torch.tensor(k % 2, dtype=dtype),
            "ids": torch.arange(3).to(dtype),
        }
        for k in range(3)
    ]
    zoo = open_states(tmp_path, *states, suffix=suffix)
    for heaviest, weights in ((0, [0.5, 0.3, 0.2]), (1, [0.3, 0.4, 0.3]), (2, [0.2, 0.2, 0.6])):
        soup = average(zoo, weights)
        assert same_bits(soup["counter"], states[heaviest]["counter"])
        assert same_bits(soup["ids"], states[heaviest]["ids"])


def test_large_counters_stay_exact(tmp_path):
    counter = torch.tensor(2**53 + 1)
    zoo = open_states(
        tmp_path, {"w": torch.zeros(1), "c": counter}, {"w": torch.ones(1), "c": counter}
    )
    assert average(zoo, [0.5, 0.5])["c"].item() == 2**53 + 1


def test_mixed_precisions_give_one_dtype_whatever_the_order(tmp_path):
    states = [{"w": torch.ones(2)}, {"w": torch.zeros(2, dtype=torch.float16)}]
    there = average(open_states(tmp_path / "there", *states), [0.5, 0.5])["w"]
    back = average(open_states(tmp_path / "back", *reversed(states)), [0.5, 0.5])["w"]
    assert there.dtype == back.dtype


def test_parameters_saved_with_their_gradients_make_a_plain_soup(tmp_path):
    zoo = open_states(
        tmp_path,
        *({k: t.requires_grad_() for k, t in state(s).items()} for s in (0, 1)),
        suffix=".pt",
    )
    assert not any(tensor.requires_grad for tensor in average(zoo, [0.5, 0.5]).values())
    save_soup(zoo, [0.5, 0.5], tmp_path / "soup.safetensors")


def test_buffers_that_lie_transposed_can_be_saved(tmp_path):
    states = [
        {"w": torch.ones(2, 3).t() * k, "ids": torch.arange(6).view(2, 3).t()} for k in range(2)
    ]
    zoo = open_states(tmp_path, *states, suffix=".pt")
    save_soup(zoo, [0.5, 0.5], tmp_path / "soup.safetensors")
    with safe_open(tmp_path / "soup.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("ids"), states[0]["ids"])
        assert torch.equal(file.get_tensor("w"), torch.full((3, 2), 0.5))


def test_a_saved_soup_is_the_soup_and_says_where_it_came_from(zoo, tmp_path):
    weights = [0.5, 0.25, 0.25, 0]
    path = save_soup(
        zoo, weights, tmp_path / "soup.safetensors", provenance={"recipe": "radin", "budget": 4}
    )
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["radin"])
        for key, tensor in average(zoo, weights).items():
            assert same_bits(file.get_tensor(key), tensor)
    assert header["recipe"] == "radin"
    assert header["budget"] == 4
    assert [each["weight"] for each in header["ingredients"]] == weights
    assert [each["name"] for each in header["ingredients"]] == zoo.names
    assert [each["sha256"] for each in header["ingredients"]] == zoo.fingerprints


def test_a_saved_soup_can_be_an_ingredient(zoo, tmp_path):
    path = save_soup(zoo, [0.5, 0.5, 0, 0], tmp_path / "soup.safetensors")
    assert len(Zoo.open([*zoo.paths, path], build, progress=False)) == N + 1


def test_a_soup_has_one_format(zoo, tmp_path):
    with pytest.raises(ParameterError, match=r"soup\.pt: a soup is saved as \.safetensors"):
        save_soup(zoo, [0.25] * N, tmp_path / "soup.pt")
    assert list(tmp_path.iterdir()) == []


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """What the head of a safetensors file says, and the rest of the file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def test_a_saved_soup_is_what_safetensors_would_write(zoo, tmp_path):
    path = save_soup(
        zoo, [0.5, 0.25, 0.25, 0], tmp_path / "soup.safetensors", provenance={"recipe": "radin"}
    )
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(average(zoo, [0.5, 0.25, 0.25, 0]), tmp_path / "theirs.safetensors", metadata)
    (ours, numbers), (theirs, their_numbers) = (
        header_of(path),
        header_of(tmp_path / "theirs.safetensors"),
    )
    assert ours == theirs  # the order of two metadata entries is random there
    assert list(ours)[1:] == list(theirs)[1:]
    assert numbers == their_numbers
    assert metadata["format"] == "pt", (
        "readers in the manner of transformers refuse files without it"
    )


ROWS = [[0.5, 0.25, 0.25, 0], [0, 0, 1, 0], [0.25] * 4]


def test_several_soups_at_once_are_those_made_one_by_one(zoo, tmp_path):
    for row, soup in zip(ROWS, average_many(zoo, ROWS), strict=True):
        alone = average(zoo, row)
        assert list(soup) == list(alone)
        assert all(same_bits(soup[key], alone[key]) for key in alone)
    told = [{"recipe": "greedy"}, None, {"accuracy": 81.25}]
    paths = save_soups(
        zoo, torch.tensor(ROWS), [tmp_path / f"{m}.safetensors" for m in range(3)], provenances=told
    )
    for row, path, about in zip(ROWS, paths, told, strict=True):
        alone = save_soup(zoo, row, tmp_path / "alone.safetensors", provenance=about)
        assert path.read_bytes() == alone.read_bytes()


def test_soups_at_once_may_differ_in_their_dtype(tmp_path):
    states = [
        {"w": torch.ones(3, dtype=kind), "b": torch.ones(2)}
        for kind in (torch.float16, torch.float32)
    ]
    zoo = open_states(tmp_path, states[0], {"w": states[1]["w"] * 2, "b": states[1]["b"]})
    rows = [[1, 0], [0.5, 0.5], [0, 1]]
    assert [soup["w"].dtype for soup in average_many(zoo, rows)] == [
        torch.float16,
        torch.float32,
        torch.float32,
    ]
    paths = save_soups(zoo, rows, [tmp_path / f"soup_{m}.safetensors" for m in range(3)])
    for row, path in zip(rows, paths, strict=True):
        assert path.read_bytes() == save_soup(zoo, row, tmp_path / "alone.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("rows", "names", "told", "said"),
    [
        (ROWS, "ab", None, "3 soups need 3 paths, one for each; these are 2"),
        (ROWS, "abcd", None, "3 soups need 3 paths, one for each; these are 4"),
        (ROWS, "abc", [None], "3 soups need 3 provenances, one for each; these are 1"),
        (ROWS, ["a", "b", "x/../a"], None, "Several soups cannot be saved under one name"),
        (ROWS, ["a", "b", "c.pt"], None, r"c\.pt: a soup is saved as \.safetensors"),
        (ROWS[0], "a", None, r"shape \(M, 4\)"),
        ([[0.5] * 4], "a", None, "sum to 2"),
        ([], "", None, r"shape \(M, 4\)"),
    ],
)
def test_soups_at_once_are_refused_before_any_work(zoo, tmp_path, rows, names, told, said):
    paths = [
        tmp_path / (name if "." in name[1:] and "/" not in name else f"{name}.safetensors")
        for name in names
    ]
    with pytest.raises(ParameterError, match=said):
        save_soups(zoo, rows, paths, provenances=told)
    assert list(tmp_path.iterdir()) == []


SIZES = {"a": 40, "b": 10, "c": 10, "large": 400, "d": 30, "e": 1}


@pytest.fixture(scope="module")
def wide_zoo(tmp_path_factory) -> Zoo:
    """Tensors of several sizes, for shards, and an integer buffer."""
    states = [
        {name: torch.arange(float(size)) * (k + 1) for name, size in SIZES.items()}
        | {"count": torch.tensor(k)}
        for k in range(3)
    ]
    return open_states(tmp_path_factory.mktemp("wide"), *states)


def shards_of(index: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, name in json.loads(index.read_text())["weight_map"].items():
        found.setdefault(name, []).append(key)
    return found


def test_a_large_soup_becomes_shards_with_an_index(wide_zoo, tmp_path):
    weights = [0.5, 0.25, 0.25]
    soup, about = average(wide_zoo, weights), {"recipe": "radin"}
    index = save_soup(
        wide_zoo, weights, tmp_path / "soup.safetensors", provenance=about, max_shard_size=200
    )
    assert index == tmp_path / "soup.safetensors.index.json"
    shards = shards_of(index)
    count = len(shards)
    assert sorted(shards) == [
        f"soup-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)
    ]
    assert files_below(tmp_path) == [*sorted(shards), index.name]
    assert ["large"] in shards.values(), "a tensor larger than a shard has its own"
    total = json.loads(index.read_text())["metadata"]["total_size"]
    assert total == sum(tensor.nbytes for tensor in soup.values())
    for name, keys in shards.items():
        with safe_open(tmp_path / name, framework="pt") as file:
            assert sorted(file.keys()) == sorted(keys)
            assert keys == ["large"] or sum(soup[key].nbytes for key in keys) <= 200
            assert [
                each["weight"] for each in json.loads(file.metadata()["radin"])["ingredients"]
            ] == weights
            assert json.loads(file.metadata()["radin"])["recipe"] == "radin"
    for opened in (open_checkpoint(index), open_checkpoint(tmp_path)):
        assert sorted(opened) == sorted(soup)
        assert all(same_bits(opened[key], soup[key]) for key in soup)
    assert len(Zoo.open([*wide_zoo.paths, index], progress=False)) == 4
    with pytest.warns(
        UserWarning, match="same weights"
    ):  # the same soup in one file is the same ingredient
        Zoo.open(
            [index, save_soup(wide_zoo, weights, tmp_path / "one.safetensors")], progress=False
        )


@pytest.mark.parametrize("size", ["2GB", 10**6, "3 KiB"])
def test_a_soup_that_fits_in_one_shard_is_one_file(wide_zoo, tmp_path, size):
    path = save_soup(wide_zoo, [1, 0, 0], tmp_path / "soup.safetensors", max_shard_size=size)
    assert path == tmp_path / "soup.safetensors"
    assert (
        path.read_bytes()
        == save_soup(wide_zoo, [1, 0, 0], tmp_path / "plain.safetensors").read_bytes()
    )
    assert files_below(tmp_path) == ["plain.safetensors", "soup.safetensors"]


@pytest.mark.parametrize("size", [0, -5, 2.5, True, "", "large", "2 apples", "-1GB"])
def test_what_is_no_size_of_a_shard_is_refused(wide_zoo, tmp_path, size):
    with pytest.raises(
        ParameterError, match="max_shard_size must be a number of bytes or a text such as"
    ):
        save_soup(wide_zoo, [1, 0, 0], tmp_path / "soup.safetensors", max_shard_size=size)
    assert list(tmp_path.iterdir()) == []


def test_a_sharded_soup_replaces_another_one(wide_zoo, tmp_path):
    path = tmp_path / "soup.safetensors"
    for size in (50, 200, 1000, 80):
        (tmp_path / "soup-00009-of-00009.safetensors").write_bytes(b"not of this soup")
        index = save_soup(wide_zoo, [1, 0, 0], path, max_shard_size=size)
        names = [*shards_of(index), index.name, "soup-00009-of-00009.safetensors"]
        assert files_below(tmp_path) == sorted(names), "shards of the one before are gone"


def test_a_given_state_can_be_sharded(wide_zoo, tmp_path):
    state = {key: tensor + 1 for key, tensor in average(wide_zoo, [1, 0, 0]).items()}
    index = save_soup(
        wide_zoo, [1, 0, 0], tmp_path / "soup.safetensors", state=state, max_shard_size=200
    )
    assert all(same_bits(tensor, state[key]) for key, tensor in open_checkpoint(index).items())


def test_a_soup_can_take_the_place_of_its_ingredient(tmp_path, monkeypatch):
    """Also where the ingredients are read from their files while the soup is written."""
    for large in (0, 1 << 40):
        monkeypatch.setattr("radin.soup.blockwise.MIN_BYTES_TO_READ_FILES", large)
        zoo = open_states(tmp_path / str(large), state(0), state(1))
        soup = average(zoo, [0.5, 0.5])
        save_soup(zoo, [0.5, 0.5], zoo.paths[0])
        assert all(
            same_bits(tensor, soup[key]) for key, tensor in open_checkpoint(zoo.paths[0]).items()
        )


LIMITED = """
import resource, torch
from pathlib import Path
from helpers import files_below, save_states
from radin import RadinError, Zoo, save_soup
from radin.soup.save import save_soups
out = Path(sys.argv[1]) / "out"
states = [{name: torch.rand(3000) for name in "abcdef"} for _ in range(2)]
zoo = Zoo.open(save_states(out.parent / "zoo", *states), progress=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (36_300, 36_300))
for write in (
    lambda: save_soup(zoo, [0.5, 0.5], out / "soup.safetensors"),
    lambda: save_soup(
        zoo, [0.5, 0.5], out / "soup.safetensors", max_shard_size="39KB"
    ),  # without the header
    lambda: save_soups(zoo, [[0.5, 0.5], [1, 0]], [out / "a.safetensors", out / "b.safetensors"]),
):
    for reserved in (True, False):
        if not reserved:
            del os.posix_fallocate
        try:
            write()
        except RadinError as error:
            print(error)
        assert files_below(out) == [], files_below(out)
        if not reserved:
            os.posix_fallocate = kept
        kept = os.posix_fallocate
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="no limits on file sizes, or no asking for room, there"
)
def test_a_disk_that_really_refuses_a_soup(tmp_path):
    said = finish(run_python("import os\n" + LIMITED, tmp_path)).splitlines()
    out = tmp_path / "out"
    assert [
        line.split(": could not be written (File too large); free some space")[0] for line in said
    ] == [
        *[str(out / "soup.safetensors")] * 2,
        *[f"{out / 'soup-00001-of-00002.safetensors'} and 2 more"] * 2,
        *[f"{out / 'a.safetensors'} and 1 more"] * 2,
    ]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [0, 1, 4, 7])
def test_a_disk_that_fills_up_leaves_the_old_soup(wide_zoo, tmp_path, monkeypatch, failure, at):
    path = tmp_path / "soup.safetensors"
    save_soup(wide_zoo, [1, 0, 0], path, max_shard_size=200)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    writes = []

    def write_some(*arguments: Any) -> None:
        writes.append(arguments)
        if len(writes) > at:
            raise failure
        write_at(*arguments)

    monkeypatch.setattr("radin.soup.save.write_at", write_some)
    for write in (
        lambda: save_soup(wide_zoo, [0, 1, 0], path, max_shard_size=200),
        lambda: save_soups(
            wide_zoo,
            [[0, 1, 0], [0, 0, 1]],
            [tmp_path / "a.safetensors", tmp_path / "b.safetensors"],
        ),
    ):
        with pytest.raises((RadinError, KeyboardInterrupt)) as caught:
            write()
        assert isinstance(caught.value, KeyboardInterrupt) or "No space left on device" in str(
            caught.value
        )
        assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
        writes.clear()


KILLED = """
import os, random, signal, torch
from pathlib import Path
from helpers import files_below, save_states
from radin import Zoo, average, files, save_soup
from radin.checkpoints.checkpoint import open_checkpoint
from radin.soup import blockwise, save
from radin.soup.save import save_soups

folder = Path(sys.argv[1])
blockwise.PIECE_ELEMENTS = blockwise.BLOCK_ELEMENTS
states = [{name: torch.rand(2 * blockwise.BLOCK_ELEMENTS + 5) for name in "abcd"} for _ in range(3)]
zoo = Zoo.open(save_states(folder / "zoo", *states), progress=False)
old, new = [1, 0, 0], [0.25, 0.5, 0.25]
one, other = (average(zoo, weights) for weights in (old, new))
left, real = None, {}

def step(name):
    def stepped(*arguments, **options):
        global left
        if left is not None:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*arguments, **options)
    return stepped

steps_of = ((save, "write_at"), (os, "fsync"), (os, "replace"), (os, "unlink"), (files, "lock"))
for module, name in steps_of:
    real[name] = getattr(module, name)
    setattr(module, name, step(name))

def write(kind, out, weights):
    if kind == "file":
        save_soup(zoo, weights, out / "soup.safetensors")
    elif kind == "shards":
        save_soup(zoo, weights, out / "soup.safetensors", max_shard_size="600KB")
    else:
        paths = [out / "soup.safetensors", out / "second.safetensors"]
        save_soups(zoo, [weights, weights[::-1]], paths)

def content(out):
    return {name: (out / name).read_bytes() for name in files_below(out)}

for kind in ("file", "shards", "several"):
    out = folder / kind
    write(kind, out, new)
    whole, left = content(out), 10_000
    write(kind, out, new)
    steps, left = 10_000 - left, None
    assert steps > 12
    moments = random.Random(0).sample(range(steps), 10)
    for moment in sorted({*moments, *range(steps - 8, steps)}):  # the moves are the last of them
        write(kind, out, old)
        child = os.fork()
        if not child:
            left = moment
            write(kind, out, new)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, moment
        shown = out / ("soup.safetensors.index.json" if kind == "shards" else "soup.safetensors")
        if shown.exists():  # an index is gone while its shards are replaced
            found = open_checkpoint(shown)
            same = [
                all(torch.equal(found[key], each[key]) for key in found) for each in (one, other)
            ]
            assert any(same), moment
        else:
            assert kind == "shards"
    write(kind, out, new)
    assert content(out) == whole, sorted(content(out))
    print(kind, steps)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes to kill in this manner there")
def test_killed_at_any_moment_a_soup_is_whole_or_absent(tmp_path):
    """At ten random steps and at each of the last: writing, moving and removing are the steps."""
    said = finish(run_python(KILLED, tmp_path, OMP_NUM_THREADS=1))
    assert [line.split()[0] for line in said.splitlines()] == ["file", "shards", "several"]


@given(weights=mixing_weights(N), amount=st.floats(0, 1))
@settings(max_examples=50)
def test_interpolation_is_a_straight_line(zoo, weights, amount):
    soup = average(zoo, weights)
    for key, tensor in interpolate(zoo, weights, amount).items():
        torch.testing.assert_close(
            tensor, zoo.init[key] + amount * (soup[key] - zoo.init[key]), rtol=1e-5, atol=1e-6
        )


def test_ends_of_the_interpolation(zoo):
    weights = torch.full((N,), 1 / N)
    start, end, soup = (
        interpolate(zoo, weights, 0),
        interpolate(zoo, weights, 1),
        average(zoo, weights),
    )
    for key in zoo.keys():
        assert torch.equal(start[key], zoo.init[key])
        assert torch.equal(end[key], soup[key])


@pytest.mark.parametrize("amount", [-0.01, 1.01, float("nan"), float("inf")])
def test_amounts_outside_the_line_are_refused(zoo, amount):
    with pytest.raises(ParameterError, match="amount must lie between 0"):
        interpolate(zoo, [0.25] * N, amount)


def test_interpolation_needs_the_initialisation(tmp_path):
    with pytest.raises(ParameterError, match="without init"):
        interpolate(open_states(tmp_path, state(0)), [1], 0.5)


NOT_MIXING_WEIGHTS = [
    ([0.5, 0.5], r"shape \(4,\).*\(2,\)"),
    ([[0.25] * 4], r"shape \(4,\).*\(1, 4\)"),
    (1.0, r"shape \(4,\).*\(\)"),
    ([], r"shape \(4,\).*\(0,\)"),
    ([1.5, -0.5, 0, 0], r"not be negative; the smallest here is -0\.5"),
    ([1, 1, 0, 0], "sum to 2.*Divide"),
    ([0.0] * 4, "sum to 0"),
    ([0.25, 0.25, 0.25, 0.2], r"sum to 0\.95"),
    ([float("nan"), 1, 0, 0], "NaN or infinity"),
    ([float("inf"), 0, 0, 0], "NaN or infinity"),
]


@pytest.mark.parametrize(("weights", "said"), NOT_MIXING_WEIGHTS)
def test_weights_outside_the_simplex_are_refused(zoo, tmp_path, weights, said):
    for use in (
        lambda: average(zoo, weights),
        lambda: interpolate(zoo, weights, 0.5),
        lambda: save_soup(zoo, weights, tmp_path / "soup.safetensors"),
    ):
        with pytest.raises(ParameterError, match=said):
            use()
    assert list(tmp_path.iterdir()) == []


def test_rows_of_weights_are_checked_one_by_one():
    assert check_weights(torch.eye(3), 3, rows=True).shape == (3, 3)
    with pytest.raises(ParameterError, match=r"sum to 2\b"):
        check_weights([[1, 0], [1, 1], [0, 1]], 2, rows=True)
    with pytest.raises(ParameterError, match=r"shape \(M, 3\)"):
        check_weights(torch.zeros(0, 3), 3, rows=True)


@pytest.mark.parametrize(
    "weights", [torch.full((3,), 1 / 3), torch.full((72,), 1 / 72), torch.full((1000,), 1e-3)]
)
def test_rounding_is_no_reason_to_refuse(weights):
    check_weights(weights, len(weights))


def test_save_soup_does_not_touch_the_ingredients(zoo, tmp_path):
    before = [path.read_bytes() for path in zoo.paths]
    save_soup(zoo, [0.25] * N, tmp_path / "soup.safetensors")
    assert [path.read_bytes() for path in zoo.paths] == before
    assert save(state(0), tmp_path / "x.safetensors").read_bytes() == before[0]


def test_a_soup_with_batch_norm_is_saved_with_its_own_statistics(tmp_path):
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))

    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        states.append({key: tensor + seed for key, tensor in network().state_dict().items()})
    zoo = Zoo.open(save_states(tmp_path / "zoo", *states), network, progress=False)
    with pytest.warns(
        UserWarning, match="averaged running statistics of batch norm, which fit no soup"
    ):
        save_soup(zoo, [0.5, 0.5], tmp_path / "stale.safetensors")
    refreshed = refresh_batch_norm(zoo, [0.5, 0.5], tiny_split(30), device="cpu")
    path = save_soup(zoo, [0.5, 0.5], tmp_path / "fresh.safetensors", state=refreshed)
    for key, tensor in open_checkpoint(path).items():
        torch.testing.assert_close(tensor, refreshed[key])
