"""radin/predict.py: one pass over the data, a store that finds what it knows, and true evaluations."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import build, files_below, finish, mixing_weights, run_python, save_states, state, tiny_split, tiny_zoo
from hypothesis import given, settings
from torch import Tensor, nn
from torch.utils.data import Dataset

from radin import LogitBank, RadinError, Zoo, average, evaluator, predict, soup_logits
from radin.data import ArraySplit
from radin.errors import BankError, DataError, ParameterError
from radin.predict import PROBE, batch_logits, pick_device, refresh_batch_norm, single_thread

SPLIT = tiny_split(20)


class Listed(Dataset):
    """A dataset of the plainest kind, which counts what is asked of it."""

    def __init__(self, split: ArraySplit) -> None:
        self.items = [split[i] for i in range(len(split))]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.asked.append(index)
        return self.items[index]


class CountingNet(nn.Sequential):
    """The tiny network, counting the images that pass through it."""

    images = 0

    def __init__(self, activation: type[nn.Module] = nn.Tanh) -> None:
        super().__init__(nn.Flatten(), nn.Linear(4, 6), activation(), nn.Linear(6, 3))

    def forward(self, images: Tensor) -> Tensor:
        CountingNet.images += len(images)
        return super().forward(images)


def run(zoo: Zoo, split: Dataset = SPLIT, **options: object) -> LogitBank:
    return predict(zoo, split, **({"device": "cpu", "progress": False, "batch_size": 8} | options))


def passes(zoo: Zoo, cache: Path, split: Dataset = SPLIT, **options: object) -> int:
    """How many images pass through networks while this is predicted; checks the answer against a fresh one."""
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


def test_the_kind_of_dataset_changes_nothing(tmp_path):
    zoo = tiny_zoo(tmp_path)
    assert torch.equal(run(zoo, Listed(SPLIT), cache=False).logits, run(zoo, SPLIT, cache=False).logits)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_batches_of_any_size(tmp_path, batch_size):
    zoo = tiny_zoo(tmp_path)
    there, back = run(zoo, cache=False, batch_size=batch_size), run(zoo, cache=False)
    torch.testing.assert_close(there.logits, back.logits, rtol=1e-6, atol=1e-6)


def test_what_is_known_is_not_predicted_again(tmp_path):
    cache = tmp_path / "cache"
    zoo = open_zoo(tmp_path, 0, 1)
    assert passes(zoo, cache) == 2 * 20
    assert passes(zoo, cache) == 2 * PROBE, "what is known is asked for a few images only"
    assert passes(open_zoo(tmp_path / "copy", 1, 0), cache) == 2 * PROBE, "known by content, not by place or order"
    assert passes(open_zoo(tmp_path / "more", 0, 1, 2), cache) == 2 * PROBE + 20, "only the new one"


def other_images() -> ArraySplit:
    return ArraySplit("tiny", "val", SPLIT.images + 1e-3, SPLIT.labels, SPLIT.class_names)


def other_labels() -> ArraySplit:
    return ArraySplit("tiny", "val", SPLIT.images, (SPLIT.labels + 1) % 3, SPLIT.class_names)


@pytest.mark.parametrize("split", [other_images, other_labels, lambda: tiny_split(19)])
@pytest.mark.parametrize("wrap", [Listed, lambda split: split])
def test_other_data_are_predicted_afresh(tmp_path, split, wrap):
    zoo = open_zoo(tmp_path, 0, 1)
    passes(zoo, tmp_path / "cache", wrap(SPLIT))
    assert passes(zoo, tmp_path / "cache", wrap(split())) == 2 * len(split())


def test_another_precision_is_predicted_afresh(tmp_path):
    zoo = open_zoo(tmp_path, 0, 1)
    passes(zoo, tmp_path / "cache")
    assert passes(zoo, tmp_path / "cache", dtype=torch.float16) == 40
    assert passes(zoo, tmp_path / "cache", dtype=torch.float16) == 2 * PROBE
    assert run(zoo, cache=tmp_path / "cache").logits.dtype == torch.float32


def test_another_architecture_is_predicted_afresh(tmp_path):
    passes(open_zoo(tmp_path, 0), tmp_path / "cache")
    assert passes(open_zoo(tmp_path, 0, make=lambda: CountingNet(nn.ReLU)), tmp_path / "cache") == 20


class Scaled(CountingNet):
    """A network with a number that no layer's description shows."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / self.temperature


def test_another_setting_that_no_description_shows_is_predicted_afresh(tmp_path):
    passes(open_zoo(tmp_path, 0, make=lambda: Scaled(1.0)), tmp_path / "cache")
    assert passes(open_zoo(tmp_path, 0, make=lambda: Scaled(2.0)), tmp_path / "cache") == PROBE + 20


