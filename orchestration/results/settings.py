"""Describe the settings of a table's cells in one sentence, so that the table says what it compares."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestration.grids import alike
from orchestration.grids.cells import Cell
from orchestration.results import facts, presets
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
    parts = [
        _values(numerics, lambda each: each.backbone.name),
        f"crop {_values(numerics, lambda each: each.augment.crop_size)}",
        *_windows(numerics),
        *_agents(numerics),
        f"preset {_listed(presets.in_words(numerics))}",
        f"{_values(numerics, _batch)} images a step",
        f"learning rate {_values(numerics, facts.rate)}",
        _count_of_epochs(numerics),
        *_steps(cells, records),
    ]
    idle = "".join(f"; {note}" for note in alike.notes(cells))
    return "ours: " + ", ".join(parts) + _unknown_code(records) + idle


def _agents(numerics: Sequence[NumericsConfig]) -> list[str]:
    """Say how many agents the methods with a rank term have; where all pixels are agents, the number says nothing."""
    ranking = [each.method for each in numerics if METHODS[each.method.name].has(Kind.RANK)]
    chosen = [each.num_agents for each in ranking if each.selection != "all"]
    parts = [f"{_listed(chosen)} agents"] if chosen else []
    parts += ["all pixels as agents"] if len(chosen) < len(ranking) else []
    return [" or ".join(parts)] if parts else []


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


def _batch(numerics: NumericsConfig) -> str:
    trainer = numerics.trainer
    if not METHODS[numerics.method.name].sees_unlabeled:
        return str(trainer.labeled_batch_size)
    return f"{trainer.labeled_batch_size} + {trainer.unlabeled_batch_size}"


def _steps(cells: Sequence[Cell], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how many steps `supervised` takes beside the other methods, or at least that it takes as many."""
    known = {record["signature"]: record["num_steps"] for record in records}
    taken: dict[bool, list[int]] = {True: [], False: []}
    for cell in cells:
        if steps := known.get(cell.signature):
            taken[METHODS[cell.config.numerics.method.name].sees_unlabeled].append(steps)
    if set(taken[True]) == set(taken[False]):
        return _equal_steps(cells, taken[True])
    if not taken[True] or not taken[False]:
        return []
    return [f"supervised takes {_span(taken[False])} steps and the other methods {_span(taken[True])}"]


def _equal_steps(cells: Sequence[Cell], taken: Sequence[int]) -> list[str]:
    methods = [cell.config.numerics.method for cell in cells]
    sees = [METHODS[method.name].sees_unlabeled for method in methods]
    equal = [method.supervised_steps == "equal" for method, others in zip(methods, sees, strict=True) if not others]
    if not any(sees) or not equal or not (taken or all(equal)):
        return []
    return ["supervised takes as many steps as the other methods" + (f", {_span(taken)}" if taken else "")]


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
