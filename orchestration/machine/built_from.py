"""The origin of a wheel, written into it by the build (`setup.py`), because it cannot be found after installation.

A build imports this module, so it uses only the standard library and git.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestration.machine import checkout

SOURCES = ("rankmatch", "orchestration", "dashboards", "experiments")
LOCK = "requirements.lock"
FILE = Path("orchestration") / "built_from.json"
VARIABLE = "RANKMATCH_COMMIT"
"""Variable with the commit for a build without a repository, as in an image that gets only the sources."""
_FIELDS = {"commit": str, "dirty": bool, "difference_sha256": str, "lock_sha256": str}


def look(root: Path) -> dict[str, Any]:
    """Describe the sources in a folder for a build: by git, else by the record in a source archive.

    Raises:
        GitError: git cannot report uncommitted changes.
    """
    found, lock = checkout.look(root, SOURCES), root / LOCK
    known = {} if found.unknown != checkout.NO_REPOSITORY else dict(read(root))
    if found.commit:
        known["commit"], known["dirty"] = found.commit, found.is_dirty
        if found.is_dirty:
            difference = checkout.difference(root, SOURCES)
            known["difference_sha256"] = hashlib.sha256(difference.encode()).hexdigest()
    elif "commit" not in known and (named := os.environ.get(VARIABLE, "")):
        known["commit"] = named
    if lock.is_file():
        known["lock_sha256"] = hashlib.sha256(lock.read_bytes()).hexdigest()
    return known


def write(root: Path, target: Path) -> None:
    """Write the description of the sources into a tree that is about to be packed."""
    path = target / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a build may link files instead of copying them
    path.write_text(json.dumps(look(root), indent=1) + "\n", encoding="utf-8")


def read(root: Path) -> Mapping[str, Any]:
    """Return the record of an installed package's build; empty if it is missing or damaged."""
    try:
        found = json.loads((root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name, kind in _FIELDS.items() if isinstance(found.get(name), kind)}
