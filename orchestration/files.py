"""Files that other processes read while they are written: renamed or linked into place, or appended to in one write.

What a function here has written survives a power cut once it has returned, unless it says otherwise.
"""

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestration.damage import DamagedFileError, tell_of_lines
from orchestration.fields import Fields, named
from rankmatch import locks
from rankmatch.durable import sync_folder

_TAIL_BYTES = 1 << 16  # holds many times the longest line, an epoch with 255 classes
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without hard links answer: FAT, some network shares and mounts of containers."""
_PUT_S = 60.0


def replace(path: Path, text: str | bytes, *, sync: bool = True, mode: int = 0o666) -> None:
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
    _append(path, content, of_lines=False)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row as a line, as `append` does; a line that another write left torn is ended first."""
    _append(path, to_line(row), of_lines=True)


def _append(path: Path, content: bytes, *, of_lines: bool) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size, written = os.fstat(handle).st_size, 0
        if of_lines and size and os.pread(handle, 1, size - 1) != b"\n":
            content = b"\n" + content  # readers pass over the torn line, and would over this one too
        try:
            while written < len(content):  # once; on a disk that fills up the second write tells the error
                written += os.write(handle, content[written:])
            os.fsync(handle)
            if not size:  # its name may be new
                sync_folder(path.parent)
        except OSError as error:
            if os.fstat(handle).st_size == size + written:  # else another process has appended meanwhile
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


def read_json(path: Path, needed: Sequence[str] | Fields = (), advice: str = "") -> dict[str, Any]:
    """Read a JSON file.

    Args:
        path: The file.
        needed: Fields that it must have, or what its fields must hold.
        advice: What the user can do where it is damaged.

    Raises:
        DamagedFileError: It holds no JSON, no mapping, lacks a field, or one holds what it cannot.
    """
    content = read_bytes(str(path))
    try:
        found: Any = json.loads(content)
    except ValueError as error:
        raise DamagedFileError(path, f"it is no JSON ({error})" if content else "it is empty", advice) from None
    if why := _fields(needed).fault(found):
        raise DamagedFileError(path, why, advice)
    read: dict[str, Any] = found
    return read


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


def read_lines(path: Path, needed: Sequence[str] | Fields = ()) -> list[dict[str, Any]]:
    """Read rows; none where there is no file, and without a last one whose line was torn.

    Lines that are no rows, or whose fields are not those needed, are left out with a `DamageWarning`.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    fields = _fields(needed)
    rows = [_row(line, fields) for line in lines]
    if damaged := [place for place, row in enumerate(rows, 1) if row is None and lines[place - 1]]:
        tell_of_lines(path, damaged)
    return [row for row in rows if row is not None]


def _fields(needed: Sequence[str] | Fields) -> Fields:
    return needed if isinstance(needed, Fields) else named(*needed)


def _row(line: bytes, fields: Fields) -> dict[str, Any] | None:
    try:
        row: Any = json.loads(line)
    except ValueError:
        return None
    return None if fields.fault(row) else row


def read_last_line(path: Path, needed: Sequence[str] | Fields = ()) -> dict[str, Any] | None:
    """Read the last row without the rest of a long file; None where there is no whole line that can be read."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")[1 if start else 0 : -1]
    except FileNotFoundError:
        return None
    fields = _fields(needed)
    return next((row for line in reversed(lines) if (row := _row(line, fields)) is not None), None)


@contextmanager
def _draft(path: Path, text: str | bytes, *, sync: bool = True, mode: int = 0o666) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(handle, "wb") as file:  # noqa: PTH123 (a handle)
            file.write(text.encode() if isinstance(text, str) else text)
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
