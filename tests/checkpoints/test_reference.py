"""radin/checkpoints/reference.py and names.py: files with other names of the same tensors."""

from __future__ import annotations

import pickle
from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn

from helpers import save, save_states
from radin import Zoo, average, save_soup
from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.names import (
    POSSIBLE_WRAPPERS,
    WRAPPERS,
    common_front,
    match_wrapped,
    unwrapped,
    without_wrappers,
)
from radin.errors import CheckpointError

State = dict[str, Tensor]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)


def network() -> nn.Module:
    return nn.ModuleDict({"stem": nn.Linear(2, 3), "layers": nn.ModuleList([Block(), Block()])})


def state(seed: int) -> State:
    rng = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(tensor.shape, generator=rng)
        for key, tensor in network().state_dict().items()
    }


def same(found: object, tensors: State) -> bool:
    own = dict(found)
    return own.keys() == tensors.keys() and all(torch.equal(own[k], tensors[k]) for k in tensors)


def open_zoo(*paths: Path, **options: object) -> Zoo:
    return Zoo.open(paths, progress=False, **options)


def with_word(tensors: State, word: str, where: str) -> State:
    """The tensors with the name of a wrapper at the front of their keys, inside, or at the end."""
    renamed = {}
    for key, tensor in tensors.items():
        module, _, last = key.rpartition(".")
        inside = key.replace(".attention", f".{word}.attention")
        names = {
            "front": f"{word}.{key}",
            "inside": inside.replace(".norm", f".{word}.norm"),
            "end": f"{module}.{word}.{last}",
            "everywhere": f"{word}.{module}.{word}.{last}",
        }
        renamed[names[where]] = tensor
    return renamed


WORDS = sorted({*WRAPPERS, "module", "model"})
PLACES = ["front", "inside", "end", "everywhere"]


@pytest.mark.parametrize("with_build", [False, True])
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("word", WORDS)
def test_names_of_wrappers_anywhere_in_a_key(tmp_path, word, where, with_build):
    plain = save(state(0), tmp_path / "plain.pt")
    wrapped = save({"state_dict": with_word(state(1), word, where)}, tmp_path / "wrapped.pt")
    for paths in ((plain, wrapped), (wrapped, plain)):
        zoo = open_zoo(*paths, build=network if with_build else None)
        assert sorted(zoo.keys()) == sorted(state(0))
        assert same(zoo[paths.index(wrapped)], state(1))
        (note,) = zoo.notes
        assert note.startswith(f"{wrapped}: read its 'state_dict', without the ")
        assert ("prefix" in note) == (where == "front")


@pytest.mark.parametrize("words", list(permutations(["module", "_orig_mod", "_forward_module"], 2)))
def test_two_prefixes_without_a_plain_file(tmp_path, words):
    states = [with_word(state(k), word, "front") for k, word in enumerate(words)]
    zoo = open_zoo(*save_states(tmp_path, *states))
    for k in range(2):
        assert same(zoo[k], state(k))


@pytest.mark.parametrize("words", list(permutations(["module", "model"], 2)))
def test_a_prefix_that_may_be_the_network_s_own_name_stays_if_it_is_first(tmp_path, words):
    states = [with_word(state(k), word, "front") for k, word in enumerate(words)]
    zoo = open_zoo(*save_states(tmp_path, *states))
    prefix = "model." if words[0] == "model" else ""
    for k in range(2):
        assert same(zoo[k], {prefix + key: tensor for key, tensor in state(k).items()})


@pytest.mark.parametrize("word", ["_orig_mod", "module", "_fsdp_wrapped_module"])
@pytest.mark.parametrize("where", PLACES)
def test_files_with_the_same_names_keep_them(tmp_path, word, where):
    states = [with_word(state(k), word, where) for k in range(2)]
    zoo = open_zoo(*save_states(tmp_path, *states))
    assert same(zoo[1], states[1])
    assert zoo.notes == []


def test_a_compiled_model_and_its_files_without_the_wrapper(tmp_path):
    def compiled() -> nn.Module:
        wrapper = nn.Module()
        wrapper._orig_mod = network()
        return wrapper

    paths = save_states(tmp_path, state(0), with_word(state(1), "_orig_mod", "front"))
    zoo = open_zoo(*paths, build=compiled)
    assert same(zoo[0], with_word(state(0), "_orig_mod", "front"))
    zoo.model(average(zoo, [0.5, 0.5]))


