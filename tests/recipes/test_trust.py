"""radin/recipes/trust.py: a healthy zoo is trusted, and each broken one is found and named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor, nn

import radin
from helpers import (
    build,
    mixing_weights,
    random_bank,
    save,
    save_states,
    state,
    tied_banks,
    tiny_split,
    tiny_zoo,
)
from radin import (
    LogitBank,
    Trial,
    Zoo,
    craft,
    evaluator,
    exhaustive,
    fast_estimate,
    predict,
    soup_logits,
    trust,
)
from radin.checkpoints.inspection import MAX_UNRELATED_COSINE
from radin.data.splits import ArraySplit
from radin.errors import ParameterError
from radin.experiments.networks import DigitsNet, Mlp, SmallResNet, SmallTransformer
from radin.experiments.zoos.broken import broken_zoo
from radin.recipes.trust import EXPANSION_RANGE, MAX_GAP_RATIO, MAX_LOUDNESS_RATIO
from radin.recipes.trust_report import Check, Trust
from radin.recipes.weight_checks import MAX_DRIFT_DEVIATIONS, MIN_COSINE

State = dict[str, Tensor]

DISAGREE = "images on which two ingredients disagree, in percent"
LOUD = "logits of the loudest ingredient beside the median one's"
GAIN = "gain of the ensemble's loss, second order beside the truth"
COSINE = "weights of two ingredients, smallest cosine"
SINGLE = "the same in a single tensor"
TASKS = "task vectors, mean cosine"
DISTANCE = "distance to the initialisation beside its length, mean"
DRIFT = "running means of batch norm, apart in standard deviations"
GAP = "predicted gap of soup and ensemble beside the spread of logits"
ANSWERS = "images on which the uniform soup answers as its ensemble, in percent"
ERROR = "fast estimate less accuracy over the evaluated soups, mean in points"
CORRELATION = "rank correlation of estimate and accuracy over them"
BEST = "best soup less best ingredient, on validation in points"


def near(start: State, size: float, num_models: int = 3) -> list[State]:
    """States at random steps from a start, `size` times as long as each tensor."""
    states = []
    for seed in range(num_models):
        rng = torch.Generator().manual_seed(seed + 1)
        steps = {key: torch.randn(t.shape, generator=rng) for key, t in start.items()}
        states.append(
            {key: t + size * steps[key] * t.square().mean().sqrt() for key, t in start.items()}
        )
    return states


def opened(
    folder: Path,
    states: Sequence[State],
    make: Callable[[], nn.Module] = build,
    init: State | None = None,
    suffix: str = ".safetensors",
) -> Zoo:
    start = save(init, folder / f"init{suffix}") if init is not None else None
    return Zoo.open(save_states(folder, *states, suffix=suffix), make, init=start, progress=False)


def predicted(zoo: Zoo, split: ArraySplit) -> LogitBank:
    return predict(zoo, split, device="cpu", cache=False, progress=False)


def quiet(*arguments: object, **options: object) -> Trust:
    return trust(*arguments, device="cpu", progress=False, **options)


def failed(found: Trust) -> list[str]:
    return [check.name for check in found.failed]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> tuple[LogitBank, Zoo, ArraySplit]:
    start, split = state(99), tiny_split(40)
    zoo = opened(tmp_path_factory.mktemp("healthy"), near(start, 0.1), init=start)
    return predicted(zoo, split), zoo, split


# The report ---------------------------------------------------------------------------------------


def test_a_healthy_zoo_is_trusted(healthy):
    bank, zoo, split = healthy
    best = bank.accuracies().max().item()
    trials = [Trial(p, best, best) for p in exhaustive(3)]
    found = quiet(bank, zoo, split, trials=trials)
    assert found.verdict == "yes"
    assert (found.failed, found.advice) == ([], [])
    names = [check.name for check in found.checks]
    assert names == [
        DISAGREE,
        LOUD,
        GAIN,
        COSINE,
        SINGLE,
        TASKS,
        DISTANCE,
        GAP,
        ANSWERS,
        ERROR,
        BEST,
    ]
    lines = str(found).splitlines()
    assert lines[0] == "trust in the fast estimate: yes"
    assert len(lines) == 1 + len(found.checks)
    for line, check in zip(lines[1:], found.checks, strict=True):
        assert line.startswith("ok  " if check.advice else "--  ")
        assert line[4:].startswith(f"{check.name}: {check.value:.2f}")
    assert radin.trust is trust


def test_each_argument_adds_its_checks(healthy):
    bank, zoo, split = healthy
    bare = Zoo.open(zoo.paths, progress=False)
    trials = [Trial(torch.tensor([0.5, 0.5, 0]), 50.0, 50.0)]

    def names(*arguments: object, **options: object) -> list[str]:
        return [check.name for check in quiet(*arguments, **options).checks]

    assert names(bank) == [DISAGREE, LOUD, GAIN]
    assert names(bank, trials=trials) == [DISAGREE, LOUD, GAIN, ERROR, BEST]
    assert names(bank, bare) == [DISAGREE, LOUD, GAIN, COSINE, SINGLE]
    assert names(bank, zoo) == [DISAGREE, LOUD, GAIN, COSINE, SINGLE, TASKS, DISTANCE]
    assert names(bank, zoo, split) == [
        DISAGREE,
        LOUD,
        GAIN,
        COSINE,
        SINGLE,
        TASKS,
        DISTANCE,
        GAP,
        ANSWERS,
    ]


@pytest.mark.parametrize(
    ("check", "passed", "expected"),
    [
        (Check("a", 1.234), True, "--  a: 1.23"),
        (Check("a", 1.0, minimum=1), True, "ok  a: 1.00 (at least 1.00)"),
        (Check("a", 1.0, maximum=1), True, "ok  a: 1.00 (at most 1.00)"),
        (Check("a", 2.0, 1, 3), True, "ok  a: 2.00 (at least 1.00, at most 3.00)"),
        (Check("a", 0.5, minimum=1, advice="b."), False, "NO  a: 0.50 (at least 1.00)\n    b."),
        (Check("a", 4.0, 1, 3, "b."), False, "NO  a: 4.00 (at least 1.00, at most 3.00)\n    b."),
        (
            Check("a", math.nan, 1, 3, "b."),
            False,
            "NO  a: nan (at least 1.00, at most 3.00)\n    b.",
        ),
        (Check("a", math.inf, maximum=3, advice="b."), False, "NO  a: inf (at most 3.00)\n    b."),
    ],
)
def test_one_check_is_one_line_and_its_advice(check, passed, expected):
    assert check.passed is passed
    assert str(check) == expected


def test_a_report_by_hand():
    ok, info, bad = (
        Check("one", 1, maximum=2, advice="never"),
        Check("two", 2),
        Check("three", 3, maximum=1, advice="do it."),
    )
    found = Trust((ok, info, bad, Check("four", 4, maximum=1, advice="do it.")))
    assert found.verdict == "no"
    assert [check.name for check in found.failed] == ["three", "four"]
    assert found.advice == ["do it."]
    assert (found["one"], found["two"], found["three"]) == (1, 2, 3)
    assert str(found).splitlines()[0] == "trust in the fast estimate: no"
    assert len(str(found).splitlines()) == 1 + 4 + 1  # the same advice once
    assert (Trust(()).verdict, str(Trust(()))) == ("yes", "trust in the fast estimate: yes")
    with pytest.raises(ParameterError, match="No check is called 'five'; there are 'one', 'two'"):
        found["five"]


# The bank -----------------------------------------------------------------------------------------


def test_values_from_the_bank():
    bank = random_bank(4, 30, 5)
    found = quiet(bank)
    differ = [
        sum(
            int(a.argmax() != b.argmax())
            for a, b in zip(bank.logits[i], bank.logits[j], strict=True)
        )
        / 30
        for i in range(4)
        for j in range(i)
    ]
    assert found[DISAGREE] == pytest.approx(100 * sum(differ) / 6)
    spreads = [
        sum((row - row.mean()).square().mean().sqrt().item() for row in logits) / 30
        for logits in bank.logits
    ]
    assert found[LOUD] == pytest.approx(max(spreads) / sorted(spreads)[1], rel=1e-5)
    uniform = torch.full((1, 4), 0.25)
    gained = fast_estimate(bank, torch.eye(4), "nll").mean() - fast_estimate(bank, uniform, "nll")
    ensemble, variance = bank.logits.double().mean(0), 0.0
    q = ensemble.softmax(1)
    for logits in bank.logits.double():
        d = logits - ensemble
        variance += ((q * d.square()).sum(1) - (q * d).sum(1).square()).mean().item() / 8
    assert found[GAIN] == pytest.approx(variance / gained.item())


@given(bank=tied_banks())
@settings(max_examples=60)
def test_any_bank_has_a_report(bank):
    found = quiet(bank)
    assert [check.name for check in found.checks] == (
        [DISAGREE, LOUD, GAIN] if bank.num_models > 1 else []
    )
    assert not any(math.isnan(check.value) for check in found.checks)
    assert 0 <= sum(check.value for check in found.checks if check.name == DISAGREE) <= 100


@pytest.mark.parametrize("loud", range(3))
def test_a_loud_ingredient_is_named(tmp_path, loud):
    start = state(99)
    states = near(start, 0.1)
    states[loud] = {key: 30 * t if key.startswith("3") else t for key, t in states[loud].items()}
    zoo, split = opened(tmp_path, states), tiny_split(40)
    found = quiet(predicted(zoo, split), zoo)
    assert found.verdict == "no"
    assert LOUD in failed(found)
    assert found[LOUD] > MAX_LOUDNESS_RATIO
    (advice,) = (check.advice for check in found.failed if check.name == LOUD)
    assert f"Ingredient model_{loud} is far more confident" in advice
    assert "temperature" in advice


def test_loudness_does_not_see_a_number_added_to_all_classes(healthy):
    bank, _, _ = healthy
    shifted = LogitBank(bank.logits + torch.tensor([0.0, 1000.0, -8.0]).view(3, 1, 1), bank.labels)
    assert quiet(shifted)[LOUD] == pytest.approx(quiet(bank)[LOUD], rel=1e-3)


def test_very_confident_logits():
    """All are as loud as each other, but no expansion reaches from one to the other."""
    bank = random_bank(4, 60, 5)
    assert quiet(bank).verdict == "yes"
    confident = LogitBank(12 * bank.logits, bank.labels)
    found = quiet(confident)
    assert failed(found) == [GAIN]
    assert not EXPANSION_RANGE[0] <= found[GAIN] <= EXPANSION_RANGE[1]
    assert "label smoothing" in found.advice[0]
    assert found[LOUD] == pytest.approx(quiet(bank)[LOUD], rel=1e-5)


def test_half_precision_is_no_reason_for_distrust(healthy):
    bank, zoo, _ = healthy
    half = quiet(LogitBank(bank.logits.half(), bank.labels), zoo)
    assert half.verdict == "yes"
    for check in quiet(bank, zoo).checks:
        assert half[check.name] == pytest.approx(check.value, rel=0.05, abs=3)


@pytest.mark.parametrize("shape", [(2, 1, 2), (3, 1, 2), (2, 5, 2), (2, 5, 1)])
def test_the_smallest_banks(shape):
    found = quiet(random_bank(*shape))
    assert all(math.isfinite(check.value) for check in found.checks)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_ingredients_that_say_the_same(value):
    logits = value * random_bank(1, 9, 3).logits.repeat(3, 1, 1)
    found = quiet(LogitBank(logits, torch.zeros(9, dtype=torch.int64)))
    assert found.verdict == "yes"
    assert (found[DISAGREE], found[GAIN]) == (0, 1)


# The weights --------------------------------------------------------------------------------------


def test_values_from_the_weights(healthy):
    bank, zoo, _ = healthy
    found = quiet(bank, zoo)
    matrices = [key for key in zoo.keys() if key.endswith("weight")]

    def vector(tensors: State, keys: Sequence[str]) -> Tensor:
        return torch.cat([tensors[key].double().flatten() for key in keys])

    def lowest(keys: Sequence[str]) -> float:
        """Of the mean cosine over tensors, each counting by its length."""
        pairs = []
        for i, j in ((0, 1), (0, 2), (1, 2)):
            ends = [(vector(zoo[i], [key]), vector(zoo[j], [key])) for key in keys]
            lengths = sum((one.norm() * other.norm()).item() for one, other in ends)
            pairs.append(sum((one @ other).item() for one, other in ends) / lengths)
        return min(pairs)

    assert found[COSINE] == pytest.approx(lowest(matrices))
    assert found[SINGLE] == pytest.approx(min(lowest([key]) for key in matrices))
    start = vector(zoo.init, zoo.keys())
    tasks = [vector(zoo[k], zoo.keys()) - start for k in range(3)]
    cosines = [
        torch.cosine_similarity(tasks[i], tasks[j], 0).item() for i in range(3) for j in range(i)
    ]
    assert found[TASKS] == pytest.approx(sum(cosines) / 3)
    assert found[DISTANCE] == pytest.approx(
        sum((task.norm() / start.norm()).item() for task in tasks) / 3
    )


@pytest.mark.parametrize("unrelated", range(3))
def test_unrelated_networks_are_named(tmp_path, unrelated):
    states = near(state(99), 0.05)
    states[unrelated] = state(unrelated + 7)  # an initialisation of its own
    zoo = opened(tmp_path, states)
    found = quiet(predicted(zoo, tiny_split()), zoo)
    assert {COSINE, SINGLE} <= set(failed(found))
    assert found[COSINE] < MAX_UNRELATED_COSINE
    (advice,) = (check.advice for check in found.failed if check.name == COSINE)
    assert "next to nothing in common" in advice
    assert f"model_{unrelated} " in advice
    assert [check.advice for check in found.failed if check.name == SINGLE] == [advice]
    assert sum("next to nothing" in line for line in found.advice) == 1


def test_a_permuted_ingredient_is_unrelated(tmp_path):
    """The same function, and an ensemble as good as any, but no soup."""
    start = state(99)
    states = near(start, 0.05)
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    one = states[1]
    states[1] = (
        one
        | {key: one[key][order] for key in ("1.weight", "1.bias")}
        | {"3.weight": one["3.weight"][:, order]}
    )
    zoo, split = opened(tmp_path, states), tiny_split()
    bank = predicted(zoo, split)
    assert quiet(bank).verdict == "yes"
    found = quiet(bank, zoo)
    assert COSINE in failed(found)
    assert "model_1" in found.advice[0]
    assert "units in another order" in found.advice[0]


def test_ingredients_that_moved_too_far(tmp_path):
    start = state(99)
    zoo = opened(tmp_path, near(start, 0.95), init=start)
    found = quiet(predicted(zoo, tiny_split()), zoo)
    assert MAX_UNRELATED_COSINE < found[COSINE] < MIN_COSINE
    assert COSINE in failed(found)
    (advice,) = (check.advice for check in found.failed if check.name == COSINE)
    assert "have moved too far apart" in advice
    assert "lower rate" in advice
    assert found[DISTANCE] == pytest.approx(0.95, abs=0.3)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Mlp": (lambda: Mlp(12, 10, width=32), (3, 2, 2)),
    "DigitsNet": (lambda: DigitsNet(8), (1, 8, 8)),
    "SmallResNet": (lambda: SmallResNet(10, widths=(8, 16)), (3, 8, 8)),
    "SmallTransformer": (lambda: SmallTransformer(10, size=4), (1, 4, 4)),
}


def photos(shape: tuple[int, ...], count: int = 10) -> ArraySplit:
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, *shape, generator=rng), torch.arange(count) % 10
    return ArraySplit("noise", "val", images, labels, [str(c) for c in range(10)])


def fresh_states(make: Callable[[], nn.Module], size: float) -> tuple[State, list[State]]:
    torch.manual_seed(0)
    start = {key: t.clone() for key, t in make().state_dict().items()}
    return start, near(start, size)


# The keys of .safetensors are sorted by name, so the last key need not be that of the last layer:
# the transformer's is "positions", the ResNet's "stem.weight".
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("network", NETWORKS)
def test_heads_that_were_made_separately(tmp_path, network, suffix):
    make, shape = NETWORKS[network]
    start, states = fresh_states(make, 0.05)
    for seed, one in enumerate(states):
        rng = torch.Generator().manual_seed(100 + seed)
        size = start["head.weight"].square().mean().sqrt()
        one["head.weight"] = size * torch.randn(start["head.weight"].shape, generator=rng)
    zoo = opened(tmp_path, states, make, start, suffix)
    found = quiet(predicted(zoo, photos(shape)), zoo)
    assert found[COSINE] > MIN_COSINE
    assert SINGLE in failed(found)
    (advice,) = (check.advice for check in found.failed if check.name == SINGLE)
    assert "not in head.weight" in advice
    assert "heads that were made separately" in advice
    assert "Fit one head" in advice


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("network", "key"), [("SmallResNet", "stem.weight"), ("SmallTransformer", "positions")]
)
def test_another_layer_that_was_drawn_again(tmp_path, network, key, suffix):
    make, shape = NETWORKS[network]
    start, states = fresh_states(make, 0.05)
    size = start[key].square().mean().sqrt()
    for seed, one in enumerate(states):
        one[key] = size * torch.randn(
            start[key].shape, generator=torch.Generator().manual_seed(100 + seed)
        )
    zoo = opened(tmp_path, states, make, start, suffix)
    found = quiet(predicted(zoo, photos(shape)), zoo)
    assert SINGLE in failed(found)
    (advice,) = (check.advice for check in found.failed if check.name == SINGLE)
    assert f"not in {key}. Was that layer drawn again" in advice


def test_a_network_without_matrices(tmp_path):
    """Then the vectors are all there is."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, images: Tensor) -> Tensor:
            return self.scale * images.flatten(1)

    states = [{"scale": torch.tensor([1.0, 1.0, 1.0, k])} for k in (0.0, 1.0, 2.0)]
    zoo = opened(tmp_path, states, Scale)
    split = ArraySplit("tiny", "val", tiny_split(9).images, torch.arange(9) % 4, list("abcd"))
    found = quiet(predicted(zoo, split), zoo)
    assert found[COSINE] == found[SINGLE] == pytest.approx(3 / math.sqrt(3 * 7))


