"""The settings of a grid's cells, what the finished ones used, and what a reader should be warned of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dashboards.attempts import Story
from dashboards.gathered import Gathered
from orchestration.results import energy, facts, paragraph
from orchestration.results.facts import Run
from orchestration.results.wording import counted
from orchestration.runs import made_with, steps_left_out, unpredicted
from rankmatch.config import NumericsConfig
from rankmatch.methods import METHODS, Kind

Pairs = list[tuple[str, str]]
_SUPERVISED_STEPS = {
    "equal": "as many as the other methods",
    "authors": "a pass over the labeled list an epoch, as the authors do",
}


def runs_of(gathered: Gathered, stories: Mapping[str, Story]) -> list[Run]:
    """Return every cell with its settings, its row and its provenance, as far as known."""
    return [
        Run(cell.axes, cell.config.numerics, record, stories[cell.signature].provenance, facts.num_labels(cell))
        for cell, record in zip(gathered.loaded.cells, gathered.runs.to_pylist(), strict=True)
    ]


def settings(runs: Sequence[Run]) -> Pairs:
    """Return the cells' settings, each with the rows that have it if rows differ."""
    begun = [run for run in runs if run.record["num_steps"]]
    told = [*facts.settings(runs, begun).items()]
    told += [("preset", facts.presets_of(runs))] if runs else []
    own: list[tuple[str, Kind, str, Callable[[NumericsConfig], str]]] = [
        ("agents", Kind.RANK, "method.num_agents", facts.agents),
        ("ranked agents (K)", Kind.RANK, "method.top_k", lambda one: str(one.method.top_k)),
        ("selection of agents", Kind.RANK, "method.selection", lambda one: one.method.selection.replace("_", " ")),
        ("weight of the rank term", Kind.RANK, "method.weight_rank", lambda one: f"{one.method.weight_rank:g}"),
        ("confidence threshold", Kind.STRONG, "method.confidence_threshold",
         lambda one: f"{one.method.confidence_threshold:g}"),
    ]  # fmt: skip
    for name, kind, axis, of in own:
        reading = [run for run in runs if METHODS[run.numerics.method.name].has(kind)]
        if reading:
            told.append((name, facts.by_rows(reading, of, axis)))
    supervised = [run for run in runs if "supervised_steps" in METHODS[run.numerics.method.name].settings]
    if supervised:
        steps = facts.by_rows(supervised, lambda one: _SUPERVISED_STEPS[one.method.supervised_steps])
        told.append(("steps of supervised training", steps))
    return told


def totals(runs: Sequence[Run], stories: Mapping[str, Story]) -> Pairs:
    """Return what the finished runs used, and all attempts at all cells."""
    done = [run for run in runs if run.record["status"] == "done"]
    told = [(f"{name} of finished cells" if name != "runs" else "finished cells", text)
            for name, text in facts.totals(done).items()] if done else []  # fmt: skip
    walls = [story.wall_s for story in stories.values() if story.wall_s is not None]
    if walls:
        told.append(("hours of all cells so far", facts.hours(sum(walls))))
    if (energy := summed_energy(stories.values())) is not None:
        told.append(("energy of the GPUs, kWh", kwh(energy)))
    return told


def methods_paragraph(runs: Sequence[Run], first_seeds: int = 0) -> str:
    """Return the methods section from the finished runs; empty if none is done."""
    done = [run for run in runs if run.record["status"] == "done"]
    return paragraph.methods_paragraph(done, first_seeds=first_seeds) if done else ""


def provenance(stories: Mapping[str, Story]) -> list[list[str]]:
    """Return the cells' provenance, a row for each value of an item: more than one value stands out."""
    found: dict[tuple[str, str], int] = {}
    for story in stories.values():
        for name, text in made_with.flat(story.provenance):
            if text:
                found[name, text] = found.get((name, text), 0) + 1
    return [[name, text, str(count)] for (name, text), count in sorted(found.items())]


def warnings(gathered: Gathered, stories: Mapping[str, Story]) -> list[dict[str, str]]:
    """Return a sentence for each thing that a reader should know about the runs."""
    found = []
    for cell, record in zip(gathered.loaded.cells, gathered.runs.to_pylist(), strict=True):
        said = []
        if classes := stories[cell.signature].unpredicted:
            said.append(unpredicted.in_words(classes, cell.config.execution.class_names))
        if steps := record[steps_left_out.NAME]:
            said.append(steps_left_out.in_words(steps))
        if num := record["transductive"]:
            said.append(f"was trained on {counted(num, 'validation image')} without their labels")
        found += [{"signature": cell.signature, "where": cell.slug, "text": text} for text in said]
    return found


def summed_energy(stories: Any) -> float | None:  # noqa: ANN401 (any iterable of stories)
    """Add up the energy of the runs whose power was logged, in joules; None if there are none."""
    known = [story.energy_j for story in stories if story.energy_j is not None]
    return sum(known) if known else None


def kwh(joules: float | None) -> str:
    """Write an energy in kWh."""
    return energy.in_words(None if joules is None else joules / energy.JOULES)
