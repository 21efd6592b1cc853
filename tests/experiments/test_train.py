"""radin/experiments/zoos/train.py and digits.py: a zoo is always the same, also after a kill."""

from __future__ import annotations

import copy
import itertools
import json
import math
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from helpers import files_below, finish, run_python
from radin import Zoo, digits_zoo, load_split
from radin.checkpoints.checkpoint import open_checkpoint
from radin.errors import CheckpointError, DataError, ParameterError
from radin.experiments.networks import DigitsNet
from radin.experiments.zoos import digits, train

QUICK = {"quick": True, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A cache in which a quick zoo of three has been trained without any disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RADIN_CACHE", str(folder))
        digits_zoo(3, **QUICK)
    return folder


def contents(cache: Path) -> dict[str, bytes]:
    return {name: (cache / name).read_bytes() for name in files_below(cache)}


@pytest.fixture
def zoo(home, monkeypatch) -> Zoo:
    monkeypatch.setenv("RADIN_CACHE", str(home))
    return digits_zoo(3, **QUICK)


def test_the_zoo_is_ready_for_use(zoo):
    assert zoo.names == ["ingredient_00", "ingredient_01", "ingredient_02"]
    assert zoo.init is not None
    assert zoo.model(0)(load_split("digits", "val").images[:2]).shape == (2, 10)
    for path, run in zip(zoo.paths, digits.sweep(3), strict=True):
        with safe_open(path, framework="pt") as file:
            found = json.loads(file.metadata()["hyperparameters"])
        assert {**found, "epochs": 0} == {**run, "epochs": 0}
        assert 1 <= found["epochs"] <= run["epochs"]


def test_two_runs_in_two_caches_are_the_same(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    torch.manual_seed(12345)  # the caller's own randomness is not ours
    digits_zoo(3, **QUICK)
    assert contents(tmp_path) == contents(home)


def test_the_number_of_cores_changes_nothing(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        digits_zoo(1, **QUICK)
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path).items() <= contents(home).items()


def test_a_longer_sweep_begins_with_the_shorter(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    short = digits_zoo(2, **QUICK)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in short.paths}
    longer = digits_zoo(3, **QUICK)
    assert longer.paths[:2] == short.paths
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in short.paths} == before
    assert contents(tmp_path) == contents(home)
    assert digits.sweep(9)[:4] == digits.sweep(4)


def test_an_existing_zoo_is_not_trained_again(zoo, monkeypatch):
    monkeypatch.setattr(digits, "train", lambda *_, **__: pytest.fail("trained again"))
    assert digits_zoo(3, **QUICK).fingerprints == zoo.fingerprints


def test_another_seed_is_another_zoo(zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    other = digits_zoo(2, seed=1, **QUICK)
    assert {path.parent.name for path in other.paths} != {path.parent.name for path in zoo.paths}
    assert not set(other.fingerprints) & set(zoo.fingerprints)
    assert digits.sweep(2, seed=1) != digits.sweep(2)


@pytest.fixture
def copy_of_home(home, tmp_path, monkeypatch) -> Path:
    """A copy of the undisturbed cache, for tests that change it."""
    shutil.copytree(home, tmp_path / "copy")
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "copy"))
    return tmp_path / "copy"


def test_another_pretraining_is_another_zoo(zoo, copy_of_home, monkeypatch):
    monkeypatch.setattr(digits, "PRETRAINING", digits.PRETRAINING | {"lr": 1e-3})
    other = digits_zoo(1, **QUICK)
    assert not torch.equal(other.init["head.bias"], zoo.init["head.bias"])


def test_another_sweep_is_another_zoo(zoo, copy_of_home, monkeypatch):
    changed = [{**run, "lr": run["lr"] / 2} for run in digits.sweep(3)]
    monkeypatch.setattr(digits, "sweep", lambda *_: changed)
    other = digits_zoo(3, **QUICK)
    assert not set(other.fingerprints) & set(zoo.fingerprints)


