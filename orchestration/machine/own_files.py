"""Folders that only their user may enter, and files that are trusted because only their user can have written them."""

import grp
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

GROUP = "RANKMATCH_GROUP"
"""Names the group that shares the folders of launches; its members are trusted like their owner."""
_SHARED = 0o2770
"""The mode of a folder that a group shares; what is made in it belongs to the group."""


def check_group() -> None:
    """Refuse a group that this user cannot give folders to, before any is made.

    Raises:
        ValueError: With what may be named.
    """
    if not (name := os.environ.get(GROUP, "")):
        return
    mine = {*os.getgroups(), os.getegid()}
    wanted = f"{GROUP} must name a group of yours ({', '.join(sorted(map(_group_name, mine)))}); got {name!r}"
    try:
        number = grp.getgrnam(name).gr_gid  # grp.getgrall() lists no groups of LDAP or SSSD without enumeration
    except KeyError:
        raise ValueError(f"{wanted}, which this machine does not know") from None
    if number not in mine and os.geteuid():
        raise ValueError(wanted)


def close(folder: Path) -> None:
    """Close a folder to all other users, or to all but the group that `RANKMATCH_GROUP` names."""
    if name := os.environ.get(GROUP, ""):
        shutil.chown(folder, group=name)
    folder.chmod(_SHARED if name else 0o700)


def close_file(path: Path) -> None:
    """Let nobody else read or write a file."""
    path.chmod(0o600)


def read(path: Path, shared: Path | None = None) -> bytes:
    """Return the content of a file that nobody but this user can have written, as code from it will be run.

    The file that was opened is checked, so it cannot be replaced between the check and the reading.

    Args:
        path: The file.
        shared: A folder that `close` has closed: the group that may enter it is trusted in it.

    Raises:
        PermissionError: Another user owns the file, or may write to it.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid():
            raise PermissionError(
                f"{path} belongs to user {found.st_uid} and is read by user {os.geteuid()}; only its owner may run it"
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not _is_within_closed(path, shared):
            mode = stat.S_IMODE(found.st_mode)
            raise PermissionError(f"{path} can be written by others (mode {mode:o}), so it is not run; chmod 600 it")
        return file.read()


def said(error: OSError) -> str:
    """Describe an error of a file in one line; of a folder that is closed to this user, who can open it."""
    if not error.filename:
        return str(error)
    text = f"{error.filename}: {error.strerror}"
    if isinstance(error, PermissionError):
        path = Path(os.fsdecode(error.filename))
        if closed := _closed_by_another(path):
            text += f"; {said_of_closed(closed)}"
        elif barred := _unwritable_above(path):
            state = barred.stat()
            mode = f"mode {stat.S_IMODE(state.st_mode):o}"
            text += f"; {barred} belongs to user {state.st_uid} ({mode}), and this is user {os.geteuid()}"
    return text


def is_closed(folder: Path) -> bool:
    """Return whether this user may not look into a folder, whoever it belongs to."""
    return not os.access(folder, os.R_OK | os.X_OK)


def said_of_closed(folder: Path) -> str:
    """Say who has closed a folder, and how its owner shares it."""
    state = folder.stat()
    group = f" and group {_group_name(state.st_gid)}" if state.st_mode & stat.S_IRWXG else ""
    return (
        f"{folder} is closed to all but its owner, user {state.st_uid}{group}, who shares later ones by {GROUP}=GROUP "
        "in the shell that launches, and this one by chgrp and chmod g=rwxs"
    )


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _closed_by_another(path: Path) -> Path | None:
    for folder in (path, *path.absolute().parents):
        with suppress(OSError):
            state = folder.stat()
            if state.st_uid != os.geteuid() and not state.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                return folder
    return None


def _unwritable_above(path: Path) -> Path | None:
    """Return the folder where a path would be made, if this user may not write there."""
    folder = next(folder for folder in path.absolute().parents if os.path.isdir(folder))  # noqa: PTH112 (closed: False)
    return None if os.access(folder, os.W_OK) else folder


def _is_within_closed(path: Path, shared: Path | None) -> bool:
    """Return whether a file is in a folder that only this user can enter, or those with whom a folder is shared."""
    folders = {folder: folder.stat() for folder in path.absolute().parents}
    mine = {folder: stat.S_IMODE(state.st_mode) for folder, state in folders.items() if state.st_uid == os.geteuid()}
    is_shared = shared is not None and mine.get(shared.absolute()) == _SHARED
    return is_shared or any(not mode & (stat.S_IRWXG | stat.S_IRWXO) for mode in mine.values())
