"""The code's checkout, as git sees it; a refusal by git is never taken for an empty answer."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestration.machine import tool_environment

NO_REPOSITORY = "no repository"
"""The code was installed, without commits."""
NO_COMMIT = "there is no commit yet"
_SETTINGS = ("core.autocrlf=false", "core.quotepath=false", "core.attributesFile=/dev/null", "color.ui=never")
"""Options that keep the user's own settings from changing files or output."""


class GitError(ValueError):
    """git is missing or refuses, so nothing is known."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """git's view of a folder."""

    root: Path
    commit: str = ""
    is_dirty: bool = False
    """Whether the sources differ from the commit, including new files."""
    unknown: str = ""
    """Why there is no commit: `NO_REPOSITORY`, or the reason why git does not report it."""

    @property
    def is_hidden(self) -> bool:
        """Whether there is a repository whose commit cannot be found out."""
        return bool(self.unknown) and self.unknown != NO_REPOSITORY

    @property
    def mend(self) -> str:
        """What to do so that git reports the commit."""
        if "safe.directory" in self.unknown:
            return f"run `git config --global --add safe.directory {shlex.quote(str(self.root))}`"
        return "commit the code" if self.unknown == NO_COMMIT else "fix that"


def look(root: Path, sources: Sequence[str]) -> Checkout:
    """Return the commit checked out at `root` itself, not in a folder around it, and whether the sources differ."""
    root = root.resolve()
    if not os.path.lexists(root / ".git"):
        return Checkout(root, unknown=NO_REPOSITORY)
    try:
        commit = git(root, "rev-parse", "--verify", "HEAD").strip()
        changes = git(
            root, "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=none", "--", *sources
        )
    except GitError as error:
        return Checkout(root, unknown=NO_COMMIT if "Needed a single revision" in str(error) else str(error))
    return Checkout(root, commit, bool(changes))


def difference(root: Path, sources: Sequence[str]) -> str:
    """Return the sources' difference from the commit as text, including new files; the index is not changed.

    Raises:
        GitError: git does not report it.
    """
    named = [name for name in sources if (root / name).is_dir()]
    with tempfile.TemporaryDirectory() as folder:  # not in .git, which is a file in a worktree
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(root, "read-tree", "HEAD", extra=index)
        git(root, "add", "--intent-to-add", "--", *named, extra=index)
        plain = ("--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
        return git(root, "diff", "HEAD", "--binary", *plain, extra=index)


def archive(root: Path, commit: str, sources: Sequence[str]) -> bytes:
    """Return the sources of a commit as a tar file.

    Raises:
        GitError: git does not hand it out.
    """
    return _run(root, ["archive", "--format=tar", commit, "--", *sources], {})


def git(root: Path, *words: str, extra: Mapping[str, str] | None = None) -> str:
    """Return git's output for a repository.

    Raises:
        GitError: git is not installed, or refuses; the message has its reason.
    """
    return _run(root, words, extra or {}).decode(errors="replace")


def _run(root: Path, words: Sequence[str], extra: Mapping[str, str]) -> bytes:
    if not shutil.which("git"):
        raise GitError("git is not installed")
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    command = ["git", "-C", str(root), *settings, *words]
    environment = {**tool_environment.for_git(), **extra}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment)
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise GitError(f"git refuses: {reason or f'{words[0]} fails with exit code {done.returncode}'}")
    return done.stdout
