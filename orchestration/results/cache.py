"""Rows of finished runs in Parquet files beside the run folders, kept in step with them; can be deleted at any time."""

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

VERSION = 4
MAX_PARTS = 16
RUN = "run"
"""The column that says to which run a row belongs: its folder, relative to the root."""
_META = b"rankmatch"

Keys = Mapping[str, str]
"""For each run what its rows were read from: another key, other rows."""


class ResultCache:
    """A folder of Parquet files; each names the runs that it holds rows of, and their keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, keys: Keys) -> tuple[pa.Table | None, set[str]]:
        """Return the rows of runs with these keys, and which runs these are.

        A file that is torn, of another version or about a run that is no more as it was is taken away, and the rest
        of it written anew, so that nothing in the folder is out of date.
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
        """Write rows of runs that it does not hold yet."""
        self._folder.mkdir(parents=True, exist_ok=True)
        meta = json.dumps({"version": VERSION, "keys": dict(keys)}).encode()
        draft = self._folder / f".{secrets.token_hex(8)}"
        texts = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
        try:
            pq.write_table(
                table.replace_schema_metadata({_META: meta}),
                draft,
                use_dictionary=texts,  # floats hardly repeat, and are neither worth that nor a compression
                compression="none",
                write_statistics=False,
                write_page_checksum=True,
            )
            os.replace(draft, self._folder / f"{draft.name[1:]}.parquet")  # noqa: PTH105
        finally:
            draft.unlink(missing_ok=True)

    def clear(self) -> None:
        """Take all files away."""
        for path in self._folder.glob("*.parquet"):
            path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[pa.Table, dict[str, str]] | None:
    with suppress(pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        table = pq.read_table(path, page_checksum_verification=True)
        meta = json.loads(table.schema.metadata[_META])
        if meta["version"] == VERSION:
            return table.replace_schema_metadata(None), dict(meta["keys"])
    return None
