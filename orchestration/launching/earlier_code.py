"""Campaigns of an earlier version: their jobs import the sources that were launched, which lack today's modules.

So today's scripts and tasks would fail there. Such a campaign is finished by the version that began it, or cancelled.
"""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from orchestration.machine import snapshot
from orchestration.on_slurm.campaign_file import Campaign
from orchestration.runs import hints
from orchestration.runs.folders import GridFolder

CONTROLLER = "orchestration.launching.controller"
NEEDED = (
    CONTROLLER,
    "orchestration.on_ray.orders",
    "orchestration.on_slurm.job",
    "orchestration.on_slurm.notices",
    "orchestration.on_slurm.pilot",
    "orchestration.on_slurm.task",
    "orchestration.runs.jobs",
)
"""The modules that scripts and pickled tasks name."""
_MAINS = ("orchestration.commands.main", "orchestration.cli")
"""Where the command line is and was."""


def refuse(campaign: Campaign, grid_dir: Path) -> None:
    """Refuse to take a step of a campaign whose sources cannot carry it out, before anything is written.

    Raises:
        ValueError: With what to do instead.
    """
    if words := advice(campaign, grid_dir):
        raise ValueError(f"nothing was done for launch {campaign.name}: {words}")


def refuse_all(campaigns: Iterable[Campaign], grid_dir: Path) -> None:
    """Refuse as `refuse` does where none of some campaigns can be carried out.

    Raises:
        ValueError: With what to do instead.
    """
    given = [*campaigns]
    if all(advice(one, grid_dir) for one in given):
        for one in given:
            refuse(one, grid_dir)


def advice(campaign: Campaign, grid_dir: Path) -> str:
    """Return how a campaign of an earlier version is finished; nothing for one of this version."""
    sources = Path(campaign.snapshot)
    known = snapshot.names(sources)
    lacking = [name for name in NEEDED if not _has(known, name)]
    if not lacking or not any(name.startswith("orchestration/") for name in known):  # purged copies are made again
        return ""
    main = next((name for name in _MAINS if _has(known, name)), _MAINS[-1])
    code = [
        "env",
        f"PYTHONPATH={sources}",
        "PYTHONSAFEPATH=1",
        sys.executable,
        "-c",
        f"from {main} import main; main()",
    ]
    words = [*code, "reconcile", "--grid", grid_dir.name, "--runs", str(GridFolder(grid_dir).runs.path)]
    return (
        f"it was begun by an earlier version, commit {campaign.commit or 'unknown'}, whose sources "
        f"in {sources} lack {lacking[0]}: finish it with that version, `{shlex.join(words)}`, or end it by "
        f"{hints.command('cancel', grid_dir)} and have this version train what is left: "
        f"{hints.command('retry', grid_dir)}"
    )


def _has(known: set[str], module: str) -> bool:
    return f"{module.replace('.', '/')}.py" in known
