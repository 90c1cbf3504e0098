"""What survives a power cut: names in a folder do once the folder itself is synced, not the file alone."""

import errno
import os
import shutil
from pathlib import Path

_NOT_HERE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems answer that cannot sync a folder; they keep names by other means or not at all."""
_NO_LINK = (errno.EPERM, errno.EXDEV, errno.EMLINK, *_NOT_HERE)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder lie on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Wait until what was written to a file lies on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, which must be free; where the file system has no hard links, copy the file.

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
