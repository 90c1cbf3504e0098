"""A data set packed into Arrow files, so that training reads memory instead of decoding files.

A store is a folder of shards `<number>.arrow`; each row holds one file or one sample's pixels, its source, and a
checksum. A shard is renamed into place when it is complete and never changed, so packing can be resumed after an
interruption; if two rows have the same name, the later one counts.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from rankmatch import locks
from rankmatch.checks import MissingFileError, one_of
from rankmatch.config import DatasetConfig
from rankmatch.data.hints import of_missing
from rankmatch.data.lists import file_of
from rankmatch.data.pixels import READING, Facts, label_with_facts, read_image
from rankmatch.hashing import sha256_of

SCHEMA_VERSION = 1
KINDS = ("decoded", "encoded")
"""Pixels as they are trained on, or the bytes of the files."""
SHARD_BYTES = 2**26
COLUMNS = pa.schema(
    [
        ("role", pa.string()),
        ("name", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("sha256", pa.string()),
        ("source_bytes", pa.int64()),
        ("source_mtime_ns", pa.int64()),
        ("source_sha256", pa.string()),
        ("data", pa.large_binary()),
    ]
)

Key = tuple[str, str]
"""Role (image, label, or file of an encoded store) and name."""


@dataclass(frozen=True, slots=True)
class Properties:
    """What all shards of a store share."""

    kind: str
    colours: list[list[int]]
    """`dataset.colours`, by which labels were read."""
    image_bits: int = 0
    """`dataset.image_bits`, by which images were read."""

    def __post_init__(self) -> None:
        one_of("the kind of a data store", self.kind, KINDS)

    def as_metadata(self) -> dict[str, str]:
        """Return them as a shard's schema holds them."""
        return {
            "version": str(SCHEMA_VERSION),
            "reading": str(READING),
            "kind": self.kind,
            "colours": json.dumps(self.colours),
            "image_bits": str(self.image_bits),
        }


class Source(NamedTuple):
    """What a file was when it was packed."""

    num_bytes: int
    mtime_ns: int
    sha256: str

    def may_be(self, path: Path) -> bool:
        """Return whether a file, if it exists, can be the packed one; it is read only if its time differs."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            return True
        if (stat.st_size, stat.st_mtime_ns) == (self.num_bytes, self.mtime_ns):
            return True
        return stat.st_size == self.num_bytes and sha256_of(path) == self.sha256


class Row(NamedTuple):
    """One row of a shard; see `COLUMNS`."""

    role: str
    name: str
    height: int
    width: int
    sha256: str
    source: Source
    data: Any
    """Bytes; of a row that was read a scalar of Arrow, which lies in the mapped file."""
    facts: Facts = Facts()
    """Facts of a decoded image or label; they are stored in the metadata of its shard."""

    @property
    def content(self) -> memoryview:
        """The bytes of a row that was read; nothing is copied."""
        return memoryview(self.data.as_buffer())

    def is_whole(self) -> bool:
        """Return whether the bytes of a row are those that were packed."""
        return hashlib.sha256(self.content).hexdigest() == self.sha256


class Store:
    """A packed data set, mapped into memory.

    Raises:
        ValueError: It does not exist, a shard is damaged, or this version cannot read its rows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[Key, Row] = {}
        shards = shards_of(folder)
        if not shards:
            raise MissingFileError(
                f"data_store must be a folder that `rankmatch data pack` wrote; {folder} holds no shard"
            )
        self.properties = _properties(shards[0], None)
        for shard in shards:
            _properties(shard, self.properties)
            self.rows |= _rows(shard)
        self.sources = {file_of(name): row.source for (_, name), row in self.rows.items()}
        self._checked: set[Key] = set()

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        """Let a process that is not forked map the files anew."""
        return Store, (self.folder,)

    def has(self, role: str, name: str) -> bool:
        """Return whether an image or a label is packed."""
        return _key(self.properties.kind, role, name) in self.rows

    def image(self, name: str) -> Image.Image:
        """Return an image, in mode RGB.

        Raises:
            ValueError: It is not packed, or not what was packed.
        """
        row = self._row("image", name)
        if self.properties.kind == "encoded":
            return read_image(Path(name), name, row.content, image_bits=self.properties.image_bits)
        pixels = np.frombuffer(row.content, dtype=np.uint8).reshape(row.height, row.width, 3)
        return row.facts.on(Image.fromarray(pixels))

    def label(self, name: str) -> tuple[npt.NDArray[np.uint8], Facts]:
        """Return the values of a label, and the facts of its file.

        Raises:
            ValueError: As `image`.
        """
        row = self._row("label", name)
        if self.properties.kind == "encoded":
            return label_with_facts(Path(name), name, self.properties.colours, row.content)
        return np.frombuffer(row.content, dtype=np.uint8).reshape(row.height, row.width), row.facts

    def check_sources(self, root: Path, meaning: DatasetConfig) -> None:
        """Refuse a store whose files have changed below `root` since; missing files do not count.

        Raises:
            ValueError: A file changed; the message names the first.
        """
        for setting in ("colours", "image_bits"):
            if getattr(meaning, setting) != getattr(self.properties, setting):
                raise ValueError(
                    f"data_store {self.folder} was packed with other dataset.{setting}; pack into a new folder"
                )
        changed = [name for name, source in self.sources.items() if not source.may_be(root / name)]
        if changed:
            raise ValueError(
                f"data_store {self.folder} was packed from other files: {len(changed)} of {len(self.sources)} have "
                f"changed since, first {changed[0]}; `rankmatch data pack` packs them again"
            )

    def _row(self, role: str, name: str) -> Row:
        key = _key(self.properties.kind, role, name)
        row = self.rows.get(key)
        if row is None:
            raise ValueError(f"{role} {name} is not in data_store {self.folder}; `rankmatch data pack` adds it")
        if key not in self._checked:  # once a process
            if not row.is_whole():
                raise ValueError(
                    f"{role} {name} is damaged in data_store {self.folder}; `rankmatch data pack` packs it again"
                )
            self._checked.add(key)
        return row


