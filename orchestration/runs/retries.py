"""Whether to retry cells: by their own attempts and, if these would give one up, by outages that hit many cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from orchestration.machine import clock
from orchestration.runs import readable
from orchestration.runs.failures import POLICY, AttemptEnd, Decision, decide, failed_lately
from orchestration.runs.folders import GridFolder
from orchestration.runs.outages import Outage, excused, outages
from orchestration.runs.run_folder import RunFolder

HOLD_S = 6 * 3600.0
"""So long no cell is given up after its end while another, which may have ended with it, cannot be read."""
Key = TypeVar("Key")


def decision_of(folder: RunFolder, campaign: str) -> Decision:
    """Decide about one cell of a campaign; read the others' folders only if it would be given up.

    Raises:
        OSError: It cannot be read now, or it would be given up and another cell, which may have ended with it, cannot.
    """
    found, errors = decided_or_error({folder.name: folder}, campaign)
    if errors:
        raise errors[folder.name]
    return found[folder.name]


def decisions(cells: Mapping[Key, RunFolder], campaign: str) -> dict[Key, Decision]:
    """Decide about unfinished cells of one grid, without those that `decision_of` cannot; the keys are the caller's."""
    return decided_or_error(cells, campaign)[0]


def decided_or_error(
    cells: Mapping[Key, RunFolder], campaign: str
) -> tuple[dict[Key, Decision], dict[Key, readable.Error]]:
    """Decide about unfinished cells of one grid, or say why not, see `decision_of`."""
    ends, errors = readable.each_or_error(cells, lambda folder: folder.ends(campaign))
    found = {key: decide(some) for key, some in ends.items()}
    doubtful = [key for key, decision in found.items() if not decision.again and POLICY[ends[key][-1].kind].by_site]
    if not doubtful:
        return found, errors
    every, away = _all_ends(cells[doubtful[0]].grid.path, campaign)
    by_outages = excused(every)
    for key in doubtful:
        found[key] = decide(by_outages.get(cells[key].name, ends[key]))
        if away and not found[key].again and abs(clock.now() - ends[key][-1].time) < HOLD_S:
            del found[key]
            errors[key] = away
    return found, errors


def failed_hosts(folder: RunFolder, campaign: str) -> list[str]:
    """Return the hosts that a cell avoids because it failed there lately."""
    return [end.host for end in failed_lately(folder.ends(campaign), clock.now())]


def lately(grid_dir: Path, campaign: str, within_s: float) -> list[Outage]:
    """Return what came over many cells of a campaign, as far as that was found out within the last seconds."""
    since = clock.now() - within_s
    found = outages(_all_ends(grid_dir, campaign)[0])
    return [outage for outage in found if max(end.noted for _, end in outage.ends) > since]


def _all_ends(grid_dir: Path, campaign: str) -> tuple[dict[str, list[AttemptEnd]], OSError | None]:
    """Return how the attempts of all cells ended, and the error of one that cannot be read but may be later."""
    cells = {cell.name: RunFolder(cell.path) for cell in GridFolder(grid_dir).cells()}
    found, errors = readable.each_or_error(cells, lambda folder: folder.ends(campaign))
    return found, readable.passing(errors.values())
