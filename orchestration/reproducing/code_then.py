"""The code of a recorded run, in a git worktree outside the checkout, for as long as it is needed."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestration.machine import checkout
from orchestration.machine.checkout import GitError
from orchestration.reproducing.record import Record
from orchestration.runs import made_with

_WITHOUT_HOOKS = ("-c", "core.hooksPath=/dev/null")


@contextmanager
def code_of(record: Record, repository: Path) -> Iterator[Path]:
    """Yield a folder with the code that began a training, and remove it.

    Raises:
        ValueError: The commit or its uncommitted changes are unknown or not here.
    """
    changes = _changes(record)
    _refuse_missing(record.commit, repository)
    with tempfile.TemporaryDirectory(prefix="rankmatch-reproduce-") as folder:
        place = Path(folder) / "code"
        checkout.git(repository, *_WITHOUT_HOOKS, "worktree", "add", "--detach", str(place), record.commit)
        try:
            if changes:
                _apply(changes, place)
            yield place
        finally:
            with suppress(GitError):  # the temporary folder goes anyway, and git forgets what is gone
                checkout.git(repository, "worktree", "remove", "--force", str(place))


def _changes(record: Record) -> Path | None:
    """Return the file with the uncommitted changes, which must be the recorded ones."""
    if not record.commit:
        why = record.made.get("commit_unknown") or "it was not recorded"
        raise ValueError(f"{record.folder.path.name} cannot be reproduced: the commit of its code is unknown ({why})")
    if not record.made.get("dirty"):
        return None
    path, sha256 = record.difference, record.made.get(made_with.CHANGE)
    if path is None or not path.is_file():
        where = f"there is no {path}" if path else "they were not stored"
        raise ValueError(f"the uncommitted changes of commit {record.commit[:12]} must be here; {where}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{path} must be the recorded uncommitted changes, with SHA-256 {sha256}; it has changed")
    return path


def _refuse_missing(commit: str, repository: Path) -> None:
    try:
        checkout.git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError as error:
        raise ValueError(
            f"the code of commit {commit} must be in the repository {repository}: fetch it, or name another one by "
            f"--code; {error}"
        ) from None


def _apply(changes: Path, place: Path) -> None:
    try:
        checkout.git(place, "apply", "--binary", "--whitespace=nowarn", str(changes.resolve()))
    except GitError as error:
        raise ValueError(f"the uncommitted changes in {changes} must fit their commit: {error}") from None
