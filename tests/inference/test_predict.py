"""radin/inference/predict.py: one pass over the data, and the store of predictions."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from helpers import (
    Listed,
    files_below,
    finish,
    run_python,
    save_states,
    state,
    tiny_split,
    tiny_zoo,
)
from radin import LogitBank, RadinError, Zoo, evaluator, fast_estimate, predict, soup_logits
from radin.data.splits import ArraySplit, Split
from radin.errors import BankError, DataError, ParameterError
from radin.inference.forward import NUM_PROBE_IMAGES
from radin.ranking.projection import Projection

SPLIT = tiny_split(20)


class CountingNet(nn.Sequential):
    """The tiny network; it counts the images that pass through it."""

    images = 0

    def __init__(self, activation: type[nn.Module] = nn.Tanh) -> None:
        super().__init__(nn.Flatten(), nn.Linear(4, 6), activation(), nn.Linear(6, 3))

    def forward(self, images: Tensor) -> Tensor:
        CountingNet.images += len(images)
        return super().forward(images)


def run(zoo: Zoo, split: Dataset = SPLIT, **options: object) -> LogitBank:
    return predict(zoo, split, **({"device": "cpu", "progress": False, "batch_size": 8} | options))


def passes(zoo: Zoo, cache: Path, split: Dataset = SPLIT, **options: object) -> int:
    """How many images pass through networks in a prediction, which is checked against a new one."""
    fresh = run(zoo, split, cache=False, **options)
    CountingNet.images = 0
    bank = run(zoo, split, cache=cache, **options)
    count = CountingNet.images
    assert torch.equal(bank.logits, fresh.logits)
    assert torch.equal(bank.labels, fresh.labels)
    return count


def open_zoo(folder: Path, *seeds: int, make: Callable[[], nn.Module] = CountingNet) -> Zoo:
    return Zoo.open(save_states(folder, *map(state, seeds)), make, progress=False)


def test_logits_are_the_models_own(tmp_path):
    zoo = tiny_zoo(tmp_path)
    bank = run(zoo, cache=False)
    assert bank.names == zoo.names
    assert torch.equal(bank.labels, SPLIT.labels)
    for k in range(3):
        with torch.no_grad():
            torch.testing.assert_close(bank.logits[k], zoo.model(k)(SPLIT.images))


def test_one_pass_over_the_data_for_any_number_of_models(tmp_path):
    for count in (1, 4):
        split = Listed(SPLIT)
        bank = run(tiny_zoo(tmp_path / str(count), count), split, cache=False)
        assert split.asked == list(range(20))
        assert torch.equal(bank.labels, SPLIT.labels)


def test_the_type_of_the_dataset_changes_nothing(tmp_path):
    zoo = tiny_zoo(tmp_path)
    assert torch.equal(
        run(zoo, Listed(SPLIT), cache=False).logits, run(zoo, SPLIT, cache=False).logits
    )


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_batches_of_any_size(tmp_path, batch_size):
    zoo = tiny_zoo(tmp_path)
    there, back = run(zoo, cache=False, batch_size=batch_size), run(zoo, cache=False)
    torch.testing.assert_close(there.logits, back.logits, rtol=1e-6, atol=1e-6)


def test_what_is_stored_is_not_predicted_again(tmp_path):
    cache = tmp_path / "cache"
    zoo = open_zoo(tmp_path, 0, 1)
    assert passes(zoo, cache) == 2 * 20
    assert passes(zoo, cache) == 2 * NUM_PROBE_IMAGES, (
        "what is stored is checked on a few images only"
    )
    assert passes(open_zoo(tmp_path / "copy", 1, 0), cache) == 2 * NUM_PROBE_IMAGES, (
        "found by content, not by path or order"
    )
    assert passes(open_zoo(tmp_path / "more", 0, 1, 2), cache) == 2 * NUM_PROBE_IMAGES + 20, (
        "only the new one"
    )


def other_images() -> ArraySplit:
    return ArraySplit("tiny", "val", SPLIT.images + 1e-3, SPLIT.labels, SPLIT.class_names)


def other_labels() -> ArraySplit:
    return ArraySplit("tiny", "val", SPLIT.images, (SPLIT.labels + 1) % 3, SPLIT.class_names)


@pytest.mark.parametrize("split", [other_images, other_labels, lambda: tiny_split(19)])
@pytest.mark.parametrize("wrap", [Listed, lambda split: split])
def test_other_data_are_predicted_again(tmp_path, split, wrap):
    zoo = open_zoo(tmp_path, 0, 1)
    passes(zoo, tmp_path / "cache", wrap(SPLIT))
    assert passes(zoo, tmp_path / "cache", wrap(split())) == 2 * len(split())


def test_another_precision_is_predicted_again(tmp_path):
    zoo = open_zoo(tmp_path, 0, 1)
    passes(zoo, tmp_path / "cache")
    assert passes(zoo, tmp_path / "cache", dtype=torch.float16) == 40
    assert passes(zoo, tmp_path / "cache", dtype=torch.float16) == 2 * NUM_PROBE_IMAGES
    assert run(zoo, cache=tmp_path / "cache").logits.dtype == torch.float32


def test_another_architecture_is_predicted_again(tmp_path):
    passes(open_zoo(tmp_path, 0), tmp_path / "cache")
    assert (
        passes(open_zoo(tmp_path, 0, make=lambda: CountingNet(nn.ReLU)), tmp_path / "cache") == 20
    )


class Scaled(CountingNet):
    """A network with a number that its repr does not show."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / self.temperature


