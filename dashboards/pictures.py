"""The pictures that runs have left, side by side: the rows next to each other, for each column of the table."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dashboards.figures import column_axes, label_of
from dashboards.gathered import Gathered
from orchestration.machine.damage import DamagedFileError
from orchestration.machine.json_values import parse
from orchestration.runs.run_folder import run_folder
from orchestration.tables.table import Key
from rankmatch.drawn import DIFFERENCE, RAMP, class_name, colour_map

MAX_BYTES = 150_000
_KINDS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n": "png"}
Record = Mapping[str, Any]
Colour = tuple[str, str]
"""A name and a colour as a page writes it."""
DIFFERENCES: list[Colour] = [
    (name, "#{:02x}{:02x}{:02x}".format(*colour))
    for name, colour in zip(("right", "wrong", "no label"), DIFFERENCE, strict=True)
]
SHARES: list[Colour] = [
    (f"correlation {share}", "#{:02x}{:02x}{:02x}".format(*colour))
    for share, colour in zip(("0", "0.5", "1"), RAMP, strict=True)
]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a page embeds it."""

    uri: str
    alt: str


@dataclass(frozen=True, slots=True)
class Said:
    """What one run predicts for an image."""

    label: str
    signature: str
    right: str
    """Share of the labeled pixels in percent."""
    prediction: Picture
    difference: Picture


@dataclass(frozen=True, slots=True)
class Example:
    """A validation image, its label, and the predictions of a column's runs."""

    name: str
    image: Picture
    label: Picture
    said: list[Said]


@dataclass(frozen=True, slots=True)
class Ranked:
    """What the rank term of a run sees in an image."""

    label: str
    signature: str
    name: str
    num_agents: int
    agents: Picture
    strong: Picture
    maps: list[tuple[int, Picture, Picture]]
    """Rank at the teacher, maps of teacher and student."""
    top: list[list[str]]
    """Rows: rank and correlation at the teacher, rank and correlation at the student."""


@dataclass(frozen=True, slots=True)
class Column:
    """All of a column of the table."""

    title: str
    where: str
    """What the runs have in common beside it, such as their seed."""
    examples: list[Example]
    classes: list[Colour]
    ranked: list[Ranked] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Index:
    """A run's index of its pictures."""

    record: Record
    folder: Path
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Told:
    said: list[tuple[Example, Said]]
    classes: set[int]
    ranked: Ranked | None


def columns(gathered: Gathered, most: int) -> list[Column]:
    """Return the pictures of at most so many columns of the table; none for runs that have left none."""
    layout = gathered.loaded.table
    axes = column_axes(layout)
    groups: dict[Key, list[Record]] = {}
    for record in gathered.places.to_pylist():
        groups.setdefault(_key(record, axes), []).append(record)
    found: list[Column] = []
    for key, records in groups.items():
        if len(found) < most and (column := _column(gathered, label_of(layout, axes, key) or "all cells", records)):
            found.append(column)
    return found


def read(grid_dir: Path, record: Record) -> Index | None:
    """Return the index of a finished run's pictures; None if there is none that can be read."""
    folder = run_folder(grid_dir, record["folder"])
    try:
        attempt = folder.attempt((folder.result() or {}).get("attempt", 0))
        pictures, content = attempt.pictures_dir, parse(attempt.pictures_file.read_bytes())
    except (DamagedFileError, OSError, ValueError):
        return None
    return Index(record, pictures, content) if isinstance(content, dict) else None


def picture(index: Index, name: object, alt: str) -> Picture:
    """Return a picture that an index names.

    Raises:
        ValueError: It is no picture, lies elsewhere, or is too large.
    """
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"a picture must be a name in {index.folder}; got {name!r}")
    with (index.folder / name).open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    kind = next((kind for begin, kind in _KINDS.items() if content.startswith(begin)), "")
    if not kind or len(content) > MAX_BYTES:
        raise ValueError(f"{index.folder / name} must be a JPEG or PNG of at most {MAX_BYTES} bytes")
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", alt)


