"""Checkpoints that cannot be resumed from: each is noticed and named, runs no code, and the one before it is used."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rankmatch import checkpoint
from rankmatch.checkpoint import Best
from rankmatch.hashing import sha256_of
from rankmatch.run_files import BEST, MANIFEST, STATE

Harm = Callable[[Path], object]


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lengthen(path: Path) -> None:
    """Write half, and leave the rest as zeros, as a file system may after a power cut."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


def with_code(path: Path) -> None:
    """Put code into a file, and its hash into the manifest."""
    torch.save({"model": Code(path.parent / "ran")}, path)
    trust(path)


def with_code_of_old(path: Path) -> None:
    """Put code into a file in the format before zip files."""
    torch.save({"model": Code(path.parent / "ran")}, path, _use_new_zipfile_serialization=False)
    trust(path)


def pickle_with_code(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Code(path.parent / "ran")}, protocol=2))
    trust(path)


def words(path: Path) -> None:
    path.write_text("no checkpoint")
    trust(path)


def odd_zip(byte_order: str, content: bytes) -> Harm:
    """Return what makes a file a zip file that torch did not write."""

    def harm(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name, part in (("data.pkl", content), ("version", b"3\n"), ("byteorder", byte_order.encode())):
                file.writestr(f"archive/{name}", part)
        trust(path)

    return harm


def trust(path: Path) -> None:
    """Put the hash of a file into the manifest."""
    manifest = json.loads((path.parent / MANIFEST).read_text())
    holder = manifest if path.name == STATE else manifest["best"]
    holder["sha256"] = sha256_of(path)
    (path.parent / MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 10 and 20."""
    for step in (10, 20):
        weights = {"weight": torch.full((4,), float(step))}
        checkpoint.save(tmp_path, step, {"model": weights}, 2, best=Best(1, step, 0.5), weights=weights)
    return tmp_path


OTHER = "{} is not what was written, by its hash in manifest.json"
CODE = "{} holds more than tensors and plain values, which could run code"
ODD = "{} cannot be read as tensors and plain values"


@pytest.mark.parametrize("name", [STATE, BEST])
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut, OTHER),
        (empty, OTHER),
        (flip, OTHER),
        (lengthen, OTHER),
        (Path.unlink, "{} is missing"),
        (with_code, CODE),
        (with_code_of_old, CODE),
        (pickle_with_code, CODE),
        (words, CODE),
        (odd_zip("middle", b"\x80\x02]."), ODD),
        (odd_zip("little", b"\x80\x02(K\x01K\x02u."), ODD),
    ],
)
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    harm: Harm, says: str, name: str, run_dir: Path
) -> None:
    newest = run_dir / "checkpoints" / "step_20"
    harm(newest / name)
    said = f"checkpoint {newest} is damaged and was skipped: {says.format(name)}"
    with pytest.warns(UserWarning, match=f"^{said}$"):
        assert checkpoint.newest(run_dir) == run_dir / "checkpoints" / "step_10"
    assert not (newest / "ran").exists()
    assert checkpoint.load(run_dir / "checkpoints" / "step_10")["model"]["weight"].tolist() == [10.0] * 4


@pytest.mark.parametrize("harm", [cut, empty, lengthen, Path.unlink])
def test_checkpoint_with_a_damaged_manifest_is_named_and_the_one_before_is_used(harm: Harm, run_dir: Path) -> None:
    harm(run_dir / "checkpoints" / "step_20" / MANIFEST)
    with pytest.warns(
        UserWarning, match=r"step_20 is damaged and was skipped: manifest.json (cannot be read|is missing)$"
    ):
        assert checkpoint.newest(run_dir) == run_dir / "checkpoints" / "step_10"


def test_damaged_checkpoint_is_written_again(run_dir: Path) -> None:
    newest = run_dir / "checkpoints" / "step_20"
    flip(newest / STATE)
    checkpoint.save(run_dir, 20, {"model": {}}, 2)
    assert checkpoint.is_intact(newest) and checkpoint.load(newest) == {"model": {}}


def test_checkpoint_is_intact_where_files_cannot_be_mapped(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, load = run_dir / "checkpoints" / "step_20", torch.load

    def without_maps(path: Path, *, mmap: bool = False, **options: object) -> object:
        if mmap:
            raise RuntimeError("unable to mmap 1 bytes from file: No such device (19)")
        return load(path, **options)

    monkeypatch.setattr(checkpoint.torch, "load", without_maps)
    assert checkpoint.newest(run_dir) == newest
    with_code(newest / STATE)
    assert checkpoint.damage_of(newest) == CODE.format(STATE)


@pytest.mark.parametrize("error", [OSError("the file server is away"), MemoryError()])
def test_checkpoint_that_cannot_be_read_now_does_not_count_as_damaged(
    error: Exception, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(checkpoint.torch, "load", fails)
    with pytest.raises(type(error)):
        checkpoint.newest(run_dir)


def test_checkpoint_for_which_there_is_no_memory_does_not_count_as_damaged(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> object:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    monkeypatch.setattr(checkpoint.torch, "load", fails)
    with pytest.raises(MemoryError, match="can't allocate memory"):
        checkpoint.newest(run_dir)