class Shifted(CountingNet):
    """A network with a mean of its own, in a buffer that no checkpoint holds."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3,), mean), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) - self.mean * torch.arange(3)


def test_preprocessing_inside_the_network_is_predicted_afresh(tmp_path):
    passes(open_zoo(tmp_path, 0, make=lambda: Shifted(0.0)), tmp_path / "cache")
    assert passes(open_zoo(tmp_path, 0, make=lambda: Shifted(1.0)), tmp_path / "cache") == PROBE + 20


def test_half_and_double_networks_run_in_their_own_precision(tmp_path):
    single = predict(open_zoo(tmp_path, 0, 1), SPLIT, cache=False)
    for change in (nn.Module.half, nn.Module.double):
        zoo = open_zoo(tmp_path, 0, 1, make=lambda change=change: change(CountingNet()))
        torch.testing.assert_close(predict(zoo, SPLIT, cache=False).logits, single.logits, rtol=1e-2, atol=1e-2)
        assert evaluator(zoo, SPLIT)([0.5, 0.5]) == pytest.approx(
            evaluator(open_zoo(tmp_path, 0, 1), SPLIT)([0.5, 0.5]), abs=10
        )


def test_an_edited_network_is_predicted_afresh(tmp_path):
    """A reader's own network, as it stands in a notebook before and after an edit of `forward`."""

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
    assert passes(open_zoo(tmp_path, 0, make=first), tmp_path / "cache") == PROBE
    assert passes(open_zoo(tmp_path, 0, make=edited), tmp_path / "cache") == PROBE + 20


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_a_damaged_store_is_predicted_again(tmp_path, content):
    zoo, cache = open_zoo(tmp_path, 0, 1), tmp_path / "cache"
    passes(zoo, cache)
    whole = {path: path.read_bytes() for path in cache.iterdir()}
    damaged = next(iter(whole))
    damaged.write_bytes(whole[damaged][:-9] if content is None else content)
    assert passes(zoo, cache) == PROBE + 20
    assert {path: path.read_bytes() for path in cache.iterdir()} == whole


def test_the_default_store_lies_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    run(tiny_zoo(tmp_path / "zoo", 2))
    assert len(files_below(tmp_path / "cache")) == 2


class Interrupted(Listed):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 13:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_ctrl_c_leaves_no_half_store(tmp_path):
    split, cache = Interrupted(SPLIT), tmp_path / "cache"
    split.fingerprint = "known"  # so that the interruption falls into the predictions
    with pytest.raises(KeyboardInterrupt):
        run(tiny_zoo(tmp_path / "zoo"), split, cache=cache)
    assert files_below(cache) == []


def test_a_full_disk_names_the_file_and_leaves_none(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RadinError, match=r"cache.*\.safetensors: could not be written \(No space left"):
        run(tiny_zoo(tmp_path / "zoo"), cache=tmp_path / "cache")
    assert files_below(tmp_path / "cache") == []


TOGETHER = """
import pathlib, time
from helpers import tiny_zoo, tiny_split
from radin import predict
place, me, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
zoo, split = tiny_zoo(place / f"zoo{me}", 6), tiny_split(4000)
(place / f"ready{me}").touch()
while not (place / f"ready{other}").exists():
    time.sleep(0.001)
print(predict(zoo, split, device="cpu", cache=place / "cache", progress=False).logits.double().sum().item())
"""


def test_two_processes_share_a_cache(tmp_path):
    both = [run_python(TOGETHER, tmp_path, *order) for order in ("ab", "ba")]
    said = {finish(process).strip() for process in both}
    found = files_below(tmp_path / "cache")
    assert len(found) == 6
    assert not any(".part" in name for name in found)
    alone = run(tiny_zoo(tmp_path / "alone", 6), tiny_split(4000), cache=tmp_path / "other cache", batch_size=256)
    assert said == {str(alone.logits.double().sum().item())}
    assert files_below(tmp_path / "other cache") == found
    for name in found:
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "other cache" / name).read_bytes()


def labelled(*labels: int) -> ArraySplit:
    return ArraySplit("tiny", "val", SPLIT.images[: len(labels)], torch.tensor(labels), ["a", "b", "c"])


@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("wrap", [Listed, lambda split: split])
def test_labels_outside_the_classes(tmp_path, wrong, wrap):
    with pytest.raises(BankError, match=f"Image 2 has label {wrong}, but the logits have classes 0 to 2"):
        run(tiny_zoo(tmp_path / "zoo"), wrap(labelled(0, 1, wrong)), cache=tmp_path / "cache")
    assert files_below(tmp_path / "cache") == []