def _column(gathered: Gathered, title: str, records: Sequence[Record]) -> Column | None:
    """Choose runs that differ in their row alone, as these share their images; of several such groups, the largest."""
    layout = gathered.loaded.table
    shared = [axis for axis in gathered.loaded.axes if axis not in (*layout.rows, *column_axes(layout))]
    groups: dict[Key, list[Record]] = {}
    for record in records:
        if record["status"] == "done":
            groups.setdefault(_key(record, shared), []).append(record)
    if not groups:
        return None
    key, chosen = max(groups.items(), key=lambda pair: len(pair[1]))
    told = [one for record in chosen if (one := _told(gathered, record))]
    if not told:
        return None
    examples: dict[str, Example] = {}
    for one in told:
        for example, said in one.said:
            examples.setdefault(example.name, example).said.append(said)
    where = ", ".join(f"{axis}={value}" for axis, value in zip(shared, key, strict=True))
    classes = legend({value for one in told for value in one.classes}, gathered.class_names)
    return Column(title, where, [*examples.values()], classes, [one.ranked for one in told if one.ranked])


def _told(gathered: Gathered, record: Record) -> _Told | None:
    """Return what a run has left; None if that is nothing, or cannot be read."""
    index = read(gathered.grid_dir, record)
    try:
        return None if index is None else _of_index(index, _label(gathered, record))
    except (OSError, ValueError, KeyError, TypeError):  # whoever wrote it was killed, or has another version
        return None


def legend(values: set[int], names: Sequence[str]) -> list[Colour]:
    """Name the classes in pictures, with their colours."""
    colours = colour_map()
    return [(class_name(value, [*names]), "#{:02x}{:02x}{:02x}".format(*colours[value])) for value in sorted(values)]


def _of_index(index: Index, label: str) -> _Told:
    said, classes = [], set[int]()
    for one in index.content["images"]:
        name, right = str(one["name"]), "—" if one["right"] is None else f"{100 * one['right']:.1f}"
        image = picture(index, one["image"], f"validation image {name}")
        example = Example(name, image, picture(index, one["label"], f"label of {name}"), [])
        differs = f"where {label} differs from the label of {name}: {right} % of the labeled pixels are right"
        prediction = picture(index, one["prediction"], f"prediction of {label} for {name}")
        difference = picture(index, one["difference"], differs)
        said.append((example, Said(label, index.record["signature"], right, prediction, difference)))
        classes |= {int(value) for value in one["classes"]}
    if not classes <= {*range(256)}:
        raise ValueError(f"classes must be values of labels; got {max(classes)}")
    return _Told(said, classes, _ranked(index, label))


def _ranked(index: Index, label: str) -> Ranked | None:
    ranks = index.content.get("ranks")
    if not isinstance(ranks, dict):
        return None
    name, num = str(ranks["name"]), int(ranks["num_agents"])
    top = [[str(row["teacher_rank"]), f"{row['teacher']:.3f}", str(row["student_rank"]), f"{row['student']:.3f}"]
           for row in ranks["top"]]  # fmt: skip
    agents = f"a training crop of {name} with the {num} agents of {label}; numbered are those ranked at the cross"
    maps = [
        (int(one["rank"]), *(picture(index, one[who], f"correlation of every pixel with agent {one['rank']}, {who}")
                             for who in ("teacher", "student")))
        for one in ranks["maps"]
    ]  # fmt: skip
    return Ranked(
        label,
        index.record["signature"],
        name,
        num,
        picture(index, ranks["agents"], agents),
        picture(index, ranks["strong"], f"strong view of the same crop of {name}"),
        maps,  # type: ignore[arg-type]
        top,
    )


def _label(gathered: Gathered, record: Record) -> str:
    layout = gathered.loaded.table
    return label_of(layout, layout.rows, _key(record, layout.rows)) or "the run"


def _key(record: Record, axes: Sequence[str]) -> Key:
    return tuple(str(record[axis]) for axis in axes)
