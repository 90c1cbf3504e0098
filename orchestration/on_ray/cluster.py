"""Two ways to get a Ray: one of our own, started for a launch and gone with it, or one that somebody else runs."""

import logging
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray

from orchestration.machine import scratch
from orchestration.on_ray.protocol import SETTINGS, TOKEN_VARIABLE, check_ray, settings
from orchestration.on_ray.shares import Node

TOKEN = os.environ.get(TOKEN_VARIABLE) or secrets.token_hex(32)
"""Not the one in the user's home, which all of their Rays share; Ray reads it once in a process."""
_TRIES, _TOO_SLOW = 3, "timed out during startup"


@contextmanager
def private_ray(
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    folder: Path | None = None,
    name: str | None = None,
) -> Iterator[Path]:
    """Run a Ray on this machine that nobody else's commands reach; yield its temporary folder.

    `RAY_ADDRESS` is ignored, authentication is on with `TOKEN`, and CPUs are those this process may use.

    Raises:
        ValueError: Another version of Ray is installed.
    """
    if folder is None:
        with scratch.held() as place, private_ray(num_cpus=num_cpus, num_gpus=num_gpus, folder=place.ray, name=name):
            yield place.ray
        return
    check_ray()
    _apply_settings()
    num_cpus = len(os.sched_getaffinity(0)) if num_cpus is None else num_cpus
    with _environment(RAY_ADDRESS=None, RAY_AUTH_MODE=None, RAY_AUTH_TOKEN=TOKEN):
        try:
            _init(
                address="local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                object_store_memory=128 * 2**20,  # only settings and small results travel through it
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _temp_dir=str(folder),
                _node_name=name,
            )
            yield folder
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _init(**arguments: Any) -> None:  # noqa: ANN401 (whatever ray.init takes)
    """Start a Ray, and try again if it was not up within 30 s, a limit that Ray has no setting for.

    On a busy machine, or when its programs are first read over a network, a slow start is no fault.
    """
    before = set(psutil.Process().children())
    for tries_left in reversed(range(_TRIES)):
        try:
            ray.init(**arguments)
            return
        except Exception as error:  # Ray has no class of its own for it, only these words
            if _TOO_SLOW not in str(error) or not tries_left:
                raise
            sys.stderr.write(
                "Ray was not up within 30 s, which a busy machine may be the cause of; it is begun again\n"
            )
        half_begun = set(psutil.Process().children()) - before
        for process in half_begun:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(half_begun)


@contextmanager
def existing_ray(address: str) -> Iterator[None]:
    """Use a running Ray, and leave it as it was; this process must be on one of its nodes.

    The token, if the Ray asks for one, comes from the environment (`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN`,
    `RAY_AUTH_TOKEN_PATH`), which Ray reads itself. Its processes import what this one imports.

    Raises:
        ValueError: Another version of Ray is installed.
        ConnectionError: It does not answer, or refuses us.
    """
    check_ray()
    _apply_settings()
    code = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": {**SETTINGS, **code}},
    )
    try:
        yield
    finally:
        ray.shutdown()


def nodes() -> tuple[Node, ...]:
    """Return what the nodes of the Ray in use lend to it."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return tuple(
        Node(lent.get("CPU", 0.0), int(lent.get("GPU", 0)), node["NodeManagerHostname"], node["NodeID"])
        for node, lent in ((node, node["Resources"]) for node in alive)
    )


def _apply_settings() -> None:
    for name, value in settings().items():
        os.environ.setdefault(name, value)


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
