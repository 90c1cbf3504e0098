"""Describe the settings of a table's cells in one sentence, so that the table says what it compares."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from orchestration.grids import alike
from orchestration.grids.cells import Cell, experiments_folder
from orchestration.machine import yaml_text
from rankmatch.config import NumericsConfig
from rankmatch.methods import METHODS, Kind


def describe(cells: Sequence[Cell], records: Sequence[Mapping[str, Any]]) -> str:
    """Name backbone, crop, agents, preset, batch, learning rate, epochs; also scoring and steps if they are special.

    Also say so if the code of finished cells is not known.

    Args:
        cells: The cells of the table.
        records: A row for each, with `num_steps` if it has begun.
    """
    numerics = [cell.config.numerics for cell in cells]
    agents = [each.method.num_agents for each in numerics if METHODS[each.method.name].has(Kind.RANK)]
    parts = [
        _values(numerics, lambda each: each.backbone.name),
        f"crop {_values(numerics, lambda each: each.augment.crop_size)}",
        *_windows(numerics),
        *([f"{_listed(agents)} agents"] if agents else []),
        f"preset {_values(numerics, preset)}",
        f"{_values(numerics, _batch)} images a step",
        f"learning rate {_values(numerics, lambda each: f'{each.trainer.learning_rate:g}')}",
        _count_of_epochs(numerics),
        *_steps(cells, records),
    ]
    idle = "".join(f"; {note}" for note in alike.notes(cells))
    return "ours: " + ", ".join(parts) + _unknown_code(records) + idle


def _windows(numerics: Sequence[NumericsConfig]) -> list[str]:
    """Say how images are scored, unless as a whole, as for nearly all published figures."""
    modes = list(dict.fromkeys(each.evaluation.mode for each in numerics))
    if modes == ["whole"]:
        return []
    return [f"scored by windows of the crop{' or whole' if 'whole' in modes else ''}"]


def without_commit(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records of finished cells without a commit."""
    return [record for record in records if record.get("best_miou") is not None and "code" in record
            and not record["code"]]  # fmt: skip


def _unknown_code(records: Sequence[Mapping[str, Any]]) -> str:
    nameless = len(without_commit(records))
    if not nameless:
        return ""
    done = sum(record.get("best_miou") is not None for record in records)
    return f"; by code of no known commit ({nameless} of {done} cells)"


def preset(numerics: NumericsConfig) -> str:
    """Return the name of the preset that a configuration matches; `of its own` if none."""
    named = (name for name, fields in _presets().items() if all(_agrees(numerics, *field) for field in fields))
    return next(named, "of its own")


@cache
def _presets() -> dict[str, list[tuple[str, str, str]]]:
    """Return section, name and text of each field in a preset."""
    found = {}
    for path in sorted((experiments_folder() / "conf" / "preset").glob("*.yaml")):
        sections = yaml_text.read(path)["numerics"]
        found[path.stem] = [(section, name, text) for section in sections for name, text in sections[section].items()]
    return found


def _agrees(numerics: NumericsConfig, section: str, name: str, text: str) -> bool:
    value = getattr(getattr(numerics, section), name)
    return text == str(value).lower() if isinstance(value, bool) else float(text) == value


def _batch(numerics: NumericsConfig) -> str:
    trainer = numerics.trainer
    if not METHODS[numerics.method.name].sees_unlabeled:
        return str(trainer.labeled_batch_size)
    return f"{trainer.labeled_batch_size} + {trainer.unlabeled_batch_size}"


def _steps(cells: Sequence[Cell], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how many steps `supervised` takes, if the other methods take another number."""
    known = {record["signature"]: record["num_steps"] for record in records}
    taken: dict[bool, list[int]] = {True: [], False: []}
    for cell in cells:
        if steps := known.get(cell.signature):
            taken[METHODS[cell.config.numerics.method.name].sees_unlabeled].append(steps)
    if not taken[True] or not taken[False] or set(taken[True]) == set(taken[False]):
        return []
    return [f"supervised takes {_span(taken[False])} steps and the other methods {_span(taken[True])}"]


def _count_of_epochs(numerics: Sequence[NumericsConfig]) -> str:
    counts = _values(numerics, lambda each: each.trainer.epochs)
    return f"{counts} epoch" if counts == "1" else f"{counts} epochs"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _values(numerics: Iterable[NumericsConfig], of: Callable[[NumericsConfig], object]) -> str:
    return _listed([of(each) for each in numerics])


def _listed(values: Sequence[object]) -> str:
    """Name each value once; of many only the first few."""
    texts = list(dict.fromkeys(map(str, values)))
    return " or ".join(texts[:4]) + (" or others" if len(texts) > 4 else "")
