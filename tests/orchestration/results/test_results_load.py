"""All runs below a root as one table: what is in it, and that its cache is never trusted blindly."""

import csv
import errno
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.bench_results import make_runs
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids.cells import NAMES, Cell, names_in, to_yaml
from orchestration.machine import damage, files
from orchestration.machine.damage import DamageWarning
from orchestration.results import cache, epoch_rows, run_table
from orchestration.runs.folders import RunsFolder
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import MethodConfig, NumericsConfig, TrainConfig

RESULT = {"step": 20, "num_steps": 20, "epoch": 2, "num_epochs": 2, "best_epoch": 2, "num_present_classes": 2}


def row(epoch: int, miou: float | None) -> dict[str, Any]:
    return {"epoch": epoch, "num_epochs": 2, "num_steps": 20, "miou": miou, "best_miou": miou, "class_iou_0": None}


def make(root: Path, grid: str, method: str, seed: int, *, best: float | None = 0.5) -> RunFolder:
    numerics = NumericsConfig(seed=seed, split="1_16", method=MethodConfig(name=method))
    cell = Cell(TrainConfig(numerics=numerics), {"method": method, "seed": str(seed)})
    folder = RunFolder(root / grid / "cells" / cell.folder_name)
    folder.create(to_yaml(cell.config), cell.axes)
    attempt = folder.claim({"provenance": {"commit": "c0ffee"}})
    attempt.event("started", step=0)
    attempt.recorder()(9, row(1, 0.25))
    if best is not None:
        attempt.recorder()(19, row(2, best))
        attempt.publish({**RESULT, "best_miou": best, "last_miou": best, "duration_s": 60.0})
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path, "camvid", "rankmatch", 0)
    make(tmp_path, "camvid", "supervised", 0, best=None)
    make(tmp_path, "deeper/pascal", "rankmatch", 1, best=0.75)
    (tmp_path / "camvid" / "snapshots" / "cells" / "0123456789ab-x").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("times", [1, 2, 3, 9])
def test_row_of_a_run_that_a_file_server_fails_is_whole_or_unreadable_and_never_kept_half(times, root, monkeypatch):
    monkeypatch.setattr(damage, "_told", set())
    read, left = files.read_bytes, [times]

    def failing(path: str) -> bytes:
        if path.endswith("result.json") and "camvid" in path and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error", path)
        return read(path)

    monkeypatch.setattr(files, "read_bytes", failing)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = run_table.load(root).runs.to_pylist()
    hit = next(row for row in first if row["grid"] == "camvid" and row["method"] == "rankmatch")
    is_whole = hit["status"] == "done" and hit["duration_s"] == 60.0 and hit["best_miou"] == 0.5
    assert is_whole or (hit["status"] == "unreadable" and "cannot be read for now" in str(caught[0].message))
    left[0] = 0
    hit = next(row for row in run_table.load(root).runs.to_pylist() if row["run"] == hit["run"])
    assert (hit["status"], hit["duration_s"], hit["best_miou"]) == ("done", 60.0, 0.5)


