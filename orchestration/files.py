"""Files that other processes read while they are written: renamed or linked into place, or appended to in one write.

What a function here has written survives a power cut once it has returned, unless it says otherwise.
"""

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rankmatch import locks
from rankmatch.durable import sync_folder

_TAIL_BYTES = 1 << 16  # holds many times the longest line, an epoch with 255 classes
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without hard links answer: FAT, some network shares and mounts of containers."""
_PUT_S = 60.0


def replace(path: Path, text: str, *, sync: bool = True, mode: int = 0o666) -> None:
    """Write a file beside its place and rename it there; one that can be made again need not wait for the disk."""
    with _draft(path, text, sync=sync, mode=mode) as draft:
        draft.replace(path)
    if sync:
        sync_folder(path.parent)


def publish(path: Path, text: str) -> None:
    """Put a file in its place, complete and only if none is there.

    Raises:
        FileExistsError: There is one.
    """
    with _draft(path, text) as draft:
        put(draft, path)
    sync_folder(path.parent)


def put(draft: Path, path: Path) -> None:
    """Give a complete file its place, only if none is there, whatever the file system can; the draft may stay.

    Raises:
        FileExistsError: There is one.
    """
    try:
        os.link(draft, path)
    except FileExistsError:
        if not path.samefile(draft):  # NFS repeats a link whose answer was lost, and then finds its own
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with locks.held(path.with_name(f".{path.name}.lock"), _PUT_S):  # the kernel takes it back from who dies here
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            draft.replace(path)


def append(path: Path, content: bytes) -> None:
    """Append in one write and wait for the disk; if that fails, leave the file as it was."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        try:
            while content:  # once, but on a disk that fills up: there the second write tells the error
                content = content[os.write(handle, content) :]
            os.fsync(handle)
            if not size:  # its name may be new
                sync_folder(path.parent)
        except OSError as error:
            os.ftruncate(handle, size)
            error.filename = str(path)  # a failed write() names no file
            raise
    finally:
        os.close(handle)


def to_line(row: Mapping[str, Any]) -> bytes:
    """Write a row as a line of JSON; NaN and infinities, which JSON has not, become null."""
    return (json.dumps(_finite(row), allow_nan=False) + "\n").encode()


def to_text(content: Mapping[str, Any]) -> str:
    """Write a JSON file; NaN and infinities become null."""
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file."""
    try:
        content: dict[str, Any] = json.loads(read_bytes(str(path)))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON; it is damaged: {error}") from None
    return content


def read_bytes(path: str) -> bytes:
    """Read a file in four calls of the system, for readers of tens of thousands of files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        content = os.read(handle, size)
        while len(content) < size and (more := os.read(handle, size - len(content))):
            content += more
        return content
    finally:
        os.close(handle)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read rows; none where there is no file, and without a last one whose line was torn."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def read_last_line(path: Path) -> dict[str, Any] | None:
    """Read the last row without the rest of a long file; None where there is no whole line."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")[1 if start else 0 : -1]
    except FileNotFoundError:
        return None
    row: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return row


@contextmanager
def _draft(path: Path, text: str, *, sync: bool = True, mode: int = 0o666) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 (a handle)
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        yield draft
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write() names no file
        raise
    finally:
        draft.unlink(missing_ok=True)


def _finite(value: Any) -> Any:  # noqa: ANN401 (a JSON value)
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
