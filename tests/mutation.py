"""Try the tests on code that is wrong: `make test-mutants` changes one place after another and counts what is noticed.

mutmut makes the mutants and runs their tests, each in a process forked from one that has imported everything. Here are
only the choice of mutants, which is seeded, and the table. What is mutated by which tests is in `pyproject.toml`.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MUTATED = ROOT / "mutants"  # mutmut's name
FOUND = ROOT / "build" / "mutants"
COSTLY = {"launched", "fresh", "again", "missed", "private_ray"}
"""Fixtures that take seconds, which every mutant would pay anew."""
KILLED = ("killed", "timeout", "segfault", "suspicious")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the mutants of an area."""

    area: str
    mutants: int
    wording: int
    """So many only change the words of a message, which are no behaviour; they are not tried."""
    tried: int
    killed: int
    timeouts: int
    """Of the killed."""
    survivors: list[str]
    """The differences of the others."""


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out tests that cost every mutant seconds; mutmut's pytest loads this module as a plugin."""
    costly = [item for item in items if COSTLY & fixtures_of(item) or item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=costly)
    items[:] = [item for item in items if item not in costly]


def fixtures_of(item: Any) -> set[str]:
    """Return the fixtures of a test; an argument that it is parametrized by may have the name of one."""
    return {*item.fixturenames} - {*(item.callspec.params if hasattr(item, "callspec") else ())}


def reach_decorated() -> None:
    """Have mutmut mutate functions under `torch.no_grad()`, which do as well without it; it passes all decorated by."""
    import libcst
    from mutmut.mutation.file_mutation import MutationVisitor

    passes_by = MutationVisitor._skip_node_and_children

    def passes_by_others(visitor: MutationVisitor, node: libcst.CSTNode) -> bool:
        if isinstance(node, libcst.FunctionDef) and all(map(_is_no_grad, node.decorators)):
            node = node.with_changes(decorators=())
        return bool(passes_by(visitor, node))

    MutationVisitor._skip_node_and_children = passes_by_others


def _is_no_grad(decorator: Any) -> bool:
    import libcst

    return libcst.Module(()).code_for_node(decorator.decorator) == "torch.no_grad()"


def end_by_handle() -> None:
    """Have mutmut's clock hold handles of mutants: others may have their numbers by the time that it signals."""
    from mutmut.workers import isolation, timeout

    register = timeout.register_timeout
    isolation.register_timeout = lambda pid, timeout_s: register(os.pidfd_open(pid), timeout_s)
    timeout.os = SimpleNamespace(getpid=os.getpid, kill=signal.pidfd_send_signal)


def is_wording(original: Any, mutated: Any) -> bool:
    """Return whether only the words of a text are changed: of a string with a space between words."""
    import libcst

    both = isinstance(original, libcst.SimpleString) and isinstance(mutated, libcst.SimpleString)
    return both and " " in str(original.evaluated_value).strip()


def mutants_of(module: str) -> dict[str, bool]:
    """Return mutmut's names of a module's mutants, and whether each only changes wording."""
    from mutmut.mutation import file_mutation
    from mutmut.mutation.trampoline_templates import mangle_function_name
    from mutmut.utils.format_utils import get_mutant_name

    tree, mutations, *_ = file_mutation.create_mutations(module, (ROOT / module).read_text())
    classes = {method: node.name.value for node in tree.body if hasattr(node, "bases") for method in node.body.body}
    return {
        get_mutant_name(
            Path(module),
            f"{mangle_function_name(name=function.name.value, class_name=classes.get(function))}__mutmut_{number}",
        ): is_wording(one.original_node, one.mutated_node)
        for function, some in file_mutation.group_by_top_level_node(mutations).items()
        if type(function).__name__ == "FunctionDef"
        for number, one in enumerate(some, 1)
    }


def sample(names: Sequence[str], size: int, seed: str) -> list[str]:
    """Draw names without replacement; all of them if there are no more."""
    return list(names) if len(names) <= size else random.Random(seed).sample(names, size)