def test_an_ingredient_that_never_moved(tmp_path):
    """A task vector of zeros has no direction; that counts against nobody."""
    start = state(99)
    zoo = opened(tmp_path, [start, *near(start, 0.1, 2)], init=start)
    found = quiet(predicted(zoo, tiny_split()), zoo)
    assert found.verdict == "yes"
    assert math.isfinite(found[TASKS])
    assert found[TASKS] <= 1 + 1e-9


# Batch norm ---------------------------------------------------------------------------------------


def with_batch_norm() -> nn.Module:
    return DigitsNet(4, norm="batch")


def drifting(tmp_path: Path, drift: float) -> tuple[LogitBank, Zoo]:
    """Near each other except in one layer's running means, `drift` standard deviations apart."""
    torch.manual_seed(0)
    start = with_batch_norm().state_dict()
    states = near({key: t for key, t in start.items() if t.is_floating_point()}, 0.02)
    for k, one in enumerate(states):
        for key, tensor in start.items():
            if not tensor.is_floating_point():
                one[key] = torch.tensor(k)
            elif "running" in key:
                one[key] = tensor.clone()
        one["body.4.running_var"] = torch.full_like(one["body.4.running_var"], 4.0)
        one["body.4.running_mean"] = torch.full_like(one["body.4.running_mean"], 2.0 * drift * k)
    zoo = opened(tmp_path, states, with_batch_norm)
    return predicted(zoo, photos((1, 8, 8))), zoo


