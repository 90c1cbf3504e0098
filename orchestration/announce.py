"""What a command is at: on a terminal a line that comes and goes, in a file or a pipe plain lines, few of them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

LINE_S = 60.0
"""Seconds between two lines about the same thing, where they stay."""
Update = Callable[[str], None]


@contextmanager
def doing(console: Console, what: str) -> Iterator[Update]:
    """Say what is done while it is; the function that is given says how far it is."""
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
    """Say what is begun where nothing else will be seen for a while: not on a terminal, which shows what is done."""
    if not console.is_terminal:
        say(console, what)


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
