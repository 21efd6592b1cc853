"""radin/checkpoints/paths.py: which files a path, a folder, a glob or a list means."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from helpers import build, random_bank, save, save_states, state
from radin import Zoo, average, save_soup
from radin.checkpoints.paths import find_checkpoints, locate
from radin.errors import CheckpointError


def names(paths: object) -> list[str]:
    """The names of what is found, each after the name of its folder."""
    return [f"{path.parent.name}/{path.name}" for path in find_checkpoints(paths).paths]


def notes(paths: object) -> str:
    return "\n".join(find_checkpoints(paths).notes)


def run(folder: Path, *names_of_files: str) -> Path:
    """A folder with a checkpoint under each of these names."""
    for seed, name in enumerate(names_of_files):
        save(state(seed), folder / name)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with one checkpoint in several shards, and its index."""
    zoo = Zoo.open(run(tmp_path / "plain", "a.pt"), progress=False)
    save_soup(zoo, [1.0], tmp_path / "big" / "net.safetensors", max_shard_size=60)
    for path in (tmp_path / "big").glob("*.safetensors"):  # as another program writes them
        tensors = {key: tensor.clone() for key, tensor in load(path).items()}
        save(tensors, path)
    return tmp_path / "big"


def load(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


# Shards ------------------------------------------------------------------------------------------

INDEX = "big/net.safetensors.index.json"


def test_shards_count_as_their_index_however_they_are_given(shards):
    parts = sorted(shards.glob("*.safetensors"))
    assert len(parts) > 1
    everything = sorted(shards.iterdir())
    for given in (
        shards,
        f"{shards}/*",
        f"{shards}/*.safetensors",
        parts,
        everything,
        everything[::-1],
        parts[0],
        [parts[0]],
        [shards],
        shards / "net.safetensors",
    ):
        assert names(given) == [INDEX], given
    zoo = Zoo.open(f"{shards}/*.safetensors", progress=False)
    assert torch.equal(average(zoo, [1.0])["3.bias"], state(0)["3.bias"])


def test_the_same_index_twice_is_two_ingredients(shards):
    index = shards / "net.safetensors.index.json"
    assert names([index, index]) == [INDEX, INDEX]


def test_a_shard_without_its_index_is_refused(shards):
    (shards / "net.safetensors.index.json").unlink()
    for given in (shards, f"{shards}/*", sorted(shards.iterdir())):
        with pytest.raises(CheckpointError, match=r"one of \d shards .* and no index"):
            find_checkpoints(given)


def test_the_only_shard_is_the_whole_checkpoint(tmp_path):
    path = save(state(0), tmp_path / "model-00001-of-00001.safetensors")
    assert find_checkpoints(path).paths == [path]


# Folders -----------------------------------------------------------------------------------------


def test_folders_of_one_checkpoint_by_glob_by_list_and_by_their_parent(tmp_path):
    for step in (900, 1000):
        folder = run(tmp_path / f"checkpoint-{step}", "model.safetensors")
        torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
        torch.save({}, folder / "scheduler.pt")
        (folder / "config.json").write_text("{}")
    wanted = ["checkpoint-900/model.safetensors", "checkpoint-1000/model.safetensors"]
    listed = [tmp_path / "checkpoint-900", tmp_path / "checkpoint-1000"]
    for given in (tmp_path, f"{tmp_path}/checkpoint-*", f"{tmp_path}/**", listed):
        assert names(given) == wanted, given
    assert Zoo.open(tmp_path, build, progress=False).names == [
        "checkpoint-900/model",
        "checkpoint-1000/model",
    ]
    assert locate(listed[0]) == listed[0] / "model.safetensors"


def test_files_of_a_training_beside_the_weights_are_left_aside_and_said(tmp_path):
    side = ["optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "optim_1.pt"]
    run(tmp_path, "optimal.pt", *side)
    for given in (tmp_path, f"{tmp_path}/*"):
        assert names(given) == [f"{tmp_path.name}/optimal.pt"]
        assert "left aside, 5 files of a training program beside the weights: opt" in notes(given)


def test_what_a_training_left_in_folders_of_one_checkpoint_is_said_once(tmp_path):
    for step in (1, 2, 10):
        folder = run(tmp_path / f"checkpoint-{step}", "model.safetensors", "optimizer.pt")
        save({"last_epoch": 3}, folder / "scheduler.pt")
    folders = [tmp_path / f"checkpoint-{step}" for step in (1, 2, 10)]
    expected = (
        "left aside, 6 files of a training program beside the weights: "
        "checkpoint-1/optimizer.pt, checkpoint-1/scheduler.pt, checkpoint-2/optimizer.pt, "
        "checkpoint-2/scheduler.pt and 2 more"
    )
    for given in (tmp_path, f"{tmp_path}/checkpoint-*", folders):
        assert notes(given) == expected, given
        assert len(names(given)) == 3
    run(tmp_path, "rng_state.pth")  # beside the folders
    assert notes(tmp_path).startswith(expected.replace("6 files", "7 files").split(":")[0])
    assert "rng_state.pth" in notes(tmp_path)
    files = [folder / "model.safetensors" for folder in folders]
    assert notes(files) == ""


def test_a_folder_of_folders_in_a_list_says_what_it_holds(tmp_path):
    run(tmp_path / "hf" / "run_1", "model.safetensors")
    run(tmp_path / "hf" / "run_2", "model.safetensors")
    run(tmp_path / "[two]", "a.pt", "b.pt")
    other = run(tmp_path / "other", "model.safetensors")
    message = r"hf: .* none; its folders hold 2 checkpoints: run_1, run_2; give one of these"
    with pytest.raises(CheckpointError, match=message) as error:
        find_checkpoints([tmp_path / "hf", other])
    found = find_checkpoints([str(error.value).split("'")[1], other]).paths  # as it says
    assert [path.parent.name for path in found] == ["run_1", "run_2", "other"]
    with pytest.raises(CheckpointError, match=r"a\.pt, b\.pt; give one of these files") as error:
        find_checkpoints([tmp_path / "[two]", other])
    pattern = str(error.value).rsplit("all of them as '")[1].split("'")[0]
    assert names([pattern, other]) == ["[two]/a.pt", "[two]/b.pt", "other/model.safetensors"]


def test_a_folder_with_several_or_no_checkpoints_is_named(tmp_path):
    run(tmp_path / "two", "a.pt", "b.pt")
    (tmp_path / "c.ckpt" / "checkpoint").mkdir(parents=True)
    save(state(0), tmp_path / "c.ckpt" / "checkpoint" / "mp_rank_00_model_states.pt")
    save(state(1), tmp_path / "d.ckpt")
    with pytest.raises(CheckpointError, match=r"two: a folder is one .* several: a\.pt, b\.pt"):
        find_checkpoints([tmp_path / "two"])
    for given in (f"{tmp_path}/*.ckpt", tmp_path):
        with pytest.raises(CheckpointError, match=r"c\.ckpt: .* none; it looks like DeepSpeed's"):
            find_checkpoints(given)


def test_a_glob_says_which_matches_it_leaves_aside(tmp_path):
    run(tmp_path, "a.pt", "b.pt")
    (tmp_path / "notes.txt").write_text("a text")
    (tmp_path / "logs").mkdir()
    assert names(f"{tmp_path}/*") == [f"{tmp_path.name}/a.pt", f"{tmp_path.name}/b.pt"]
    assert notes(f"{tmp_path}/*") == (
        "left aside, 1 file of other kinds: notes.txt\n"
        "left aside, 1 folder without a checkpoint: logs"
    )
    assert notes(tmp_path) == ""


def test_a_folder_says_what_other_programs_and_folders_hold(tmp_path):
    run(tmp_path, "a.pt", "B.PTH", "c.pth.tar")
    run(tmp_path / "old", "d.pt", "e.pt")
    for name in ("f.h5", "g.pkl"):
        (tmp_path / name).touch()
    assert [path.name for path in find_checkpoints(tmp_path).paths] == [
        "B.PTH",
        "a.pt",
        "c.pth.tar",
    ]
    assert notes(tmp_path) == (
        "left aside, 2 files of other programs: f.h5, g.pkl\n"
        "left aside, 1 folder with checkpoints inside: old"
    )


def test_hidden_files_are_no_checkpoints(tmp_path):
    run(tmp_path, "a.pt")
    (tmp_path / "._a.pt").write_bytes(b"made by a Mac")
    run(tmp_path / ".ipynb_checkpoints", "a-checkpoint.pt")
    for given in (tmp_path, f"{tmp_path}/*", f"{tmp_path}/**/*.pt"):
        assert names(given) == [f"{tmp_path.name}/a.pt"]


def test_links_to_one_file_count_once_and_loops_end(tmp_path):
    run(tmp_path, "model_2.pt", "model_10.pt")
    (tmp_path / "latest.pt").symlink_to("model_10.pt")
    (tmp_path / "loop").symlink_to(tmp_path)
    wanted = [f"{tmp_path.name}/model_2.pt", f"{tmp_path.name}/model_10.pt"]
    for given in (tmp_path, f"{tmp_path}/*.pt", f"{tmp_path}/**/*.pt"):
        assert names(given) == wanted
        assert " to what counts already: " in notes(given)
    listed = [tmp_path / "model_10.pt", tmp_path / "latest.pt"]
    assert find_checkpoints(listed).paths == listed  # who names it twice means it


def test_a_link_to_nothing_is_named(tmp_path):
    run(tmp_path, "a.pt")
    (tmp_path / "b.pt").symlink_to("gone.pt")
    for given in (tmp_path, f"{tmp_path}/*.pt"):
        with pytest.raises(CheckpointError, match=r"b\.pt: no such checkpoint file"):
            Zoo.open(given, progress=False)


# What radin wrote --------------------------------------------------------------------------------


@pytest.mark.parametrize("max_shard_size", [None, 60])
def test_a_soup_and_a_bank_never_slip_in(tmp_path, max_shard_size):
    paths = save_states(tmp_path / "runs", state(0), state(1))
    zoo = Zoo.open(tmp_path / "runs", progress=False)
    soup = save_soup(
        zoo, [0.5, 0.5], tmp_path / "runs" / "best.safetensors", max_shard_size=max_shard_size
    )
    random_bank().save(tmp_path / "runs" / "bank.safetensors")
    runs = tmp_path / "runs"
    for given in (runs, f"{runs}/*", f"{runs}/*.safetensors", f"{tmp_path}/**/*.safetensors"):
        assert find_checkpoints(given).paths == paths
        assert "left aside, 2 files that radin wrote itself: b" in notes(given)
    with pytest.raises(CheckpointError, match="bank.safetensors: a bank, a bench or predictions"):
        find_checkpoints([*paths, runs / "bank.safetensors"])
    with pytest.warns(
        UserWarning, match=r"best\.safetensors.* is a soup of .*0\.safe.*count twice"
    ):
        assert "count twice" in Zoo.open([*paths, soup], progress=False).notes[-1]
    assert Zoo.open(soup, progress=False).paths == [soup]
    zoo = Zoo.open([soup, save(state(5), tmp_path / "other.pt")], progress=False)
    assert zoo.paths[0] == soup
    assert zoo.notes == [f"among the files given, 1 soup that radin wrote: {soup.name}"]


def test_a_cache_inside_the_folder_is_no_zoo(tmp_path):
    random_bank().save(tmp_path / "banks" / "a.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint found there"):
        find_checkpoints(tmp_path)
    paths = [run(tmp_path / "run", "a.pt") / "a.pt"]
    assert find_checkpoints(tmp_path) == (paths, [])
    with pytest.raises(CheckpointError, match="that radin wrote, no checkpoint; leave it out"):
        find_checkpoints(tmp_path / "banks")


def test_a_folder_of_soups_is_a_zoo_of_soups(tmp_path):
    zoo = Zoo.open(save_states(tmp_path / "runs", state(0), state(1)), progress=False)
    soups = [
        save_soup(zoo, p, tmp_path / "soups" / f"{k}.safetensors")
        for k, p in enumerate([[0.5, 0.5], [0.25, 0.75]])
    ]
    assert find_checkpoints(tmp_path / "soups") == (soups, [])


def test_a_soup_of_one_ingredient_is_a_duplicate_and_no_fault(tmp_path):
    zoo = Zoo.open(save_states(tmp_path, state(0), state(1)), progress=False)
    copy = save_soup(zoo, [1.0, 0.0], tmp_path / "one.safetensors")
    with pytest.warns(UserWarning, match="the same weights"):
        assert len(Zoo.open([*zoo.paths, copy], progress=False)) == 3


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", [""], ["a.pt", ""]])
def test_an_empty_text_is_no_path(tmp_path, monkeypatch, given):
    monkeypatch.chdir(run(tmp_path, "a.pt"))
    with pytest.raises(CheckpointError, match="An empty text is no path"):
        find_checkpoints(given)


def test_brackets_in_a_folder_s_name(tmp_path):
    folder = run(tmp_path / "losses=[ce,l2]" / "[1]", "m2.pt", "m10.pt")
    for given in (folder, f"{folder}/*.pt", f"{folder}/m[0-9]*.pt", [f"{folder}/*.pt"]):
        assert names(given) == ["[1]/m2.pt", "[1]/m10.pt"]
    run(tmp_path / "run[12]", "a.pt")
    run(tmp_path / "run1", "b.pt")
    assert names(f"{tmp_path}/run[12]/*.pt") == ["run1/b.pt"]  # a glob first, as in a shell
    with pytest.raises(CheckpointError, match=r"write \[\[\] for a bracket"):
        find_checkpoints(f"{tmp_path}/none[ab]/*.pt")


def test_globs_in_a_list(tmp_path):
    run(tmp_path / "a", "x.pt", "y.pt")
    run(tmp_path / "b", "z.pt")
    assert names([f"{tmp_path}/b/*.pt", f"{tmp_path}/a/*"]) == ["b/z.pt", "a/x.pt", "a/y.pt"]


def test_tilde_is_the_home_folder_and_else_a_letter(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(run(tmp_path / "here", "~backup.pt"))
    run(tmp_path / "runs", "a.pt")
    for given in ("~/runs", "~/runs/*.pt", ["~/runs/a.pt"], "~/runs/a.pt"):
        assert find_checkpoints(given).paths == [tmp_path / "runs" / "a.pt"]
    for given in ("~backup.pt", ["~backup.pt"], "~*.pt"):
        assert find_checkpoints(given).paths == [Path("~backup.pt")]
    monkeypatch.setenv("RUNS", "runs")
    with pytest.raises(CheckpointError, match=r"\$RUNS.*no checkpoint found"):
        find_checkpoints("$RUNS/*.pt")


@pytest.mark.parametrize("given", ["{}", "{}.pt", "{}/*.pt", ["{}.pt"]])
def test_a_name_longer_than_the_system_allows(given):
    long = "a" * 300
    paths = given.format(long) if isinstance(given, str) else [each.format(long) for each in given]
    with pytest.raises(CheckpointError, match="File name too long"):
        Zoo.open(paths, progress=False)


@pytest.mark.skipif(os.name == "nt", reason="names on Windows are UTF-16")
def test_a_name_that_is_no_utf_8_is_told_to_be_renamed(tmp_path):
    path = tmp_path / os.fsdecode(b"b\xe4r.pt")
    shutil.copy(save(state(0), tmp_path / "a.pt"), path)
    for given in (path, [path], tmp_path):
        with pytest.raises(CheckpointError, match="its name is not UTF-8; rename it"):
            Zoo.open(given, progress=False)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such permissions")
def test_what_may_not_be_read_is_said(tmp_path, monkeypatch):
    path = save(state(0), tmp_path / "locked" / "a.pt")
    real_listdir = os.listdir

    def listdir(folder: object = ".") -> list[str]:
        if Path(os.fspath(folder)) == path.parent:  # root may read everything
            raise PermissionError(13, "Permission denied", str(folder))
        return real_listdir(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(CheckpointError, match=r"locked: could not be read \(Permission denied\)"):
        Zoo.open(path.parent, progress=False)


def test_hard_links_are_names_of_one_file(tmp_path):
    """As the saver of timm writes them: model_best is the best of the others."""
    for k in range(2):
        save(state(k), tmp_path / f"checkpoint-{k}.pth.tar")
    os.link(tmp_path / "checkpoint-1.pth.tar", tmp_path / "model_best.pth.tar")
    shutil.copy(tmp_path / "checkpoint-0.pth.tar", tmp_path / "copy.pth.tar")
    found = find_checkpoints(tmp_path)
    names = [path.name for path in found.paths]
    assert names == ["checkpoint-0.pth.tar", "checkpoint-1.pth.tar", "copy.pth.tar"]
    assert found.notes == ["left aside, 1 link to what counts already: model_best.pth.tar"]
    given = [tmp_path / "checkpoint-1.pth.tar", tmp_path / "model_best.pth.tar"]
    assert find_checkpoints(given).paths == given  # a list means what it says
