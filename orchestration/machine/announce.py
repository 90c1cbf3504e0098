"""Report what a command is doing: on a terminal by a temporary line, in a file or a pipe by a few plain lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

LINE_S = 60.0
"""Seconds between two lines about the same activity, in files and pipes."""
Update = Callable[[str], None]


@contextmanager
def doing(console: Console, what: str) -> Iterator[Update]:
    """Report an activity while it lasts; the yielded function reports its progress."""
    if console.is_terminal:
        with console.status(what) as status:
            yield status.update
        return
    say(console, what)
    said = time.monotonic()

    def update(text: str) -> None:
        nonlocal said
        if time.monotonic() - said >= LINE_S:
            said = time.monotonic()
            say(console, text)

    yield update


def begin(console: Console, what: str) -> None:
    """Report the start of an activity in a file or pipe, where nothing else appears for a while."""
    if not console.is_terminal:
        say(console, what)


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
