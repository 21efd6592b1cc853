"""radin/experiments/notebook.py: a typing error in a notebook costs one sentence."""

from __future__ import annotations

import builtins
import sys
import types

import numpy as np
import pytest
import torch

from helpers import files_below, finish, run_python
from radin.errors import ParameterError
from radin.experiments import notebook
from radin.experiments.notebook import (
    RECORD_PREFIX,
    ZOOS,
    check_parameters,
    describe_allowed,
    glue,
    glue_interval,
    open_zoo,
    read_record,
    record,
)

GOOD = {
    "budget": 4,
    "prior": 1.0,
    "num_candidates": 200,
    "seed": 0,
    "zoo": "digits",
    "ingredients": "0-12, 43",
    "data_root": "",
    "device": "auto",
    "quick": False,
}


def test_good_parameters_pass():
    assert check_parameters(**GOOD) is None
    for name, value in GOOD.items():
        check_parameters(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("budget", value) for value in (0, -1, 1.5, True, "4", None)),
        *(("prior", value) for value in (float("nan"), "x", -1, None, True)),
        *(("num_candidates", value) for value in (0, 2.5, "many", None, True)),
        *(("seed", value) for value in (-1, 0.5, "x", None, False)),
        *(("zoo", value) for value in ("cifar", "", None, 3, ["digits"])),
        *(("ingredients", value) for value in (12, None, ["0"])),
        *(("data_root", value) for value in ("/no/such/folder", None, 3)),
        *(("device", value) for value in ("banana", "cuda:99", None)),
        *(("quick", value) for value in (1, "true", None)),
        ("bugdet", 4),
    ],
)
def test_impossible_parameters_stop_with_one_sentence(name, value):
    with pytest.raises(ParameterError) as caught:
        check_parameters(**{**GOOD, name: value})
    message = str(caught.value)
    assert name in message
    assert repr(value) in message or name == "bugdet"
    assert "\n" not in message
    assert caught.value._render_traceback_() == [f"ParameterError: {message}"]


@pytest.mark.parametrize("value", ["", "many", "72", "0,0", "5-3", "-1"])
def test_impossible_ingredients(value):
    with pytest.raises(ParameterError, match=r"write all|they are 0 to 71") as caught:
        check_parameters(ingredients=value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    check_parameters(data_root=str(tmp_path))
    check_parameters(data_root="~")


def test_a_sentence_and_no_traceback_in_ipython(capsys):
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    result = shell.run_cell(
        "from radin.experiments.notebook import check_parameters; check_parameters(budget=0)"
    )
    shown = capsys.readouterr()
    assert isinstance(result.error_in_exec, ParameterError)
    assert (shown.out + shown.err).count("\n") <= 2
    assert "budget must be a whole number of at least 1, not 0." in shown.out + shown.err


@pytest.mark.parametrize("name", ["cifar", "", "Digits"])
def test_unknown_zoo(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    with pytest.raises(ParameterError, match=r"zoo must be one of 'digits'"):
        open_zoo(name)
    assert files_below(tmp_path) == []


def test_every_zoo_opens(radin_cache):
    for name in ZOOS:
        zoo = open_zoo(name, quick=True, device="cpu")
        assert len(zoo) > 1
        assert zoo.init is not None
        zoo.model(0)


@pytest.fixture
def glued(monkeypatch) -> dict[str, tuple[object, bool]]:
    """What reaches the book's own glue."""
    found: dict[str, tuple[object, bool]] = {}
    module = types.ModuleType("myst_nb")
    module.glue = lambda name, value, display=True: found.update({name: (value, display)})
    monkeypatch.setitem(sys.modules, "myst_nb", module)
    return found


def test_numbers_become_plain(glued):
    glue("a", np.float64(1.5))
    glue("b", torch.tensor(3))
    glue("c", "text", show=True)
    assert glued == {"a": (1.5, False), "b": (3, False), "c": ("text", True)}
    assert type(glued["a"][0]) is float
    assert type(glued["b"][0]) is int


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((2.0, 1.0, 3.0), "ahead"),
        ((-2.0, -3.0, -1.0), "behind"),
        ((1.0, -1.0, 3.0), "no clear difference"),
        ((1.0, 0.0, 2.0), "no clear difference"),
    ],
)
def test_an_interval_has_four_names(glued, interval, words):
    glue_interval("a", interval)
    value, low, high = interval
    expected = {"a": value, "a_low": low, "a_high": high, "a_verdict": words}
    assert {name: found for name, (found, _) in glued.items()} == expected


