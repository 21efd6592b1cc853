"""radin/data/objectnet.py: the four files that say which objects are classes of ImageNet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagenet_tree import put_objectnet
from radin.data import objectnet
from radin.errors import DataError

FILES = (objectnet._FOLDERS, objectnet._OBJECTS, objectnet._LINES, objectnet._LABELS)
GROUPS = {"alarm_clock": [7, 4], "banana": [954], "t-shirt": [0], "zither": [3, 9, 999]}


@pytest.fixture
def mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(objectnet, "NUM_CLASSES", len(GROUPS))
    put_objectnet(tmp_path, GROUPS, ["paper", "air_freshener"], 1000)
    return tmp_path / "mappings"


def change(path: Path, **values: object) -> None:
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | {key.replace("_", " "): values[key] for key in values}
        )
    )


def test_the_chain_of_files(mappings):
    assert objectnet.read_mappings(mappings, 1000) == GROUPS


def test_a_label_of_two_lines_may_not_be_asked_for(mappings):
    """ImageNet has two classes "crane", and ObjectNet neither."""
    lines = (mappings / objectnet._LABELS).read_text().splitlines()
    lines_of_cranes = [
        lines.index("label 21, of many words"),
        lines.index("label 22, of many words"),
    ]
    for line in lines_of_cranes:
        lines[line] = "crane"
    (mappings / objectnet._LABELS).write_text("\n".join(lines) + "\n")
    assert objectnet.read_mappings(mappings, 1000) == GROUPS
    change(mappings / objectnet._OBJECTS, Zither="crane")
    with pytest.raises(
        DataError, match=r"1k\.json: 'crane' is not one line of imagenet_to_label_2012_v2"
    ):
        objectnet.read_mappings(mappings, 1000)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_no_text(mappings, name):
    content = (mappings / name).read_bytes()
    (mappings / name).unlink()
    with pytest.raises(
        DataError, match=rf"{name}: could not be read \(No such file.*from objectnet\.dev"
    ):
        objectnet.read_mappings(mappings, 1000)
    (mappings / name).write_bytes(b"\xff\xfe" + content)
    with pytest.raises(DataError, match=f"{name}: could not be read"):
        objectnet.read_mappings(mappings, 1000)
    (mappings / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{name}: (damaged|[0-9]+ lines, not 1,000)"):
        objectnet.read_mappings(mappings, 1000)


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize(
    "content", ["[]", '"text"', "3", "null", '{"a": null}', '{"a": ["b"]}', '{"a": true}']
)
def test_json_of_another_kind(mappings, name, content):
    (mappings / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}: must be a JSON object with values of type"):
        objectnet.read_mappings(mappings, 1000)


def test_files_that_do_not_fit_each_other(mappings):
    keep = {name: (mappings / name).read_text() for name in FILES}

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            objectnet.read_mappings(mappings, 1000)
        for name, text in keep.items():
            (mappings / name).write_text(text)

    change(mappings / objectnet._FOLDERS, alarm_clock="Clock", paper="Banana")
    names = json.loads(keep[objectnet._FOLDERS])
    del names["banana"]
    (mappings / objectnet._FOLDERS).write_text(json.dumps(names))
    refused("label.json: no folder for 'Banana', which objectnet_to_imagenet_1k.json names")
    change(mappings / objectnet._FOLDERS, paper="Banana")
    refused("not 4; get it again")
    change(mappings / objectnet._OBJECTS, Banana="plantain")
    refused("'plantain' is not one line of")
    change(mappings / objectnet._OBJECTS, Banana="")
    refused("'' is not one line of")
    change(mappings / objectnet._OBJECTS, Zither="label 0, of many words")
    refused("'label 0, of many words' is given to 'T-Shirt' and 'Zither'")
    change(mappings / objectnet._OBJECTS, Paper="label 5, of many words")
    refused("5 objects with a folder of their own, not 4")
    numbers = json.loads(keep[objectnet._LINES])
    for wrong in (
        numbers | {"5": numbers["6"]},
        numbers | {"1000": 5},
        numbers | {"5": 1000},
        numbers | {"05": 5},
    ):
        (mappings / objectnet._LINES).write_text(json.dumps(wrong))
        refused("id.json: does not give each of 1,000 logits a line")
    (mappings / objectnet._LINES).write_text(json.dumps(numbers | {"five": 5}))
    refused("id.json: invalid literal")
    lines = keep[objectnet._LABELS].splitlines()
    (mappings / objectnet._LABELS).write_text("\n".join([*lines, "one more"]) + "\n")
    refused("v2: 1,001 lines, not 1,000")
    (mappings / objectnet._LABELS).write_text("\n".join([lines[-1], *lines[:-1]]) + "\n")
    refused("do not make 'banana' logit 954")