def test_running_statistics_that_drift(tmp_path):
    bank, zoo = drifting(tmp_path, 0.5)
    found = quiet(bank, zoo)
    assert failed(found) == [DRIFT]
    # Means of 0, 1/2 and 1 standard deviation have variance 1/4, their differences twice that.
    assert found[DRIFT] == pytest.approx(math.sqrt(2 * 0.25))
    assert found[DRIFT] > MAX_DRIFT_DEVIATIONS
    assert "Measure them again" in found.advice[0]
    refreshed = quiet(bank, zoo, refreshed=True)
    assert refreshed.verdict == "yes"
    assert DRIFT not in [check.name for check in refreshed.checks]


def test_the_advice_for_batch_norm_can_be_followed(tmp_path):
    bank, zoo = drifting(tmp_path, 0.5)
    assert "radin.evaluator(zoo, split, refresh=training_split)" in quiet(bank, zoo).advice[0]
    split = photos((1, 8, 8))
    evaluate = radin.evaluator(zoo, split, device="cpu", refresh=split)
    soup = radin.craft(bank, evaluate, 2)
    refreshed = quiet(bank, zoo, trials=soup, refreshed=True)
    assert DRIFT not in [check.name for check in refreshed.checks]
    plain = quiet(bank, zoo, trials=radin.craft(bank, radin.evaluator(zoo, split, device="cpu"), 2))
    assert DRIFT in failed(plain)
    assert "Measure them again" in str(plain)


