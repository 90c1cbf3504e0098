"""Run folders -> one Arrow table with a row for each cell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestration.cells import Cell
from orchestration.run_folder import RunFolder, folders

FIELDS = {
    "status": pa.string(),
    "best_miou": pa.float64(),
    "best_epoch": pa.int64(),
    "last_miou": pa.float64(),
    "epoch": pa.int64(),
    "num_epochs": pa.int64(),
    "step": pa.int64(),
    "num_steps": pa.int64(),
    "best_class_iou": pa.list_(pa.float64()),
    "last_class_iou": pa.list_(pa.float64()),
    "num_present_classes": pa.int64(),
    "num_attempts": pa.int64(),
    "duration_s": pa.float64(),
    "commit": pa.string(),
    "split_sha256": pa.string(),
    "data_fingerprint": pa.string(),
    "host": pa.string(),
    "failure": pa.string(),
    "folder": pa.string(),
}
"""Columns after `signature` and the axes; what only a finished training has is null before."""

_OF_RESULT = (
    "best_miou",
    "best_epoch",
    "last_miou",
    "best_class_iou",
    "last_class_iou",
    "num_present_classes",
    "duration_s",
)
_OF_STATE = ("status", "epoch", "num_epochs", "step", "num_steps", "num_attempts", "commit", "failure")


def collect(grid_dir: Path, cells: Sequence[Cell]) -> pa.Table:
    """Read the cells' run folders: a row for each, with its axes as text and fractions for mIoU and IoU."""
    axes = list(dict.fromkeys(key for cell in cells for key in cell.axes))
    found = folders(grid_dir)
    rows = [_row(cell, found.get(cell.signature, RunFolder(grid_dir / "cells" / cell.folder_name))) for cell in cells]
    # An axis may be named as a field is; the axis wins.
    fields = {"signature": pa.string(), **FIELDS, **dict.fromkeys(axes, pa.string())}
    order = ["signature", *axes, *(name for name in FIELDS if name not in axes)]
    return pa.Table.from_pylist(rows, pa.schema([(name, fields[name]) for name in order]))


def _row(cell: Cell, folder: RunFolder) -> dict[str, Any]:
    state, result = folder.state(), folder.result() or {}
    return {
        "signature": cell.signature,
        **{name: getattr(state, name) for name in _OF_STATE},
        **{name: result.get(name) for name in _OF_RESULT},
        **{name: state.provenance.get(name) for name in ("split_sha256", "data_fingerprint", "host")},
        "folder": folder.path.name,
        **cell.axes,
    }
