"""radin/checkpoints/checkpoint.py: nested and prefixed state dicts and moving averages are found
and noted.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers import build, save, save_states, state
from radin import Zoo, average
from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.names import best_prefixes, ema_family
from radin.errors import CheckpointError, ParameterError

PREFIXES = (
    "module.",
    "model.",
    "_orig_mod.",
    "backbone.",
    "module._orig_mod.",
    "model.backbone.module.",
)


def open_zoo(*paths: Path, **options: object) -> Zoo:
    return Zoo.open(paths, progress=False, **options)


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def near(seed: int) -> dict[str, Tensor]:
    """A fine-tune of state(9), which is then its initialisation."""
    steps = state(seed)
    return {key: tensor + 0.1 * steps[key] for key, tensor in state(9).items()}


def same(checkpoint: object, tensors: dict[str, Tensor]) -> bool:
    found = dict(checkpoint)
    return set(found) == set(tensors) and all(
        torch.equal(found[key], tensors[key]) for key in tensors
    )


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_zoo(path)
    return str(caught.value)


# Nested state dicts


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_state_dict"])
def test_a_nested_state_dict_is_found(tmp_path, entry):
    beside = {
        "epoch": 3,
        "loss": 0.25,
        "args": {"lr": 1e-3, "names": ["a"], "on": True, "none": None},
    }
    beside |= {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "best": torch.tensor(81.0)}
    path = save({**beside, entry: OrderedDict(state(0))}, tmp_path / "a.ckpt")
    assert same(open_checkpoint(path), state(0))
    zoo = open_zoo(path, build=build)
    assert zoo.notes == [f"{path}: read its {entry!r}"]


@pytest.mark.parametrize("entry", ["ema", "state_dict_ema", "model_ema"])
def test_an_ema_alone_is_read_and_beside_an_ordinary_one_it_is_noted(tmp_path, entry):
    alone = save({entry: state(1), "epoch": 1}, tmp_path / "alone.pth")
    both = save({entry: state(1), "state_dict": state(0)}, tmp_path / "both.pth")
    assert same(open_checkpoint(alone), state(1))
    assert same(open_checkpoint(both), state(0))
    assert open_zoo(alone, both).notes == [
        f"{alone}: read its {entry!r} (an EMA; there is no ordinary state dict)",
        f"{both}: read its 'state_dict'; an EMA is there too, not read: {entry!r}",
    ]


@pytest.mark.parametrize("entries", [("state_dict", "model"), ("ema", "model_ema")])
def test_several_candidates_are_refused(tmp_path, entries):
    path = save({entry: state(k) for k, entry in enumerate(entries)}, tmp_path / "a.pt")
    message = refusal(path)
    assert f"{path}: holds several state dicts, {entries[0]!r}, {entries[1]!r}" in message
    assert f"torch.save(checkpoint[{entries[0]!r}], path)" in message


def test_an_entry_of_another_name_is_left_to_the_user(tmp_path):
    message = refusal(save({"weights": state(0)}, tmp_path / "a.pt"))
    assert "here torch.save(checkpoint['weights'], path)" in message


def test_a_dict_that_holds_itself_ends(tmp_path):
    loop: dict[str, object] = {"epoch": 1}
    loop["state_dict"] = loop
    assert "not a state dict" in refusal(save(loop, tmp_path / "a.pt"))
    loop["model"] = state(0)
    assert same(open_checkpoint(save(loop, tmp_path / "b.pt")), state(0))


@pytest.mark.parametrize("content", [nn.Linear(2, 2), partial(max)])
def test_objects_beside_a_nested_state_dict_are_refused_by_name(tmp_path, content):
    message = refusal(save({"state_dict": state(0), "args": content}, tmp_path / "a.pt"))
    assert "refused" in message
    assert f"{type(content).__module__}.{type(content).__qualname__}" in message


# Prefixes


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off_where_the_model_fits_without(tmp_path, suffix, prefix):
    path = save(prefixed(prefix, state(0)), tmp_path / f"a{suffix}")
    plain = save(state(1), tmp_path / f"b{suffix}")
    zoo = open_zoo(path, plain, build=build)
    assert same(zoo[0], state(0))
    assert zoo.keys() == list(zoo[0])
    assert set(zoo.parameter_keys()) == set(state(0))
    assert same(zoo.model(0).state_dict(), state(0))
    assert zoo.notes == [f"{path}: read without the prefix {prefix!r}"]
    bare = save_states(tmp_path / "bare", state(0), state(1))
    assert zoo.fingerprints == open_zoo(*bare).fingerprints


@pytest.mark.parametrize("first", [0, 1, 2])
def test_without_a_model_the_file_with_the_barest_keys_is_the_reference(tmp_path, first):
    paths = [
        save(prefixed(prefix, state(k)), tmp_path / f"{k}.pt")
        for k, prefix in enumerate(("", "module.", "model.module."))
    ]
    zoo = open_zoo(*paths[first:], *paths[:first])
    assert all(set(zoo[k]) == set(state(0)) for k in range(3))
    assert len(zoo.notes) == 2


def test_a_prefix_that_all_files_have_is_kept_without_a_model(tmp_path):
    zoo = open_zoo(
        *save_states(tmp_path, prefixed("module.", state(0)), prefixed("module.", state(1)))
    )
    assert set(zoo.keys()) == set(prefixed("module.", state(0)))
    assert zoo.notes == []


def test_a_prefix_that_the_model_has_is_kept(tmp_path):
    def wrapped() -> nn.Module:
        return nn.Sequential(OrderedDict(model=build()))

    path = save(prefixed("module.model.", state(0)), tmp_path / "a.pt")
    zoo = open_zoo(path, save(prefixed("model.", state(1)), tmp_path / "b.pt"), build=wrapped)
    assert set(zoo.keys()) == set(prefixed("model.", state(0)))
    assert zoo.notes == [f"{path}: read without the prefix 'module.'"]


def test_the_init_may_be_nested_and_prefixed_too(tmp_path):
    init = save({"state_dict": prefixed("model.", state(9))}, tmp_path / "init.ckpt")
    zoo = open_zoo(*save_states(tmp_path, near(0), near(1)), init=init)
    assert same(zoo.init, state(9))
    assert zoo.notes == [f"{init}: read its 'state_dict', without the prefix 'model.'"]


def test_files_with_one_finding_share_a_note(tmp_path):
    contents = [{"state_dict": prefixed("model.", state(k)), "epoch": k} for k in range(3)]
    paths = [save(content, tmp_path / f"{k}.ckpt") for k, content in enumerate(contents)]
    assert open_zoo(*paths, build=build).notes == [
        f"{paths[0]} and 2 more: read its 'state_dict', without the prefix 'model.'"
    ]


def test_a_prefix_before_the_keys_of_the_model_only(tmp_path):
    """Lightning saves the loss's weights too, and torch's AveragedModel a counter."""
    beside = {"loss.weight": torch.ones(3), "n_averaged": torch.tensor(3)}
    paths = save_states(tmp_path, *(prefixed("model.", state(k)) | beside for k in range(2)))
    with pytest.raises(CheckpointError) as caught:
        open_zoo(*paths, build=build)
    assert str(caught.value).splitlines()[1:] == [
        *(f"  {path}: extra key {key}" for path in paths for key in beside),
        '  unused="skip" leaves out the extra keys that are the same in every file',
    ]
    zoo = open_zoo(*paths, build=build, unused="skip")
    assert same(zoo[1], state(1))
    assert [note.removeprefix(f"{paths[0]} and 1 more: ") for note in zoo.notes] == [
        "read without the prefix 'model.'",
        (
            "skipped 2 keys that the model does not have, the same in every file: "
            "loss.weight, n_averaged"
        ),
    ]


def test_a_prefix_before_the_keys_of_another_file_only(tmp_path):
    plain = save(state(0) | {"loss.weight": torch.ones(3)}, tmp_path / "a.pt")
    path = save(prefixed("model.", state(1)) | {"loss.weight": torch.ones(3)}, tmp_path / "b.pt")
    for paths in ((plain, path), (path, plain)):
        assert set(open_zoo(*paths).keys()) == {*state(0), "loss.weight"}


def test_two_networks_of_one_kind_are_not_chosen_between(tmp_path):
    path = save(prefixed("student.", state(0)) | prefixed("teacher.", state(1)), tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError,
        match=r"a\.pt: holds the model's keys several times, under 'student.', 'teach",
    ):
        open_zoo(path, build=build)
    assert len(open_zoo(path)[0]) == 8  # without a model both are averaged


def test_as_they_stand_or_with_most_of_them(tmp_path):
    bare = save(state(0) | prefixed("teacher.", state(1)), tmp_path / "bare.pt")
    with pytest.raises(
        CheckpointError, match=r"extra key teacher\.1\.bias"
    ):  # nothing is left out without a message
        open_zoo(bare, build=build)
    fewer = {key: tensor for key, tensor in prefixed("old.", state(1)).items() if "bias" not in key}
    more = open_checkpoint(save(fewer | prefixed("new.", state(0)), tmp_path / "more.pt")).fit(
        state(0)
    )
    assert more.prefix == "new."
    assert same(more, state(0) | fewer)


def test_names_that_would_be_one_are_refused(tmp_path):
    path = save({"1.bias": torch.ones(6)} | prefixed("model.", state(0)), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: holds both '1\.bias' and 'model\.1\.bias'"):
        open_zoo(path, build=build)


def test_differences_are_told_by_the_keys_less_their_prefix(tmp_path):
    tensors = prefixed("module.", state(0))
    del tensors["module.3.bias"]
    path = save(tensors, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        open_zoo(path, build=build)
    assert str(caught.value).splitlines()[1:] == [f"  {path}: missing key 3.bias"]


def test_the_same_weights_under_another_prefix_are_a_duplicate(tmp_path):
    paths = save_states(tmp_path, state(0), prefixed("module.", state(0)), suffix=".pt")
    for options in ({}, {"build": build}):
        with pytest.warns(UserWarning, match="holds the same weights as"):
            open_zoo(*paths, **options)


def test_prefixes_taken_off_one_after_another_are_all_said(tmp_path):
    checkpoint = open_checkpoint(save(prefixed("module.model.", state(0)), tmp_path / "a.pt"))
    twice = checkpoint.fit(prefixed("model.", state(0))).fit(state(0))
    assert twice.summary == "read without the prefix 'module.model.'"
    assert same(twice, state(0))


def test_the_search_for_a_prefix_ends_on_hostile_keys():
    assert best_prefixes(["a." * 200_000], ["x"]) == [""]
    assert best_prefixes(["_ema" * 200_000 + ".w"], ["w"]) == ["_ema" * 200_000 + "."]
    assert best_prefixes([".", ".."], [""]) == [".", ".."]
    assert best_prefixes([], ["x"]) == [""]
    assert best_prefixes(["a." * 9 + "w"], ["w"]) == [""]
    assert best_prefixes(["model.w", "model.b"], ["w", "b", "c"]) == ["model."]
    assert best_prefixes(["model.w"], ["w", "b", "c"]) == [
        "model."
    ]  # so that what is missing is told by its own name


# Moving averages among the keys


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("ema.w", "ema."),
        ("ema_model.module.w", "ema_model."),
        ("module.EMA.w", "module.EMA."),
        ("net_ema.w", "net_ema."),
        ("schema.w", ""),
        ("model.ema", ""),  # a parameter of that name
        ("w", ""),
    ],
)
def test_which_keys_are_of_an_ema(key, family):
    assert ema_family(key) == family


FAMILIES = [
    ("model.", "ema_model."),
    ("module.", "ema."),
    ("", "ema."),
    ("model.", "ema_model.module."),
    ("", "m_ema."),
]


def with_ema(ordinary: str, ema: str, seed: int) -> dict[str, Tensor]:
    """As training programs save it: weights, their average, and the counter of the average."""
    counter = {f"{ema_family(ema)}n_averaged": torch.tensor(seed)}
    return prefixed(ordinary, state(seed)) | prefixed(ema, state(seed + 50)) | counter


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(("ordinary", "ema"), FAMILIES)
def test_an_ema_beside_the_weights_is_said_or_read(tmp_path, suffix, ordinary, ema):
    paths = save_states(tmp_path, *(with_ema(ordinary, ema, k) for k in range(2)), suffix=suffix)
    zoo = open_zoo(*paths, build=build)
    assert same(zoo[1], state(1))
    read = f"read without the prefix {ordinary!r}; " if ordinary else ""
    note = f"{read}an EMA is there too, not read: {ema_family(ema)!r}"
    assert zoo.notes == [f"{paths[0]} and 1 more: {note}"]
    averages = open_zoo(*paths, build=build, ema=True)
    assert same(averages[1], state(51))
    assert averages.notes == [f"{paths[0]} and 1 more: read without the prefix {ema!r} (an EMA)"]


@pytest.mark.parametrize("entry", ["ema", "state_dict_ema", "model_ema"])
def test_an_ema_in_an_entry_is_read_when_asked_for(tmp_path, entry):
    path = save({entry: prefixed("module.", state(1)), "state_dict": state(0)}, tmp_path / "a.ckpt")
    assert same(open_checkpoint(path, ema=True).fit(state(0)), state(1))
    zoo = open_zoo(path, build=build, ema=True)
    assert same(zoo[0], state(1))
    assert zoo.notes == [f"{path}: read its {entry!r}, without the prefix 'module.' (an EMA)"]
    assert same(open_zoo(path, ema=True)[0], prefixed("module.", state(1)))


def test_an_ema_among_the_keys_of_an_entry(tmp_path):
    path = save(
        {"state_dict": with_ema("model.", "ema_model.", 0), "epoch": 1}, tmp_path / "a.ckpt"
    )
    assert open_zoo(path, build=build).notes == [
        (
            f"{path}: read its 'state_dict', without the prefix 'model.'; an EMA is there too, not "
            "read: 'ema_model.'"
        )
    ]
    assert same(open_zoo(path, build=build, ema=True)[0], state(50))


def test_keys_of_an_ema_alone_are_read_and_it_is_noted(tmp_path):
    path = save(prefixed("ema_model.", state(1)), tmp_path / "a.safetensors")
    for ema, note in ((False, "an EMA; there is no ordinary state dict"), (True, "an EMA")):
        zoo = open_zoo(path, build=build, ema=ema)
        assert same(zoo[0], state(1))
        assert zoo.notes == [f"{path}: read without the prefix 'ema_model.' ({note})"]


def test_an_ordinary_state_dict_that_misses_a_key_does_not_give_way_to_its_ema(tmp_path):
    tensors = with_ema("model.", "ema_model.", 0)
    del tensors["model.1.bias"]
    with pytest.raises(CheckpointError, match=r"missing key 1\.bias"):
        open_zoo(save(tensors, tmp_path / "a.pt"), build=build)


def test_an_ema_under_names_of_its_own_is_left_out(tmp_path):
    """Some programs take the dots out of the names of an EMA, which fits no model then."""
    squeezed = {f"model_ema.{key.replace('.', '')}": tensor for key, tensor in state(1).items()}
    path = save(prefixed("model.", state(0)) | squeezed, tmp_path / "a.pt")
    zoo = open_zoo(path, build=build)
    assert same(zoo[0], state(0))
    assert "not read: 'model_ema.'" in zoo.notes[0]
    with pytest.raises(CheckpointError, match="no EMA in it"):
        open_zoo(path, build=build, ema=True)


def test_what_the_weights_and_their_ema_both_have_beside_the_model_is_an_error(tmp_path):
    tensors = prefixed("model.", with_text(0)) | prefixed("ema.", with_text(1))
    path = save(tensors, tmp_path / "a.pt")
    for ema in (False, True):
        with pytest.raises(CheckpointError, match=r"extra key text\.scale"):
            open_zoo(path, build=build, ema=ema)
        assert same(open_zoo(path, build=build, ema=ema, unused="skip")[0], state(int(ema)))


@pytest.mark.parametrize(
    "content", [state(0), {"state_dict": state(0)}, prefixed("teacher.", state(0))]
)
def test_no_ema_in_any_one_file_is_an_error(tmp_path, content):
    paths = [save(with_ema("", "ema.", 0), tmp_path / "a.pt"), save(content, tmp_path / "b.pt")]
    with pytest.raises(
        CheckpointError, match=r"b\.pt: no EMA in it, neither an entry such as 'ema' nor keys"
    ):
        open_zoo(*paths, build=build, ema=True)


def test_several_emas_are_not_chosen_between(tmp_path):
    tensors = (
        prefixed("model.", state(0)) | prefixed("ema_1.", state(1)) | prefixed("ema_2.", state(2))
    )
    path = save(tensors, tmp_path / "a.pt")
    assert "not read: 'ema_1.', 'ema_2.'" in open_zoo(path, build=build).notes[0]
    with pytest.raises(CheckpointError, match="several times, under 'ema_1.', 'ema_2.'"):
        open_zoo(path, build=build, ema=True)
    entries = save({"model": state(0), "ema": state(1), "model_ema": state(2)}, tmp_path / "b.pt")
    assert same(open_checkpoint(entries), state(0))
    with pytest.raises(CheckpointError, match="holds several state dicts, 'ema', 'model_ema'"):
        open_checkpoint(entries, ema=True)


def test_a_model_that_has_an_ema_of_its_own_keeps_it(tmp_path):
    def pair() -> nn.Module:
        return nn.ModuleDict({"model": build(), "ema_model": build()})

    tensors = prefixed("model.", state(0)) | prefixed("ema_model.", state(1))
    zoo = open_zoo(save(tensors, tmp_path / "a.pt"), build=pair)
    assert same(zoo[0], tensors)
    assert zoo.notes == []


def test_the_weights_that_lightning_moves_aside_for_their_average(tmp_path):
    """Its WeightAveraging puts the average where the weights were."""
    content = {
        "state_dict": prefixed("model.", state(1)),
        "current_model_state": prefixed("model.", state(0)),
    }
    path = save(content | {"averaging_state": {"n_averaged": torch.tensor(5)}}, tmp_path / "a.ckpt")
    zoo = open_zoo(path, build=build)
    assert same(zoo[0], state(0))
    assert "an EMA is there too, not read: 'state_dict'" in zoo.notes[0]
    assert same(open_zoo(path, build=build, ema=True)[0], state(1))


def test_the_init_of_emas_is_an_ordinary_one(tmp_path):
    init = save({"model": state(9), "ema": state(8)}, tmp_path / "init.pt")
    paths = save_states(tmp_path, *(prefixed("ema.", near(k)) for k in range(2)))
    assert same(open_zoo(*paths, build=build, init=init, ema=True).init, state(9))


# Keys that the model does not have


def with_text(seed: int, text: float = 1.0) -> dict[str, Tensor]:
    return state(seed) | {"text.weight": torch.full((3, 2), text), "text.scale": torch.tensor(text)}


def test_unused_keys_are_an_error_unless_skipped(tmp_path):
    paths = save_states(tmp_path, with_text(0), with_text(1))
    with pytest.raises(
        CheckpointError, match=r'extra key text\.weight\n  unused="skip" leaves out the extra keys'
    ):
        open_zoo(*paths, build=build)
    zoo = open_zoo(*paths, build=build, unused="skip")
    assert same(zoo[1], state(1))
    assert set(zoo.keys()) == set(state(0))
    assert (
        zoo.fingerprints
        == open_zoo(*save_states(tmp_path / "bare", state(0), state(1))).fingerprints
    )
    note = (
        "skipped 2 keys that the model does not have, the same in every file: "
        "text.scale, text.weight"
    )
    assert zoo.notes == [f"{paths[0]} and 1 more: {note}"]
    zoo.model(average(zoo, [0.5, 0.5]))


def test_unused_keys_under_a_prefix_in_a_nested_file(tmp_path):
    paths = [
        save({"model": prefixed("module.", with_text(k))}, tmp_path / f"{k}.pt") for k in range(2)
    ]
    zoo = open_zoo(*paths, build=build, unused="skip")
    assert same(zoo[0], state(0))
    assert [note.partition(": ")[2].split()[0] for note in zoo.notes] == ["read", "skipped"]


def not_there() -> dict[str, Tensor]:
    return {key: tensor for key, tensor in with_text(1).items() if key != "text.scale"}


@pytest.mark.parametrize("other", [torch.tensor(2.0), torch.tensor(1).double()])
@pytest.mark.parametrize("odd", range(3))
def test_an_unused_key_that_differs_is_an_error_that_names_the_file(tmp_path, other, odd):
    states = [with_text(k) for k in range(3)]
    states[odd]["text.scale"] = other
    paths = save_states(tmp_path, *states)
    with pytest.raises(CheckpointError) as caught:
        open_zoo(*paths, build=build, unused="skip")
    first = next(path for k, path in enumerate(paths) if k != odd)
    assert str(caught.value).splitlines()[1:] == [
        f"  text.scale in {paths[odd]} is not what it is in {first} and 1 more"
    ]


def test_an_unused_key_that_is_not_everywhere_is_an_error(tmp_path):
    paths = save_states(tmp_path, with_text(0), not_there())
    with pytest.raises(CheckpointError) as caught:
        open_zoo(*paths, build=build, unused="skip")
    assert f"{paths[0]}: extra key text.scale, which is not in every file" in str(caught.value)
    assert "text.weight" not in str(caught.value)


def test_an_init_need_not_have_the_unused_keys_but_may_not_differ_in_them(tmp_path):
    paths = save_states(tmp_path, *(near(k) | {"text": torch.ones(2)} for k in range(2)))
    bare, other = (
        save(state(9), tmp_path / "bare.pt"),
        save(state(9) | {"text": torch.zeros(2)}, tmp_path / "other.pt"),
    )
    zoo = open_zoo(*paths, build=build, init=bare, unused="skip")
    assert same(zoo.init, state(9))
    with pytest.raises(
        CheckpointError,
        match=r"text in .*other\.pt is not what it is in .*model_0\.safetensors and 1 more",
    ):
        open_zoo(*paths, build=build, init=other, unused="skip")


def test_other_words_for_unused(tmp_path):
    path = save(state(0), tmp_path / "a.pt")
    for word in ("ignore", "", None, True):
        with pytest.raises(ParameterError, match='unused must be "error" or "skip"'):
            open_zoo(path, build=build, unused=word)
    with pytest.raises(ParameterError, match="needs build="):
        open_zoo(path, unused="skip")


@pytest.mark.parametrize("word", ["model_ema", None, 1])
def test_other_words_for_ema(tmp_path, word):
    with pytest.raises(ParameterError, match="ema must be True or False"):
        open_zoo(save(state(0), tmp_path / "a.pt"), ema=word)


def test_pickled_code_in_a_nested_checkpoint_is_refused_and_never_runs(tmp_path):
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.write_text, (marker, "it ran")

    path = save({"state_dict": state(0), "hyper_parameters": Payload()}, tmp_path / "a.ckpt")
    assert "refused" in refusal(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the payload does run: radin refused something