def test_running_statistics_that_stay(tmp_path):
    bank, zoo = drifting(tmp_path, 0.02)
    found = quiet(bank, zoo)
    assert found[DRIFT] == pytest.approx(math.sqrt(2) * 0.02, rel=1e-4)
    assert found.verdict == "yes"


# The networks -------------------------------------------------------------------------------------


def test_values_from_the_networks(healthy):
    bank, zoo, split = healthy
    found = quiet(bank, zoo, split)
    soup, _ = soup_logits(zoo, [1 / 3] * 3, split, device="cpu")
    ensemble = bank.logits.mean(0)
    assert found[ANSWERS] == pytest.approx(
        100 * (soup.argmax(1) == ensemble.argmax(1)).double().mean().item()
    )
    gap, wide = (z - z.mean(1, keepdim=True) for z in (soup - ensemble, ensemble))
    assert found[GAP] == pytest.approx(
        (gap.norm() / wide.norm()).item(), rel=0.1
    )  # to second order


def test_a_gap_as_wide_as_the_logits(tmp_path):
    """Weights that point one way, of a network that bends that much along it."""
    start = state(99)
    start["1.weight"] = 12 * start["1.weight"]
    start["1.bias"] = 0 * start["1.bias"]
    zoo, split = opened(tmp_path, near(start, 0.5), init=start), tiny_split(64)
    found = quiet(predicted(zoo, split), zoo, split)
    assert found[COSINE] > MIN_COSINE
    assert found[GAP] > MAX_GAP_RATIO
    assert failed(found) == [GAP]
    assert "By the curvature of the network" in found.advice[0]


