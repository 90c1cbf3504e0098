"""The recorded numbers beside those of the repeated training; pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NUM_SHOWN = 3
RESULT = ("step", "best_epoch", "best_miou", "last_miou", "best_class_iou", "last_class_iou")
Row = Mapping[str, Any]


def due(losses: Sequence[Row], num_steps: int | None) -> Sequence[Row]:
    """Return the recorded rows of the first steps; None: of all.

    Raises:
        ValueError: None of these steps has a recorded loss.
    """
    found = [row for row in losses if num_steps is None or row["step"] < num_steps]
    if not found:
        raise ValueError(
            f"--steps must reach the first recorded loss, at step {losses[0]['step']}: at least "
            f"{losses[0]['step'] + 1}; got {num_steps}"
        )
    return found


def of_losses(recorded: Sequence[Row], again: Sequence[Row], tolerance: float = 0.0) -> Iterator[str]:
    """Yield where the losses first differ and by how much, and which steps are missing."""
    now = {row["step"]: row for row in again}
    missing = [row["step"] for row in recorded if row["step"] not in now]
    pairs = [(row, now[row["step"]]) for row in recorded if row["step"] in now]
    differing = [pair for pair in pairs if not _is_near(pair[0]["loss"], pair[1].get("loss"), tolerance)]
    if differing:
        then, here = differing[0]
        terms = [name for name in then if name.startswith("loss_")]
        more = [
            f"{name} {_text(here.get(name))} for {_text(then[name])}"
            for name in terms
            if not _is_near(then[name], here.get(name), tolerance)
        ]
        listed = f" ({', '.join(more)})" if more else ""
        yield (
            f"DIFFERS  loss at step {then['step']}, the first of {len(differing)} of {len(pairs)} compared: "
            f"{_text(here.get('loss'))} here, {_text(then['loss'])} recorded, {_by(then['loss'], here.get('loss'))}"
            f"{listed}"
        )
    if missing:
        yield f"DIFFERS  {len(missing)} recorded losses were not repeated, the first at step {missing[0]}"


def of_results(recorded: Row, again: Row, tolerance: float = 0.0) -> Iterator[str]:
    """Yield the figures of the result that differ."""
    for name in RESULT:
        then, here = recorded.get(name), again.get(name)
        if isinstance(then, list) and isinstance(here, list) and len(then) == len(here):
            places = [
                place for place, pair in enumerate(zip(then, here, strict=True)) if not _is_near(*pair, tolerance)
            ]
            if places:
                place = places[0]
                yield (
                    f"DIFFERS  {name} of {len(places)} of {len(then)} classes; of class {place} "
                    f"{_text(here[place])} here, {_text(then[place])} recorded"
                )
        elif then is not None and not _is_near(then, here, tolerance):
            yield f"DIFFERS  {name}: {_text(here)} here, {_text(then)} recorded"


def _is_near(then: Any, here: Any, tolerance: float) -> bool:  # noqa: ANN401 (what a file held)
    if then == here or (_is_nan(then) and _is_nan(here)):
        return True
    if not isinstance(then, int | float) or not isinstance(here, int | float):
        return False
    return abs(then - here) <= tolerance * max(abs(then), abs(here))


def _is_nan(value: Any) -> bool:  # noqa: ANN401 (what a file held)
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: object) -> str:
    return f"{value:.9g}" if isinstance(value, float) else "none" if value is None else str(value)


def _by(then: Any, here: Any) -> str:  # noqa: ANN401 (what a file held)
    if not isinstance(then, float) or not isinstance(here, float):
        return "which cannot be compared"
    largest = max(abs(then), abs(here))
    share = f", {abs(here - then) / largest:.2g} of it" if largest and math.isfinite(largest) else ""
    return f"by {abs(here - then):.3g}{share}"
