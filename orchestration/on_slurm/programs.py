"""Where Slurm's programs are run: `commands` asks them here and nowhere else, so a simulation can answer instead."""

import subprocess
from collections.abc import Mapping, Sequence


class SlurmError(Exception):
    """A Slurm command failed or did not answer; nothing is known then."""


def run(command: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> str:
    """Return what one of Slurm's programs prints.

    Raises:
        SlurmError: It is missing, does not answer in time, or fails; with the reason that it gives.
    """
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not here") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {timeout_s:.0f} s") from None
    if done.returncode:
        reason = " ".join((done.stderr.strip() or done.stdout.strip()).split())  # scontrol gives its reason on stdout
        raise SlurmError(f"{command[0]} failed with exit code {done.returncode}: {reason or 'it gives no reason'}")
    return done.stdout
