"""Processes that Ray kills when their machine runs out of memory: how Tune survives that, and who took the memory.

Ray watches memory where nobody else does (`protocol.settings`), and may do so in a Ray that somebody else runs.
"""

import os
import re
from typing import Any

import psutil
from ray.air.execution._internal import RayActorManager
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.tune.execution import tune_controller

from orchestration.runs.failures import Failure, FailureClass

_SAYS_SO = "running low on memory"
_USED = re.compile(r"was ([\d.]+)GB used / ([\d.]+)GB limit")
_KILLED = re.compile(r"Selected to kill:.*?actual memory used=([\d.]+)GB")
_NODE = re.compile(r"\(IP: [^,]*, ID: ([^)]+)\)")
_USER = re.compile(r"^(\d+)\t([\d.]+)\t(.*)$", re.MULTILINE)
OWN_FAULT = 0.5
"""What one process takes of its machine when it is taken for too large, rather than for one of too many."""
_THRESHOLD, _USUAL, _MARGIN = "RAY_memory_usage_threshold", 0.95, 0.05


class KilledForMemoryError(ActorDiedError):
    """Ray killed a trial's process because its machine ran out of memory."""

    def __init__(self, message: str = "") -> None:
        super().__init__()
        self.error_msg = message

    def __reduce__(self) -> tuple[type["KilledForMemoryError"], tuple[str]]:
        return KilledForMemoryError, (self.error_msg,)


class _Actors(RayActorManager):
    """Ray's own class ignores `OutOfMemoryError`: Tune would end with all its trials, or not say why one did."""

    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:  # noqa: ANN401
        super()._actor_start_failed(tracked_actor, _as_death(exception))

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:  # noqa: ANN401
        super()._actor_task_failed(tracked_actor_task, _as_death(exception))


def _as_death(error: Exception) -> Exception:
    return KilledForMemoryError(str(error)) if isinstance(error, OutOfMemoryError) else error


def survive_kills() -> None:
    """Have Tune, in this process, treat a process that Ray kills for memory like a lost one."""
    vars(tune_controller)[RayActorManager.__name__] = _Actors


def memory_failure(error: BaseException | None) -> Failure | None:
    """Describe an out-of-memory kill, and who took the memory; None: it was something else."""
    text = str(error or "")
    if _SAYS_SO not in text:
        return None
    used, limit = map(float, found.groups()) if (found := _USED.search(text)) else (0.0, 0.0)
    own = max(map(float, _KILLED.findall(text)), default=0.0)
    users = [f"{command[:60].strip()} ({size} GB)" for _, size, command in _USER.findall(text)[:3]]
    message = f"Ray ended it, as its machine ran out of memory: {used:g} of {limit:g} GB were in use, {own:g} by it"
    if users:
        message += f"; the most by {', '.join(users)}"
    is_own_fault = own >= OWN_FAULT * limit
    kind = FailureClass.HOST_MEMORY if is_own_fault else FailureClass.MACHINE_MEMORY
    return Failure(kind, OutOfMemoryError.__name__, message, "")


def node_of(error: BaseException | None) -> str:
    """Return Ray's id of the node whose memory ran out, if the message says it."""
    found = _NODE.search(str(error or ""))
    return found[1] if found else ""


def machine_has_room() -> bool:
    """Return whether this machine is far from the threshold at which Ray kills processes."""
    threshold = float(os.environ.get(_THRESHOLD, _USUAL))
    return bool(psutil.virtual_memory().percent < 100 * (threshold - _MARGIN))
