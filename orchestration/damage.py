"""Files that cannot be read as what they should hold: one harms its own cell only, and its name is told once."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUM_SHOWN = 3
_told: set[str] = set()


class DamagedFileError(ValueError):
    """A file does not hold what it should; the message names it and says what to do."""

    def __init__(self, path: Path | str, why: str, advice: str = "") -> None:
        super().__init__(f"{path} is damaged: {why}" + (f"; {advice}" if advice else ""))


class DamageWarning(UserWarning):
    """Something was passed over that cannot be read."""


def tell(message: object) -> None:
    """Warn of something that was passed over, in this process once."""
    text = str(message)
    if text not in _told:
        _told.add(text)
        warnings.warn(text, DamageWarning, stacklevel=3)


def tell_of_lines(path: Path | str, numbers: Sequence[int]) -> None:
    """Warn of lines, counted from 1, that are left out."""
    shown = ", ".join(map(str, numbers[:NUM_SHOWN])) + (" and others" if len(numbers) > NUM_SHOWN else "")
    what = f"line {shown} cannot be read and is" if len(numbers) == 1 else f"lines {shown} cannot be read and are"
    tell(f"{path}: {what} left out ({len(numbers)} in all)")


def show_plainly() -> None:
    """Have a program print such warnings as lines of its own, without the place in the code."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **named: Any) -> None:  # noqa: ANN401
        if issubclass(category, DamageWarning):
            sys.stderr.write(f"warning: {message}\n")
        else:
            usual(message, category, *place, **named)

    warnings.showwarning = show
    warnings.simplefilter("always", DamageWarning)
