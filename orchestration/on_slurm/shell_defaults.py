"""The sbatch defaults that a site puts into everybody's shell: here they count as they do for sbatch.

They are copied into the site when a grid is launched, so that later jobs have the same ones.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestration.on_slurm.cluster import ClusterConfig

_FIELDS = {
    f"SBATCH_{name.upper()}": name for name in ("partition", "account", "qos", "constraint", "reservation", "wckey")
}
_FLAGS = {
    f"SBATCH_{variable}": flag
    for variable, flag in (
        ("ACCTG_FREQ", "acctg-freq"), ("COMMENT", "comment"), ("CORE_SPEC", "core-spec"),
        ("DELAY_BOOT", "delay-boot"), ("DISTRIBUTION", "distribution"), ("EXCLUSIVE", "exclusive"),
        ("EXPORT", "export"), ("GPU_BIND", "gpu-bind"), ("GPU_FREQ", "gpu-freq"), ("GRES_FLAGS", "gres-flags"),
        ("HINT", "hint"), ("LICENSES", "licenses"), ("MEM_BIND", "mem-bind"), ("NETWORK", "network"),
        ("PREFER", "prefer"), ("PROFILE", "profile"), ("SPREAD_JOB", "spread-job"), ("THREAD_SPEC", "thread-spec"),
        ("THREADS_PER_CORE", "threads-per-core"), ("WAIT4SWITCH", "switches"),
    )
}  # fmt: skip
_HARMLESS = ("SBATCH_DEBUG", "SBATCH_IGNORE_PBS")
_IN_A_JOB = "SLURM_JOB_ID"


def with_defaults(site: ClusterConfig, environment: Mapping[str, str] = os.environ) -> ClusterConfig:
    """Return a site with the shell's defaults for what it leaves open; unchanged within a job."""
    if _IN_A_JOB in environment:
        return site
    found = {field: environment[name] for name, field in _FIELDS.items() if environment.get(name)}
    taken: dict[str, Any] = {
        field: text for field, text in found.items() if not getattr(site, field) and field not in site.extra
    }
    flags = {flag: environment[name] or "true" for name, flag in _FLAGS.items() if name in environment}
    return replace(site, extra=flags | site.extra, **taken)


def notes(site: ClusterConfig, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return notes about the shell's defaults, given the site with them."""
    if _IN_A_JOB in environment:
        return []
    lines = []
    for name, value in sorted(environment.items()):
        if not name.startswith("SBATCH_") or name in _HARMLESS:
            continue
        field, flag = _FIELDS.get(name, ""), _FLAGS.get(name, "")
        if field and getattr(site, field) == value:
            lines.append(f"{name}={value} of this shell counts as cluster.{field}")
        elif flag and site.extra.get(flag) == (value or "true"):
            lines.append(f"{name}={value} of this shell counts as cluster.extra {{{flag}: {value or 'true'}}}")
        else:
            lines.append(f"{name}={value} of this shell does not count: the site, or the launch itself, says that")
    return lines
