"""The parts of pages that are read from the code at each build, by the names that pages give them."""

import re
from collections.abc import Callable
from pathlib import Path

from from_code import commands, failures, library, messages, settings

ROOT = Path(__file__).resolve().parents[3]
PARTS: dict[str, Callable[[], str]] = {
    "settings": settings.as_markdown,
    "commands": commands.as_markdown,
    "failures": failures.as_markdown,
    "library": library.as_markdown,
    "messages": lambda: messages.as_markdown(ROOT),
}
_PLACE = re.compile(r"^<!-- from the code: (\w+) -->$", re.M)


def filled(page: str) -> str:
    """Return a page with each `<!-- from the code: NAME -->` replaced.

    Raises:
        KeyError: There is no such part.
    """
    return _PLACE.sub(lambda place: PARTS[place[1]](), page)
