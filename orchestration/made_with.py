"""What a cell was made with, by all of its attempts: the last one, which publishes the result, may be the least."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestration.attempt import Attempt
from orchestration.recorder import Row

ATTEMPTS = "attempts"
"""The field of a result's provenance that lists the attempts; results of earlier versions have none."""
COMMIT, CHANGE = "commit", "difference_sha256"
_KEPT = (
    COMMIT,
    "commit_unknown",
    "dirty",
    CHANGE,
    "lock_sha256",
    "python",
    "split_sha256",
    "data_fingerprint",
    "host",
    "device",
    "num_gpus",
    "driver",
    "torch",
    "cuda",
    "cudnn",
    "precision",
    "matmul_precision",
    "world_size",
    "num_threads",
    "numerics",
)
"""What is kept of each attempt, as far as known: all that may change a number."""


def of_attempts(found: Sequence[tuple[Attempt, float]]) -> list[Row]:
    """Describe the attempts whose steps count; each comes with the step at which a later one repeats it."""
    rows = []
    for attempt, limit in found:
        first = attempt.first_step()
        if first is not None and first < limit:
            known = _known(attempt)
            kept = {name: known[name] for name in _KEPT if known.get(name) not in (None, "")}
            rows.append({"attempt": attempt.number, "first_step": first, **kept})
    return rows


def values(provenance: Mapping[str, Any], name: str) -> list[str]:
    """Return what a field was in the attempts of a cell, each value once, in the order of the attempts."""
    attempts = provenance.get(ATTEMPTS) or [provenance]
    return list(dict.fromkeys(_text(attempt, name) for attempt in attempts))


def code(provenance: Mapping[str, Any]) -> list[str]:
    """Name the code of the attempts: the commit, and the hash of what was not committed."""
    attempts = provenance.get(ATTEMPTS) or [provenance]
    return list(dict.fromkeys("+".join(filter(None, (_text(one, COMMIT), _text(one, CHANGE)))) for one in attempts))


def flat(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values in words, several values side by side; the parts of a mapping under their own names.

    A version of a package is left out where the same package says more of it, as torch names its build.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            pairs += [(part, text) for part, text in flat(value) if not _is_build_of(provenance.get(part), text)]
        elif name != ATTEMPTS:
            listed = [one for one in provenance.get(ATTEMPTS, ()) if name in one]
            pairs.append((name, ", ".join(values(provenance, name)) if listed else str(value)))
    return pairs


def _is_build_of(told: object, version: str) -> bool:
    return str(told).partition("+")[0] == version


def device_kind(provenance: Mapping[str, Any]) -> str:
    """Return `cuda` or `cpu` where all attempts of a cell had such devices; empty where they differ or nobody knows."""
    kinds = {"cuda" if float(count) else "cpu" for count in values(provenance, "num_gpus") if count}
    return kinds.pop() if len(kinds) == 1 else ""


def _known(attempt: Attempt) -> Row:
    owner = attempt.known_owner()
    started: Row = next((event for event in attempt.events() if event["event"] == "started"), {})
    return {COMMIT: owner.get(COMMIT, ""), **owner.get("provenance", {}), **attempt.environment(), **started}


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return "" if value is None else str(value)
