from collections.abc import Callable
from pathlib import Path

import pytest
from shell_programs import programs

SITES = Path(__file__).parent / "sites"
_SCONTROL = """case "$*" in
*"show config") exec cat "$SITE/config" ;;
*"show partition") exec cat "$SITE/partitions" ;;
esac
exit 1"""
_SINFO = """for word; do case "$word" in --partition=*) asked=${word#*=} ;; esac; done
[ -n "$asked" ] || exec cat "$SITE/nodes"
grep -E "\\|$asked\\*?$" "$SITE/nodes" || true"""
_SACCTMGR = """[ -f "$SITE/users" ] || { echo "You are not running a supported accounting_storage plugin" >&2; exit 1; }
case "$*" in
*MaxSubmitJobsPerUser*) echo ;;
*MaxSubmitJobs*) exec cat "$SITE/associations" ;;
*) exec cat "$SITE/users" ;;
esac"""
_SACCT = '[ -f "$SITE/users" ] || { echo "Slurm accounting storage is disabled" >&2; exit 1; }'


@pytest.fixture
def at_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have Slurm's commands answer as they did at a site, and no container runtime be there."""

    def go(name: str) -> None:
        scripts = {"scontrol": _SCONTROL, "sinfo": _SINFO, "sacctmgr": _SACCTMGR, "sacct": _SACCT, "squeue": "",
                   "sbatch": "exit 1", "scancel": "", "srun": ""}  # fmt: skip
        monkeypatch.setenv("SITE", str(SITES / name))
        programs(tmp_path / "bin", monkeypatch, **scripts)

    return go