def try_area(name: str, only: str, seed: int) -> Outcome:
    """Run mutmut on an area's modules in this process, which can do it once."""
    from jaxtyping import install_import_hook
    from mutmut import __main__, configuration

    shutil.rmtree(MUTATED, ignore_errors=True)
    area = settings()["areas"][name]
    modules = chosen(name, area["modules"], only)
    configuration._config = dataclasses.replace(
        configuration.config(), only_mutate=modules, pytest_add_cli_args_test_selection=area["tests"]
    )
    # pytest's own option would refuse packages that an earlier run in this process imported
    sys.path.insert(0, str(MUTATED / "tests"))
    install_import_hook(["rankmatch"], "shape_checker.check")
    reach_decorated()
    end_by_handle()
    made = {one: (module, words) for module in modules for one, words in mutants_of(module).items()}
    drawn = sample(
        [one for one, (_, words) in made.items() if not words], settings()["sample"], f"{seed} {' '.join(modules)}"
    )
    __main__._run(drawn, max_children=1)
    became = status([*map(Path, modules)])
    alive = {one: Path(made[one][0]) for one in drawn if became[one] not in KILLED}
    return Outcome(
        area=name,
        mutants=len(made),
        wording=sum(words for _, words in made.values()),
        tried=len(drawn),
        killed=len(drawn) - len(alive),
        timeouts=sum(became[one] == "timeout" for one in drawn),
        survivors=[f"{one}: {became[one]}\n{difference(one, path)}" for one, path in alive.items()],
    )


def chosen(name: str, modules: Sequence[str], only: str) -> list[str]:
    """Return the modules of an area that are tried: all if it is named, else those with a word in their paths."""
    return [module for module in modules if only in (name, "") or only in module]


def status(modules: Iterable[Path]) -> dict[str, str]:
    """Return what mutmut noted of each mutant."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.stats import status_by_exit_code

    found: dict[str, str] = {}
    for module in modules:
        data = SourceFileMutationData(path=module)
        data.load()
        found |= {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
    return found


def difference(name: str, module: Path) -> str:
    """Return what a mutant changes."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    return get_diff_for_mutant(name, path=module)


def settings() -> dict[str, Any]:
    """Return what is tried, and how much of it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """Return one line for each module and one for all, in Markdown."""
    from scipy.stats import binomtest

    rows = [*outcomes]
    total = Outcome("all", *(sum(getattr(row, name) for row in rows) for name in _COUNTS), survivors=[])
    lines = [
        "| area | mutants | of wording | tried | killed | of them by time | share killed (95 %) |",
        "|---" * 7 + "|",
    ]
    for row in [*rows, total]:
        low, high = binomtest(row.killed, row.tried).proportion_ci(method="wilson") if row.tried else (0.0, 1.0)
        share = f"{row.killed / max(1, row.tried):.0%} ({low:.0%} to {high:.0%})"
        counts = " | ".join(str(getattr(row, name)) for name in _COUNTS)
        lines.append(f"| {row.area} | {counts} | {share} |")
    return lines


_COUNTS = ("mutants", "wording", "tried", "killed", "timeouts")


def in_own_process(name: str, only: str, seed: int) -> Outcome:
    """Try an area; mutmut's own output goes to a file."""
    with (FOUND / f"{name}.log").open("w") as log:
        words = [sys.executable, __file__, only, "--area", name, f"--seed={seed}"]
        done = subprocess.run(words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"mutmut could not try {name}; see {log.name}")
    return Outcome(**json.loads((FOUND / f"{name}.json").read_text()))


def main() -> int:
    """Try all areas, each in a process of its own, or one, or the modules whose paths contain a word."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", nargs="?", default="", help="an area, or a part of the paths of the modules to try")
    parser.add_argument("--area", help="try this area in this process")
    parser.add_argument("--seed", type=int, default=0, help="draws the sample; another seed: another sample")
    given = parser.parse_args()
    if given.area:
        found = try_area(given.area, given.module, given.seed)
        (FOUND / f"{given.area}.json").write_text(json.dumps(dataclasses.asdict(found), indent=1))
        return 0
    shutil.rmtree(FOUND, ignore_errors=True)
    FOUND.mkdir(parents=True)
    areas = settings()["areas"]
    wanted = [name for name in areas if chosen(name, areas[name]["modules"], given.module)]
    if given.module in areas:
        wanted = [given.module]
    if not wanted:
        raise SystemExit(f"no area or path of what is mutated has {given.module}; pyproject.toml lists them")
    outcomes = [in_own_process(name, given.module, given.seed) for name in wanted]
    survivors = [f"{one}\n" for row in outcomes for one in row.survivors]
    sys.stdout.write("\n".join([*survivors, *table(outcomes), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
