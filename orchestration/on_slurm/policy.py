"""What a campaign does about cells that have no result, by how their jobs have ended."""

import time
from collections import Counter
from pathlib import Path

from orchestration.failures import MAX_WITHOUT_PROGRESS, failed_lately
from orchestration.grid import Grid
from orchestration.launch_folder import run_folders
from orchestration.on_slurm import submissions
from orchestration.on_slurm.campaign_file import launches_of
from orchestration.retries import decisions
from orchestration.schedulers import cancelled_cells


def given_up(loaded: Grid, grid_dir: Path, campaign: str) -> dict[str, str]:
    """Return why cells are not tried again, by signature."""
    launches = launches_of(grid_dir, campaign)
    mine = [submission for folder, submission in submissions.read(grid_dir) if folder in launches]
    num_submitted = Counter(name for submission in mine for name in submission.cells)
    cancelled = {name for folder in launches for name in cancelled_cells(folder)}
    refused: dict[str, str] = {}
    left = {key: folder for key, folder in run_folders(loaded, grid_dir).items() if folder.result() is None}
    for signature, decision in decisions(left, campaign).items():
        folder = left[signature]
        name = folder.path.name
        if name in cancelled:
            refused[signature] = "cancelled"
        elif num_submitted[name] >= MAX_WITHOUT_PROGRESS and not folder.ends(campaign):
            refused[signature] = f"submitted {num_submitted[name]} times and never begun"
        elif not decision.again:
            refused[signature] = decision.why
    return refused


def avoided_nodes(loaded: Grid, grid_dir: Path, campaign: str) -> list[str]:
    """Return the nodes that the cells which are tried again shall keep away from."""
    refused = given_up(loaded, grid_dir, campaign)
    open_cells = [
        folder
        for signature, folder in run_folders(loaded, grid_dir).items()
        if signature not in refused and folder.result() is None
    ]
    now = time.time()
    return list(dict.fromkeys(end.node for folder in open_cells for end in failed_lately(folder.ends(campaign), now)))