@pytest.mark.parametrize(("num_images", "used"), [(1, 1), (7, 7), (1000, 40)])
def test_so_many_images_are_asked(healthy, num_images, used):
    bank, zoo, split = healthy
    drawn = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:used]
    some = ArraySplit("tiny", "val", split.images[drawn], split.labels[drawn], split.class_names)
    found = quiet(bank, zoo, split, num_images=num_images)
    expected = quiet(LogitBank(bank.logits[:, drawn], bank.labels[drawn]), zoo, some)
    assert found[GAP] == pytest.approx(expected[GAP], rel=1e-4)
    assert found[ANSWERS] == expected[ANSWERS]


def test_networks_in_half_precision(tmp_path, healthy):
    bank, zoo, split = healthy
    half = opened(
        tmp_path,
        [{key: t.half() for key, t in zoo[k].items()} for k in range(3)],
        lambda: build().half(),
    )
    found, expected = quiet(bank, half, split), quiet(bank, zoo, split)
    for name in (COSINE, SINGLE, GAP, ANSWERS):
        assert found[name] == pytest.approx(expected[name], rel=0.1)


# The trials ---------------------------------------------------------------------------------------


def trial(*parts: float, estimate: float, accuracy: float, evaluated: bool = True) -> Trial:
    return Trial(torch.tensor(parts), estimate, accuracy, evaluated)


