"""Write the lock files of the image from what `pip install --dry-run --report` has resolved.

torch and what it brings along are a layer of their own, of which there are two kinds: CUDA's, and the processor's.
Hashes are those of the files that pip chose here, for Debian's Python on x86-64.
"""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HEAD = "# Made by `make lock`.\n"
_FIRST = re.compile(r"(setuptools|torch|torchvision|triton|cuda-.*|nvidia-(?!ml-py).*)$")
"""torch's, and what builds the packages that come as sources."""
_OF_ANY_DEVICE = ("torch", "torchvision")


def lock_files(report: dict[str, Any]) -> dict[str, str]:
    """Return the contents of the lock files by their names."""
    found = dict(_pins(report["install"]))
    first = [line for name, line in found.items() if _FIRST.match(name)]
    others = [line for name, line in found.items() if not _FIRST.match(name)]
    on_cpu = [f"{found[name].split()[0]}+cpu\n" for name in _OF_ANY_DEVICE]
    return {
        "requirements.lock": "".join([HEAD, "--require-hashes\n", *others]),
        "torch-cuda.lock": "".join([HEAD, "--require-hashes\n", *first]),
        "torch-cpu.lock": "".join([HEAD, "# Without hashes: PyPI does not hold these wheels.\n", *on_cpu,
                                   f"{found['setuptools'].split()[0]}\n"]),
    }  # fmt: skip


def _pins(installed: Iterable[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    """Return the canonical name and the line of each package; the project itself has no archive."""
    for package in sorted(installed, key=lambda one: _canonical(one["metadata"]["name"])):
        if archive := package["download_info"].get("archive_info"):
            name, digest = _canonical(package["metadata"]["name"]), archive["hashes"]["sha256"]
            yield name, f"{name}=={package['metadata']['version']} --hash=sha256:{digest}\n"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    for name, content in lock_files(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).items():
        (HERE / name).write_text(content, encoding="utf-8")
