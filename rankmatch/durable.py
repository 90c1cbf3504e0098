"""Put files in their places whole, and make them survive a power cut.

Content does once its file is synced, a name once its folder is. So a file is synced before it gets its name, or the
name could outlive the content and an empty file look finished. The folder is synced only where nothing could make the
file again (docs/run_folder.md says for which files).
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NOT_HERE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that cannot sync a folder; they keep names by other means, or not at all."""
_NO_LINK = (errno.EPERM, errno.EXDEV, errno.EMLINK, *_NOT_HERE)


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Give a name beside a file's place to what is made there before it gets that place; nothing of it stays."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield draft
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write() names no file
        raise
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write under, and rename what is there to its place at the end: readers see all of it or none.

    So they do after a power cut, but that may bring back the earlier file: `sync_folder` prevents it.
    """
    with draft_of(path) as draft:
        yield draft
        sync_file(draft)
        draft.replace(path)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, and wait until their names are on the disk."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in (path, *missing):
        with suppress(PermissionError):  # a folder in which we may write but not look, such as that of all homes
            sync_folder(folder.parent)


def move(path: Path, target: Path) -> Path:
    """Move a file or folder by one rename, and wait until that is on the disk; return its new path."""
    moved = path.rename(target)
    for folder in {target.parent, path.parent}:
        sync_folder(folder)
    return moved


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, which must be free; copy the file if the file system has no hard links.

    Raises:
        FileNotFoundError: The source is gone.
    """
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)
        sync_file(target)
