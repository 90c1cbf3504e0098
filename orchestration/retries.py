"""Whether cells are tried again: by their own attempts and, where these would end one, by what came over all."""

import time
from collections.abc import Mapping
from pathlib import Path

from orchestration.failures import POLICY, AttemptEnd, Decision, decide, failed_lately
from orchestration.outages import Outage, excused, outages
from orchestration.run_folder import CELLS, RunFolder, cell_names


def decision_of(folder: RunFolder, campaign: str) -> Decision:
    """Decide about one cell of a campaign; the others' folders are read only where it would be given up."""
    ends = folder.ends(campaign)
    decision = decide(ends)
    if decision.again or not POLICY[ends[-1].kind].by_site:
        return decision
    return decide(excused(_all_ends(folder.path.parent, campaign))[folder.path.name])


def decisions(cells: Mapping[str, RunFolder], campaign: str) -> dict[str, Decision]:
    """Decide about cells of one grid without a result, by whatever key they are given."""
    ends = {key: folder.ends(campaign) for key, folder in cells.items()}
    found = {key: decide(some) for key, some in ends.items()}
    doubtful = [key for key, decision in found.items() if not decision.again and POLICY[ends[key][-1].kind].by_site]
    if doubtful:
        every = excused(_all_ends(cells[doubtful[0]].path.parent, campaign))
        found |= {key: decide(every[cells[key].path.name]) for key in doubtful}
    return found


def failed_hosts(folder: RunFolder, campaign: str) -> list[str]:
    """Return the hosts that a cell keeps away from, as it failed there lately."""
    return [end.host for end in failed_lately(folder.ends(campaign), time.time())]


def lately(grid_dir: Path, campaign: str, within_s: float) -> list[Outage]:
    """Return what came over many cells of a campaign, as far as that was found out within the last seconds."""
    since = time.time() - within_s
    found = outages(_all_ends(grid_dir / CELLS, campaign))
    return [outage for outage in found if max(end.noted for _, end in outage.ends) > since]


def _all_ends(cells: Path, campaign: str) -> dict[str, list[AttemptEnd]]:
    return {name: RunFolder(cells / name).ends(campaign) for name in cell_names(str(cells))}
