"""What lies on the disk after a power cut at any moment of a recorded run: all that was synced, and some of the rest.

The file system promises no more than POSIX: a file's content is there once the file was synced, a name once its folder
was. Until then each change of a folder may be there or not, whatever came before it, and of a file's writes a part.
"""

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from system_calls import Call

Lasts = Callable[[], bool]
"""Says of a change that was not synced whether it is on the disk."""


@dataclass(eq=False)
class File:
    """A file: its content on the disk, and what was written since it was synced."""

    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Offset and content; without content, the file is cut there."""

    @property
    def size(self) -> int:
        """How long it is for those who read it now."""
        size = len(self.synced)
        for offset, content in self.pending:
            size = offset if content is None else max(size, offset + len(content))
        return size

    def sync(self) -> None:
        """Put all on the disk."""
        self.synced, self.pending = self.content(len(self.pending)), []

    def content(self, num_writes: int, torn: float = 1.0) -> bytes:
        """Return it after some of its writes, the last of them only in part."""
        found = bytearray(self.synced)
        for place, (offset, content) in enumerate(self.pending[:num_writes], 1):
            if content is None:
                del found[offset:]
                continue
            part = content if place < num_writes else content[: round(torn * len(content))]
            found.extend(bytes(max(0, offset - len(found))))
            found[offset : offset + len(part)] = part
        return bytes(found)


@dataclass(eq=False)
class Folder:
    """A folder: the names in it now, those on the disk, and the changes between them."""

    names: "dict[str, File | Folder]" = field(default_factory=dict)
    synced: "dict[str, File | Folder]" = field(default_factory=dict)
    pending: "list[dict[str, File | Folder | None]]" = field(default_factory=list)
    """What each change gave to names; None: nothing, they are gone."""

    def change(self, **names: "File | Folder | None") -> None:
        """Change some names in one move."""
        self.pending.append(names)
        self.names = _changed(self.names, names)

    def sync(self) -> None:
        """Put all names on the disk."""
        self.synced, self.pending = dict(self.names), []

    def after(self, lasts: Lasts) -> "dict[str, File | Folder]":
        """Return the names that are on the disk if some changes are."""
        found = dict(self.synced)
        for change in self.pending:
            if lasts():
                found = _changed(found, change)
        return found


def _changed(
    names: "dict[str, File | Folder]", change: "dict[str, File | Folder | None]"
) -> "dict[str, File | Folder]":
    return {name: one for name, one in (names | change).items() if one is not None}


class Disk:
    """Replays calls below a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, _read(root)
        self.handles: dict[tuple[int, int], File | Folder] = {}
        self.offsets: dict[tuple[int, int], int | None] = {}
        """Where each open file is written next; None: at its end."""

    def __call__(self, call: Call) -> None:
        """Carry out one call."""
        if call.result >= 0 and (act := getattr(self, f"_{call.name}", None)):
            act(call)

    def _find(self, path: str) -> "tuple[Folder, str] | None":
        """Return the folder of a path and the name in it; None if it is not below the root."""
        if not path.startswith(f"{self.root}/"):
            return None
        folder: File | Folder = self.top
        *above, name = Path(path).relative_to(self.root).parts
        for part in above:
            assert isinstance(folder, Folder)
            folder = folder.names[part]
        assert isinstance(folder, Folder)
        return folder, name

    def _openat(self, call: Call) -> None:
        handle, flags, path = (call.process, call.result), call.arguments[2], call.path(1)
        self.handles.pop(handle, None)
        if path == str(self.root):
            self.handles[handle] = self.top
        if (found := self._find(path)) is None:
            return
        folder, name = found
        if name not in folder.names:
            folder.change(**{name: File()})
        one = folder.names[name]
        if "O_TRUNC" in flags and isinstance(one, File) and one.size:
            one.pending.append((0, None))
        self.handles[handle], self.offsets[handle] = one, None if "O_APPEND" in flags else 0

    def _write(self, call: Call) -> None:
        handle = call.process, call.handle()
        if not isinstance(file := self.handles.get(handle), File):
            return
        offset = self.offsets[handle]
        file.pending.append((file.size if offset is None else offset, call.text(1)[: call.result]))
        self.offsets[handle] = None if offset is None else offset + call.result

    def _pwrite64(self, call: Call) -> None:
        if isinstance(file := self.handles.get((call.process, call.handle())), File):
            file.pending.append((int(call.arguments[3]), call.text(1)[: call.result]))

    def _lseek(self, call: Call) -> None:
        handle = call.process, call.handle()
        if self.offsets.get(handle) is not None:
            self.offsets[handle] = call.result

    def _ftruncate(self, call: Call) -> None:
        if isinstance(file := self.handles.get((call.process, call.handle())), File):
            file.pending.append((int(call.arguments[1]), None))

    def _close(self, call: Call) -> None:
        self.handles.pop((call.process, call.handle()), None)

    def _fsync(self, call: Call) -> None:
        if one := self.handles.get((call.process, call.handle())):
            one.sync()

    _fdatasync = _fsync

    def _mkdir(self, call: Call) -> None:
        if found := self._find(call.paths[0]):
            found[0].change(**{found[1]: Folder()})

    _mkdirat = _mkdir

    def _unlink(self, call: Call) -> None:
        if found := self._find(call.paths[0]):
            found[0].change(**{found[1]: None})

    _unlinkat = _rmdir = _unlink

    def _rename(self, call: Call) -> None:
        (source, old), (target, new) = (found for path in call.paths if (found := self._find(path)))
        one = source.names[old]
        if source is target:
            source.change(**{new: one, old: None})
        else:
            target.change(**{new: one})
            source.change(**{old: None})

    _renameat = _renameat2 = _rename

    def _link(self, call: Call) -> None:
        (source, old), (target, new) = (found for path in call.paths if (found := self._find(path)))
        target.change(**{new: source.names[old]})

    _linkat = _link


WAYS = ("nothing", "names", "some")


def restore(disk: Disk, way: str, seed: int = 0) -> str:
    """Replace the folder by what a power cut leaves of it; return a word that is equal where what is left is.

    Args:
        disk: What was done so far.
        way: Of what was not synced, `nothing` is there, all `names` but no content, or `some` of both.
        seed: Of the draw of some.
    """
    draw = random.Random(seed)
    lasts: dict[str, Lasts] = {"nothing": lambda: False, "names": lambda: True, "some": lambda: draw.random() < 0.5}
    shutil.rmtree(disk.root)
    word = hashlib.sha256()
    made: dict[File, Path] = {}

    def put(folder: Folder, path: Path) -> None:
        path.mkdir()
        for name, one in sorted(folder.after(lasts[way]).items()):
            place = path / name
            word.update(f"{place.relative_to(disk.root)}\0".encode())
            if isinstance(one, Folder):
                put(one, place)
            elif one in made:
                os.link(made[one], place)
            else:
                num_writes = draw.randint(0, len(one.pending)) if way == "some" else 0
                place.write_bytes(content := one.content(num_writes, draw.random()))
                word.update(hashlib.sha256(content).digest())
                made[one] = place

    put(disk.top, disk.root)
    return word.hexdigest()


def moments(calls: Sequence[Call]) -> list[int]:
    """Return how many calls are done at each moment just before something is synced, and at the end."""
    return [place for place, call in enumerate(calls) if call.name in ("fsync", "fdatasync")] + [len(calls)]


def _read(path: Path) -> Folder:
    folder = Folder()
    for one in path.iterdir():
        folder.names[one.name] = _read(one) if one.is_dir() else File(one.read_bytes())
    folder.sync()
    return folder
