"""The flags that jobs give to sbatch: what a cell asks for and what its site adds; pure.

A site may replace or leave out any of them by `cluster.extra`.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.resources import Resources

Flags = dict[str, str]
"""By their long names; empty where a flag has no value."""

LEAVE_OUT, WITHOUT_VALUE = "false", "true"
_MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")
_GPUS = ("gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task")
SIZES = (*_MEMORY, *_GPUS, "gres", "cpus-per-gpu", "cpus-per-task", "exclusive", "nodes", "ntasks", "ntasks-per-node",
          "time")  # fmt: skip
"""What `extra` says of these is meant for the jobs that train."""


def training_flags(config: ClusterConfig, asked: Resources, avoided: Sequence[str] = ()) -> Flags:
    """Return the flags of a job that trains, or lends its node to others that do.

    Args:
        config: The site.
        asked: What the job needs.
        avoided: Nodes that it must not get, besides those that the site excludes.
    """
    excluded, extra = ",".join([*filter(None, [config.exclude]), *avoided]), dict(config.extra)
    if avoided and (others := extra.get("exclude", LEAVE_OUT)).lower() != LEAVE_OUT and "/" not in others:
        extra["exclude"] = ",".join([others, *avoided])  # unless it names a file
    own = _named(config) | _gpus(config, asked.gpus_per_node) | {
        "time": str(asked.time_min),
        "nodes": str(asked.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(asked.cpus_per_node),
        **_memory(config, asked.mem_gb_per_node, asked.cpus_per_node, asked.gpus_per_node),
        "signal": _warning(config),
        "requeue" if config.requeue else "no-requeue": "",
        **({"exclude": excluded} if excluded else {}),
    }  # fmt: skip
    return merged(own, extra)


def head_flags(config: ClusterConfig, asked: Resources) -> Flags:
    """Return the flags of a pilot's head, which is warned of its end as training jobs are."""
    own = _small(config, asked.cpus_per_node, asked.mem_gb_per_node, asked.time_min)
    return _for_small(config, own | {"signal": _warning(config), "no-requeue": ""})


def controller_flags(config: ClusterConfig) -> Flags:
    """Return the flags of a controller."""
    own = _small(config, 1, 4, config.controller_time_min)
    if config.mail_user:
        own |= {"mail-user": config.mail_user, "mail-type": "FAIL,TIME_LIMIT"}
    return _for_small(config, own | {"requeue" if config.requeue else "no-requeue": ""})


def _small(config: ClusterConfig, cpus: int, mem_gb: float, minutes: int) -> Flags:
    """Return the flags of a job that trains nothing."""
    own = _named(config) | {
        "time": str(minutes),
        "nodes": "1",
        "cpus-per-task": str(cpus),
        **_memory(config, mem_gb, cpus, 0),
    }
    return own | ({"partition": config.controller_partition} if config.controller_partition else {})


def _for_small(config: ClusterConfig, own: Flags) -> Flags:
    every = {key: text for key, text in config.extra.items() if key not in SIZES or text.lower() == LEAVE_OUT}
    return merged(merged(own, every), config.controller_extra)


def merged(own: Flags, extra: Mapping[str, str]) -> Flags:
    """Return flags with a site's own in their places; a flag that excludes one of these is dropped."""
    flags = dict(own)
    for key, text in extra.items():
        if text.lower() == LEAVE_OUT:
            flags.pop(key, None)
            continue
        for rival in _rivals(key, text, flags):
            flags.pop(rival, None)
        flags[key] = "" if text.lower() == WITHOUT_VALUE else text
    return flags


def _rivals(key: str, text: str, flags: Mapping[str, str]) -> Collection[str]:
    """Return the flags that sbatch does not accept together with another."""
    if key in _MEMORY:
        return _MEMORY
    if key in ("requeue", "no-requeue"):
        return ("requeue", "no-requeue")
    if key in _GPUS:
        return (*_GPUS, *(["gres"] if flags.get("gres", "").startswith("gpu") else []))
    return _GPUS if key == "gres" and text.startswith("gpu") else ()


def _warning(config: ClusterConfig) -> str:
    return f"USR2@{config.signal_before_s}"


def _named(config: ClusterConfig) -> Flags:
    names = ("partition", "account", "qos", "constraint", "reservation", "wckey", "exclude")
    return {name: text for name in names if (text := getattr(config, name))}


def _gpus(config: ClusterConfig, count: int) -> Flags:
    if not count or config.gpu_flag == "none":
        return {}
    typed = f"{config.gpu_type}:{count}" if config.gpu_type else str(count)
    flag = config.gpu_flag or ("gres" if config.gpu_type else "gpus-per-node")
    return {flag: f"gpu:{typed}" if flag == "gres" else typed}


def _memory(config: ClusterConfig, gb: float, cpus: int, gpus: int) -> Flags:
    if config.mem_flag == "none":
        return {}
    if config.mem_flag == "mem-per-cpu" or (config.mem_flag == "mem-per-gpu" and not gpus):
        return {"mem-per-cpu": f"{math.ceil(gb * 1024 / cpus)}MB"}
    if config.mem_flag == "mem-per-gpu":
        return {"mem-per-gpu": f"{math.ceil(gb * 1024 / gpus)}MB"}
    return {"mem": f"{round(gb * 1024)}MB"}