def test_another_setting_that_no_repr_shows_is_predicted_again(tmp_path):
    passes(open_zoo(tmp_path, 0, make=lambda: Scaled(1.0)), tmp_path / "cache")
    assert (
        passes(open_zoo(tmp_path, 0, make=lambda: Scaled(2.0)), tmp_path / "cache")
        == NUM_PROBE_IMAGES + 20
    )


class Shifted(CountingNet):
    """A network that subtracts a mean, in a buffer that no checkpoint holds."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3,), mean), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) - self.mean * torch.arange(3)


def test_preprocessing_inside_the_network_is_predicted_again(tmp_path):
    passes(open_zoo(tmp_path, 0, make=lambda: Shifted(0.0)), tmp_path / "cache")
    assert (
        passes(open_zoo(tmp_path, 0, make=lambda: Shifted(1.0)), tmp_path / "cache")
        == NUM_PROBE_IMAGES + 20
    )


def test_half_and_double_networks_run_in_their_own_precision(tmp_path):
    single = predict(open_zoo(tmp_path, 0, 1), SPLIT, cache=False)
    for change in (nn.Module.half, nn.Module.double):
        zoo = open_zoo(tmp_path, 0, 1, make=lambda change=change: change(CountingNet()))
        torch.testing.assert_close(
            predict(zoo, SPLIT, cache=False).logits, single.logits, rtol=1e-2, atol=1e-2
        )
        assert evaluator(zoo, SPLIT)([0.5, 0.5]) == pytest.approx(
            evaluator(open_zoo(tmp_path, 0, 1), SPLIT)([0.5, 0.5]), abs=10
        )


def test_an_edited_network_is_predicted_again(tmp_path):
    """A reader's own network in a notebook, before and after an edit of `forward`."""

    def first() -> nn.Module:
        class Net(CountingNet):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images).sigmoid()

        return Net()

    def edited() -> nn.Module:
        class Net(CountingNet):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images).neg()

        return Net()

    passes(open_zoo(tmp_path, 0, make=first), tmp_path / "cache")
    assert passes(open_zoo(tmp_path, 0, make=first), tmp_path / "cache") == NUM_PROBE_IMAGES
    assert passes(open_zoo(tmp_path, 0, make=edited), tmp_path / "cache") == NUM_PROBE_IMAGES + 20


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_a_damaged_store_is_predicted_again(tmp_path, content):
    zoo, cache = open_zoo(tmp_path, 0, 1), tmp_path / "cache"
    passes(zoo, cache)
    whole = {path: path.read_bytes() for path in cache.iterdir()}
    damaged = next(iter(whole))
    damaged.write_bytes(whole[damaged][:-9] if content is None else content)
    assert passes(zoo, cache) == NUM_PROBE_IMAGES + 20
    assert {path: path.read_bytes() for path in cache.iterdir()} == whole


