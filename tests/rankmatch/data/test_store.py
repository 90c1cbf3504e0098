import os
import pickle
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from PIL import Image

from rankmatch.config import AugmentConfig, DatasetConfig, MethodConfig, NumericsConfig, OptimisationConfig, TrainConfig
from rankmatch.data import store
from rankmatch.data.catalog import Sample, open_dataset, pack_keys
from rankmatch.data.check import check_data
from rankmatch.data.loaders import TrainLoader, val_loader
from rankmatch.data.splits import read_splits
from rankmatch.data.staging import stage
from rankmatch.data.store import Packed, Properties, Store
from rankmatch.execution import ExecutionConfig, TrainerExecution

COLOURS = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
NUM_ROWS = {"decoded": 22, "encoded": 19}
"""Decoded: 9 files and 3 frames of images, 8 files and 2 frames of labels; the volumes are a file each."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of every kind that can be read; the last one, of the unlabeled list, has no label."""
    folder, random = tmp_path / "data", np.random.default_rng(0)
    (folder / "splits" / "few").mkdir(parents=True)
    pixels = random.integers(0, 256, (9, 40, 50, 3), np.uint8)
    pictures = [Image.fromarray(one) for one in pixels]
    pictures[1] = pictures[1].convert("L")
    pictures[2] = Image.fromarray(random.integers(0, 2**16, (40, 50), np.uint16))
    pictures[3] = pictures[3].convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for number, picture in enumerate(pictures):
        if number < 4:
            picture.save(folder / f"{number}.png")
        else:
            picture.save(folder / f"{number}.jpg", exif=exif)
    for number in range(8):
        size = (40, 50) if number < 4 else (50, 40)
        label = Image.fromarray(random.integers(0, 3, size, np.uint8))
        label.putpalette(sum(COLOURS, []))
        label.save(folder / f"{number}_label.png")
    frames = [Image.fromarray(one) for one in pixels[:3]]
    frames[0].save(folder / "v.tif", save_all=True, append_images=frames[1:])
    labels = [Image.fromarray(random.integers(0, 3, (40, 50), np.uint8)) for _ in range(2)]
    labels[0].save(folder / "v_label.tif", save_all=True, append_images=labels[1:])
    names = [f"{n}.png" if n < 4 else f"{n}.jpg" for n in range(9)]
    pairs = [f"{name} {number}_label.png" for number, name in enumerate(names[:8])]
    lists = {
        "few/labeled": [*pairs[:3], "v.tif#0-1 v_label.tif#0-1"],
        "few/unlabeled": [*pairs[3:6], names[8], "v.tif#2"],
        "val": pairs[6:],
    }
    for name, lines in lists.items():
        (folder / "splits" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def config(root: Path, packed: Path | None = None, **execution: object) -> TrainConfig:
    return TrainConfig(
        numerics=NumericsConfig(
            split="few",
            dataset=DatasetConfig(name="few", num_classes=3),
            method=MethodConfig(name="unimatch"),
            augment=AugmentConfig(crop_size=33),
            trainer=OptimisationConfig(labeled_batch_size=2, unlabeled_batch_size=2),
        ),
        execution=ExecutionConfig(
            data_root=str(root), data_store=str(packed or ""), **{"trainer": TrainerExecution()} | execution
        ),
    )


def packed(root: Path, folder: Path, kind: str = "decoded", colours: list[list[int]] | None = None) -> Packed:
    samples = list(read_splits(config(root)))
    return store.pack(folder, root, pack_keys(samples, root), Properties(kind, colours or []))


def batches(config: TrainConfig) -> list[torch.Tensor]:
    splits, dataset = read_splits(config), open_dataset(config)
    loader = TrainLoader(config, splits, dataset)
    steps = [batch for epoch in range(2) for batch in loader.epoch(epoch)]
    tensors = [getattr(batch, part.name) for batch in steps for part in fields(batch)]
    views = [view for pair in val_loader(splits, dataset) for view in pair]
    return [tensor for tensor in [*tensors, *views] if isinstance(tensor, torch.Tensor)]


def same(first: TrainConfig, second: TrainConfig) -> bool:
    return all(torch.equal(one, other) for one, other in zip(batches(first), batches(second), strict=True))


@pytest.mark.parametrize("num_data_workers", [0, 1])
@pytest.mark.parametrize("kind", store.KINDS)
def test_samples_are_the_same_with_and_without_a_store(kind: str, num_data_workers: int, root: Path, tmp_path: Path):
    assert packed(root, tmp_path / "store", kind).num_packed == NUM_ROWS[kind]
    workers = TrainerExecution(num_data_workers=num_data_workers)
    assert same(config(root), config(root, tmp_path / "store", trainer=workers))


def test_fingerprint_is_the_same_with_and_without_a_store(root: Path, tmp_path: Path):
    packed(root, tmp_path / "store")
    plain, stored = check_data(config(root)), check_data(config(root, tmp_path / "store"))
    assert plain == stored
    assert not stored.faults


def test_colours_of_labels_are_read_when_they_are_packed(root: Path, tmp_path: Path):
    values = np.asarray(Image.open(root / "0_label.png"))
    Image.fromarray(np.array(COLOURS, np.uint8)[values]).save(root / "0_label.png")
    key = [("label", "0_label.png")]
    for kind in store.KINDS:
        store.pack(tmp_path / kind, root, key, Properties(kind, COLOURS))
        assert np.array_equal(Store(tmp_path / kind).label("0_label.png")[0], values)
    with pytest.raises(ValueError, match=r"was packed with other dataset.colours; pack into a new folder"):
        open_dataset(config(root, tmp_path / "decoded"))


def test_second_call_packs_what_is_new_or_has_changed(root: Path, tmp_path: Path):
    packed(root, tmp_path / "store")
    again = packed(root, tmp_path / "store")
    assert (again.num_packed, again.num_kept) == (0, 22)
    Image.new("RGB", (50, 40), (1, 2, 3)).save(root / "0.png")
    os.utime(root / "1.png", ns=(0, 0))  # touched, the content is the same
    with pytest.raises(ValueError, match=r"was packed from other files: 1 of 19 have changed since, first 0.png"):
        open_dataset(config(root, tmp_path / "store"))
    assert packed(root, tmp_path / "store").num_packed == 1
    assert same(config(root), config(root, tmp_path / "store"))


def test_files_that_cannot_be_packed_are_listed_and_the_others_are_packed(root: Path, tmp_path: Path):
    (root / "0.png").write_bytes((root / "0.png").read_bytes()[:100])
    (root / "7_label.png").unlink()
    done = packed(root, tmp_path / "store")
    assert done.num_packed == 20
    assert [fault.split(":")[0] for fault in done.faults] == [
        "image 0.png cannot be decoded",
        "label 7_label.png is missing",
    ]


def test_packing_that_is_cut_off_goes_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk is full, as far as the process can tell: a file may not grow beyond some bytes."""
    folder = tmp_path / "store"
    code = (
        "import resource, sys; from pathlib import Path; from rankmatch.data import store\n"
        "store.SHARD_BYTES = 30000\n"
        "from rankmatch.data.store import Properties, pack\n"
        "root, folder = map(Path, sys.argv[1:])\n"
        "keys = [('image', f'{n}.png') for n in range(4)] + [('image', f'{n}.jpg') for n in (4, 5)]\n"
        "pack(folder, root, keys[:5], Properties('decoded', []))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "pack(folder, root, keys, Properties('decoded', []))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, root, folder], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        f"ValueError: {folder} cannot be written: File too large; 0 images and labels were packed and stay, and the "
        "same command resumes"
    )
    assert [path.name for path in sorted(folder.iterdir())] == [".lock", "000000.arrow"]
    (folder / ".000001.arrow.part").write_bytes(b"of a process that was killed")
    again = packed(root, folder)
    assert (again.num_packed, again.num_kept) == (17, 5)
    assert sorted(path.name for path in folder.iterdir())[1:] == ["000000.arrow", "000001.arrow"]


def test_torn_shard_is_refused_and_packed_anew(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 30000)
    packed(root, tmp_path / "store")
    shards = store.shards_of(tmp_path / "store")
    assert len(shards) > 2
    shards[1].write_bytes(shards[1].read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"000001.arrow is damaged .* `rankmatch data pack` packs its images again"):
        open_dataset(config(root, tmp_path / "store"))
    done = packed(root, tmp_path / "store")
    assert len(done.damaged) == 1
    assert 0 < done.num_packed < 22
    assert same(config(root), config(root, tmp_path / "store"))


def test_wrong_byte_is_found_when_it_is_read_and_packed_anew(root: Path, tmp_path: Path):
    packed(root, tmp_path / "store")
    shard = store.shards_of(tmp_path / "store")[0]
    content = bytearray(shard.read_bytes())
    pixels = np.asarray(Image.open(root / "0.png")).tobytes()
    content[content.index(pixels) + 100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"image 0.png is damaged in data_store .*; `rankmatch data pack` packs it"):
        open_dataset(config(root, tmp_path / "store")).image(Sample("0.png", None))
    assert packed(root, tmp_path / "store").num_packed == 1
    assert same(config(root), config(root, tmp_path / "store"))


def test_what_is_not_packed_is_a_fault_before_the_first_job(root: Path, tmp_path: Path):
    store.pack(tmp_path / "store", root, [("image", "0.png")], Properties("decoded", []))
    faults = check_data(config(root, tmp_path / "store")).faults
    assert len(faults) == 12
    assert "label 0_label.png is not in data_store" in faults[0]
    assert faults[0].endswith("`rankmatch data pack` adds it")


def test_folder_without_shards_another_kind_and_a_second_packer_are_refused(root: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"data_store must be a folder that `rankmatch data pack` wrote"):
        open_dataset(config(root, tmp_path))
    packed(root, tmp_path / "store")
    with pytest.raises(ValueError, match=r"belongs to another store .* pack into a new folder"):
        packed(root, tmp_path / "store", "encoded")
    with filelock.FileLock(tmp_path / "store" / ".lock"), pytest.raises(ValueError, match=r"another process packs"):
        packed(root, tmp_path / "store")
    with pytest.raises(ValueError, match=r"data_store must be empty for drawn scenes"):
        TrainConfig(execution=ExecutionConfig(data_store="somewhere"))


def test_store_goes_to_a_process_that_is_not_forked(root: Path, tmp_path: Path):
    packed(root, tmp_path / "store")
    opened = pickle.loads(pickle.dumps(Store(tmp_path / "store")))
    assert np.array_equal(opened.label("0_label.png")[0], np.asarray(Image.open(root / "0_label.png")))


def test_store_is_staged_once_and_anew_when_it_has_changed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packed(root, tmp_path / "store")
    (tmp_path / "node").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "node"))
    folder = stage(tmp_path / "store")
    assert folder.parent == tmp_path / "node"
    copied = (folder / "000000.arrow").stat()
    assert stage(tmp_path / "store") == folder
    assert (folder / "000000.arrow").stat().st_ino == copied.st_ino
    staged = config(root, tmp_path / "store", stage_data_store=True)
    Image.new("RGB", (50, 40), (1, 2, 3)).save(root / "0.png")
    packed(root, tmp_path / "store")
    assert same(config(root), staged)
    assert [path.name for path in sorted(folder.glob("*.arrow"))] == ["000000.arrow", "000001.arrow"]


def test_staged_store_is_closed_to_others_and_goes_to_no_link(root: Path, tmp_path: Path, monkeypatch):
    packed(root, tmp_path / "store")
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = stage(tmp_path / "store")
    assert folder.stat().st_mode & 0o777 == 0o700
    precious = tmp_path / "precious"
    folder.rename(precious)
    (precious / "other.arrow").write_text("mine")
    folder.symlink_to(precious)
    with pytest.raises(ValueError, match="is a link, which somebody else may have made"):
        stage(tmp_path / "store")
    assert (precious / "other.arrow").read_text() == "mine"


def test_processes_of_a_node_stage_one_copy(root: Path, tmp_path: Path):
    packed(root, tmp_path / "store")
    code = "import sys, pathlib; from rankmatch.data.staging import stage; print(stage(pathlib.Path(sys.argv[1])))"
    environment = dict(os.environ, TMPDIR=str(tmp_path), SLURM_TMPDIR="")
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    pipes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {pipe.communicate()[0].strip() for pipe in pipes}
    assert [pipe.returncode for pipe in pipes] == [0, 0, 0]
    assert len(folders) == 1
    assert sorted(path.name for path in Path(folders.pop()).iterdir()) == [".lock", "000000.arrow"]


def test_node_without_room_or_without_a_folder_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packed(root, tmp_path / "store")
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "")
    with pytest.raises(ValueError, match=r"stage_data_store needs SLURM_TMPDIR or TMPDIR"):
        stage(tmp_path / "store")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with (tmp_path / "store" / "000009.arrow").open("wb") as file:
        file.truncate(2**43)  # a hole, larger than any disk
    with pytest.raises(ValueError, match=r"where [0-9.]+ GB are free; stage_data_store=false reads it where it is"):
        stage(tmp_path / "store")
    with pytest.raises(ValueError, match=r"data_store must be given with stage_data_store"):
        replace(config(root).execution, stage_data_store=True)
