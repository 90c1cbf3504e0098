"""Format an epoch's row as a line of text, for the log of a cell and its readers."""

from collections.abc import Mapping
from typing import Any


def epoch_line(row: Mapping[str, Any]) -> str:
    """Format `epoch 3/12  step 48/192  mIoU 15.8 (best 21.0)  loss 0.93  2.1 s`, without fields missing in the row."""
    parts = [
        f"epoch {_of(row['epoch'], row.get('num_epochs'))}",
        f"step {_of(row['step'] + 1, row.get('num_steps'))}",
        f"mIoU {_percent(row.get('miou'))} (best {_percent(row.get('best_miou'))})",
        *([f"loss {row['loss']:.4g}"] if row.get("loss") is not None else []),
        *([f"{row['duration_s'] + (row.get('evaluation_s') or 0.0):.1f} s"] if row.get("duration_s") else []),
    ]
    return "  ".join(parts)


def _of(count: float, total: float | None) -> str:
    return f"{count:.0f}" if total is None else f"{count:.0f}/{total:.0f}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
