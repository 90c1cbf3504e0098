"""What a wheel was built from: written into it by the build (`setup.py`), as nothing tells it where it is installed.

A build imports this module, so it knows nothing but the standard library and git.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestration import checkout

SOURCES = ("rankmatch", "orchestration", "dashboards", "experiments")
LOCK = "requirements.lock"
FILE = Path("orchestration") / "built_from.json"
VARIABLE = "RANKMATCH_COMMIT"
"""Names the commit to a build that sees no repository, as in an image that gets the sources alone."""
_FIELDS = {"commit": str, "dirty": bool, "difference_sha256": str, "lock_sha256": str}


def look(root: Path) -> dict[str, Any]:
    """Describe the sources in a folder for a build: as git does, else as the sources of an archive say themselves.

    Raises:
        GitError: git does not tell what is not committed.
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
    """Write what the sources in a folder are into a tree that is about to be packed."""
    path = target / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a build may link files instead of copying them
    path.write_text(json.dumps(look(root), indent=1) + "\n", encoding="utf-8")


def read(root: Path) -> Mapping[str, Any]:
    """Return what the build of an installed package wrote down; nothing where there is none or it is damaged."""
    try:
        found = json.loads((root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name, kind in _FIELDS.items() if isinstance(found.get(name), kind)}
