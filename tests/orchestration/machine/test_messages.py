"""What processes leave for each other is typed on both sides, and every field of a file is checked as it is read."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from orchestration.machine.damage import DamagedFileError
from orchestration.machine.fields import Kind
from orchestration.machine.messages import KIND, Message
from orchestration.runs.failure_class import FailureClass

FROM_1 = Kind("a whole number from 1", lambda value: isinstance(value, int) and value > 0)


@dataclass(frozen=True, slots=True)
class Where(Message):
    host: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Order(Message):
    ADVICE: ClassVar[str] = "launch it again"

    name: str
    folder: Path
    ends: float | None
    places: tuple[Where, ...] = ()
    cells: list[str] = field(default_factory=list)
    counts: int = field(default=1, metadata={KIND: FROM_1})
    owner: dict[str, Any] = field(default_factory=dict)
    head: Where | None = None
    kind: FailureClass = FailureClass.LOST


WHOLE = Order("a", Path("/x"), None, (Where("n1", 5),), ["c"], 2, {"deep": {"er": [1]}}, Where("n2"), FailureClass.CODE)


def test_file_with_a_secret_is_closed_to_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        WHOLE.to_file(tmp_path / "head.json", mode=0o600)
        WHOLE.to_file(tmp_path / "head.json", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "head.json").stat().st_mode & 0o777 == 0o600


def test_message_is_read_as_it_was_written(tmp_path: Path) -> None:
    WHOLE.to_file(tmp_path / "order.json", mode=0o600)
    assert Order.from_file(tmp_path / "order.json") == WHOLE
    assert (tmp_path / "order.json").stat().st_mode & 0o777 == 0o600
    assert Order.from_json(json.loads(json.dumps(WHOLE.to_json()))) == WHOLE


def test_file_of_an_earlier_or_a_newer_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"name": "a", "folder": "/x", "ends": 1.5, "of_tomorrow": {}}')
    assert Order.from_file(tmp_path / "order.json") == Order("a", Path("/x"), 1.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 7}, "its name must be text; got 7"),
        ({"ends": "soon"}, "its ends must be a number, or null; got 'soon'"),
        ({"places": [{"port": 1}]}, "its places must be a list, each the fields of Where"),
        ({"cells": "c"}, "its cells must be a list, each text; got 'c'"),
        ({"counts": 0}, "its counts must be a whole number from 1; got 0"),
        ({"kind": "bad luck"}, "its kind must be one of preempted, time limit"),
        ({"owner": []}, "its owner must be names with values"),
        ({"head": {"host": None}}, "its head must be the fields of Where, or null"),
    ],
)
def test_field_that_holds_what_it_cannot_is_named_with_what_helps(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "order.json"
    path.write_text(json.dumps(WHOLE.to_json() | change))
    with pytest.raises(DamagedFileError) as caught:
        Order.from_file(path)
    assert words in str(caught.value) and str(path) in str(caught.value) and "launch it again" in str(caught.value)


def test_field_that_must_be_there_is_missed(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"name": "a"}')
    with pytest.raises(DamagedFileError, match="it lacks folder, ends"):
        Order.from_file(tmp_path / "order.json")
    with pytest.raises(FileNotFoundError):
        Order.from_file(tmp_path / "none.json")


def test_annotation_that_json_cannot_hold_is_refused() -> None:
    @dataclass
    class Odd(Message):
        when: set[str]

    with pytest.raises(TypeError, match="a field of a message must be of a kind that JSON has; got set"):
        Odd.fields()