def test_modules_that_are_called_so_are_kept(tmp_path):
    def named() -> nn.Module:
        return nn.ModuleDict({"model": nn.Linear(2, 2), "module": nn.Linear(2, 2)})

    torch.manual_seed(0)
    states = [{key: torch.randn(t.shape) for key, t in named().state_dict().items()} for _ in "ab"]
    paths = save_states(tmp_path, *states)
    for options in ({}, {"build": named}):
        assert same(open_zoo(*paths, **options)[0], states[0])
    torn = states[0] | {"model.module.weight": torch.ones(2, 2)}
    with pytest.raises(CheckpointError, match=r"extra key model\.module\.weight"):
        open_zoo(save(torn, tmp_path / "torn.pt"), paths[1], build=named)


@given(st.lists(st.sampled_from(["a", "b", "module", "_orig_mod"]), min_size=1, max_size=5))
def test_wrappers_are_removed_and_the_last_name_stays(names):
    key = ".".join(names)
    expected = [name for name in names[:-1] if name not in POSSIBLE_WRAPPERS] + names[-1:]
    assert without_wrappers(key, POSSIBLE_WRAPPERS).split(".") == expected


def test_two_names_are_never_made_one():
    assert unwrapped(["w", "_orig_mod.w"]) == {"w": "w", "_orig_mod.w": "_orig_mod.w"}
    assert unwrapped(["a.w", "_orig_mod.b"]) == {"a.w": "a.w", "b": "_orig_mod.b"}
    assert match_wrapped(["module.w", "model.w"], ["w"]) == {}
    assert match_wrapped(["module.w"], ["model.w", "w"]) == {}
    assert match_wrapped(["module.w", "v"], ["w", "v"]) == {"module.w": "w"}


def test_common_front():
    assert common_front([("w", "module.w"), ("b", "module.b"), ("c", "c")]) == "module."
    assert common_front([("w", "module.w"), ("b", "model.b")]) is None
    assert common_front([("a.b", "a.module.b")]) is None
    assert common_front([("w", "w")]) is None


# What load_state_dict takes ----------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6, bias=False)
        self.middle = nn.Linear(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.embed(x)))


def tied(seed: int) -> Tied:
    torch.manual_seed(seed)
    return Tied()


def tied_files(folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"tied_{k}.safetensors" for k in range(2)]
    for k, path in enumerate(paths):
        save_model(tied(k), path)
    return paths


@pytest.mark.parametrize("with_build", [False, True])
def test_the_soup_of_tied_files_is_a_tied_file(tmp_path, with_build):
    zoo = open_zoo(*tied_files(tmp_path), build=Tied if with_build else None)
    path = save_soup(zoo, [0.25, 0.75], tmp_path / "soup.safetensors")
    with safe_open(path, "pt") as soup, safe_open(zoo.paths[0], "pt") as one:
        assert sorted(soup.keys()) == sorted(one.keys())
        assert soup.metadata()["head.weight"] == one.metadata()["head.weight"] == "embed.weight"
    model = Tied()
    assert load_model(model, path) == (set(), [])
    expected = 0.25 * tied(0).embed.weight + 0.75 * tied(1).embed.weight
    torch.testing.assert_close(model.head.weight, expected)
    assert len(open_zoo(path, build=Tied)) == 1
    if with_build:
        assert "head.weight" in zoo.keys()
        assert torch.equal(zoo.model(1).head.weight, tied(1).embed.weight)
        torch.testing.assert_close(zoo.model(average(zoo, [0.25, 0.75])).head.weight, expected)


def test_shards_of_a_tied_soup_name_the_tied_weight(tmp_path):
    zoo = open_zoo(*tied_files(tmp_path))
    index = save_soup(zoo, [0.5, 0.5], tmp_path / "soup.safetensors", max_shard_size=100)
    with safe_open(next(tmp_path.glob("soup-00001*")), "pt") as shard:
        assert shard.metadata()["head.weight"] == "embed.weight"
    assert "head.weight" not in open_checkpoint(index)


@pytest.mark.parametrize("with_build", [False, True])
def test_tied_files_of_both_formats(tmp_path, with_build):
    paths = [tied_files(tmp_path)[0], save(tied(5).state_dict(), tmp_path / "tied.pt")]
    for order in (paths, paths[::-1]):
        zoo = open_zoo(*order, build=Tied if with_build else None)
        soup = average(zoo, [0.5, 0.5])
        assert torch.equal(soup["head.weight"], soup["embed.weight"])
        torch.testing.assert_close(
            soup["embed.weight"], (tied(0).embed.weight + tied(5).embed.weight) / 2
        )
        path = save_soup(zoo, [0.5, 0.5], tmp_path / "soup.safetensors")
        assert "head.weight" in open_checkpoint(path)