def shards_of(folder: Path) -> list[Path]:
    """Return the shards of a store in writing order."""
    return sorted(folder.glob("[0-9]*.arrow"))


@dataclass(slots=True)
class Packed:
    """The result of packing."""

    num_packed: int = 0
    num_kept: int = 0
    damaged: list[str] = field(default_factory=list)
    """Unreadable shards that were removed; their content is packed again."""
    faults: list[str] = field(default_factory=list)
    """One line for each file that could not be packed."""


def pack(
    folder: Path,
    root: Path,
    wanted: Sequence[Key],
    properties: Properties,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Pack those images and labels below `root`, given by role and name, that are new or have changed.

    Raises:
        ValueError: The folder holds another kind of store, another process packs into it, or it cannot be written;
            whole shards stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = list(dict.fromkeys(_key(properties.kind, *key) for key in wanted))
    try:
        with locks.held(folder / ".lock", 0.0):
            for part in folder.glob(".*.part"):  # of a process that was killed
                part.unlink()
            return _pack(folder, root, keys, properties, progress)
    except filelock.Timeout:
        raise ValueError(f"another process packs into {folder}") from None


def _pack(
    folder: Path, root: Path, keys: Sequence[Key], properties: Properties, progress: Callable[[int, int], None]
) -> Packed:
    packed = Packed()
    kept = _good_rows(folder, root, properties, packed)
    missing = [key for key in keys if key not in kept]
    packed.num_kept = len(keys) - len(missing)
    rows: list[Row] = []
    num_bytes = 0
    for done, row in enumerate(_read_all(root, missing, properties, packed), packed.num_kept + 1):
        rows.append(row)
        num_bytes += len(row.data)
        progress(done, len(keys))
        if num_bytes >= SHARD_BYTES:
            packed.num_packed += _write(folder, rows, properties, packed.num_packed)
            rows, num_bytes = [], 0
    if rows:
        packed.num_packed += _write(folder, rows, properties, packed.num_packed)
    return packed


def _good_rows(folder: Path, root: Path, properties: Properties, packed: Packed) -> set[Key]:
    """Return the rows that need not be packed again; remove unreadable shards."""
    rows: dict[Key, Row] = {}
    for shard in shards_of(folder):
        try:
            _opened(shard)
        except ValueError as error:
            packed.damaged.append(str(error))
            shard.unlink()
            continue
        _properties(shard, properties)
        rows |= _rows(shard)
    return {key for key, row in rows.items() if row.source.may_be(root / file_of(row.name)) and row.is_whole()}


def _read_all(root: Path, keys: Sequence[Key], properties: Properties, packed: Packed) -> Iterator[Row]:
    num_threads = min(16, os.cpu_count() or 1)
    waiting = iter(keys)
    with ThreadPoolExecutor(num_threads) as pool:
        while some := list(islice(waiting, 4 * num_threads)):  # not all at once: they would fill the memory
            for row in pool.map(partial(_read, root, properties), some):
                if isinstance(row, Row):
                    yield row
                else:
                    packed.faults.append(row)


def _read(root: Path, properties: Properties, key: Key) -> Row | str:
    """Return a row, or the fault of its file."""
    role, name = key
    facts = Facts()
    try:
        source, content = _content(root / file_of(name))
        if role == "file":
            size, data = (0, 0), content
        elif role == "image":
            image = read_image(Path(name), name, content, image_bits=properties.image_bits)
            size, data, facts = (image.height, image.width), image.tobytes(), Facts.of(image)
        else:
            label, facts = label_with_facts(Path(name), name, properties.colours, content)
            size, data = label.shape, label.tobytes()
    except FileNotFoundError:
        return f"{role} {name} is missing{of_missing(root, file_of(name))}"
    except OSError as error:
        return f"{role} {name} cannot be read: {error.strerror}"
    except ValueError as error:
        return str(error)
    return Row(role, name, *size, hashlib.sha256(data).hexdigest(), source, data, facts)


@lru_cache(maxsize=2)  # the frames of a volume come one after the other
def _content(path: Path) -> tuple[Source, bytes]:
    stat, content = path.stat(), path.read_bytes()
    return Source(len(content), stat.st_mtime_ns, hashlib.sha256(content).hexdigest()), content


def _write(folder: Path, rows: Sequence[Row], properties: Properties, num_packed: int) -> int:
    """Write the next shard atomically, and return its number of rows."""
    shards = shards_of(folder)
    path = folder / f"{int(shards[-1].stem) + 1 if shards else 0:06}.arrow"
    part = path.with_name(f".{path.name}.part")
    columns = zip(*((*row[:5], *row.source, row.data) for row in rows), strict=True)
    try:
        with part.open("wb") as file:
            metadata = properties.as_metadata() | {"facts": _facts_to_text(rows)}
            with pa.ipc.new_file(file, COLUMNS.with_metadata(metadata)) as writer:
                writer.write_batch(pa.record_batch(list(map(pa.array, columns, COLUMNS.types)), schema=COLUMNS))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ValueError(
            f"{folder} cannot be written: {error.strerror}; {num_packed} images and labels were packed and stay, and "
            "the same command resumes"
        ) from None
    return len(rows)


def _key(kind: str, role: str, name: str) -> Key:
    """Return the store's key for an image or label; an encoded store is keyed by file, without frames."""
    return ("file", file_of(name)) if kind == "encoded" else (role, name)


def _properties(shard: Path, expected: Properties | None) -> Properties:
    """Return a shard's properties; refuse a shard of another store."""
    metadata = _opened(shard).schema.metadata or {}
    if metadata.get(b"version") != b"%d" % SCHEMA_VERSION:
        raise ValueError(f"{shard} must be of version {SCHEMA_VERSION} of a data store")
    found = Properties(
        metadata[b"kind"].decode(), json.loads(metadata[b"colours"]), int(metadata.get(b"image_bits", 0))
    )
    if found.kind == "decoded" and int(metadata.get(b"reading", 1)) != READING:
        raise ValueError(f"{shard} was packed by another version, which read some images differently; pack into a new "
                         "folder")  # fmt: skip
    if expected not in (None, found):
        raise ValueError(f"{shard} belongs to another store ({found}, not {expected}); pack into a new folder")
    return found


def _rows(shard: Path) -> dict[Key, Row]:
    batch = _opened(shard).get_batch(0)
    columns = [batch.column(name).to_pylist() for name in COLUMNS.names[:-1]]
    facts = _facts_from_text((_opened(shard).schema.metadata or {}).get(b"facts", b"{}"))
    rows = (
        Row(role, name, height, width, sha256, Source(*source), data, facts.get(f"{role} {name}", Facts()))
        for role, name, height, width, sha256, *source, data in zip(*columns, batch.column("data"), strict=True)
    )
    return {(row.role, row.name): row for row in rows}


def _facts_to_text(rows: Sequence[Row]) -> str:
    """Return the facts of those rows that have some, as JSON."""
    known = {f"{row.role} {row.name}": row.facts for row in rows if row.facts != Facts()}
    return json.dumps({key: [facts.notes, facts.used_bits] for key, facts in known.items()})


def _facts_from_text(text: bytes) -> dict[str, Facts]:
    return {key: Facts(tuple(notes), used_bits) for key, (notes, used_bits) in json.loads(text).items()}


def _opened(shard: Path) -> Any:  # noqa: ANN401 (a reader of pyarrow, which has no types)
    try:
        return pa.ipc.open_file(pa.memory_map(str(shard)))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{shard} is damaged ({error}); `rankmatch data pack` packs its images again") from None
