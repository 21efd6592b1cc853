"""radin/inference/devices.py: the device to compute on, and the number of threads."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from helpers import tiny_split, tiny_zoo
from radin import evaluator, predict
from radin.errors import ParameterError
from radin.inference.devices import pick_device, single_thread

SPLIT = tiny_split(20)


@pytest.mark.parametrize("device", ["banana", "cuda:99", "", None, 3.5, "meta"])
def test_unknown_devices(tmp_path, device):
    zoo = tiny_zoo(tmp_path)
    for use in (
        partial(predict, zoo, SPLIT, cache=False),
        partial(evaluator, zoo, SPLIT),
        pick_device,
    ):
        with pytest.raises(
            ParameterError, match=r"device=.* is not available here; use 'auto', 'cpu' or 'cuda'"
        ):
            use(device=device)


def test_the_number_of_threads_is_restored():
    before = torch.get_num_threads()
    with single_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), single_thread():
        raise KeyError
    assert torch.get_num_threads() == before
