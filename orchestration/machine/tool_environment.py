"""The environment for git and Slurm's commands, without variables that a user's shell sets for other uses.

A variable such as SQUEUE_STATES or GIT_DIR changes a command's output, and with it our decisions.
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
    """Return an environment in which git looks at the repository it is called for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or _is_kept_of_git(name)}
    return kept | _PLAIN | {"GIT_OPTIONAL_LOCKS": "0"}  # reading must not change the index


def for_slurm() -> dict[str, str]:
    """Return an environment in which Slurm's commands give complete and unfiltered answers."""
    # SLURM_BITSTR_LEN: all elements of an array that are written together, not the first 64 characters of them
    return for_sbatch() | _PLAIN | {"SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}


def for_sbatch() -> dict[str, str]:
    """Return the environment for sbatch, which jobs inherit, without the variables of this process's own job."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(_OF_SLURM) or name in _KEPT_OF_SLURM
    }


def _is_kept_of_git(name: str) -> bool:
    return name.startswith(_KEPT_OF_GIT)
