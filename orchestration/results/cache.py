"""The cache of finished runs' rows: Parquet files that follow the run folders and can be deleted at any time."""

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankmatch.durable import replacing

VERSION = 8
MAX_PARTS = 16
RUN = "run"
"""The column with the run of a row: its folder, relative to the root."""
_META = b"rankmatch"

Keys = Mapping[str, str]
"""For each run a key of the state its rows were read from; with another key the rows are outdated."""


class ResultCache:
    """A folder of Parquet files; each names its runs and their keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, keys: Keys) -> tuple[pa.Table | None, set[str]]:
        """Return the cached rows of runs with these keys, and the names of those runs.

        A file that is torn, of another version or with an outdated run is removed and its other rows are rewritten, so
        that nothing in the folder is outdated.
        """
        tables: list[pa.Table] = []
        held: set[str] = set()
        num_parts = 0
        for path in sorted(self._folder.glob("*.parquet")):
            part = _read(path)
            if part is None:
                path.unlink(missing_ok=True)
                continue
            table, known = part
            current = {run for run, key in known.items() if keys.get(run) == key} - held
            if len(current) < len(known):
                path.unlink(missing_ok=True)
                table = table.filter(pc.is_in(table[RUN].cast(pa.string()), pa.array(sorted(current), pa.string())))
                if current:
                    self.add(table, {run: known[run] for run in current})
            num_parts += 1
            held |= current
            tables.append(table)
        merged = pa.concat_tables(tables, promote_options="permissive") if tables else None
        if merged is not None and num_parts > MAX_PARTS:
            self.clear()
            self.add(merged, {run: keys[run] for run in held})
        return merged, held

    def add(self, table: pa.Table, keys: Keys) -> None:
        """Add rows of runs that are not in the cache."""
        self._folder.mkdir(parents=True, exist_ok=True)
        meta = json.dumps({"version": VERSION, "keys": dict(keys)}).encode()
        texts = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
        with replacing(self._folder / f"{secrets.token_hex(8)}.parquet") as draft:
            pq.write_table(
                table.replace_schema_metadata({_META: meta}),
                draft,
                use_dictionary=texts,  # floats hardly repeat: a dictionary or compression would not pay
                compression="none",
                write_statistics=False,
                write_page_checksum=True,
            )

    def clear(self) -> None:
        """Remove all files."""
        for path in self._folder.glob("*.parquet"):
            path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[pa.Table, dict[str, str]] | None:
    with suppress(pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        table = pq.read_table(path, page_checksum_verification=True)
        meta = json.loads(table.schema.metadata[_META])
        if meta["version"] == VERSION:
            return table.replace_schema_metadata(None), dict(meta["keys"])
    return None