def test_a_tied_weight_without_a_word_in_the_header(tmp_path):
    """As Hugging Face saves it; the model, or a file that has both, shows what is tied."""
    own = {key: t.clone() for key, t in tied(0).state_dict().items() if key != "head.weight"}
    bare = save(own, tmp_path / "bare.safetensors")
    assert torch.equal(open_zoo(bare, build=Tied)[0]["head.weight"], own["embed.weight"])
    whole = save(tied(1).state_dict(), tmp_path / "whole.pt")
    zoo = open_zoo(bare, whole)
    assert torch.equal(zoo[0]["head.weight"], own["embed.weight"])
    apart = {key: t.clone() for key, t in tied(1).state_dict().items()}
    untied = save(apart, tmp_path / "untied.pt")
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        open_zoo(bare, untied)


def test_a_header_that_names_no_tied_weight_adds_no_key(tmp_path):
    path = tmp_path / "a.safetensors"
    metadata = {"format": "pt", "note": "w", "w": "pt"}
    save_file({"w": torch.ones(2), "pt": torch.ones(1)}, path, metadata)
    assert sorted(open_checkpoint(path)) == ["pt", "w"]
    assert sorted(open_zoo(path).keys()) == ["pt", "w"]


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def normed_state(seed: int, *, counters: bool) -> State:
    torch.manual_seed(seed)
    tensors = {key: tensor + seed for key, tensor in normed().state_dict().items()}
    return {key: t for key, t in tensors.items() if counters or "num_batches" not in key}


@pytest.mark.parametrize("counters", [(False, False), (True, False), (False, True)])
def test_batch_norm_without_its_counter(tmp_path, counters):
    states = [normed_state(k + 1, counters=each) for k, each in enumerate(counters)]
    zoo = open_zoo(*save_states(tmp_path, *states), build=normed)
    for k, has_counter in enumerate(counters):
        expected = normed()
        expected.load_state_dict(states[k])
        assert same(zoo[k], expected.state_dict())
        assert zoo[k]["1.num_batches_tracked"] == (k + 1 if has_counter else 0)
    completed = "completed as load_state_dict does: 1.num_batches_tracked"
    assert any(completed in note for note in zoo.notes)
    zoo.model(average(zoo, [0.5, 0.5]))


def test_batch_norm_with_and_without_its_counter_and_no_model(tmp_path):
    states = [normed_state(1, counters=True), normed_state(2, counters=False)]
    zoo = open_zoo(*save_states(tmp_path, *states))
    assert zoo[1]["1.num_batches_tracked"] == 0
    torch.testing.assert_close(
        average(zoo, [0.5, 0.5])["0.weight"], (states[0]["0.weight"] + states[1]["0.weight"]) / 2
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weight_norm_under_its_old_names(tmp_path):
    def new() -> nn.Module:
        return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))

    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        states.append(dict(nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2))).state_dict()))
    zoo = open_zoo(*save_states(tmp_path, *states, suffix=".pt"), build=new)
    for k in range(2):
        expected = new()
        expected.load_state_dict(states[k])
        assert same(zoo[k], expected.state_dict())
        assert same(zoo.model(k).state_dict(), expected.state_dict())
    again = pickle.loads(pickle.dumps(zoo[0]))
    assert same(again, dict(zoo[0]))


def test_a_model_that_computes_what_it_loads(tmp_path):
    class Transposed(nn.Linear):
        def _load_from_state_dict(self, state_dict: State, prefix: str, *rest: object) -> None:
            old = state_dict.pop(f"{prefix}kernel", None)
            if old is not None:
                state_dict[f"{prefix}weight"] = (2 * old).T.contiguous()
            super()._load_from_state_dict(state_dict, prefix, *rest)

    def model() -> nn.Module:
        return nn.Sequential(Transposed(3, 2, bias=False))

    kernels = [torch.randn(3, 2, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    zoo = open_zoo(*save_states(tmp_path, *({"0.kernel": each} for each in kernels)), build=model)
    for k, kernel in enumerate(kernels):
        assert same(zoo[k], {"0.weight": 2 * kernel.T})
        assert torch.equal(zoo.model(k)[0].weight, 2 * kernel.T)


def test_what_load_state_dict_refuses_is_refused(tmp_path):
    tensors = normed_state(0, counters=True)
    del tensors["1.running_mean"]
    with pytest.raises(CheckpointError, match=r"missing key 1\.running_mean"):
        open_zoo(save(tensors, tmp_path / "a.pt"), build=normed)
    wide = normed_state(0, counters=False) | {"0.weight": torch.ones(5, 3, 1, 1)}
    with pytest.raises(CheckpointError, match=r"0\.weight has shape"):
        open_zoo(save(wide, tmp_path / "b.pt"), build=normed)