def test_without_the_books_tools_nothing_is_glued(monkeypatch):
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "myst_nb":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert glue("a", 1) is None


def test_the_message_says_what_the_table_says():
    """What a chapter's table lists as allowed is what the error asks for."""
    wrong = {
        "budget": 0,
        "prior": -1,
        "num_candidates": 0,
        "seeds": 0,
        "zoo": "x",
        "source": "x",
        "data_root": "/no",
    }
    for name, value in (wrong | {"quick": 1}).items():
        with pytest.raises(ParameterError) as caught:
            check_parameters(**{name: value})
        assert describe_allowed(name) in str(caught.value)
    assert describe_allowed("zoo", ("a", "b")) == "one of 'a', 'b'"
    with pytest.raises(
        ParameterError, match=r"Unknown parameter 'bugdet'; the notebooks have budget, prior"
    ):
        describe_allowed("bugdet")


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_what_is_recorded_is_read_back(glued, n):
    rng = torch.Generator().manual_seed(n)
    right = {name: torch.rand(n, generator=rng) < 0.8 for name in ("radin", "best single")}
    labels = torch.arange(n) % 3
    record(right, labels, "a part")
    fingerprint, back = read_record(glued[f"{RECORD_PREFIX}a part"][0])
    assert list(back) == ["radin", "best single"]
    for name, answers in right.items():
        assert torch.equal(back[name], answers)
    record(right, (labels + 1) % 3)
    record(right, labels.int(), "again")
    assert read_record(glued[f"{RECORD_PREFIX}test"][0])[0] != fingerprint
    assert (
        read_record(glued[f"{RECORD_PREFIX}again"][0])[0] == fingerprint
    )  # of the values, for every dtype


@pytest.mark.parametrize(
    "answers", [torch.ones(3), torch.ones(4, dtype=torch.bool), torch.ones(3, 1, dtype=torch.bool)]
)
def test_what_cannot_be_recorded(answers):
    with pytest.raises(
        ParameterError, match="radin: record needs right or wrong for each of the 3 images"
    ):
        record({"radin": answers}, torch.zeros(3, dtype=torch.int64))


INJECTED = "# Parameters\nbudgett = 8\nprior = 0.5\n"


def test_a_parameter_that_papermill_put_in_is_refused(monkeypatch):
    assert notebook.injected_names(["import radin", INJECTED]) == ["budgett", "prior"]
    monkeypatch.setattr(notebook, "_cells_so_far", lambda: ["", INJECTED])
    message = (
        "This notebook has no parameter 'budgett'; did you mean budget\\? It has budget, prior\\."
    )
    with pytest.raises(ParameterError, match=message):
        check_parameters(budget=4, prior=1.0)
    monkeypatch.setattr(notebook, "_cells_so_far", lambda: [INJECTED.replace("tt", "t")])
    check_parameters(budget=4, prior=1.0)


@pytest.mark.parametrize("open_it", [notebook.open_zoo, notebook.open_bench])
def test_opening_asks_only_for_its_own_parameters(monkeypatch, open_it):
    # What papermill put in, `budget` for instance, belongs to the notebook and not to this call.
    monkeypatch.setattr(notebook, "_cells_so_far", lambda: [INJECTED.replace("tt", "t")])
    monkeypatch.setattr(notebook, "digits_zoo", lambda *args, **kwargs: None)
    monkeypatch.setattr(notebook.SoupBench, "build", lambda *args, **kwargs: "a bench")
    assert open_it("digits", quick=True) in (None, "a bench")
    with pytest.raises(ParameterError, match="zoo must be one of"):
        open_it("digit")


def test_a_kernel_knows_its_cells():
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("# Parameters\\nbudgett = 8\\n", store_history=True)
shell.run_cell(
    "from radin.experiments.notebook import check_parameters\\ncheck_parameters(budget=4)",
    store_history=True,
)
"""
    assert "did you mean budget?" in finish(run_python(code))
    assert "did you mean" not in finish(run_python(code.replace("budgett", "budget")))