def test_the_default_store_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    run(tiny_zoo(tmp_path / "zoo", 2))
    assert len(files_below(tmp_path / "cache")) == 2


class Interrupted(Listed):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 13:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_interrupted_run_continues_at_the_batch_where_it_stopped(tmp_path, dtype):
    cache, zoo = tmp_path / "cache", open_zoo(tmp_path / "zoo", 0, 1, 2)
    split, again = Interrupted(SPLIT), Listed(SPLIT)
    split.fingerprint = again.fingerprint = (
        "known"  # so that the interruption happens while predicting
    )
    with pytest.raises(KeyboardInterrupt):
        run(zoo, split, cache=cache, dtype=dtype)
    assert [name.rpartition(".")[2] for name in files_below(cache)] == ["rows"] * 3
    CountingNet.images = 0
    bank = run(zoo, again, cache=cache, dtype=dtype)
    assert CountingNet.images == 3 * (NUM_PROBE_IMAGES + 12), "the first batch of eight is stored"
    assert again.asked[-12:] == list(range(8, 20)), "and not decoded again"
    once = run(zoo, again, cache=tmp_path / "other", dtype=dtype)
    assert torch.equal(bank.logits, once.logits)
    assert torch.equal(bank.labels, SPLIT.labels)
    assert files_below(cache) == files_below(tmp_path / "other")
    for name in files_below(cache):
        assert (cache / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_what_another_network_started_is_predicted_again(tmp_path):
    cache, split = tmp_path / "cache", Interrupted(SPLIT)
    split.fingerprint = SPLIT.fingerprint
    with pytest.raises(KeyboardInterrupt):
        run(open_zoo(tmp_path, 0, make=lambda: Scaled(1.0)), split, cache=cache)
    assert passes(open_zoo(tmp_path, 0, make=lambda: Scaled(2.0)), cache) == NUM_PROBE_IMAGES + 20


def test_a_full_disk_names_the_file_and_keeps_what_is_predicted(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    zoo, cache = open_zoo(tmp_path / "zoo", 0, 1), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(
            RadinError, match=r"cache.*\.safetensors: could not be written \(No space left"
        ):
            run(zoo, cache=cache)
    assert [name.rpartition(".")[2] for name in files_below(cache)] == ["rows"] * 2
    assert passes(zoo, cache) == 2 * (NUM_PROBE_IMAGES + 4), "two batches of eight are stored"


KILLED = """
import pathlib, time, torch
from helpers import tiny_zoo, tiny_split
from radin import predict
from radin.data.splits import Split

class Slow(Split):
    name, part, class_names, fingerprint = "slow", "val", ["a", "b", "c"], "slow"
    inner = tiny_split(200)
    labels = inner.labels
    def __getitem__(self, index):
        time.sleep(0.002)
        return self.inner[index]

torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
zoo = tiny_zoo(folder / "zoo")
print("ready", flush=True)
predict(zoo, Slow(), "cpu", batch_size=16, cache=folder / "cache", progress=False, workers=1)
"""


def test_kill_9_at_ten_random_moments(tmp_path):
    """At the end the store is byte for byte that of a run that is never killed."""
    finish(run_python(KILLED, tmp_path / "calm"))
    rng, killed = random.Random(0), 0
    for _ in range(10):
        process = run_python(KILLED, tmp_path / "killed")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed >= 5
    finish(run_python(KILLED, tmp_path / "killed"))
    calm, found = tmp_path / "calm" / "cache", tmp_path / "killed" / "cache"
    assert [name for name in files_below(found) if not name.endswith(".part")] == files_below(calm)
    for name in files_below(calm):
        assert (found / name).read_bytes() == (calm / name).read_bytes()


def test_rows_of_a_run_killed_between_saving_and_removing_them_go(tmp_path):
    zoo = tiny_zoo(tmp_path / "zoo", 2)
    options = {"cache": tmp_path / "cache", "batch_size": 16}
    expected = run(zoo, tiny_split(40), **options)
    whole = files_below(tmp_path / "cache")
    for name in whole:
        (tmp_path / "cache" / name).with_suffix(".rows").write_bytes(b"what is left")
    assert torch.equal(run(zoo, tiny_split(40), **options).logits, expected.logits)
    assert files_below(tmp_path / "cache") == whole


TOGETHER = """
import pathlib, time
from helpers import tiny_zoo, tiny_split
from radin import predict
folder = pathlib.Path(sys.argv[1])
me, other = sys.argv[2:]
zoo = tiny_zoo(folder / f"zoo{me}", 6)
split = tiny_split(4000)
(folder / f"ready{me}").touch()
while not (folder / f"ready{other}").exists():
    time.sleep(0.001)
bank = predict(zoo, split, device="cpu", cache=folder / "cache", progress=False)
print(bank.logits.double().sum().item())
"""


def test_two_processes_share_a_cache(tmp_path):
    both = [run_python(TOGETHER, tmp_path, *order) for order in ("ab", "ba")]
    sums = {finish(process).strip() for process in both}
    found = files_below(tmp_path / "cache")
    assert len(found) == 6
    assert not any(".part" in name for name in found)
    alone = run(
        tiny_zoo(tmp_path / "alone", 6),
        tiny_split(4000),
        cache=tmp_path / "other cache",
        batch_size=256,
    )
    assert sums == {str(alone.logits.double().sum().item())}
    assert files_below(tmp_path / "other cache") == found
    for name in found:
        assert (tmp_path / "cache" / name).read_bytes() == (
            tmp_path / "other cache" / name
        ).read_bytes()


def labelled(*labels: int) -> ArraySplit:
    return ArraySplit(
        "tiny", "val", SPLIT.images[: len(labels)], torch.tensor(labels), ["a", "b", "c"]
    )


@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("wrap", [Listed, lambda split: split])
def test_labels_outside_the_classes(tmp_path, wrong, wrap):
    with pytest.raises(
        BankError, match=f"Image 2 has label {wrong}, but the logits have classes 0 to 2"
    ):
        run(tiny_zoo(tmp_path / "zoo"), wrap(labelled(0, 1, wrong)), cache=tmp_path / "cache")
    assert files_below(tmp_path / "cache") == []


@pytest.mark.parametrize("wrap", [Listed, lambda split: split])
@pytest.mark.parametrize("cache", [False, True])
def test_an_empty_split(tmp_path, wrap, cache):
    zoo, split = (
        tiny_zoo(tmp_path),
        wrap(ArraySplit("tiny", "val", SPLIT.images[:0], SPLIT.labels[:0], ["a"])),
    )
    for use in (
        lambda: run(zoo, split, cache=tmp_path / "cache" if cache else False),
        lambda: evaluator(zoo, split, device="cpu")([1, 0, 0]),
        lambda: soup_logits(zoo, [1, 0, 0], split, device="cpu"),
    ):
        with pytest.raises(DataError, match="empty; a split needs at least one image"):
            use()


def test_images_of_different_sizes(tmp_path):
    split = Listed(SPLIT)
    split.items[3] = (torch.zeros(1, 3, 3), 0)
    with pytest.raises(DataError, match="differ in size"):
        run(tiny_zoo(tmp_path), split, cache=False)


class Overflowing(CountingNet):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).exp().exp().exp().exp()


def test_an_ingredient_that_overflows_is_named(tmp_path):
    with pytest.raises(BankError, match="Ingredient model_0 gives NaN or infinite logits"):
        run(open_zoo(tmp_path, 0, 1, make=Overflowing), cache=tmp_path / "cache")
    assert files_below(tmp_path / "cache") == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, "half"])