KILLED = """
import os, signal
from pathlib import Path
from radin import digits_zoo
from radin.experiments.zoos import train
save_file, saved = train.save_file, 0
def save_or_die(tensors, path, **more):
    global saved
    saved += 1
    save_file(tensors, path, **more)
    if saved == 3:
        Path(path).write_bytes(Path(path).read_bytes()[:1000])
        os.kill(os.getpid(), signal.SIGKILL)
train.save_file = save_or_die
digits_zoo(3, quick=True, device="cpu", progress=False)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL there")
def test_a_killed_run_continues_to_the_same_bytes(home, tmp_path, monkeypatch):
    finish(run_python(KILLED, RADIN_CACHE=tmp_path), code=-signal.SIGKILL)
    whole = contents(home)
    done = {
        name: content for name, content in contents(tmp_path).items() if not name.endswith(".part")
    }
    assert 0 < len(done) < len(whole)
    assert done.items() <= whole.items()
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    digits_zoo(3, **QUICK)
    assert {
        name: content for name, content in contents(tmp_path).items() if not name.endswith(".part")
    } == whole


TOGETHER = """
import pathlib, time
from radin import digits_zoo
folder, me, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
(folder / f"ready{me}").touch()
while not (folder / f"ready{other}").exists():
    time.sleep(0.001)
