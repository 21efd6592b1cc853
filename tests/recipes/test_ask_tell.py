"""radin/recipes/ask_tell.py: one soup at a time gives what `radin.craft` gives."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import radin
from helpers import files_below, finish, random_bank, run_python, tied_banks
from radin import AskTell, LogitBank, Soup, SoupBench
from radin.errors import BankError, ParameterError, RadinError
from radin.recipes.trial_file import TrialFile


@pytest.fixture(scope="module")
def bench() -> SoupBench:
    return SoupBench.load("cifar10")


def play(bank: LogitBank, path: Path, evaluate: object, budget: int, **options: object) -> Soup:
    """A whole session; every ask and tell is in a session of its own, as on another day."""
    while True:
        with AskTell(bank, path, budget, **options) as session:
            weights = session.ask()
            if weights is None:
                assert session.soup is not None
                return session.soup
        with AskTell(bank, path, budget, **options) as session:
            session.tell(weights, evaluate(weights))


def check_same(found: Soup, expected: Soup) -> None:
    assert [t.weights.tolist() for t in found.trials] == [
        t.weights.tolist() for t in expected.trials
    ]
    for attribute in ("estimate", "accuracy", "evaluated"):
        assert [getattr(t, attribute) for t in found.trials] == [
            getattr(t, attribute) for t in expected.trials
        ]
    assert torch.equal(found.weights, expected.weights)
    assert found.weights.dtype == expected.weights.dtype
    for attribute in ("recipe", "accuracy", "evaluations", "budget", "note"):
        assert getattr(found, attribute) == getattr(expected, attribute)
    assert str(found) == str(expected)


RECIPES = st.sampled_from(list(radin.RECIPES))


@given(
    recipe=RECIPES, budget=st.integers(1, 12), prior=st.sampled_from([0, 0.5, 3]), data=st.data()
)
@settings(max_examples=40)
def test_a_session_is_craft(bench, tmp_path_factory, recipe, budget, prior, data):
    seed = data.draw(st.integers(0, 20))
    options = {"recipe": recipe, "prior": prior, "seed": seed}
    if data.draw(st.booleans()):
        options["candidates"] = radin.dirichlet(10, 6, seed)
        evaluate = lambda p: 50 + 40 * p[0].item()  # noqa: E731  (a bench holds subsets only)
    else:
        evaluate = bench.evaluator()
    path = tmp_path_factory.mktemp("session") / "ledger.json"
    expected = radin.craft(bench.val, evaluate, budget, **options)
    check_same(play(bench.val, path, evaluate, budget, **options), expected)
    assert len(json.loads(path.read_text("utf-8"))["trials"]) == expected.evaluations


@given(bank=tied_banks(), recipe=RECIPES, budget=st.integers(1, 8), data=st.data())
@settings(max_examples=40)
def test_a_session_is_craft_with_ties_everywhere(tmp_path_factory, bank, recipe, budget, data):
    answers: dict[tuple[float, ...], float] = {}

    def evaluate(p: torch.Tensor) -> float:
        key = tuple(p.tolist())
        if key not in answers:
            answers[key] = data.draw(st.sampled_from([20.0, 100 / 3, 50.0]))
        return answers[key]

    path = tmp_path_factory.mktemp("session") / "ledger.json"
    expected = radin.craft(bank, evaluate, budget, recipe=recipe)
    check_same(play(bank, path, evaluate, budget, recipe=recipe), expected)


@given(metric=st.sampled_from(["nll", "macro_f1", "balanced_accuracy"]), recipe=RECIPES)
@settings(max_examples=15)
def test_a_session_takes_any_metric(tmp_path_factory, metric, recipe):
    bank = random_bank(4, 30)
    path = tmp_path_factory.mktemp("session") / "ledger.json"

    def evaluate(p: torch.Tensor) -> float:
        return 20 + 10 * p[1].item() - 3 * p[2].item()

    expected = radin.craft(bank, evaluate, 3, recipe, metric=metric)
    found = play(bank, path, evaluate, 3, recipe=recipe, metric=metric)
    assert str(found) == str(expected)
    assert [t.value for t in found.trials] == [t.value for t in expected.trials]
    assert [t.estimate for t in found.trials] == [t.estimate for t in expected.trials]


def spread(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    return outputs.std().item()


def test_a_function_as_metric_takes_any_number(tmp_path):
    options = {"metric": spread, "higher_is_better": False}
    with AskTell(random_bank(), tmp_path / "ledger.json", 2, **options) as session:
        session.tell(session.ask(), -1234.5)
        assert session.trials[0]["value"] == -1234.5
        session.ask()
        with pytest.raises(ParameterError, match="finite number, not nan"):
            session.tell(2, float("nan"))
    with pytest.raises(ParameterError, match="metric was '.*spread' and is None"):
        AskTell(random_bank(), tmp_path / "ledger.json", 2, higher_is_better=None)


def test_a_loss_is_no_fraction(tmp_path):
    with AskTell(random_bank(), tmp_path / "ledger.json", 2, metric="nll") as session:
        session.tell(session.ask(), 0.62)
        session.ask()
        with pytest.raises(ParameterError, match="nll"):
            session.tell(2, -1.0)


def test_one_session_from_begin_to_end(bench, tmp_path):
    evaluate = bench.evaluator()
    with AskTell(bench.val, tmp_path / "ledger.json", 4) as session:
        assert session.soup is None
        while (weights := session.ask()) is not None:
            assert torch.equal(session.ask(), weights)  # the same until it is told
            session.tell(weights, evaluate(weights))
        assert session.ask() is None
    check_same(session.soup, radin.craft(bench.val, bench.evaluator(), 4))
    assert evaluate.count == 4
    assert [trial["value"] for trial in session.trials] == [
        trial.accuracy for trial in session.soup.trials
    ]


# Nothing is spent twice --------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path):
    with AskTell(random_bank(), tmp_path / "ledger.json", 3) as session:
        yield session


def test_a_value_is_taken_once(session):
    first = session.ask()
    session.tell(first, 60.0)
    session.tell(first, 60.0)  # again: nothing changes
    session.tell(1, 60)
    with pytest.raises(ParameterError, match="trial 1 has the value 60 already.* spend it twice"):
        session.tell(first, 61.0)
    with pytest.raises(ParameterError, match="trial 2 was not asked for"):
        session.tell(2, 61.0)
    second = session.ask()
    assert not torch.equal(first, second)
    session.tell(second.tolist(), 55.5)
    assert [trial["value"] for trial in session.trials] == [60.0, 55.5]


def test_soups_that_nobody_asked_for(session):
    with pytest.raises(ParameterError, match="trial 1 was not asked for"):
        session.tell(1, 50.0)
    session.ask()
    with pytest.raises(ParameterError, match=r"no soup with the weights \[0.2, 0.2, 0.6\]"):
        session.tell([0.2, 0.2, 0.6], 50.0)
    with pytest.raises(ParameterError, match="shape"):
        session.tell([0.5, 0.5], 50.0)
    for number in (0, 2, -1):
        with pytest.raises(ParameterError, match=f"trial {number} was not asked for"):
            session.tell(number, 50.0)
    assert [trial["value"] for trial in session.trials] == [None]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 100.5, "good", None, True, 0.62])
def test_impossible_values(session, value):
    session.ask()
    with pytest.raises(ParameterError, match="in percent"):
        session.tell(1, value)
    assert session.trials[0]["value"] is None


def test_a_fraction_is_taken_when_the_soup_has_really_failed(session):
    session.ask()
    with pytest.raises(ParameterError, match="tell 62 if this is a fraction"):
        session.tell(1, 0.62)
    session.tell(1, 0.62, force=True)
    assert session.trials[0]["value"] == 0.62


# What the ledger belongs to ----------------------------------------------------------------------


def test_changed_options_and_banks_are_refused(tmp_path):
    path = tmp_path / "ledger.json"
    bank = random_bank()
    with AskTell(bank, path, 3, prior=1.0) as session:
        session.ask()
    before = path.read_bytes()
    for change, message in (
        ({"budget": 4}, "budget was 3 and is 4"),
        ({"recipe": "greedy"}, "recipe was 'radin' and is 'greedy'"),
        ({"prior": 0.0}, "prior was 1.0 and is 0.0"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"candidates": radin.exhaustive(3)}, "candidates was None and is 'sha256:"),
    ):
        with pytest.raises(ParameterError, match=f"ledger.json: begun with other .*{message}"):
            AskTell(bank, path, **{"budget": 3, "prior": 1.0} | change)
    changed = LogitBank(bank.logits.clone(), bank.labels.roll(1))
    with pytest.raises(ParameterError, match="ledger.json: begun with another bank"):
        AskTell(changed, path, 3, prior=1.0)
    AskTell(bank, path, 3, prior=1, seed=0).close()  # the same, spelt in another way
    renamed = LogitBank(bank.logits, bank.labels, ["x", "y", "z"])
    AskTell(renamed, path, 3, prior=1.0).close()
    assert path.read_bytes() == before


def test_impossible_options_begin_no_ledger(tmp_path):
    for options, message in (
        ({"budget": 0}, "budget must be"),
        ({"budget": 3, "recipe": "learned"}, "not with 'learned'"),
        ({"budget": 3, "prior": -1.0}, "prior must be"),
        ({"budget": 3, "candidates": torch.ones(1, 2)}, "shape"),
    ):
        with pytest.raises(ParameterError, match=message):
            AskTell(random_bank(), tmp_path / "ledger.json", **options)
    with pytest.raises(ParameterError, match="is a folder"):
        AskTell(random_bank(), tmp_path, 3)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "another"}', "\x00"])
def test_other_files_are_left_alone(tmp_path, content):
    path = tmp_path / "notes.json"
    path.write_text(content, "utf-8")
    with pytest.raises(BankError, match="notes.json: .*give another path"):
        AskTell(random_bank(), path, 3)
    assert path.read_text("utf-8") == content


def test_an_edited_ledger_is_refused(tmp_path):
    path = tmp_path / "ledger.json"
    with AskTell(random_bank(), path, 3) as session:
        session.tell(session.ask(), 50.0)
    content = json.loads(path.read_text("utf-8"))
    content["trials"][0]["weights"] = [0.25, 0.25, 0.5]
    path.write_text(json.dumps(content), "utf-8")
    with (
        AskTell(random_bank(), path, 3) as session,
        pytest.raises(ParameterError, match="trial 1 is a soup that this recipe would not ask for"),
    ):
        session.ask()


# Processes ---------------------------------------------------------------------------------------

SESSION = """
import sys, time
from helpers import random_bank
from radin import AskTell
session = AskTell(random_bank(), sys.argv[1], 3)
session.tell(session.ask(), 40.0)
session.ask()
print("ready", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_and_a_killed_one_loses_nothing(tmp_path):
    path = tmp_path / "ledger.json"
    other = run_python(SESSION, path)
    assert other.stdout.readline() == "ready\n"
    with pytest.raises(RadinError, match="ledger.json: another process uses this ledger; wait"):
        AskTell(random_bank(), path, 3)
    with pytest.raises(RadinError, match="another process uses this ledger"):
        TrialFile(path)
    other.send_signal(signal.SIGKILL)
    other.communicate(timeout=60)
    with AskTell(random_bank(), path, 3) as session:  # goes on where the other was killed
        assert [trial["value"] for trial in session.trials] == [40.0, None]
        session.tell(session.ask(), 50.0)
        assert [trial["value"] for trial in session.trials] == [40.0, 50.0]


TELL = """
import sys
from helpers import random_bank
from radin import AskTell, RadinError
try:
    with AskTell(random_bank(), sys.argv[1], 3) as session:
        session.tell(1, float(sys.argv[2]))
        print("told")
except RadinError as error:
    print(error)
"""


def test_of_two_processes_that_tell_one_trial_one_is_refused(tmp_path):
    path = tmp_path / "ledger.json"
    with AskTell(random_bank(), path, 3) as session:
        session.ask()
    said = [finish(run_python(TELL, path, value)).strip() for value in (40.0, 45.0)]
    assert said[0] == "told"
    assert "trial 1 has the value 40 already" in said[1]


def test_a_closed_session_writes_nothing(tmp_path):
    with AskTell(random_bank(), tmp_path / "ledger.json", 3) as session:
        session.ask()
    with pytest.raises(RadinError, match="this ledger was closed"):
        session.tell(1, 50.0)


def test_two_sessions_in_one_process_see_the_same_ledger(tmp_path):
    """A notebook's cell that runs again makes a second object while the first one lives."""
    path = tmp_path / "ledger.json"
    first = AskTell(random_bank(), path, 3)
    first.tell(first.ask(), 50.0)
    second = AskTell(random_bank(), path, 3)
    weights = second.ask()
    assert torch.equal(first.ask(), weights)
    first.tell(weights, 60.0)
    with pytest.raises(ParameterError, match="trial 2 has the value 60 already"):
        second.tell(weights, 61.0)
    first.close()
    second.tell(second.ask(), 70.0)  # still locked by the second
    assert second.ask() is None
    second.close()
