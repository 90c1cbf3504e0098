"""What a paper cites for a grid's runs: BibTeX of the methods, data sets and networks used, and of this software."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import rankmatch
from orchestration.grids.cells import experiments_folder
from orchestration.machine import yaml_text
from orchestration.results import facts, paragraph
from orchestration.results.facts import Run, by_records
from orchestration.results.wording import listed
from orchestration.runs import made_with

_SOFTWARE_KEY = "rankmatch_grid"
_ORDER = ("title", "author", "booktitle", "journal", "year", "version", "note")
_SHOWN = {"torchvision": "torchvision", "numpy": "NumPy"}
"""Of the recorded packages, those whose version a paper names beside PyTorch's."""


def citation(runs: Sequence[Run], *, last: bool = False, first_seeds: int = 0) -> str:
    """Return the methods paragraph and the BibTeX entries for some runs.

    Args:
        runs: Finished runs.
        last: The figures are those of the last epoch instead of the best one.
        first_seeds: As `methods_paragraph` takes it.
    """
    text = f"{paragraph.methods_paragraph(runs, last=last, first_seeds=first_seeds)} {_software(runs)}"
    entries = [*_entries(runs), _software_entry(runs)]
    return "\n\n".join([text, *entries]) + "\n"


def missing(runs: Sequence[Run]) -> list[str]:
    """Name what a citation should hold and does not, one line each."""
    names = dict.fromkeys(run.numerics.dataset.name for run in runs)
    unknown = [name for name in names if name not in _references()["dataset"]]
    lines = [f"a reference for the data set {name}, as it is your own" for name in unknown]
    without = sum(run.num_labels is None for run in runs)
    labels = [f"the number of labeled images, of {without} of {len(runs)} runs"] if without else []
    return [*paragraph.missing(runs), *labels, *lines]


def _software(runs: Sequence[Run]) -> str:
    """Say with which versions the runs were made; several values of one are named with their runs."""
    known = {"Python": _python, **{name: _package(package) for package, name in _SHOWN.items()}}
    libraries = [f"{name} {text}" for name, of in known.items() if (text := by_records(runs, of))]
    version = by_records(runs, _package("rankmatch")) or rankmatch.__version__
    title = _references()["software"]["title"]
    return f"The software is {title}, version {version}{f', with {listed(libraries)}' if libraries else ''}."


def _python(run: Run) -> str:
    return listed([one for one in made_with.values(run.provenance, "python") if one], "and then")


def _package(name: str) -> Callable[[Run], str]:
    return lambda run: str((run.provenance.get("packages") or {}).get(name) or "")


def _entries(runs: Sequence[Run]) -> Iterator[str]:
    of, keys = _references(), dict[str, None]()
    keys |= dict.fromkeys(of["always"])
    for run in runs:
        numerics = run.numerics
        for kind, name in (("method", numerics.method.name), ("dataset", numerics.dataset.name),
                           ("backbone", numerics.backbone.name)):  # fmt: skip
            keys |= dict.fromkeys(of[kind].get(name, ()))
    for key in keys:
        yield _bibtex(key, of["entries"][key])


def _software_entry(runs: Sequence[Run]) -> str:
    versions = [text for run in runs if (text := _package("rankmatch")(run))] or [rankmatch.__version__]
    commits = dict.fromkeys(text for run in runs if (text := facts.code_of(run)))
    note = {"note": f"commit {listed([*commits])}"} if commits else {}
    fields = _references()["software"] | {"version": listed([*dict.fromkeys(versions)])} | note
    return _bibtex(_SOFTWARE_KEY, fields)


def _bibtex(key: str, fields: Mapping[str, str]) -> str:
    """Write an entry; the braces around a title keep its capitals."""
    lines = [
        f"  {name} = {{{{{fields[name]}}}}}," if name == "title" else f"  {name} = {{{fields[name]}}},"
        for name in _ORDER
        if name in fields
    ]
    return "\n".join([f"@{fields['type']}{{{key},", *lines, "}"])


def _references() -> dict[str, Any]:
    return _read(experiments_folder() / "paper" / "references.yaml")


@cache
def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml_text.read(path)
    return found
