"""Write files that other processes read at the same time: by renaming, linking, or appending in one write.

When a function here returns, its data survives a power cut, unless it says otherwise.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestration.machine.damage import DamagedFileError, tell_of_lines
from orchestration.machine.fields import Fields, named
from orchestration.machine.json_values import finite, legible, parse, parse_legible
from rankmatch import locks
from rankmatch.durable import draft_of, sync_folder

_TAIL_BYTES = 1 << 16  # many times the longest line, an epoch with 255 classes
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems without hard links: FAT, some network shares and container mounts."""
_PUT_S = 60.0


def replace(path: Path, text: str | bytes, *, sync: bool = True, mode: int = 0o666) -> None:
    """Write a file atomically by renaming; `sync=False` does not wait for the disk, for files that can be remade."""
    with _draft(path, text, sync=sync, mode=mode) as draft:
        draft.replace(path)
    if sync:
        sync_folder(path.parent)


def publish(path: Path, text: str) -> None:
    """Create a file atomically, only if it does not exist.

    Raises:
        FileExistsError: There is one.
    """
    with _draft(path, text) as draft:
        put(draft, path)
    sync_folder(path.parent)


def in_the_way(path: Path) -> Path | None:
    """Return what keeps a path from being there or being made: a file at its place, or at one above it."""
    there = next(path for path in (path, *path.parents) if path.exists())
    return None if there.is_dir() else there


def put(draft: Path, path: Path) -> None:
    """Move a complete draft to its place, only if that is free, on any file system; the draft may stay.

    Raises:
        FileExistsError: There is one.
    """
    try:
        os.link(draft, path)
    except FileExistsError:
        if not path.samefile(draft):  # NFS repeats a link whose answer was lost, and then finds its own file
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with locks.held(lock_of(path), _PUT_S):  # the kernel releases it if this process dies
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            draft.replace(path)


def lock_of(path: Path) -> Path:
    """Return the lock for a file that several processes change."""
    return path.with_name(f".{path.name}.lock")


def append(path: Path, content: bytes) -> None:
    """Append in one write and wait for the disk; on failure, restore the file."""
    _append(path, content, of_lines=False)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row as a line, like `append`; first end a line that another write left torn."""
    _append(path, to_line(row), of_lines=True)


def _append(path: Path, content: bytes, *, of_lines: bool) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size, written = os.fstat(handle).st_size, 0
        if of_lines and size and os.pread(handle, 1, size - 1) != b"\n":
            content = b"\n" + content  # readers skip the torn line, and would skip this one too
        try:
            while written < len(content):  # only once; on a full disk the second write raises the error
                written += os.write(handle, content[written:])
            os.fsync(handle)
            if not size:  # its name may be new
                sync_folder(path.parent)
        except OSError as error:
            if os.fstat(handle).st_size == size + written:  # otherwise another process has appended meanwhile
                os.ftruncate(handle, size)
            error.filename = str(path)  # a failed write() names no file
            raise
    finally:
        os.close(handle)


def to_line(row: Mapping[str, Any]) -> bytes:
    """Format a row as a line of JSON; NaN and infinities become null, half characters whole ones."""
    return (json.dumps(finite(legible(row)), allow_nan=False) + "\n").encode()


def to_text(content: Mapping[str, Any]) -> str:
    """Format the text of a JSON file; NaN and infinities become null."""
    return json.dumps(finite(content), indent=1, allow_nan=False) + "\n"


def read_json(
    path: Path, needed: Sequence[str] | Fields = (), advice: str = "", *, is_shown: bool = False
) -> dict[str, Any]:
    """Read a JSON file.

    Args:
        path: The file.
        needed: Fields that it must have, or a description of its fields.
        advice: What the user can do if it is damaged.
        is_shown: Its texts are for people: half characters become whole ones. Paths must stay as they are.

    Raises:
        DamagedFileError: It is not JSON or not a mapping, lacks a field, or a field has a wrong value.
    """
    return json_of(path, read_bytes(str(path)), needed, advice, is_shown=is_shown)


def json_of(
    path: Path, content: bytes, needed: Sequence[str] | Fields = (), advice: str = "", *, is_shown: bool = False
) -> dict[str, Any]:
    """Return what was read of a JSON file, checked as by `read_json`.

    Raises:
        DamagedFileError: As `read_json`.
    """
    try:
        found: Any = parse_legible(content) if is_shown else parse(content)
    except ValueError as error:
        raise DamagedFileError(path, f"it is no JSON ({error})" if content else "it is empty", advice) from None
    if why := _fields(needed).fault(found):
        raise DamagedFileError(path, why, advice)
    read: dict[str, Any] = found
    return read


def read_bytes(path: str) -> bytes:
    """Read a file with four system calls, for readers of tens of thousands of files."""
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
    """Read rows; none if there is no file, and without a torn last line. Half characters become whole ones.

    Lines that are not rows, or lack the needed fields, are skipped with a `DamageWarning`.
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
        row: Any = parse_legible(line)
    except ValueError:
        return None
    return None if fields.fault(row) else row


def read_last_line(path: Path, needed: Sequence[str] | Fields = ()) -> dict[str, Any] | None:
    """Read the last row without reading all of a long file; None if there is no complete readable line."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")[1 if start else 0 : -1]
    except FileNotFoundError:
        return None
    fields = _fields(needed)
    return next((row for line in reversed(lines) if (row := _row(line, fields)) is not None), None)


def read_end(path: Path, num_bytes: int = _TAIL_BYTES) -> str:
    """Return the end of a text without reading all of a long one; the first line is whole unless it is the only one."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - num_bytes)
        file.seek(start)
        content = file.read(num_bytes).decode("utf-8", "replace")
    later = content.partition("\n")[2] if start else content
    return later if later.strip() else content


@contextmanager
def _draft(path: Path, text: str | bytes, *, sync: bool = True, mode: int = 0o666) -> Iterator[Path]:
    with draft_of(path) as draft:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(handle, "wb") as file:  # noqa: PTH123 (a handle)
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        yield draft