def test_values_from_the_trials():
    bank = random_bank(3, 200)
    best = bank.accuracies().max().item()
    trials = [
        trial(0.5, 0.5, 0, estimate=60, accuracy=best + 1),
        trial(0, 0.5, 0.5, estimate=50, accuracy=best - 3),
        trial(0.5, 0, 0.5, estimate=40, accuracy=best - 1),
        trial(1, 0, 0, estimate=0, accuracy=0),  # an ingredient, where the two are one
        trial(0.2, 0.3, 0.5, estimate=0, accuracy=0, evaluated=False),
    ]
    found = quiet(bank, trials=trials)
    assert found[ERROR] == pytest.approx((150 - (3 * best - 3)) / 3)
    assert found[CORRELATION] == pytest.approx(0.5)
    assert found[BEST] == pytest.approx(1)
    assert BEST not in failed(found)
    for some in ([], trials[3:], trials[4:]):
        assert [check.name for check in quiet(bank, trials=some).checks] == [DISAGREE, LOUD, GAIN]
    assert CORRELATION not in [check.name for check in quiet(bank, trials=trials[:2]).checks]


def test_soups_that_are_no_match_for_the_best_ingredient():
    """The noise of the comparison: images on which the two differ, over all."""
    bank = random_bank(3, 200)
    best = bank.accuracies().max().item()
    alone = bank.logits[int(bank.accuracies().argmax())].argmax(1)
    ensemble = bank.logits[:2].mean(0).argmax(1)
    noise = 100 * math.sqrt((alone != ensemble).double().mean().item() / 200)
    for short, trusted in ((0, True), (0.99 * noise, True), (1.01 * noise, False), (best, False)):
        soups = [
            trial(0.5, 0.5, 0, estimate=best + 9, accuracy=best - short),
            trial(0, 0.5, 0.5, estimate=best + 9, accuracy=max(0, best - short - 4)),
        ]
        found = quiet(bank, trials=soups)
        assert found[BEST] == pytest.approx(-short)
        assert (found.verdict == "yes") is trusted
    assert failed(found) == [BEST]
    assert f"({best:.2f}%)" in found.advice[0]
    assert "The best evaluated soup (0.00%) is no match" in found.advice[0]
    assert f"fall {(best + 9):.1f} points short" in found.advice[0]


