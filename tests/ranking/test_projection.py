"""radin/ranking/projection.py: classes that are read from some of the logits."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radin.errors import ParameterError
from radin.ranking.projection import Projection

OBJECTS = Projection([[3, 0], [2], [6, 5, 1]], 8)


@st.composite
def projections(draw: st.DrawFn) -> Projection:
    """Up to six classes of at most four logits each, out of at most twelve."""
    num_logits = draw(st.integers(1, 12))
    ids = draw(st.permutations(range(num_logits)))
    groups = []
    while ids and (not groups or draw(st.booleans())):
        size = draw(st.integers(1, min(4, len(ids))))
        groups.append(ids[:size])
        ids = ids[size:]
    return Projection(groups, num_logits)


def by_hand(projection: Projection, row: list[float]) -> list[float]:
    return [max(row[each] for each in group) for group in projection.groups]


@given(
    projection=projections(),
    shape=st.lists(st.integers(0, 3), max_size=3),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_it_is_the_largest_logit_of_each_class(projection, shape, dtype, seed):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (*shape, projection.num_logits), generator=rng).to(
        dtype
    )  # full of ties
    found = projection(logits)
    assert (found.dtype, found.shape) == (dtype, (*shape, projection.num_classes))
    rows = logits.reshape(-1, projection.num_logits).tolist()
    assert found.reshape(-1, projection.num_classes).tolist() == [
        by_hand(projection, row) for row in rows
    ]


@given(projection=projections(), seed=st.integers(0, 99))
def test_a_selection_commutes_with_averaging_and_is_said_to(projection, seed):
    logits = torch.randn(3, 5, projection.num_logits, generator=torch.Generator().manual_seed(seed))
    assert projection.is_selection == all(len(group) == 1 for group in projection.groups)
    if projection.is_selection:
        assert torch.allclose(projection(logits.mean(0)), projection(logits).mean(0))


def test_a_maximum_does_not_commute_with_averaging():
    ingredients = torch.tensor([[4.0, 0.0, 3.0], [0.0, 4.0, 3.0]])
    projection = Projection([[0, 1], [2]], 3)
    assert projection(ingredients.mean(0)).tolist() == [2, 3]
    assert projection(ingredients).mean(0).tolist() == [4, 3]
    assert not projection.is_selection


def test_what_is_no_number_stays_visible():
    logits = torch.zeros(8)
    logits[5] = torch.nan
    assert OBJECTS(logits).isnan().tolist() == [False, False, True]


def test_what_it_says_of_itself():
    assert (OBJECTS.num_classes, OBJECTS.num_logits, OBJECTS.groups) == (
        3,
        8,
        ((3, 0), (2,), (6, 5, 1)),
    )
    assert repr(OBJECTS) == "Projection(8 logits to 3 classes)"


def test_equal_projections_have_one_fingerprint():
    again = pickle.loads(pickle.dumps(OBJECTS))
    assert again == OBJECTS == Projection(((3, 0), (2,), (6, 5, 1)), 8)
    assert hash(again) == hash(OBJECTS)
    assert again.fingerprint == OBJECTS.fingerprint
    assert torch.equal(again(torch.arange(8.0)), torch.tensor([3.0, 2.0, 6.0]))
    others = [
        Projection([[3, 0], [2], [6, 5, 1]], 9),
        Projection([[2], [3, 0], [6, 5, 1]], 8),
        Projection([[3], [0, 2], [6, 5, 1]], 8),
        Projection([[3, 0], [2], [6, 5], [1]], 8),
    ]
    assert OBJECTS not in others
    assert OBJECTS != "a projection"
    assert len({each.fingerprint for each in [OBJECTS, *others]}) == 5


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "at least one class"),
        ([[0], []], "Class 1 of the projection has no logit"),
        ([[0], [8]], "Class 1 of the projection asks for logit 8 of 8"),
        ([[-1]], "a logit's number must be a whole number of at least 0, not -1"),
        ([[0.5]], "a logit's number must be a whole number"),
        ([[True]], "a logit's number must be a whole number"),
        ([[0, 1], [2, 1]], "uses logit 1 more than once"),
        ([[2, 2]], "uses logit 2 more than once"),
    ],
)
def test_impossible_projections(groups, words):
    with pytest.raises(ParameterError, match=words):
        Projection(groups, 8)


@pytest.mark.parametrize("num_logits", [0, -1, 1.5, None])
def test_impossible_numbers_of_logits(num_logits):
    with pytest.raises(ParameterError, match="num_logits must be a whole number"):
        Projection([[0]], num_logits)


@pytest.mark.parametrize(
    "logits", [torch.zeros(2, 7), torch.zeros(8, 1), torch.zeros(2, 3), torch.tensor(1.0)]
)
def test_logits_of_another_width(logits):
    with pytest.raises(ParameterError, match="takes 8 logits, not"):
        OBJECTS(logits)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_runs_where_the_logits_are():
    logits = torch.randn(4, 8, device="cuda", dtype=torch.float16)
    assert OBJECTS(logits).device == logits.device
    assert torch.equal(OBJECTS(logits).cpu(), OBJECTS(logits.cpu()))