def test_other_precisions_are_refused(tmp_path, dtype):
    with pytest.raises(ParameterError, match="dtype must be"):
        run(tiny_zoo(tmp_path), dtype=dtype)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5])
def test_impossible_batch_sizes(tmp_path, batch_size):
    with pytest.raises(ParameterError, match="batch_size"):
        run(tiny_zoo(tmp_path), batch_size=batch_size)


def test_prediction_needs_a_model(tmp_path):
    zoo = Zoo.open(save_states(tmp_path, state(0)), progress=False)
    for use in (
        lambda: run(zoo),
        lambda: evaluator(zoo, SPLIT),
        lambda: soup_logits(zoo, [1], SPLIT),
    ):
        with pytest.raises(ParameterError, match="build="):
            use()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


def test_duplicates_are_predicted_once(tmp_path):
    with pytest.warns(UserWarning, match="same weights"):
        zoo = open_zoo(tmp_path, 0, 1, 0)
    CountingNet.images = 0
    bank = run(zoo, cache=tmp_path / "cache")
    assert CountingNet.images == 2 * 20
    assert torch.equal(bank.logits[0], bank.logits[2])
    assert not torch.equal(bank.logits[0], bank.logits[1])


@pytest.mark.parametrize("half", [False, True])
def test_half_precision_has_a_bank_of_its_own(tmp_path, half):
    zoo, cache = open_zoo(tmp_path, 0, 1), tmp_path / "cache"
    single = run(zoo, cache=cache)
    assert passes(zoo, cache, half=half) == (2 * 20 if half else 2 * NUM_PROBE_IMAGES)
    bank = run(zoo, cache=cache, half=half)
    assert bank.logits.dtype == torch.float32
    torch.testing.assert_close(bank.logits, single.logits, rtol=5e-2, atol=5e-2)
    assert torch.equal(bank.logits, single.logits) != half
    assert (
        abs(evaluator(zoo, SPLIT, half=half)([0.5, 0.5]) - evaluator(zoo, SPLIT)([0.5, 0.5])) <= 10
    )


