"""radin/cli/banks.py: `radin rank --bank`, `radin ask` and `radin tell`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

import radin
from radin import SoupBench
from radin.cli import main
from radin.cli.tables import describe_ingredients


@pytest.fixture(scope="module")
def bench() -> SoupBench:
    return SoupBench.load("cifar10")


@pytest.fixture
def home(bench, tmp_path, monkeypatch) -> Path:
    """A folder with logits as another program writes them."""
    (tmp_path / "logits").mkdir()
    for k, logits in enumerate(bench.val.logits):
        np.save(tmp_path / "logits" / f"run_{k}.npy", logits.numpy())
    np.save(tmp_path / "labels.npy", bench.val.labels.numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


BANK = "--bank 'logits/*.npy' --labels labels.npy"


def run(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What a successful command prints."""
    capsys.readouterr()
    assert main(shlex.split(command)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What a refused command says."""
    capsys.readouterr()
    assert main(shlex.split(command)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


# rank ------------------------------------------------------------------------------------------


def test_rank_of_a_bank_is_what_python_ranks(home, bench, capsys):
    bank = radin.LogitBank.from_files("logits/*.npy", "labels.npy")
    ranking = radin.rank(bench.val, radin.exhaustive(10), 0.5, top=3)
    out = run(capsys, f"rank {BANK} --top 3 --prior 0.5")
    assert out.startswith(f"the first 3 of 1,023 candidates on {bench.val.num_images:,} images\n")
    rows = [re.split(r" {2,}", line) for line in out.splitlines()[3:6]]
    assert bank.names == [f"run_{k}" for k in range(10)]
    assert [row[:3] for row in rows] == [
        [str(number), f"{ranking.estimates[k]:.2f}", f"{ranking.scores[k]:.2f}"]
        for number, k in enumerate(ranking.order.tolist(), start=1)
    ]
    for row, k in zip(rows, ranking.order.tolist(), strict=True):
        assert row[3] == describe_ingredients(bank, radin.exhaustive(10)[k])
    assert f"best single: run_{int(bench.val.accuracies().argmax())}, " in out


def test_rank_writes_tables_and_a_recipe(home, bench, capsys):
    names = " ".join(f"models/run-{k}" for k in range(10))
    out = run(
        capsys, f"rank {BANK} --top 4 --names {names} --out best.csv best.json --out soup.yml"
    )
    assert re.findall("^wrote (.*)", out, re.M) == [
        "best.csv",
        "best.json",
        "soup.yml, the first candidate",
    ]
    ranking = radin.rank(bench.val, radin.exhaustive(10), top=4)
    best = radin.exhaustive(10)[ranking.order[0]]
    content = json.loads(Path("best.json").read_text("utf-8"))
    assert [row["rank"] for row in content["candidates"]] == [1, 2, 3, 4]
    weights = list(content["candidates"][0]["weights"].values())
    assert weights == pytest.approx(best.tolist(), abs=1e-7)
    assert len(Path("best.csv").read_text("utf-8").splitlines()) == 5
    recipe = yaml.safe_load(Path("soup.yml").read_text("utf-8"))
    assert [each["model"] for each in recipe["models"]] == [
        f"models/run-{k}" for k in best.nonzero().flatten().tolist()
    ]
    assert "exists; give another --out, or --force" in refused(
        capsys, f"rank {BANK} --out best.csv"
    )
    run(capsys, f"rank {BANK} --out best.csv --force")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"rank run.pt {BANK}", "Give either checkpoints or --bank"),
        ("rank --bank 'logits/*.npy'", "give --labels FILE, one whole number for each image"),
        (f"rank {BANK} --metric f1_macro", "not 'f1_macro'; did you mean macro_f1?"),
        ("rank --bank logits/run_0.npy --labels none.npy", "none.npy: no such file of labels"),
        (f"rank {BANK} --names a b", "2 names given for 10 files"),
        (f"rank {BANK} --probabilities", "run_0.npy: --probabilities, but these are no prob"),
        (f"rank {BANK} --out best.txt", "best.txt: --out takes .csv, .json, .yml, .yaml"),
        (f"rank {BANK} --top 0", "--top must be"),
        ("ask ledger.json", "ledger.json: no such ledger; give --bank"),
        ("tell ledger.json 80", "ledger.json: no such ledger; begin it with radin ask"),
        (f"ask ledger.json {BANK} --out soup.csv", "soup.csv: --out takes .json, .yml"),
        (f"ask logits {BANK}", "logits is a folder; give a file"),
    ],
)
def test_what_is_refused(home, capsys, command, message):
    assert message in refused(capsys, command)
    assert not Path("ledger.json").exists()


def test_rank_without_anything_is_wrong_usage(capsys):
    for command in ("rank", "rank runs --model timm:resnet50", "rank --data imagenet"):
        with pytest.raises(SystemExit) as left:
            main(command.split())
        assert left.value.code == 2
        assert "required: CHECKPOINT, --model, --data; or --bank" in capsys.readouterr().err


def test_warnings_are_notes(home, capsys):
    np.save("logits/run_10.npy", np.load("logits/run_3.npy"))
    run_twice = f"rank {BANK} --top 1"
    capsys.readouterr()
    assert main(shlex.split(run_twice)) == 0
    note = capsys.readouterr().err
    assert re.search("^note: .*run_10.npy holds the same logits as .*run_3.npy;", note)


def test_a_metric_that_compares_nothing_is_a_note(home, capsys):
    capsys.readouterr()
    assert main(shlex.split(f"rank {BANK} --metric top10_accuracy")) == 0
    note = "note: top10_accuracy of 10 classes is 100.00% for every model, so it compares none.\n"
    assert capsys.readouterr().err.startswith(note)


def test_a_label_that_is_missing_is_named_by_its_row(home, bench, capsys):
    labels = bench.val.labels.double().numpy()
    labels[17] = np.nan
    np.save("gap.npy", labels)
    message = refused(capsys, "rank --bank 'logits/*.npy' --labels gap.npy")
    assert "gap.npy: 1 label missing or impossible, the first is in row 17 (from 0): nan" in message


# ask and tell ------------------------------------------------------------------------------------


def test_an_option_of_another_recipe_is_refused(home, capsys):
    message = refused(capsys, f"ask ledger.json {BANK} --recipe greedy --prior 0.5")
    assert "--prior is for --recipe radin, not for greedy" in message
    assert not Path("ledger.json").exists()


@pytest.mark.parametrize("recipe", ["radin", "greedy", "random", "uniform", "best_single"])
def test_the_command_line_crafts_what_python_crafts(home, bench, capsys, recipe, monkeypatch):
    evaluate = bench.evaluator()
    prior = 0.5 * (recipe == "radin")
    expected = radin.craft(bench.val, bench.evaluator(), 3, recipe, prior=prior)
    out = run(
        capsys, f"ask ledger.json {BANK} --budget 3 --recipe {recipe} --prior {prior} --out s.json"
    )
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")  # the ledger knows where the logits are
    (home / "s.json").rename("s.json")
    for number in range(1, 9):
        soup = json.loads(Path("s.json").read_text("utf-8"))
        weights = list(soup["weights"].values())
        if soup["done"]:
            break
        assert soup["trial"] == number
        assert f"trial {number} of at most 3: evaluate this soup" in out
        assert weights == expected.trials[number - 1 + (recipe == "greedy")].weights.tolist()
        tell = re.search(r"^then: radin (tell .*) VALUE (--trial \d+)$", out, re.M)
        name = tell[1].replace("ledger.json", "../ledger.json").replace("../../", "../")
        said = run(capsys, f"{name} {evaluate(weights)!r} {tell[2]}")
        assert said.startswith(f"trial {number}: ")
        out = run(capsys, "ask ../ledger.json --out s.json --force")
    assert weights == expected.weights.tolist()
    assert out.startswith(f"{recipe}: {expected.evaluations} of 3 evaluations spent on ")
    assert evaluate.count == expected.evaluations


def test_another_metric(home, bench, capsys):
    ranking = radin.rank(bench.val, radin.exhaustive(10), top=2, metric="nll")
    out = run(capsys, f"rank {BANK} --top 2 --metric nll")
    assert f"{ranking.estimates[ranking.order[0]]:.5f}" in out.splitlines()[3]
    run(capsys, f"ask ledger.json {BANK} --recipe radin --budget 2 --metric nll --out soup.json")
    soup = json.loads(Path("soup.json").read_text("utf-8"))
    best = radin.exhaustive(10)[ranking.order[0]]
    assert list(soup["weights"].values()) == best.tolist()
    run(capsys, "tell ledger.json 0.61")
    run(capsys, "ask ledger.json")
    run(capsys, "tell ledger.json 0.59")
    assert re.search(r"^2 .* 0\.59\d* \*", run(capsys, "ask ledger.json"), re.M)
    assert "metric was 'nll' and is 'accuracy'" in refused(
        capsys, "ask ledger.json --metric accuracy"
    )


def test_asking_twice_gives_one_soup(home, capsys):
    first = run(capsys, f"ask ledger.json {BANK}")
    capsys.readouterr()
    assert main(["ask", "ledger.json"]) == 0
    out, err = capsys.readouterr()
    assert out == first
    assert "note: trial 1 was asked for before and has no value yet" in err


def test_values_are_told_once(home, capsys):
    run(capsys, f"ask ledger.json {BANK} --budget 2")
    run(capsys, "tell ledger.json 80")
    before = Path("ledger.json").read_bytes()
    assert "no soup waits for a value (1 have theirs)" in refused(capsys, "tell ledger.json 81")
    assert "has the value 80 already" in refused(capsys, "tell ledger.json 81 --trial 1")
    assert "trial 2 was not asked for" in refused(capsys, "tell ledger.json 81 --trial 2")
    assert "--trial must be" in refused(capsys, "tell ledger.json 81 --trial 0")
    assert Path("ledger.json").read_bytes() == before
    run(capsys, "tell ledger.json 80 --trial 1")
    run(capsys, "ask ledger.json")
    assert "tell 81 if this is a fraction" in refused(capsys, "tell ledger.json 0.81")
    run(capsys, "tell ledger.json 0.81 --force")


def test_changed_options_and_logits_are_refused(home, capsys):
    run(capsys, f"ask ledger.json {BANK} --recipe radin --budget 2")
    assert "budget was 2 and is 3" in refused(capsys, "ask ledger.json --budget 3")
    assert "recipe was 'radin' and is 'random'" in refused(
        capsys, "ask ledger.json --recipe random"
    )
    logits = np.load("logits/run_3.npy")
    logits[0, 0] += 1
    np.save("logits/run_3.npy", logits)
    assert "begun with another bank" in refused(capsys, "ask ledger.json")


def test_logits_that_moved_are_given_again(home, capsys):
    first = run(capsys, f"ask ledger.json {BANK}")
    Path("logits").rename("moved")
    assert "run_0.npy: no such file of logits" in refused(capsys, "ask ledger.json")
    again = run(capsys, "ask ledger.json --bank moved --labels labels.npy")
    assert again == first
    assert run(capsys, "ask ledger.json") == first


def test_a_ledger_of_python_goes_on_at_the_command_line(home, bench, capsys):
    bank = radin.LogitBank.from_files("logits/*.npy", "labels.npy")
    with radin.AskTell(bank, "ledger.json", 2, prior=1.0) as session:
        weights = session.ask()
    assert "begun in Python; give --bank" in refused(capsys, "ask ledger.json")
    run(capsys, f"ask ledger.json {BANK} --out soup.json")
    soup = json.loads(Path("soup.json").read_text("utf-8"))
    assert list(soup["weights"].values()) == weights.tolist()
    with radin.AskTell(bank, "own.json", 2, candidates=radin.dirichlet(10, 4)) as session:
        session.ask()
    assert "begun in Python with candidates" in refused(capsys, f"ask own.json {BANK}")
