"""The provenance of a run: commit, versions, machine and lock file; no environment variables, so no secrets."""

import hashlib
import platform
import shutil
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.machine import built_from, checkout, image

if TYPE_CHECKING:  # torch takes seconds to import
    import torch

    from rankmatch.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
SOURCES = built_from.SOURCES
PACKAGES = ("rankmatch", "torch", "torchvision", "numpy", "pillow", "pyarrow", "ray", "mlflow", "hydra-core")
DIFFERENCE = "uncommitted.diff"
"""File for uncommitted changes, in the launch's folder."""


def collect(root: Path = ROOT) -> dict[str, Any]:
    """Describe the software and the machine of this process."""
    return {
        **_code(root),
        **image.of_this_process(),
        "python": platform.python_version(),
        "packages": versions(),
        "host": socket.gethostname(),
        "device": device(),
    }


def training(config: "TrainConfig", device: "torch.device") -> dict[str, Any]:
    """Describe a training process's device, driver and libraries, and how it uses them."""
    import torch

    numerics, is_gpu = config.numerics, device.type == "cuda"
    num_workers = config.execution.trainer.num_workers
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else _processor(),
        "num_gpus": num_workers if is_gpu else 0,
        "driver": driver() if is_gpu else "",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version() or "") if is_gpu else "",  # type: ignore[no-untyped-call]
        "precision": numerics.trainer.precision,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "num_threads": torch.get_num_threads(),
        "world_size": num_workers,
        "seed": numerics.seed,
    }


def _code(root: Path) -> dict[str, Any]:
    """Describe the code by its checkout; installed code by the record of its build."""
    found, lock = checkout.look(root, SOURCES), lock_sha256(root)
    built = built_from.read(root) if found.unknown == checkout.NO_REPOSITORY else {}
    if built.get("commit"):
        return {"dirty": False, "lock_sha256": lock, **built}
    return {
        "commit": found.commit,
        "dirty": found.is_dirty if found.commit else None,
        **({"commit_unknown": found.unknown} if found.unknown else {}),
        "lock_sha256": lock or built.get("lock_sha256", ""),
    }


def commit(root: Path = ROOT) -> str:
    """Return the commit checked out at `root`, or the one it was built from; empty if unknown."""
    known: str = _code(root)["commit"]
    return known


def is_dirty(root: Path = ROOT) -> bool:
    """Return whether the sources differ from the commit, including new files."""
    return checkout.look(root, SOURCES).is_dirty


def difference(root: Path = ROOT) -> str:
    """Return the difference from the commit as text, including new files."""
    return checkout.difference(root, SOURCES)


def lock_sha256(root: Path) -> str:
    """Return the hash of the lock file of some sources; empty if they have none."""
    return _sha256(root / built_from.LOCK)


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect or store the numbers, without importing any."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def device() -> str:
    """Name this machine's GPUs, or its processor if it has none."""
    names = gpus()
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or _processor()


def gpus() -> list[str]:
    """Return the name of every NVIDIA GPU of this machine, without importing torch."""
    return _of_gpus("name")


def driver() -> str:
    """Return the version of the GPUs' driver."""
    return next(iter(_of_gpus("driver_version")), "")


def gpu_memory_gb() -> list[float]:
    """Return the memory of every NVIDIA GPU of this machine."""
    return [int(mib) * 2**20 / 1e9 for mib in _of_gpus("memory.total") if mib.isdigit()]


def _of_gpus(field: str) -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
    return [line.strip() for line in lines if line.strip()]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