print(digits_zoo(3, quick=True, device="cpu", progress=False).fingerprints)
"""


def test_two_processes_train_into_one_cache(home, zoo, tmp_path):
    both = [
        run_python(TOGETHER, tmp_path, *order, RADIN_CACHE=tmp_path / "cache")
        for order in ("ab", "ba")
    ]
    assert {finish(process).strip() for process in both} == {str(zoo.fingerprints)}
    assert contents(tmp_path / "cache") == contents(home)


def test_ctrl_c_leaves_whole_files_only(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    trained = []

    def interrupted(*args: object, **kwargs: object) -> nn.Module:
        trained.append(1)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train.train(*args, **kwargs)

    monkeypatch.setattr(digits, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        digits_zoo(3, **QUICK)
    assert len(contents(tmp_path)) == 2
    assert contents(tmp_path).items() <= contents(home).items()


def test_a_damaged_ingredient_is_named_or_trained_again(zoo, copy_of_home):
    (broken,) = copy_of_home.rglob("ingredient_01.safetensors")
    broken.write_bytes(broken.read_bytes()[:500])
    try:
        again = digits_zoo(3, **QUICK)
    except CheckpointError as error:
        assert str(broken) in str(error)
    else:
        assert again.fingerprints == zoo.fingerprints


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "4", None])
def test_impossible_numbers_of_models(count):
    with pytest.raises(ParameterError, match="num_models must be a whole number of at least 1"):
        digits_zoo(count, **QUICK)


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None])
def test_impossible_seeds(tmp_path, monkeypatch, seed):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    with pytest.raises(ParameterError, match="seed"):
        digits_zoo(1, seed=seed, **QUICK)


def test_unknown_device():
    with pytest.raises(ParameterError, match="device='tpu'"):
        digits_zoo(1, quick=True, device="tpu")


def test_the_sweep_stays_within_reason():
    runs = digits.sweep(200, seed=3)
    assert all(set(run) == set(digits.PRETRAINING) for run in runs)
    assert all(
        0 < run["lr"] < 1 and run["weight_decay"] >= 0 and run["epochs"] >= 1 for run in runs
    )
    assert all(0 <= run["label_smoothing"] < 1 for run in runs)
    assert len({run["lr"] for run in runs}) == 200


PLAIN = digits.PRETRAINING | {"epochs": 3, "augment": 0.0}


def test_training_learns():
    split = load_split("digits", "pretrain")
    torch.manual_seed(0)
    model = train.train(DigitsNet(8), split, PLAIN | {"epochs": 8, "lr": 1e-2}, seed=0)
    assert not model.training
    assert (model(split.images).argmax(1) == split.labels).float().mean() > 0.7


def test_a_diverged_run_is_refused():
    with pytest.raises(DataError, match="diverged.*lower the learning rate"):
        train.train(DigitsNet(4), load_split("digits", "pretrain"), PLAIN | {"lr": 1e30}, seed=0)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


class KilledError(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_killed_run_continues_to_the_same_weights(tmp_path, stop_after):
    split = load_split("digits", "train")
    run = PLAIN | {"epochs": 4, "augment": 0.5, "mixup": 0.4, "warmup": 0.2, "floor": 0.1}

    def start() -> nn.Module:
        torch.manual_seed(0)
        return DigitsNet(8)

    def stop(epoch: int) -> None:
        epochs.append(epoch)
        if epoch == stop_after + 1:
            raise KilledError

    whole = train.train(start(), split, run, seed=3)
    state, epochs = tmp_path / "run.state", []
    with pytest.raises(KilledError):
        train.train(start(), split, run, seed=3, resume=state, after_epoch=stop)
    assert files_below(tmp_path) == ["run.state"]
    again = train.train(start(), split, run, seed=3, resume=state, after_epoch=epochs.append)
    assert torch.equal(weights(again), weights(whole))
    assert epochs == [*range(1, stop_after + 2), *range(stop_after + 1, 5)]


def test_a_run_killed_before_its_checkpoint_is_written_continues(tmp_path, monkeypatch):
    split, path, epochs = load_split("digits", "train"), tmp_path / "run.safetensors", []
    torch.manual_seed(0)
    start = DigitsNet(8)

    def kill(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_checkpoint", kill)
        with pytest.raises(KilledError):
            train.train_checkpoint(copy.deepcopy(start), split, PLAIN, 3, path)
    assert files_below(tmp_path) == ["run.state"]
    monkeypatch.setattr(train, "train", partial(train.train, after_epoch=epochs.append))
    train.train_checkpoint(start, split, PLAIN, 3, path)
    assert files_below(tmp_path) == ["run.safetensors"]
    assert epochs == [3]


@pytest.mark.parametrize(
    ("key", "value"), [("warmup", 1.0), ("warmup", -0.1), ("floor", 1.5), ("floor", float("nan"))]
)
def test_shares_are_shares(key, value):
    with pytest.raises(ParameterError, match=key):
        train.train(DigitsNet(8), load_split("digits", "train"), {**PLAIN, key: value}, seed=0)


def test_an_edited_sweep_is_trained_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    before = digits.digits_zoo(2, quick=True, progress=False)
    runs = digits.sweep(2)
    monkeypatch.setattr(digits, "sweep", lambda n, seed=0: [runs[0], {**runs[1], "noise": 0.1}][:n])
    after = digits.digits_zoo(2, quick=True, progress=False)
    assert after.paths == before.paths
    assert after.fingerprints[0] == before.fingerprints[0]
    assert after.fingerprints[1] != before.fingerprints[1]


def test_the_state_of_another_run_is_not_used(tmp_path):
    split = load_split("digits", "train")
    state = tmp_path / "run.state"

    def trained_weights(seed: int, start: int = 0, **options: object) -> torch.Tensor:
        torch.manual_seed(start)
        return weights(train.train(DigitsNet(8), split, PLAIN, seed=seed, resume=state, **options))

    def stop(epoch: int) -> None:
        if epoch == 2:
            raise KilledError

    whole = trained_weights(4)
    with pytest.raises(KilledError):
        trained_weights(3, after_epoch=stop)
    assert torch.equal(trained_weights(4), whole)
    with pytest.raises(KilledError):
        trained_weights(4, start=1, after_epoch=stop)  # from other weights
    assert torch.equal(trained_weights(4), whole)
    state.unlink()
    with pytest.raises(KilledError):
        trained_weights(4, after_epoch=stop)
    state.write_bytes(state.read_bytes()[:-100])  # damaged: from the start
    assert torch.equal(trained_weights(4), whole)


def test_the_rate_rises_and_falls(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.Optimizer, *args: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run = PLAIN | {"epochs": 4, "lr": 1e-2, "warmup": 0.25, "floor": 0.1}
    # 150 images: 5 steps an epoch
    train.train(DigitsNet(8), load_split("digits", "train"), run, seed=0)
    assert len(rates) == 20
    assert rates[:5] == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 1e-2])
    assert rates[5] == pytest.approx(1e-2)
    assert all(later < sooner for sooner, later in itertools.pairwise(rates[5:]))
    assert rates[-1] == pytest.approx(1e-3 + 9e-3 * (1 + math.cos(math.pi * 14 / 15)) / 2)


def test_frozen_parameters_stay(tmp_path):
    torch.manual_seed(0)
    model = DigitsNet(8)
    model.body.requires_grad_(False)
    before = model.body[0].weight.clone()
    train.train(model, load_split("digits", "train"), PLAIN, seed=0)
    assert torch.equal(model.body[0].weight, before)


def test_a_checkpoint_in_half_precision(tmp_path):
    model = DigitsNet(8)
    train.save_checkpoint(model, tmp_path / "half.safetensors", PLAIN, dtype=torch.float16)
    saved = open_checkpoint(tmp_path / "half.safetensors")
    assert all(torch.equal(saved[key], tensor.half()) for key, tensor in model.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_zoo_made_on_the_gpu(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    there = digits_zoo(2, quick=True, device="cuda", progress=False)
    monkeypatch.setenv("RADIN_CACHE", str(home))
    back = digits_zoo(2, **QUICK)
    images = load_split("digits", "val").images[:200]
    for k in range(2):
        same = there.model(k)(images).argmax(1) == back.model(k)(images).argmax(1)
        assert same.float().mean() > 0.9  # the same run, rounded otherwise at every step