def test_soups_better_than_their_ensembles_and_still_no_match():
    found = quiet(random_bank(3, 200), trials=[trial(0.5, 0.5, 0, estimate=20, accuracy=22)])
    assert failed(found) == [BEST]
    assert "-2.0" not in found.advice[0]


whole_numbers = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=12)


@given(pairs=whole_numbers, N=st.integers(2, 4), data=st.data())
@settings(max_examples=60)
def test_rank_correlation_is_spearmans(pairs, N, data):
    bank = random_bank(N, 20)
    p = data.draw(mixing_weights(N).filter(lambda p: (p > 0).sum() > 1))
    found = quiet(
        bank, trials=[Trial(p, float(estimate), float(accuracy)) for estimate, accuracy in pairs]
    )
    estimates, accuracies = zip(*pairs, strict=True)
    names = [check.name for check in found.checks]
    if len(set(estimates)) == 1 or len(set(accuracies)) == 1:
        assert CORRELATION not in names
    else:
        assert found[CORRELATION] == pytest.approx(spearmanr(estimates, accuracies).statistic)
    assert {ERROR, BEST} <= set(names)


# Small and impossible -----------------------------------------------------------------------------


def test_a_zoo_of_one(tmp_path):
    """Nothing to rank, nothing to distrust."""
    zoo, split = tiny_zoo(tmp_path, 1), tiny_split()
    bank = predicted(zoo, split)
    found = quiet(bank, zoo, split, trials=[trial(1.0, estimate=50, accuracy=50)])
    assert (found.verdict, found.checks) == ("yes", ())
    with_statistics = DigitsNet(4, norm="batch").state_dict()
    alone = opened(tmp_path / "batch", [with_statistics], with_batch_norm)
    assert quiet(predicted(alone, photos((1, 8, 8))), alone).checks == ()


def test_two_ingredients_and_two_classes(tmp_path):
    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))

    start, states = fresh_states(make, 0.1)
    zoo = opened(tmp_path, states[:2], make, start)
    split = ArraySplit("tiny", "val", tiny_split(1).images, torch.tensor([1]), ["a", "b"])
    found = quiet(predicted(zoo, split), zoo, split)
    assert found.verdict == "yes"
    assert all(math.isfinite(check.value) for check in found.checks)