@pytest.mark.parametrize("wrap", [Listed, lambda split: split])
@pytest.mark.parametrize("cache", [False, True])
def test_an_empty_split(tmp_path, wrap, cache):
    zoo, split = tiny_zoo(tmp_path), wrap(ArraySplit("tiny", "val", SPLIT.images[:0], SPLIT.labels[:0], ["a"]))
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


@pytest.mark.parametrize("device", ["banana", "cuda:99", "", None, 3.5, "meta"])
def test_unknown_devices(tmp_path, device):
    zoo = tiny_zoo(tmp_path)
    for use in (lambda: run(zoo, device=device), lambda: evaluator(zoo, SPLIT, device), lambda: pick_device(device)):
        with pytest.raises(ParameterError, match=r"device=.* is not available here; use 'auto', 'cpu' or 'cuda'"):
            use()


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
    for use in (lambda: run(zoo), lambda: evaluator(zoo, SPLIT), lambda: soup_logits(zoo, [1], SPLIT)):
        with pytest.raises(ParameterError, match="build="):
            use()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


@given(weights=mixing_weights(3))
@settings(max_examples=30)
def test_an_evaluation_is_the_accuracy_of_the_averaged_model(zoo, weights):
    model = build()
    p = (weights.double() / weights.double().sum()).tolist()
    model.load_state_dict({key: sum(w * zoo[k][key].double() for k, w in enumerate(p)) for key in zoo.keys()})
    with torch.no_grad():
        logits = model(SPLIT.images)
    right = [row.index(max(row)) == y for row, y in zip(logits.tolist(), SPLIT.labels.tolist(), strict=True)]
    assert evaluator(zoo, SPLIT, device="cpu", batch_size=7)(weights) == pytest.approx(5 * sum(right))
    found, labels = soup_logits(zoo, weights, SPLIT, device="cpu", batch_size=7)
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, SPLIT.labels)


def test_evaluations_do_not_depend_on_those_before(zoo):
    evaluate = evaluator(zoo, SPLIT, device="cpu")
    rows = [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [0.5, 0.5, 0], [1, 0, 0]]
    assert [evaluate(row) for row in rows] == [evaluator(zoo, SPLIT, device="cpu")(row) for row in rows]


def test_evaluating_one_ingredient_is_its_accuracy_in_the_bank(zoo):
    bank, evaluate = run(zoo, cache=False), evaluator(zoo, SPLIT, device="cpu")
    assert [evaluate(row) for row in torch.eye(3)] == bank.accuracies().tolist()


def test_an_evaluator_shows_what_it_evaluates(zoo):
    evaluate = evaluator(zoo, SPLIT, device="cpu", batch_size=7)
    assert evaluate.zoo is zoo
    assert evaluate.split is SPLIT
    assert (evaluate.device, evaluate.batch_size) == (torch.device("cpu"), 7)


def test_a_state_dict_is_evaluated_like_its_mixing_weights(zoo):
    evaluate, weights = evaluator(zoo, SPLIT, device="cpu"), [0.5, 0.2, 0.3]
    averaged = average(zoo, weights)
    assert evaluate(averaged) == evaluate(weights)
    for one, other in zip(soup_logits(zoo, averaged, SPLIT), soup_logits(zoo, weights, SPLIT), strict=True):
        assert torch.equal(one, other)


def test_state_dicts_that_do_not_fit(zoo):
    good = average(zoo, [1, 0, 0])
    missing = {key: tensor for key, tensor in good.items() if key != "1.bias"}
    for wrong in (missing, good | {"1.bias": torch.zeros(7)}, good | {"more": torch.zeros(1)}):
        for use in (evaluator(zoo, SPLIT), lambda state: soup_logits(zoo, state, SPLIT)):
            with pytest.raises(ParameterError, match="does not fit the zoo.*(1.bias|more)"):
                use(wrong)


def test_a_pass_with_other_tensors_leaves_the_model_alone(zoo):
    model, other = zoo.model(0), average(zoo, [0, 1, 0])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    borrowed = batch_logits(model, SPLIT.images, torch.device("cpu"), other)
    torch.testing.assert_close(borrowed, zoo.model(1)(SPLIT.images))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_the_number_of_threads_is_given_back():
    before = torch.get_num_threads()
    with single_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), single_thread():
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_says_the_same(zoo):
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
    wide = ArraySplit("wide", "val", torch.zeros(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64), ["a", "b", "c"])
    for use in (lambda: predict(zoo, wide, cache=False), lambda: soup_logits(zoo, [1], wide)):
        with pytest.raises(DataError, match=r"cannot predict images of shape \(1, 9, 9\)"):
            use()


def test_a_network_that_gives_no_logits(tmp_path):
    with pytest.raises(DataError, match="must give logits .* not a tuple"):
        predict(open_zoo(tmp_path, 0, make=Pair), SPLIT, cache=False)


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm1d(3))


