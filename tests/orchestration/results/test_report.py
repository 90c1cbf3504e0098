import csv
import json
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev

import finished_grids
import pytest
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids.cells import Cell
from orchestration.results.report import write_report
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.tables.layouts import Layout
from rankmatch.config import MethodConfig, NumericsConfig, TrainConfig

LAYOUT = Layout(["method"], ["split"], ["seed"])


def cell(method: str, seed: int) -> Cell:
    numerics = NumericsConfig(seed=seed, split="1_16", method=MethodConfig(name=method))
    return Cell(TrainConfig(numerics=numerics), {"method": method, "split": "1_16", "seed": str(seed)})


CELLS = [cell(method, seed) for method in ("supervised", "rankmatch") for seed in (0, 1)]
BEST = {"supervised": (0.650, 0.660), "rankmatch": (0.709, 0.715)}

NOTE = "mean ± standard deviation (cells); (1/2): 1 of 2 cells is done; such an entry does not compete for the best "
NOTE += "of its column; difference (1): the mean over the cell that both entries have, which is "
NOTE += "not the difference of the two entries; "
NOTE += "1 pair of cells at most: too few to test a difference; "
NOTE += "ours: resnet50, crop 321, 64 agents, preset paper or authors_code (with trainer.learning_rate_lag=0), "
NOTE += "8 or 8 + 8 images a step, learning rate 0.001, 80 epochs, "
NOTE += "supervised takes as many steps as the other methods, 30."
TABLES = f"""\
## Best epoch

| method | split=1_16 |
| --- | --- |
| supervised | 65.5 ± 0.7 (2) |
| rankmatch | 70.9 (1/2) |
| vs supervised | +5.9 (1) |

mIoU in %, best epoch: {NOTE}

## Last epoch

| method | split=1_16 |
| --- | --- |
| supervised | 50.0 ± 0.0 (2) |
| rankmatch | 50.0 (1/2) |
| vs supervised | +0.0 (1) |

mIoU in %, last epoch: {NOTE}

## Statistics of the best epoch

Means:

| row | column | mean | std | n | 95 % interval of the mean |
| --- | --- | --- | --- | --- | --- |
| supervised | 1_16 | 65.50 | 0.71 | 2 | 59.15 to 71.85 |
| rankmatch | 1_16 | 70.90 | — | 1 | needs 2 cells |

Paired with supervised, in points:

| row | column | effect | pairs | 95 % interval | p (t) | p (Wilcoxon) | p (t, Holm) | says |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| rankmatch | 1_16 | +5.90 | 1 |  |  |  |  | too few pairs to tell (1) |
"""


@pytest.fixture
def grid_dir(tmp_path: Path) -> Path:
    for made in CELLS[:3]:
        folder = RunFolder(tmp_path / "pascal" / "cells" / made.folder_name)
        folder.create("", made.axes)
        best = BEST[made.axes["method"]][int(made.axes["seed"])]
        counts = {"step": 30, "num_steps": 30, "epoch": 3, "num_epochs": 3, "best_epoch": 2, "num_present_classes": 2}
        owner = {"provenance": {"commit": "c0ffee" * 7, "packages": {"torch": "2.14"}}}
        folder.claim(owner).publish({"best_miou": best, "last_miou": 0.5, "duration_s": 5400.0, **counts})
    return tmp_path / "pascal"


def test_report_shows_tables_cells_and_provenance(grid_dir: Path) -> None:
    text = write_report(grid_dir, CELLS, LAYOUT, {"method": "supervised"}).read_text()
    assert text.startswith("# pascal\n\n3 of 4 cells are done, 1 not run.\n\n")
    assert "over seed 0, 1." in text
    assert TABLES in text
    line = (
        f"| {CELLS[0].signature} | supervised | 1_16 | 0 | done | 65.0 | 50.0 | 2 | 3 of 3 | 1 | 1.5 | c0ffeec0ffee |"
    )
    assert line in text
    assert f"| {CELLS[3].signature} | rankmatch | 1_16 | 1 | not run | — | — | — | — | 0 | — | — |" in text
    assert f"- commit: {'c0ffee' * 7} (3)\n- data_fingerprint: not known (3)\n- device: not known (3)\n" in text
    assert "- lock_sha256: not known (3)\n" in text and "- torch: 2.14 (3)\n" in text


