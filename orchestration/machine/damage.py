"""Damaged files: each affects only its own cell, and is reported once."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUM_SHOWN = 3
_told: set[str] = set()


class DamagedFileError(ValueError):
    """A file has the wrong content; the message names it and says what to do."""

    def __init__(self, path: Path | str, why: str, advice: str = "") -> None:
        super().__init__(f"{path} is damaged: {why}" + (f"; {advice}" if advice else ""))


class DamageWarning(UserWarning):
    """Unreadable content was skipped."""


def tell(message: object) -> None:
    """Warn of skipped content, once per process."""
    text = str(message)
    if text not in _told:
        _told.add(text)
        warnings.warn(text, DamageWarning, stacklevel=3)


def tell_of_lines(path: Path | str, numbers: Sequence[int]) -> None:
    """Warn of skipped lines, counted from 1."""
    shown = ", ".join(map(str, numbers[:NUM_SHOWN])) + (" and others" if len(numbers) > NUM_SHOWN else "")
    what = f"line {shown} cannot be read and is" if len(numbers) == 1 else f"lines {shown} cannot be read and are"
    tell(f"{path}: {what} left out ({len(numbers)} in all)")


def show_plainly() -> None:
    """Let a program print such warnings as plain lines, without the place in the code."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **named: Any) -> None:  # noqa: ANN401
        if issubclass(category, DamageWarning):
            sys.stderr.write(f"warning: {message}\n")
        else:
            usual(message, category, *place, **named)

    warnings.showwarning = show
    warnings.simplefilter("always", DamageWarning)
