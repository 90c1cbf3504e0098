"""Copy a packed data set to the node's disk, once for all processes there."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

from rankmatch import locks
from rankmatch.checks import LocalDiskError

VARIABLES = ("SLURM_TMPDIR", "TMPDIR")


def stage(store: Path) -> Path:
    """Copy the missing shards of a store to node-local disk, and return the folder there.

    One process copies while the others wait. The folder stays for later runs, until the node clears it.

    Raises:
        ValueError: No variable names a disk of the node, or the disk is too full.
    """
    folder = _folder_of(store)
    with locks.held(folder / ".lock"):
        for part in folder.glob(".*.part"):  # of a process that was killed
            part.unlink()
        shards = {shard.name: shard for shard in store.glob("*.arrow")}
        for old in folder.glob("*.arrow"):
            if old.name not in shards or not _same(old, shards[old.name]):
                old.unlink()
        _copy([shard for name, shard in shards.items() if not (folder / name).exists()], folder)
    return folder


def _folder_of(store: Path) -> Path:
    base = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)
    if base is None:
        raise ValueError(
            f"stage_data_store needs {' or '.join(VARIABLES)}, a folder on a disk of the node; none is set"
        )
    name = hashlib.sha256(str(store.resolve()).encode()).hexdigest()[:12]
    folder = Path(base) / f"rankmatch-store-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link, which somebody else may have made; stage_data_store needs a folder")
    if folder.stat().st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to another user; stage_data_store needs a folder of one's own")
    return folder


def _copy(shards: list[Path], folder: Path) -> None:
    needed, free = sum(shard.stat().st_size for shard in shards), shutil.disk_usage(folder).free
    if needed > free:
        raise LocalDiskError(
            f"data_store needs {needed / 1e9:.1f} GB more in {folder}, where {free / 1e9:.1f} GB are free; "
            "stage_data_store=false reads it where it is"
        )
    for shard in shards:
        part = folder / f".{shard.name}.part"
        try:
            shutil.copy2(shard, part)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise  # of the store, as likely as of this disk
            raise LocalDiskError(f"data_store cannot be copied to {folder}: {error.strerror}") from None
        part.replace(folder / shard.name)


def _same(copy: Path, shard: Path) -> bool:
    ours, theirs = copy.stat(), shard.stat()
    return (ours.st_size, int(ours.st_mtime)) == (theirs.st_size, int(theirs.st_mtime))
