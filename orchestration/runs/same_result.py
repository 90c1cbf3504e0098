"""Whether two folders of one cell have the same result: the figures, not how long they took or where."""

from orchestration.runs.run_folder import RunFolder

_FIGURES = (
    "best_miou",
    "best_epoch",
    "best_class_iou",
    "last_miou",
    "last_class_iou",
    "num_present_classes",
    "step",
    "num_steps",
    "epoch",
    "num_epochs",
)


def difference(a: RunFolder, b: RunFolder) -> str:
    """Return in which figures the results of two finished cells differ; empty if in none.

    Raises:
        DamagedFileError: A result cannot be read.
    """
    one, other = a.result() or {}, b.result() or {}
    differing = [name for name in _FIGURES if one.get(name) != other.get(name)]
    return ", ".join(f"{name} {_short(one.get(name))} and {_short(other.get(name))}" for name in differing[:2])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
