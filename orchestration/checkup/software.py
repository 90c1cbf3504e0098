"""Python, torch and its devices, Ray, and the versions that the lock file names."""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestration.checkup.finding import Finding, fault, good, note
from orchestration.machine import built_from, checkout, provenance

_INSTALL = "`make venv`, or `pip install -r requirements.lock`"
_CUDA = "install torch with CUDA, as the lock file has it"
IMPORT_S = 300.0
"""A first import from a network file system takes minutes."""
_TORCH = """
import json, torch, torch.distributed, torchvision
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda or "",
                  "is_available": torch.cuda.is_available(), "has_nccl": torch.distributed.is_nccl_available()}))
"""
_RAY = "import json, ray; print(json.dumps({'version': ray.__version__}))"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)


def python() -> Iterator[Finding]:
    """Check the interpreter and the packages that do the numerics."""
    yield good("Python", platform.python_version())
    found = provenance.versions()
    if lacking := [name for name, version in found.items() if not version and name != "rankmatch"]:
        yield fault("packages", f"{', '.join(lacking)} not installed", "every launch", _INSTALL)
    yield from _against_the_lock(found, provenance.ROOT / built_from.LOCK)


def _against_the_lock(found: dict[str, str], lock: Path) -> Iterator[Finding]:
    if not lock.is_file():
        return
    pins = {name.lower(): version for name, version in _PIN.findall(lock.read_text(encoding="utf-8"))}
    others = [
        f"{name} {version} (locked: {pins[name]})"
        for name, version in found.items()
        if version and name in pins and version.partition("+")[0] != pins[name]
    ]
    if others:
        yield note("packages", f"not as {lock.name} has them: {', '.join(others)}; numbers may differ", _INSTALL)
    else:
        yield good("packages", f"as {lock.name} has them")


def torch() -> Iterator[Finding]:
    """Check torch, and whether it sees the GPUs that the driver has."""
    told, reason = _answer_of(_TORCH)
    if reason:
        yield fault("torch", f"cannot be imported: {reason}", "every training", _INSTALL)
        return
    version, cuda = told["version"], told["cuda"]
    gpus = provenance.gpus()
    yield good("torch", f"{version}, CUDA {cuda or 'none'}")
    if not gpus:
        yield note("GPU", "nvidia-smi shows none here: cells train on the processor, or on the nodes of a cluster")
    elif not told["is_available"]:
        yield fault(
            "GPU",
            f"{provenance.device()} with driver {provenance.driver()}, but torch {version} cannot use it",
            "cells would fail, or train on the processor",
            f"a driver for CUDA {cuda}, or a torch for the CUDA of that driver" if cuda else _CUDA,
        )
    else:
        yield good("GPU", f"{provenance.device()}, driver {provenance.driver()}")
        if not told["has_nccl"]:
            yield fault("NCCL", f"is not part of torch {version}", "cells of more than one GPU", _CUDA)


def ray() -> Iterator[Finding]:
    """Check Ray, which every cluster but `inline` needs."""
    told, reason = _answer_of(_RAY)
    if reason:
        yield fault("Ray", f"cannot be imported: {reason}", "every cluster but inline", _INSTALL)
    else:
        yield good("Ray", told["version"])


def _answer_of(code: str) -> tuple[dict[str, Any], str]:
    """Return what a separate Python process prints, or why it fails: a library may end the process that loads it."""
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=IMPORT_S, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {IMPORT_S:.0f} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {}, last or f"Python ends with {done.returncode}"
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


def sources() -> Iterator[Finding]:
    """Check the commit that runs will name."""
    found = checkout.look(provenance.ROOT, provenance.SOURCES)
    if found.is_hidden:
        yield fault("commit", found.unknown, "no table can say what code trained a cell", found.mend)
    elif found.is_dirty:
        yield note(
            "commit",
            f"{found.commit[:12]} with changes that are not committed; a launch on Slurm refuses them",
            "commit, or launch with --allow-dirty",
        )
    elif known := provenance.commit():
        yield good("commit", known[:12])
    else:
        yield note(
            "commit", f"not known: {found.unknown}", "build the wheel from a repository, or with RANKMATCH_COMMIT"
        )
