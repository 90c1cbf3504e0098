"""Grids that look as if they had been trained: run folders with results, epochs, failures and pictures, in no time."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from dashboards.gathered import Gathered, gather
from orchestration.grids import grid
from orchestration.grids.cells import to_yaml
from orchestration.grids.grid import Grid
from orchestration.runs.run_folder import RunFolder

NUM_CLASSES = 6
FILE = """\
set:
  dataset: synthetic
  backbone: mobilenet_v2
  backbone.pretrained: false
  backbone.width: 0.25
  method.supervised_steps: equal
  trainer.epochs: 7
axes:
  method: [supervised, unimatch, rankmatch]
  split: {splits}
  seed: {seeds}
baseline: {{method: supervised}}
table:
  rows: [method]
  columns: [split]
  over: [seed]
{more}
"""
LEVEL = {"supervised": 0.55, "unimatch": 0.64, "rankmatch": 0.68}


def written(runs: Path, name: str = "made", splits: str = "[4, 8]", seeds: str = "[0, 1]", more: str = "") -> Grid:
    """Write a grid's file into a runs folder, and nothing of its cells."""
    (runs / name / "launches").mkdir(parents=True)
    given = runs / f"{name}.yaml"
    given.write_text(FILE.format(splits=splits, seeds=seeds, more=more), encoding="utf-8")
    loaded = grid.load(str(given))
    (runs / name / "grid.yaml").write_text(loaded.text, encoding="utf-8")
    return loaded


def finish(loaded: Grid, grid_dir: Path, cells=None, epochs: int = 7, with_pictures: bool = True) -> None:
    """Give cells a result, as a training would leave it."""
    for number, cell in enumerate(loaded.cells if cells is None else cells):
        folder = RunFolder(grid_dir / "cells" / cell.folder_name)
        folder.create(to_yaml(cell.config), cell.axes)
        owner = {"commit": "c0ffee" * 7, "provenance": {"commit": "c0ffee" * 7, "device": "a GPU", "host": "node1"}}
        attempt = folder.claim(owner)
        attempt.event("started", step=0, host="node1")
        rows = [epoch_row(cell, number, epoch, epochs) for epoch in range(1, epochs + 1)]
        (attempt.path / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if with_pictures:
            noise = np.random.default_rng(number).integers(0, 255, (60, 90, 3), np.uint8)
            Image.fromarray(noise).save(attempt.path / "samples.png")
            _draw(attempt.path / "pictures", noise, cell)
        (attempt.path / "evaluation.json").write_text(json.dumps(_counts(number)))
        best = max(rows, key=lambda row: row["miou"])
        classes = [min(0.99, best["miou"] + 0.03 * (place - 2)) for place in range(NUM_CLASSES)]
        counts = {"step": 10 * epochs, "num_steps": 10 * epochs, "epoch": epochs, "num_epochs": epochs}
        attempt.publish(
            {"best_miou": best["miou"], "best_epoch": best["epoch"], "last_miou": rows[-1]["miou"], **counts,
             "best_class_iou": classes, "last_class_iou": classes, "num_present_classes": NUM_CLASSES,
             "duration_s": 3600.0, "gpu_duration_s": 7200.0}
        )  # fmt: skip


def imagined(loaded: Grid, grid_dir: Path, epochs: int) -> Gathered:
    """Return what the folders of a finished grid would say, without them: thousands take a minute to write."""
    found, rows, lines = gather(loaded, grid_dir), [], []
    for number, (cell, run) in enumerate(zip(loaded.cells, found.runs.to_pylist(), strict=True)):
        of_cell = [epoch_row(cell, number, epoch, epochs) for epoch in range(1, epochs + 1)]
        lines += [{"run": run["folder"], **row} for row in of_cell]
        best = of_cell[-1]["miou"]
        rows.append({**run, "status": "done", "best_miou": best, "last_miou": best, "best_class_iou": [best] * 21,
                     "epoch": epochs, "num_epochs": epochs, "num_steps": 10 * epochs,
                     "num_attempts": 1, "commit": "c0ffee" * 7})  # fmt: skip
    names = dict.fromkeys(name for line in lines for name in line)
    table = pa.table({name: [line.get(name) for line in lines] for name in names})
    runs = pa.Table.from_pylist(rows, schema=found.runs.schema)
    return replace(found, runs=runs, points=runs, epochs=table)


def fail(loaded: Grid, grid_dir: Path, number: int, message: str, tail: str) -> None:
    """Let two attempts at a cell fail, the second for good."""
    cell = loaded.cells[number]
    folder = RunFolder(grid_dir / "cells" / cell.folder_name)
    folder.create(to_yaml(cell.config), cell.axes)
    for kind in ("node failure", "out of memory"):
        attempt = folder.claim({"commit": "c0ffee" * 7})
        attempt.event("started", step=0, host="node1")
        attempt.event("failed", kind=kind, error="RuntimeError", message=message, traceback="", log_tail=tail)


def _counts(number: int) -> dict:
    confusion = [[90 if true == predicted else 2 for predicted in range(NUM_CLASSES)] for true in range(NUM_CLASSES)]
    confusion[1][2] += 100 + number
    calibration = [[place, 2 * place] for place in range(20)]
    return {"schema": 1, "epoch": 3, "confusion": confusion, "calibration": calibration}


def _draw(folder: Path, noise: np.ndarray, cell) -> None:
    """Leave the pictures that a training does: the same two images in all runs of a seed."""
    folder.mkdir()
    images = []
    for number in range(2):
        files = {kind: f"{number}-{kind}.png" for kind in ("image", "label", "prediction", "difference")}
        for kind, name in files.items():
            same = np.full((40, 60, 3), 90 * number + 10 * int(cell.axes["seed"]) % 100, np.uint8)
            Image.fromarray(same if kind in ("image", "label") else noise[:40, :60]).save(folder / name)
        images.append({"name": f"{number}.png", "place": number, **files, "classes": [0, 2, 255], "right": 0.75})
    index = {"schema": 1, "of": "best epoch", "images": images}
    if cell.axes["method"] == "rankmatch":
        for name in ("agents.jpg", "strong.jpg", "one.png"):
            Image.fromarray(noise).save(folder / name)
        index["ranks"] = {
            "name": "0.png", "agents": "agents.jpg", "strong": "strong.jpg", "num_agents": 16,
            "maps": [{"rank": 1, "teacher": "one.png", "student": "one.png"}],
            "top": [{"teacher_rank": 1, "student_rank": 3, "teacher": 0.75, "student": 0.125}],
        }  # fmt: skip
    (folder / "pictures.json").write_text(json.dumps(index))


def epoch_row(cell, number: int, epoch: int, epochs: int) -> dict:
    draws = random.Random(100 * number + epoch)
    method = cell.axes["method"]
    miou = LEVEL[method] * (1 - 0.6 ** (epoch + 1)) + draws.uniform(-0.02, 0.02)
    row = {"step": 10 * epoch - 1, "time": 1e9 + epoch, "epoch": epoch, "num_epochs": epochs, "num_steps": 10 * epochs,
           "loss": 1 / epoch, "loss_x": 0.5 / epoch, "learning_rate": 0.1, "miou": miou, "best_miou": miou,
           "duration_s": 1.0, "evaluation_s": 0.1}  # fmt: skip
    if method != "supervised":
        row |= {"mask_ratio": 0.1 * min(epoch, 9), "pseudo_label_accuracy": 0.8}
    if method == "rankmatch":
        row |= {"zero_agent_share": 0.01 * epoch}
    return row
