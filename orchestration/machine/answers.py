"""What a command answers to scripts and agents: one JSON document on stdout, and nothing else there."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestration.machine.json_values import finite, legible

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA = 1
"""Raised when a field changes its meaning or goes; a field may be added without it."""


def write(answer: "DataclassInstance") -> None:
    """Print an answer; NaN and infinities become null, half characters whole ones."""
    content: Any = finite(legible(asdict(answer)))
    sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")
