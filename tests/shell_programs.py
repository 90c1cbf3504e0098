"""Commands in PATH that are shell lines, in front of the real ones."""

import os
import shutil
from pathlib import Path

import pytest

FOREIGN_GIT = 'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec "$REAL" "$@"'
"""A git for which every repository is another user's."""


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Put commands into PATH; `$REAL` is the one that each stands for, if there is one."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        real = shutil.which(name) or ""
        (folder / name).write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