class Grouped(Split):
    """The tiny split under a projection, decoded image by image."""

    name, part = "tiny", "grouped"

    def __init__(self, groups: list[list[int]]) -> None:
        self.projection = Projection(groups, 3)
        self.labels = SPLIT.labels % len(groups)
        self.class_names = [str(k) for k in range(len(groups))]
        self.fingerprint = "grouped"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return SPLIT.images[index], int(self.labels[index])


def columns(logits: Tensor, groups: list[list[int]]) -> Tensor:
    return torch.stack([logits[:, group].amax(1) for group in groups], 1)


@pytest.mark.parametrize("groups", [[[2], [0]], [[0, 2], [1]]])
def test_a_projection_comes_after_the_average(tmp_path, groups):
    zoo, split = tiny_zoo(tmp_path / "zoo"), Grouped(groups)
    plain, bank = run(zoo, cache=False), run(zoo, split, cache=tmp_path / "cache")
    assert torch.equal(run(zoo, split, cache=tmp_path / "cache").logits, bank.logits)

    def percent(logits: Tensor) -> float:
        return 100 * (columns(logits, groups).argmax(1) == split.labels).double().mean().item()

    p = torch.tensor([[0.5, 0.2, 0.3]]).double()
    ensemble = torch.tensordot(p[0], plain.logits.double(), 1)
    assert fast_estimate(bank, p).item() == pytest.approx(percent(ensemble))
    nll = torch.nn.functional.cross_entropy(columns(ensemble, groups), split.labels).item()
    assert fast_estimate(bank, p, "nll").item() == pytest.approx(nll)
    assert bank.accuracies().tolist() == pytest.approx([percent(logits) for logits in plain.logits])
    soup, _ = soup_logits(zoo, p[0], SPLIT, device="cpu")
    torch.testing.assert_close(
        soup_logits(zoo, p[0], split, device="cpu")[0], columns(soup, groups)
    )
    assert evaluator(zoo, split)(p[0]) == pytest.approx(percent(soup))
    loaded = LogitBank.load(bank.save(tmp_path / "bank.safetensors"))
    assert loaded.projection == bank.projection
    assert torch.equal(loaded.accuracies(), bank.accuracies())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_gives_the_same_logits(zoo):
    split = tiny_split(500)
    there, back = run(zoo, split, cache=False, device="cuda"), run(zoo, split, cache=False)
    torch.testing.assert_close(there.logits, back.logits, rtol=1e-3, atol=1e-3)
    assert there.logits.device.type == "cpu"
    weights = [0.5, 0.25, 0.25]
    near = abs(evaluator(zoo, split, "cuda")(weights) - evaluator(zoo, split, "cpu")(weights))
    assert near <= 0.4  # two images of 500 on the border between classes


