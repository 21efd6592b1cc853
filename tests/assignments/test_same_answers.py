"""notebooks/assignments/same_answers.py: who shares an answer with whom."""

from __future__ import annotations

from typing import Any

import pytest

import reports
from same_answers import SOLUTION, describe_same_answers, normal_code
from samples import solved, source, student_version
from submissions import PLACEHOLDER, answer_text, graded_cells

GREEDY = '''
def greedy(accuracies, evaluate, budget):
    """Ours."""
    order = sorted(range(len(accuracies)), key=lambda k: -accuracies[k])
    weights, reached = torch.zeros(len(accuracies)), accuracies[order[0]]
    weights[order[0]] = 1
    for k in order[1 : budget + 1]:  # one after the other
        tried = (weights > 0).float()
        tried[k] = 1
        if evaluate(tried / tried.sum()) >= reached:
            weights, reached = tried / tried.sum(), evaluate(tried)
    return weights
'''
RENAMED = (
    GREEDY.replace("tried", "candidate").replace("# one after", "# now each after")
    .replace("reached", "so_far").replace('    """Ours."""\n', "").replace(" : ", ":")
)  # fmt: skip
WHY = "Averages of similar networks are near the average of their outputs, and cost one pass."


def handed_in(greedy: str = "", why: str = "") -> Any:
    """The student version with these answers; without one its stub."""
    notebook = student_version("soups")
    cells = graded_cells(notebook)
    cells["greedy"].source = greedy or cells["greedy"].source
    stub = cells["question_cost"].source
    cells["question_cost"].source = stub.replace(PLACEHOLDER, why or PLACEHOLDER)
    return notebook


def described(**notebooks: Any) -> dict[str, list[str]]:
    return describe_same_answers(notebooks.items(), student_version("soups"), source("soups"))


def test_answers_that_differ_only_in_names_comments_and_capitals_are_the_same():
    found = described(
        ann=handed_in(GREEDY, WHY),
        bob=handed_in(RENAMED, WHY.upper().replace(",", " ;")),
        cem=handed_in(GREEDY.replace(">=", ">"), WHY + " So we think."),
        dee=handed_in(),
        eli=handed_in(),
    )
    sentence = "the same answer to greedy, question_cost as {}; compare them yourself"
    assert found == {"ann": [sentence.format("bob")], "bob": [sentence.format("ann")]}


def test_the_published_solution_is_recognised_and_others_are_listed():
    found = described(**{f"s{k}": solved("soups") for k in range(9)}, ann=handed_in(GREEDY, WHY))
    assert set(found) == {f"s{k}" for k in range(9)}
    (sentence,) = found["s0"]
    assert f" as {SOLUTION}, s1, s2, s3 and 5 more; compare" in sentence
    assert "greedy" in sentence
    assert "question_cost" in sentence
    assert "accuracy" not in sentence  # so short that two students write the same


@pytest.mark.parametrize("code", ["def f(:", "x = '\0'", "(" * 5000, "%matplotlib inline\nx = 1"])
def test_code_that_cannot_be_read_is_not_compared(code):
    assert normal_code(code) == ""


def test_names_that_the_code_does_not_bind_stay():
    assert normal_code("y = f(x)") != normal_code("y = g(x)")
    assert normal_code("a = f(x)\nb = a") == normal_code("c = f(x)\nd = c")
    assert normal_code("a = f(x)\nb = a") != normal_code("a = f(x)\nb = b")


def test_a_question_is_asked_once_for_all_who_answer_by_hand():
    stub = graded_cells(student_version("soups"))["question_cost"].source
    question = stub.replace(PLACEHOLDER, "").strip()
    assert len(question) > 100
    waiting = [
        ({"student": name, "assignment": "soups"}, {"part": "question_cost", "answer": cell})
        for name, cell in {
            "ann": f"{question}\n\nOne pass.",
            "bob": f"  {' '.join(question.split())}\nN passes.",
            "cem": "I deleted the question.",
            "dee": stub,
        }.items()
    ]
    text = reports.by_hand(waiting, {"soups": {"question_cost": (question, 4.0, "Rubric")}})
    assert " ".join(text.split()).count(" ".join(question.split())) == 1
    assert "### ann\n\nOne pass.\n\n### bob\n\nN passes.\n\n### cem\n\nI deleted" in text
    assert answer_text(stub, stub) == ""