def command(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the runs whose folders are read from now on."""
    seen: list[str] = []
    read = run_table._row_of
    monkeypatch.setattr(run_table, "_row_of", lambda root, run, *more: (seen.append(run), read(root, run, *more))[1])
    return seen


def test_every_run_of_every_grid_is_a_row(root: Path) -> None:
    found = run_table.load(root, with_epochs=True)
    rows = found.runs.to_pylist()
    assert sorted((r["grid"], r["method"], r["seed"], r["split"]) for r in rows) == [
        ("camvid", "rankmatch", "0", "1_16"),
        ("camvid", "supervised", "0", "1_16"),
        ("pascal", "rankmatch", "1", "1_16"),
    ]
    by_method = {(r["grid"], r["method"]): r for r in rows}
    assert by_method["pascal", "rankmatch"]["best_miou"] == 0.75
    assert (by_method["camvid", "supervised"]["status"], by_method["camvid", "supervised"]["epoch"]) == ("running", 1)
    assert found.epochs is not None and found.epochs.num_rows == 5
    assert found.epochs.schema.field("step").type == pa.int64()
    kept = run_table.epochs_of(found, run_table.select(found.runs, ["grid=pascal"])).to_pylist()
    assert [(r["grid"], r["seed"], r["step"], r["miou"], r["class_iou_0"]) for r in kept] == [
        ("pascal", "1", 9, 0.25, None),
        ("pascal", "1", 19, 0.75, None),
    ]


def test_finished_runs_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_table.load(root, with_epochs=True)
    seen = reads(monkeypatch)
    again = run_table.load(root, with_epochs=True)
    assert len(seen) == 1 and "supervised" in seen[0]  # it still runs
    assert again.runs.equals(first.runs) and again.epochs is not None and first.epochs is not None
    rows = [sorted(map(str, found.to_pylist())) for found in (first.epochs, again.epochs)]
    assert rows[0] == rows[1]
    make(root, "camvid", "fixmatch", 2)
    assert run_table.load(root).runs.num_rows == 4 and len(seen) == 3


def test_result_that_took_anothers_place_is_read_anew(root: Path) -> None:
    run_table.load(root, with_epochs=True)
    (path,) = (root / "camvid").glob("cells/*rankmatch*")
    content = json.loads((path / "result.json").read_text()) | {"best_miou": 0.125}
    (path / "result.json").write_text(json.dumps(content))
    with (path / "attempts" / "1" / "epochs.jsonl").open("ab") as file:
        file.write(b'{"step": 29, "epoch": 3, "miou": 0.125}\n')
    found = run_table.load(root, with_epochs=True)
    assert sorted(x for x in found.runs["best_miou"].to_pylist() if x) == [0.125, 0.75]
    assert found.epochs is not None and found.epochs.num_rows == 6


def test_run_that_was_deleted_is_gone(root: Path) -> None:
    run_table.load(root, with_epochs=True)
    shutil.rmtree(root / "deeper")
    found = run_table.load(root, with_epochs=True)
    assert set(found.runs["grid"].to_pylist()) == {"camvid"}
    assert found.epochs is not None and found.epochs.num_rows == 3


@pytest.mark.parametrize("kind", ["torn", "flipped", "empty", "version", "foreign"])
def test_cache_that_is_damaged_or_of_another_version_is_made_anew(
    kind: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_table.load(root, with_epochs=True)
    for path in RunsFolder(root).cache_dir.glob("*/*.parquet"):
        content = bytearray(path.read_bytes())
        if kind == "version":
            monkeypatch.setattr(cache, "VERSION", 1000)
        elif kind == "foreign":
            pq.write_table(pa.table({"run": ["x"]}), path)
        else:
            content[20] ^= 0xFF
            path.write_bytes({"torn": content[: len(content) // 2], "flipped": content, "empty": b""}[kind])
    seen = reads(monkeypatch)
    after = run_table.load(root, with_epochs=True)
    assert len(seen) == 3 and after.runs.equals(before.runs)
    assert after.epochs is not None and after.epochs.num_rows == 5
    seen.clear()
    run_table.load(root)
    assert len(seen) == 1  # what was damaged was replaced


def test_many_small_files_of_the_cache_are_joined(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_PARTS", 2)
    for seed in range(10, 14):
        make(root, "camvid", "unimatch", seed)
        run_table.load(root, with_epochs=True)
    assert run_table.load(root, with_epochs=True).runs.num_rows == 7
    assert len(list((RunsFolder(root).cache_dir / "epochs").glob("*.parquet"))) <= 2


def test_folder_that_cannot_be_written_is_read_and_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    RunsFolder(root).cache_dir.write_text("in the way")
    assert run_table.load(root, with_epochs=True, say=said.append).runs.num_rows == 3
    assert len(said) == 1 and said[0].startswith("without a cache, which takes longer: ")


def test_rows_are_those_of_the_run_folder_also_after_a_resume(root: Path) -> None:
    (path,) = (root / "camvid").glob("cells/*supervised*")
    folder = RunFolder(path)
    first = folder.attempts()[0]
    first.recorder()(19, row(2, 0.3))
    second = folder.claim({})
    second.event("started", step=15)
    second.recorder()(19, row(2, 0.4))
    with (second.path / "epochs.jsonl").open("ab") as file:
        file.write(b'{"step": 29, "epo')  # torn
    tables = pa.concat_tables(epoch_rows.read(str(root), [(f"camvid/cells/{path.name}", False)], set()))
    wanted = [{name: value for name, value in found.items() if name != "time"} for found in folder.epochs()]
    assert [{k: v for k, v in found.items() if k not in ("run", "time")} for found in tables.to_pylist()] == wanted
    assert [found["miou"] for found in wanted] == [0.25, 0.4]


@pytest.mark.parametrize("line", [b'{"step": 1, "miou": \n', b"nonsense\n", b"[1]\n"])
def test_damaged_row_is_left_out_named_and_never_cached(line: bytes, root: Path) -> None:
    (path,) = (root / "camvid").glob("cells/*rankmatch*")
    rows = path / "attempts" / "1" / "epochs.jsonl"
    whole = rows.read_bytes()
    rows.write_bytes(line + whole)
    with pytest.warns(
        DamageWarning, match=r"rankmatch.*epochs.jsonl: line 1 cannot be read and is left out \(1 in all"
    ):
        found = run_table.load(root, with_epochs=True)
    assert found.epochs is not None and found.epochs.num_rows == 5
    rows.write_bytes(whole.splitlines(keepends=True)[0])  # the same result, other rows
    mended = run_table.load(root, with_epochs=True)
    assert mended.epochs is not None and mended.epochs.num_rows == 4


def test_names_are_those_of_the_whole_configuration() -> None:
    numerics = NumericsConfig(seed=7, split="it's: 1_16", method=MethodConfig(name="fixmatch"))
    assert names_in(to_yaml(TrainConfig(numerics=numerics))) == dict(
        zip(NAMES, (numerics.dataset.name, numerics.backbone.name, "fixmatch", "it's: 1_16", "7"), strict=True)
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["metod=rankmatch"], "did you mean method?"),
        (["best_miou=0.5"], "a filter must be key=value of an axis of the runs; got 'best_miou=0.5'"),
        (["method=rankmatsch"], "method must be one of rankmatch, supervised; got 'rankmatsch'"),
        (["--format", "xlsx", "-o", "x"], "--format must be one of csv, parquet, json; got 'xlsx'"),
        (["--format", "csv"], "--output must name a file"),
        (["-o", "x.csv"], "--format must be one of csv, parquet, json where --output is given"),
        (["--epochs"], "--epochs must go with --format and --output"),
        (["--runs", "nowhere"], "--runs must hold run folders, <grid>/cells/<signature>-...; there is none below"),
    ],
)
def test_bad_words_are_refused(words: list[str], message: str, root: Path) -> None:
    done = command("results", "--runs", root, *words)
    assert isinstance(done.exception, ValueError) and message in str(done.exception)


def test_command_lists_and_exports(root: Path, tmp_path: Path) -> None:
    listed = command("results", "--runs", root)
    assert listed.exit_code == 0, listed.exception
    assert "3 runs; mIoU in %" in listed.stdout and "75.0" in listed.stdout
    files = {kind: tmp_path / "out" / f"runs.{kind}" for kind in run_table.KINDS}
    for kind, path in files.items():
        done = command("results", "method=[rankmatch]", "--runs", root, "--format", kind, "-o", path)
        assert f"2 rows: {path}" in done.stdout
    with files["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["grid"], r["best_miou"]) for r in rows] == [("camvid", "0.5"), ("pascal", "0.75")]
    assert pq.read_table(files["parquet"])["best_miou"].to_pylist() == [0.5, 0.75]
    assert [json.loads(line)["status"] for line in files["json"].read_text().splitlines()] == ["done", "done"]
    command("results", "grid=pascal", "--runs", root, "--epochs", "--format", "csv", "-o", tmp_path / "epochs.csv")
    assert len((tmp_path / "epochs.csv").read_text().splitlines()) == 3


def test_runs_of_the_benchmark_are_read(tmp_path: Path) -> None:
    make_runs(tmp_path, 7, 3)
    found = run_table.load(tmp_path, with_epochs=True)
    assert found.epochs is not None and (found.runs.num_rows, found.epochs.num_rows) == (7, 21)


def test_grid_on_another_disk_is_read_through_its_link_and_none_twice(tmp_path: Path) -> None:
    root, disk = tmp_path / "runs", tmp_path / "disk"
    make(disk, "far", "supervised", 0)
    make(root, "near", "supervised", 1)
    for grid in (disk / "far", root / "near"):
        (grid / "grid.yaml").write_text("")
    (root / "far").symlink_to(disk / "far")
    (root / "latest").symlink_to(root / "near")
    (root / "elsewhere").symlink_to(tmp_path)  # no grid's folder: what lies there is not this root's
    (root / "loop").symlink_to(root / "loop")
    make(disk, "cells_of", "supervised", 2)
    (root / "half").mkdir()
    (root / "half" / "grid.yaml").write_text("")
    (root / "half" / "cells").symlink_to(disk / "cells_of" / "cells")
    assert run_table.load(root).runs["grid"].to_pylist() == ["far", "half", "near"]
