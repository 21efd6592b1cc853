"""radin/experiments/zoos/swa.py: the average is that of the snapshots along the run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers import build, tiny_split
from radin.errors import DataError, ParameterError
from radin.experiments.zoos import train
from radin.experiments.zoos.swa import DEFAULT_FLOOR, swa

SPLIT = tiny_split(30, part="train")
RUN = {
    "lr": 1e-2,
    "weight_decay": 1e-2,
    "epochs": 6,
    "noise": 0.1,
    "label_smoothing": 0.1,
    "mixup": 0.2,
}


def start(make=build) -> nn.Module:
    torch.manual_seed(0)
    return make()


def snapshots(run: dict[str, float], make=build) -> list[dict[str, Tensor]]:
    """The state dict after every epoch of the plain run."""
    model, kept = start(make), []
    train.train(
        model,
        SPLIT,
        run,
        seed=5,
        batch_size=8,
        after_epoch=lambda epoch: kept.append(
            {key: t.clone() for key, t in model.state_dict().items()}
        ),
    )
    return kept


@pytest.mark.parametrize(("share", "first"), [(0.5, 3), (0, 0), (0.3, 1), (0.99, 5)])
def test_the_mean_of_the_snapshots(share, first):
    run = RUN | {"floor": 0.5}
    every = snapshots(run)
    model = start()
    found = swa(model, SPLIT, run, seed=5, start=share, batch_size=8)
    assert (found.snapshots, found.epochs) == (6 - first, 6)
    assert found.last is model
    assert not found.model.training
    assert not found.last.training
    last, averaged = found.last.state_dict(), found.model.state_dict()
    assert list(averaged) == list(last)
    for key in last:
        by_hand = torch.stack([snapshot[key].double() for snapshot in every[first:]]).mean(0)
        torch.testing.assert_close(averaged[key].double(), by_hand, rtol=1e-6, atol=1e-7)
        assert torch.equal(last[key], every[-1][key])  # averaging did not disturb the run
        assert (first == 5) == torch.equal(averaged[key], last[key])


def test_shares_that_binary_numbers_round_down():
    """0.29 of 100 epochs is 29, although 0.29 * 100 is less."""
    assert (
        swa(start(), SPLIT, RUN | {"epochs": 100}, seed=0, start=0.29, batch_size=30).snapshots
        == 71
    )


def test_without_a_floor_the_rate_ends_at_the_default():
    named, silent = (
        swa(start(), SPLIT, run, seed=5, batch_size=8)
        for run in (RUN | {"floor": DEFAULT_FLOOR}, RUN)
    )
    plain = train.train(start(), SPLIT, RUN, seed=5, batch_size=8)
    for key, tensor in silent.last.state_dict().items():
        assert torch.equal(tensor, named.last.state_dict()[key])
        assert not torch.equal(tensor, plain.state_dict()[key])
    assert "floor" not in RUN


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)
    )


def test_batch_norm_is_measured_again():
    """With all images in one batch the statistics are those of the averaged layers before it."""
    model = start(normed)
    found = swa(model, SPLIT, RUN, seed=5, batch_size=30)
    with torch.no_grad():
        before = found.model[1](SPLIT.images.flatten(1))
    norm = found.model[2]
    torch.testing.assert_close(norm.running_mean, before.mean(0))
    torch.testing.assert_close(norm.running_var, before.var(0))
    assert (norm.num_batches_tracked, norm.momentum) == (1, 0.1)
    assert not torch.allclose(norm.running_var, model[2].running_var)


def test_every_image_is_measured_once_in_batches_of_almost_one_size():
    """Batch norm weighs batches equally, so 30 images are 8, 8, 7 and 7 and not 8, 8, 8 and 6."""
    passed: list[Tensor] = []

    class Watched(nn.BatchNorm1d):
        def forward(self, images: Tensor) -> Tensor:
            if self.momentum is None:  # what tells the pass from training
                passed.append(images.clone())
            return super().forward(images)

    swa(nn.Sequential(nn.Flatten(), Watched(4), nn.Linear(4, 3)), SPLIT, RUN, seed=5, batch_size=8)
    assert [len(images) for images in passed] == [8, 8, 7, 7]
    seen = torch.cat(passed)
    assert not torch.equal(seen, SPLIT.images.flatten(1))
    assert sorted(seen.tolist()) == sorted(SPLIT.images.flatten(1).tolist())


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_impossible_starts(share):
    with pytest.raises(ParameterError, match="start must be a share of the epochs"):
        swa(start(), SPLIT, RUN, seed=0, start=share)


@pytest.mark.parametrize("floor", [0, -0.1, 1.1, float("nan")])
def test_a_rate_that_falls_to_zero_is_refused(floor):
    model = start()
    with pytest.raises(ParameterError, match=r"floor must be above 0 .* Leave it out for 0\.2"):
        swa(model, SPLIT, RUN | {"floor": floor}, seed=0)
    assert all(
        torch.equal(tensor, start().state_dict()[key]) for key, tensor in model.state_dict().items()
    )


def test_a_diverged_run_is_refused():
    with pytest.raises(DataError, match="diverged"):
        swa(start(), SPLIT, RUN | {"lr": 1e30}, seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_run_on_the_gpu():
    there, back = (swa(start(normed).to(device), SPLIT, RUN, seed=5) for device in ("cuda", "cpu"))
    for key, tensor in there.model.state_dict().items():
        assert tensor.device.type == "cuda"
        torch.testing.assert_close(tensor.cpu(), back.model.state_dict()[key], rtol=1e-2, atol=1e-2)
