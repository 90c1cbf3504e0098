"""JSON as other programs can take it: without NaN and infinities, and its text without half characters."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")
"""Surrogates, by which Python holds the bytes of names that are not UTF-8; no file, page or table takes them."""


def parse(content: str | bytes) -> Any:  # noqa: ANN401 (a JSON value)
    """Read JSON; NaN and infinities become null.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content, parse_constant=lambda word: None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_legible(content: bytes) -> Any:  # noqa: ANN401 (a JSON value)
    r"""Read JSON like `parse`, and make its texts legible; not for paths, which would then lead elsewhere.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    found = parse(content)
    if rb"\ud" not in content and rb"\uD" not in content:
        return found
    try:
        return legible(found)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def legible(value: Any) -> Any:  # noqa: ANN401 (a JSON value)
    """Return a value with a replacement character for each half of a character in its texts."""
    if isinstance(value, str):
        return legible_text(value)
    if isinstance(value, Mapping):
        return {legible(key): legible(inner) for key, inner in value.items()}
    return [legible(inner) for inner in value] if isinstance(value, list | tuple) else value


def legible_text(text: str) -> str:
    """Return a text with a replacement character for each half of a character."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def finite(value: Any) -> Any:  # noqa: ANN401 (a JSON value)
    """Return a value with null for NaN and infinities, because JSON lacks them."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
