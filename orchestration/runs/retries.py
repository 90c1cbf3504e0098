"""Whether to retry cells: by their own attempts and, if these would give one up, by outages that hit many cells."""

from collections.abc import Mapping
from pathlib import Path

from orchestration.machine import clock
from orchestration.runs import readable
from orchestration.runs.failures import POLICY, AttemptEnd, Decision, decide, failed_lately
from orchestration.runs.folders import GridFolder
from orchestration.runs.outages import Outage, excused, outages
from orchestration.runs.run_folder import RunFolder


def decision_of(folder: RunFolder, campaign: str) -> Decision:
    """Decide about one cell of a campaign; read the others' folders only if it would be given up."""
    ends = folder.ends(campaign)
    decision = decide(ends)
    if decision.again or not POLICY[ends[-1].kind].by_site:
        return decision
    return decide(excused(_all_ends(folder.grid.path, campaign)).get(folder.name, ends))


def decisions(cells: Mapping[str, RunFolder], campaign: str) -> dict[str, Decision]:
    """Decide about unfinished cells of one grid that can be read; the keys are the caller's."""
    ends = readable.each(cells, lambda folder: folder.ends(campaign))
    found = {key: decide(some) for key, some in ends.items()}
    doubtful = [key for key, decision in found.items() if not decision.again and POLICY[ends[key][-1].kind].by_site]
    if doubtful:
        every = excused(_all_ends(cells[doubtful[0]].grid.path, campaign))
        found |= {key: decide(every.get(cells[key].name, ends[key])) for key in doubtful}
    return found


def failed_hosts(folder: RunFolder, campaign: str) -> list[str]:
    """Return the hosts that a cell avoids because it failed there lately."""
    return [end.host for end in failed_lately(folder.ends(campaign), clock.now())]


def lately(grid_dir: Path, campaign: str, within_s: float) -> list[Outage]:
    """Return what came over many cells of a campaign, as far as that was found out within the last seconds."""
    since = clock.now() - within_s
    found = outages(_all_ends(grid_dir, campaign))
    return [outage for outage in found if max(end.noted for _, end in outage.ends) > since]


def _all_ends(grid_dir: Path, campaign: str) -> dict[str, list[AttemptEnd]]:
    cells = {cell.name: RunFolder(cell.path) for cell in GridFolder(grid_dir).cells()}
    return readable.each(cells, lambda folder: folder.ends(campaign))
