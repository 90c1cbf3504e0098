"""Report classes of the validation labels that a run does not learn to predict, while there is time to act."""

from collections.abc import Mapping, Sequence
from typing import Any

MAX_IOU = 0.01
"""Below this IoU a class counts as almost never predicted."""
SHARE = 1 / 3
"""Share of the epochs before which nothing is reported."""
MIN_EPOCHS = 3
"""Minimum number of epochs for a run that should learn every class; shorter ones are trials."""
MAX_NAMED = 5
ADVICE = (
    "look at its labeled pixels (`rankmatch data check`), dataset.label_map and samples.png of the attempt, then at "
    "trainer.learning_rate, trainer.epochs and method.confidence_threshold, which may keep it out of the pseudo-labels"
)
_COLUMN = "class_iou_"


def of_row(row: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the classes that are almost never predicted, by an epoch's row; none in the first third of the run."""
    ious = {int(name.removeprefix(_COLUMN)): value for name, value in row.items() if name.startswith(_COLUMN)}
    return _low(ious, row.get("epoch"), row.get("num_epochs"))


def of_result(result: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the classes almost never predicted in the last epoch of a finished run."""
    ious = dict(enumerate(result.get("last_class_iou") or ()))
    return _low(ious, result.get("epoch"), result.get("num_epochs"))


def _low(ious: Mapping[int, float | None], epoch: float | None, num_epochs: float | None) -> tuple[int, ...]:
    if not epoch or not num_epochs or num_epochs < MIN_EPOCHS or epoch < SHARE * num_epochs:
        return ()
    return tuple(sorted(number for number, iou in ious.items() if iou is not None and iou < MAX_IOU))


def in_words(classes: Sequence[int], names: Sequence[str] = ()) -> str:
    """Describe such classes in a sentence."""
    named = [f"{names[number]!r}" if number < len(names) else str(number) for number in classes[:MAX_NAMED]]
    more = f" and {len(classes) - MAX_NAMED} others" if len(classes) > MAX_NAMED else ""
    kind = "class" if len(classes) == 1 else "classes"
    where = "where it is" if len(classes) == 1 else "where they are"
    return f"almost never predicts {kind} {', '.join(named)}{more} {where} (IoU below {100 * MAX_IOU:.0f} %)"
