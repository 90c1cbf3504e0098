"""Who is told of cells that are given up: by the campaign whose attempt it was, whoever found the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from orchestration.machine import announce, clock
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.on_slurm import never_began
from orchestration.on_slurm.campaign_file import Campaign, campaign_named, cancelled_in
from orchestration.on_slurm.notices import Notifier
from orchestration.on_slurm.policy import Left
from orchestration.on_slurm.queue_state import Lost
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import signature_in
from orchestration.runs.retries import decision_of
from orchestration.runs.run_folder import RunFolder, folders


def tell_of_lost(grid_dir: Path, lost: Sequence[Lost], console: Console, *, is_typed: bool) -> None:
    """Say which cells are given up after ends that nobody else could record; jobs report the others.

    Args:
        grid_dir: Folder of the grid.
        lost: These ends.
        console: Prints it.
        is_typed: Somebody reads the console, and decides about these cells: no notice is sent.
    """
    made = folders(grid_dir) if lost else {}
    for item in lost:
        try:
            campaign = _campaign_of(made[signature_in(item.cell)], grid_dir)
            if campaign is None:  # the cell's line on the console says what is known
                continue
            decision = decision_of(made[signature_in(item.cell)], campaign.name)
        except (OSError, DamagedFileError) as error:  # a step that can read it decides, and tells
            announce.say(console, f"whether {item.cell} is given up cannot be read now: {error}")
            continue
        if not decision.again:
            last = f"; {item.failure.message}" if item.failure.kind is FailureClass.NEVER_BEGAN else ""
            text = f"{campaign.grid_name}: {item.cell} is not tried again: {decision.told}{last}"
            announce.say(console, text)
            if not is_typed:
                Notifier.of(campaign.config(), grid_dir).tell(f"failed: {decision.why}", text, is_last_word=True)
    for launch_dir, words in () if is_typed else never_began.whole_launches(grid_dir, lost):
        campaign = Campaign.read(launch_dir)
        text = f"{campaign.grid_name}: no job of the launch {launch_dir.name} came to begin a cell: {words}"
        Notifier.of(campaign.config(), grid_dir).tell(
            f"never began {launch_dir.name}", text, once=True, is_last_word=True
        )


def tell_of_untold(campaign: Campaign, grid_dir: Path, left: Mapping[str, Left]) -> None:
    """Say which cells are given up, once for each cause that nobody told since.

    The job that trained one, or the head of its pilot, may have died, or could not decide where another cell could not
    be read.
    """
    cancelled, newest = cancelled_in(grid_dir, campaign.name), dict[str, Left]()
    for one in left.values():
        if not one.decision.again and one.folder.name not in cancelled:
            why = one.decision.why
            newest[why] = max(newest.get(why, one), one, key=lambda some: some.decision.ended or 0.0)
    for why, one in newest.items():
        text = f"{campaign.grid_name}: {one.folder.name} is not tried again: {one.decision.told}"
        since = min(one.decision.ended or 0.0, clock.now())
        Notifier.of(campaign.config(), grid_dir).tell(f"failed: {why}", text, since=since)  # a later step tries again


def _campaign_of(folder: RunFolder, grid_dir: Path) -> Campaign | None:
    """Return the campaign of the newest attempt of a cell; none if nobody can read it any more."""
    name = folder.attempts()[-1].known_owner().get("campaign")
    try:
        return campaign_named(grid_dir, name) if name else None
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        tell(error)
        return None