def test_impossible_values(healthy):
    bank, zoo, split = healthy
    with pytest.raises(ParameterError, match="The bank holds 4 ingredients, the zoo 3"):
        quiet(random_bank(4), zoo)
    with pytest.raises(ParameterError, match=r"needs the networks too: trust\(bank, zoo, split\)"):
        quiet(bank, split=split)
    for other in (tiny_split(39), tiny_split(41)):
        with pytest.raises(
            ParameterError, match=f"The bank holds 40 images, the split {len(other)}"
        ):
            quiet(bank, zoo, other)
    with pytest.raises(ParameterError, match="without build"):
        quiet(bank, Zoo.open(zoo.paths, progress=False), split)
    for num_images in (0, -1, 1.5, True):
        with pytest.raises(ParameterError, match="num_images must be a whole number of at least 1"):
            quiet(bank, zoo, split, num_images=num_images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_says_the_same(healthy):
    bank, zoo, split = healthy
    here, there = (
        quiet(b, zoo, split, device=d) for b, d in ((bank, "cpu"), (bank.to("cuda"), "cuda"))
    )
    assert [check.name for check in here.checks] == [check.name for check in there.checks]
    for one, other in zip(here.checks, there.checks, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-2, abs=1e-3)


def test_the_initialisation_separates_unrelated_from_runaway_networks(tmp_path):
    """The same cosine between two ingredients from two causes: the initialisation shows which."""

    def drawn(seed: int) -> State:
        torch.manual_seed(seed)
        return Mlp(4, 3).state_dict()

    def make() -> nn.Module:
        return Mlp(4, 3)

    start = drawn(99)
    unrelated = opened(tmp_path / "unrelated", [drawn(k) for k in range(3)], make, init=start)
    runaways = opened(tmp_path / "runaways", near(start, 2.0), make, init=start)
    first, second = (quiet(predicted(zoo, tiny_split()), zoo) for zoo in (unrelated, runaways))
    for found in (first, second):
        assert found[COSINE] < MIN_COSINE
    assert any(
        "model_0, model_1, model_2: next to nothing in common" in advice for advice in first.advice
    )
    assert any("have moved too far apart" in advice for advice in second.advice)


def test_a_zoo_of_another_architecture_is_no_relative(healthy, tmp_path):
    """A bank of other networks with as many ingredients and images."""
    _, zoo, split = healthy
    with pytest.raises(ParameterError, match="does not predict on this split what the bank holds"):
        quiet(random_bank(3, len(split), 3), zoo, split)


def test_a_soup_that_is_its_ensemble_has_no_gap(tmp_path):
    """Zero beside zero is no gap: a head that starts at zero gives logits of zero."""
    states = [
        {**state(k), "3.weight": torch.zeros(3, 6), "3.bias": torch.zeros(3)} for k in range(2)
    ]
    zoo = opened(tmp_path, [{**states[0], "1.bias": states[0]["1.bias"] + k} for k in (0.0, 0.1)])
    split = tiny_split()
    assert quiet(predicted(zoo, split), zoo, split)[GAP] == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("bank",), "first argument is a logit bank, not a str"),
        ((None,), "first argument is a logit bank, not a NoneType"),
        (("real", "zoo"), "second argument is a zoo"),
        (("real", "real", "digits"), "third argument is a split"),
    ],
)
def test_wrong_types_of_argument(healthy, arguments, expected):
    given = [
        real if word == "real" else word for word, real in zip(arguments, healthy, strict=False)
    ]
    with pytest.raises(ParameterError, match=expected):
        quiet(*given)


def test_a_soup_in_place_of_its_trials(healthy):
    bank, zoo, split = healthy
    soup = craft(bank, evaluator(zoo, split), 3)
    assert str(quiet(bank, trials=soup)) == str(quiet(bank, trials=soup.trials))


def test_images_in_double_precision(healthy):
    bank, zoo, split = healthy
    double = ArraySplit("tiny", "val", split.images.double(), split.labels, split.class_names)
    assert quiet(bank, zoo, double)[GAP] == pytest.approx(quiet(bank, zoo, split)[GAP], rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("healthy", ""),
        ("rate", "have moved too far apart"),
        ("initialisation", "next to nothing in common with the initialisation"),
        ("permuted", "next to nothing in common with the initialisation"),
        ("batch_norm", "refresh=training_split"),
        ("heads", "but not in head.weight, the last layer"),
        ("sharp", "is far more confident than the others"),
    ],
)
def test_the_advice_names_what_is_wrong_with_each_broken_zoo(kind, expected):
    zoo = broken_zoo(kind, quick=True, device="cpu", progress=False)
    bank = predict(zoo, radin.load_split("digits", "val"), device="cpu", progress=False)
    found = quiet(bank, zoo)
    assert found.verdict == ("yes" if kind == "healthy" else "no")
    assert len(found.advice) == (kind != "healthy")
    assert expected in "".join(found.advice)
    if kind == "batch_norm":
        assert quiet(bank, zoo, refreshed=True).verdict == "yes"