def normed_zoo(folder: Path) -> Zoo:
    """Two networks with batch norm, whose running statistics have nothing to do with any images."""
    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        states.append({key: tensor + seed for key, tensor in normed().state_dict().items()})
    return Zoo.open(save_states(folder, *states), normed, progress=False)


def test_refreshed_statistics_are_those_that_the_soup_sees(tmp_path):
    """Two batches of ten images; the second layer sees what the first one normalises by its batch."""
    zoo, weights = normed_zoo(tmp_path), [0.25, 0.75]
    found = refresh_batch_norm(zoo, weights, SPLIT, device="cpu", batch_size=10)
    averaged = average(zoo, weights)
    assert list(found) == zoo.keys()
    chosen = torch.randperm(20, generator=torch.Generator().manual_seed(0)).split(10)
    model = zoo.model(averaged)
    means, variances = [[], []], [[], []]
    for order in chosen:
        x = SPLIT.images[order]
        for position, layer in enumerate(model):
            if position in (1, 4):
                channels = x.transpose(0, 1).flatten(1)
                means[position // 4].append(channels.mean(1))
                variances[position // 4].append(channels.var(1))
                layer = layer.train()
            x = layer(x)
    for norm, name in enumerate(("1", "4")):
        torch.testing.assert_close(found[f"{name}.running_mean"], torch.stack(means[norm]).mean(0))
        torch.testing.assert_close(found[f"{name}.running_var"], torch.stack(variances[norm]).mean(0))
        assert found[f"{name}.num_batches_tracked"] == 2
    for key in zoo.keys():
        if "running" not in key and "num_batches" not in key:
            assert torch.equal(found[key], averaged[key])


@pytest.mark.parametrize("batch_size", [7, 256])
def test_refreshed_soups_are_evaluated_like_others(tmp_path, batch_size):
    zoo = normed_zoo(tmp_path)
    first, again, listed = (
        refresh_batch_norm(zoo, soup, split, device="cpu", batch_size=batch_size)
        for soup, split in (([0.5, 0.5], SPLIT), (average(zoo, [0.5, 0.5]), SPLIT), ([0.5, 0.5], Listed(SPLIT)))
    )
    for key in zoo.keys():
        assert torch.equal(first[key], again[key])
        assert torch.equal(first[key], listed[key])
    model = normed()
    model.load_state_dict(first)
    with torch.no_grad():
        torch.testing.assert_close(soup_logits(zoo, first, SPLIT, device="cpu")[0], model.eval()(SPLIT.images))
    assert 0 <= evaluator(zoo, SPLIT, device="cpu")(first) <= 100


def test_a_folder_sorted_by_class_bends_no_statistics(tmp_path):
    """In the order of a folder, batches of one class each would hide how far the classes lie apart."""
    images = torch.cat([tiny_split(20, seed).images + 10 * seed for seed in range(2)])
    split = ArraySplit("tiny", "train", images, torch.arange(2).repeat_interleave(20), ["a", "b"])
    zoo = normed_zoo(tmp_path)
    whole, batched = (refresh_batch_norm(zoo, [1, 0], split, device="cpu", batch_size=size) for size in (40, 20))
    torch.testing.assert_close(whole["1.running_var"], batched["1.running_var"], rtol=0.15, atol=0)


def test_no_statistics_to_refresh(tmp_path):
    for make in (build, lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, track_running_stats=False))):
        zoo = Zoo.open(save_states(tmp_path, make().state_dict()), make, progress=False)
        with pytest.raises(ParameterError, match="Sequential has no batch norm with running statistics; evaluate"):
            refresh_batch_norm(zoo, [1], SPLIT)


def test_images_that_cannot_refresh(tmp_path):
    zoo = normed_zoo(tmp_path)
    with pytest.raises(DataError, match="empty; a split needs at least one image"):
        refresh_batch_norm(zoo, [1, 0], ArraySplit("tiny", "train", SPLIT.images[:0], SPLIT.labels[:0], ["a"]))
    wide = ArraySplit("wide", "train", torch.zeros(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64), ["a"])
    with pytest.raises(DataError, match=r"cannot predict images of shape \(1, 9, 9\)"):
        refresh_batch_norm(zoo, [1, 0], wide)


def test_an_evaluator_that_refreshes(tmp_path):
    zoo, weights, training = normed_zoo(tmp_path), [0.75, 0.25], tiny_split(50, seed=5)
    evaluate = evaluator(zoo, SPLIT, device="cpu", refresh=training)
    assert evaluate(weights) == evaluator(zoo, SPLIT, device="cpu")(refresh_batch_norm(zoo, weights, training))
    assert evaluate.refresh is training
    with pytest.raises(ParameterError, match="no batch norm"):
        evaluator(tiny_zoo(tmp_path / "plain"), SPLIT, refresh=training)