class Pair(CountingNet):
    def forward(self, images: Tensor) -> Tensor:
        return (super().forward(images), None)  # type: ignore[return-value]


def test_images_that_do_not_fit_the_network(tmp_path):
    zoo = open_zoo(tmp_path, 0)
    wide = ArraySplit(
        "wide", "val", torch.zeros(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64), ["a", "b", "c"]
    )
    for use in (lambda: predict(zoo, wide, cache=False), lambda: soup_logits(zoo, [1], wide)):
        with pytest.raises(DataError, match=r"cannot predict images of shape \(1, 9, 9\)"):
            use()


def test_a_network_that_gives_no_logits(tmp_path):
    with pytest.raises(DataError, match="must give logits .* not a tuple"):
        predict(open_zoo(tmp_path, 0, make=Pair), SPLIT, cache=False)


class Fading(CountingNet):
    """A network that gives NaN on the last image, if its first weight is negative."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        broken = self[1].weight[0, 0] < 0 and torch.equal(images[-1], SPLIT.images[-1])
        return logits * (torch.nan if broken else 1)


def test_one_broken_ingredient_does_not_affect_the_others(tmp_path):
    cache, broken = (
        tmp_path / "cache",
        [bool(state(seed)["1.weight"][0, 0] < 0) for seed in range(50)],
    )
    whole = [seed for seed in range(50) if not broken[seed]]
    seeds = [whole[0], broken.index(True), whole[1]]
    with pytest.raises(
        BankError, match="Ingredient model_1 gives NaN or infinite logits, first on image 16"
    ):
        run(open_zoo(tmp_path, *seeds, make=Fading), cache=cache)
    CountingNet.images = 0
    run(open_zoo(tmp_path, seeds[0], seeds[2], make=Fading), cache=cache)
    assert CountingNet.images <= 2 * NUM_PROBE_IMAGES + 8, "at most the last batch of each"


def test_a_failing_device_is_not_reported_as_wrong_images(tmp_path):
    class Failing(CountingNet):
        def forward(self, images: Tensor) -> Tensor:
            if torch.equal(images[0], SPLIT.images[8]):
                raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
            return super().forward(images)

    with pytest.raises(RuntimeError, match="ECC"):
        run(open_zoo(tmp_path, 0, make=Failing), cache=tmp_path / "cache")
    assert [name.rpartition(".")[2] for name in files_below(tmp_path / "cache")] == ["rows"]


def test_a_cache_that_is_a_file(tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(RadinError, match="could not be opened"):
        run(open_zoo(tmp_path, 0), cache=tmp_path / "cache")