@pytest.mark.parametrize(
    ("build", "said"), [("2.14+cu130", "2.14+cu130 (1)"), ("2.14", "2.14 (1)"), ("2.15+cpu", "2.14 (1); 2.15+cpu (1)")]
)
def test_report_names_a_version_once_by_its_build(build: str, said: str, grid_dir: Path) -> None:
    for path in (grid_dir / "cells").glob("*/result.json"):
        if not path.parent.name.startswith(CELLS[0].signature):
            path.unlink()
            continue
        result = json.loads(path.read_text())
        result["provenance"] |= {"torch": build}
        path.write_text(json.dumps(result) + "\n")
    lines = write_report(grid_dir, CELLS[:1], LAYOUT).read_text().splitlines()
    assert [line for line in lines if line.startswith("- torch: ")] == [f"- torch: {said}"]


def test_report_says_why_no_commit_is_known(grid_dir: Path) -> None:
    [folder] = [RunFolder(path) for path in (grid_dir / "cells").iterdir() if path.name.startswith(CELLS[0].signature)]
    result = json.loads((folder.path / "result.json").read_text())
    result["provenance"] = {"commit": "", "commit_unknown": "gone"}
    (folder.path / "result.json").write_text(json.dumps(result) + "\n")
    text = write_report(grid_dir, CELLS, LAYOUT).read_text()
    assert f"- commit: {'c0ffee' * 7} (2); not known: gone (1)\n- commit_unknown: gone (1)\n" in text


def test_report_of_the_same_folders_is_the_same_to_the_byte(grid_dir: Path) -> None:
    files = [write_report(grid_dir, CELLS, LAYOUT).read_bytes() for _ in range(2)]
    assert files[0] == files[1]
    assert sorted(path.name for path in grid_dir.iterdir()) == ["cells", "report.md", "table.csv"]


def test_table_beside_the_report_holds_both_metrics(grid_dir: Path) -> None:
    write_report(grid_dir, CELLS, LAYOUT, {"method": "supervised"})
    lines = (grid_dir / "table.csv").read_text().splitlines()
    assert lines[2] == "best_miou,rankmatch,1_16,70.9000,,1,2,,5.9000,1,,,,,,,common cells,,,,,supervised"
    assert lines[4] == "last_miou,rankmatch,1_16,50.0000,,1,2,,0.0000,1,,,,,,,common cells,,,,,supervised"


def test_report_before_the_first_result_says_so(tmp_path: Path) -> None:
    text = write_report(tmp_path, CELLS, LAYOUT).read_text()
    assert "0 of 4 cells are done, 4 not run." in text
    assert "Nothing is trained yet." in text


def test_command_counts_a_cell_once_that_does_not_read_an_axis_averaged_over(tmp_path: Path) -> None:
    loaded = finished_grids.written(tmp_path, splits="[4]", seeds="[0, 1, 2]\n  method.num_agents: [8, 16]")
    finished_grids.finish(loaded, tmp_path / "made", with_pictures=False)
    (tmp_path / "mine.yaml").write_text("rows: [method]\ncolumns: [split]\n")
    words = ["table", "--grid", "made", "--runs", str(tmp_path), "--layout", str(tmp_path / "mine.yaml")]
    rows = {row["method"]: row for row in csv.DictReader(StringIO(printed(*words, "--format", "csv")))}
    assert [(rows[method]["n"], rows[method]["expected"]) for method in rows] == [("3", "3"), ("3", "3"), ("6", "6")]
    assert [(rows[method]["pairs"], rows[method]["difference_of"]) for method in ("unimatch", "rankmatch")] == [
        ("3", "all cells"), ("3", "all cells")
    ]  # fmt: skip
    best = {method: [] for method in rows}
    for folder in folders(tmp_path / "made").values():
        best[folder.axes()["method"]].append(100 * folder.result()["best_miou"])
    assert float(rows["supervised"]["std_percent"]) == pytest.approx(stdev(best["supervised"]), abs=1e-4)
    gain = fmean(best["rankmatch"]) - fmean(best["supervised"])
    assert float(rows["rankmatch"]["difference_percent"]) == pytest.approx(gain, abs=1e-4)


def printed(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout
