"""What git and Slurm's commands see of our environment: nothing that a user's shell holds for another use of them.

A variable such as SQUEUE_STATES or GIT_DIR changes what a command says, and with it what we believe.
"""

import os

_OF_SLURM = (
    "SLURM_",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "SQUEUE_",
    "SACCT_",
    "SACCTMGR_",
    "SCONTROL_",
    "SCANCEL_",
    "SINFO_",
)
_KEPT_OF_SLURM = ("SLURM_CONF", "SLURM_JWT")
"""Where slurmctld is, and who we are."""
_KEPT_OF_GIT = ("GIT_CONFIG_", "GIT_EXEC_PATH", "GIT_DISCOVERY_ACROSS_FILESYSTEM")
"""Settings such as `safe.directory`, and where git itself is."""
_PLAIN = {"LC_ALL": "C"}
"""Messages, states and times as the manuals write them."""


def for_git() -> dict[str, str]:
    """Return the environment in which git looks at the repository that it is asked about."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or _is_kept_of_git(name)}
    return kept | _PLAIN | {"GIT_OPTIONAL_LOCKS": "0"}  # a look changes nothing


def for_slurm() -> dict[str, str]:
    """Return the environment in which Slurm's commands say all that they are asked, and no more."""
    # SLURM_BITSTR_LEN: all elements of an array that are written together, not the first 64 characters of them
    return for_sbatch() | _PLAIN | {"SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}


def for_sbatch() -> dict[str, str]:
    """Return the environment of sbatch, which jobs inherit: without what describes the job that this process is in."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(_OF_SLURM) or name in _KEPT_OF_SLURM
    }


def _is_kept_of_git(name: str) -> bool:
    return name.startswith(_KEPT_OF_GIT)
