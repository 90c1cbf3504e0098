"""All checks of `rankmatch doctor`, one after the other."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestration.checkup import folder, inputs, node_look, slurm, software
from orchestration.checkup.finding import Finding, Look, Verdict, findings_of
from orchestration.machine import announce
from orchestration.on_slurm import cluster, commands

_NOT_SLURM = ("local", "inline", "ray")


def looks(
    name: str, runs: Path, grid: str, settings: Sequence[str], *, with_job: bool = False
) -> list[tuple[str, Look]]:
    """Return the checks for a cluster, with their names.

    Raises:
        ValueError: The site's file cannot be read, or a job was requested without a site.
    """
    of_site = [word for word in settings if word.startswith(cluster.PREFIX)]
    site = None if name in _NOT_SLURM else cluster.load(name, of_site)
    if with_job and not (site and site.scheduler == "slurm"):
        raise ValueError(f"--job must be given with --cluster slurm or a site's file; got --cluster {name}")
    places = cluster.places_of(site, f"the site {name}") if site else None
    found: list[tuple[str, Look]] = [
        ("Python", software.python),
        ("torch", software.torch),
        ("Ray", software.ray),
        ("commit", software.sources),
        ("runs folder", partial(folder.runs_folder, runs)),
        ("shared memory", folder.shared_memory),
        ("temporary files", folder.temporary_folder),
        ("MLflow", partial(inputs.store, runs, site.tracking_uri if site else "")),
    ]
    if site and site.scheduler == "slurm":
        found.append(("Slurm", partial(slurm.site, site)))
        if with_job:
            found.append(("job", partial(node_look.from_a_node, site, runs)))
    elif commands.is_here():
        found.append(("Slurm", partial(slurm.beside, cluster.load("slurm", of_site))))
    if places:
        found.append(("data and weights of the site", partial(inputs.of_site, places)))
    if grid:
        of_grid = [word for word in settings if word not in of_site]
        found.append((f"grid {grid}", partial(inputs.of_grid, grid, of_grid, runs, places)))
    return found


def examine(due: Sequence[tuple[str, Look]], console: Console) -> int:
    """Print the findings of each check as they are found, and a summary; return the exit code."""
    counts = dict.fromkeys(Verdict, 0)
    for finding in _all(due):
        counts[finding.verdict] += 1
        for line in finding.lines():
            announce.say(console, line)
    faults, notes = counts[Verdict.FAULT], counts[Verdict.NOTE]
    told = "nothing keeps a launch from going well" if not faults else f"{faults} to fix before a launch"
    console.print(f"{told}; {notes} to know of", highlight=False, markup=False)
    return 1 if faults else 0


def _all(due: Sequence[tuple[str, Look]]) -> Iterator[Finding]:
    for subject, look in due:
        yield from findings_of(subject, look)
