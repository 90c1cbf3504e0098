"""A cell's provenance over all its attempts: the last one, which publishes the result, may have trained the least."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestration.machine.image import DIGEST, IMAGE, UNKNOWN
from orchestration.runs.attempt import Attempt
from orchestration.runs.recorder import Row

ATTEMPTS = "attempts"
"""The field of a result's provenance that lists the attempts; results of earlier versions have none."""
COMMIT, CHANGE = "commit", "difference_sha256"
_KEPT = (
    COMMIT,
    "commit_unknown",
    "dirty",
    CHANGE,
    "lock_sha256",
    IMAGE,
    DIGEST,
    UNKNOWN,
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
"""What is kept of each attempt, as far as known: everything that can change a number."""


def of_attempts(found: Sequence[tuple[Attempt, float]]) -> list[Row]:
    """Describe the attempts whose steps count; each is given with the step from which a later one repeats it."""
    rows = []
    for attempt, limit in found:
        first = attempt.first_step()
        if first is not None and first < limit:
            made = known(attempt)
            kept = {name: made[name] for name in _KEPT if made.get(name) not in (None, "")}
            rows.append({"attempt": attempt.number, "first_step": first, **kept})
    return rows


def values(provenance: Mapping[str, Any], name: str) -> list[str]:
    """Return a field's values over the attempts of a cell, each once, in the order of the attempts."""
    attempts = provenance.get(ATTEMPTS) or [provenance]
    return list(dict.fromkeys(_text(attempt, name) for attempt in attempts))


def code(provenance: Mapping[str, Any]) -> list[str]:
    """Name the code of the attempts: the commit, and the hash of uncommitted changes."""
    attempts = provenance.get(ATTEMPTS) or [provenance]
    return list(dict.fromkeys("+".join(filter(None, (_text(one, COMMIT), _text(one, CHANGE)))) for one in attempts))


def images(provenance: Mapping[str, Any]) -> list[str]:
    """Name the container images of the attempts, by digest if known.

    An attempt of an earlier version recorded none, and one submitted from where the file cannot be seen recorded its
    path alone: neither says that it trained in another image.
    """
    attempts = provenance.get(ATTEMPTS) or [provenance]
    named = (_text(one, DIGEST) or _text(one, IMAGE) for one in attempts if not _text(one, UNKNOWN))
    return list(dict.fromkeys(filter(None, named)))


def flat(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values in words, several values side by side; mappings are flattened.

    A package's version is left out if a more detailed one is recorded, such as torch with its build.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            pairs += [(part, text) for part, text in flat(value) if not _is_build_of(provenance.get(part), text)]
        elif name != ATTEMPTS:
            listed = [one for one in provenance.get(ATTEMPTS, ()) if name in one]
            pairs.append((name, ", ".join(filter(None, values(provenance, name))) if listed else str(value)))
    return pairs


def _is_build_of(told: object, version: str) -> bool:
    return str(told).partition("+")[0] == version


def device_kind(provenance: Mapping[str, Any]) -> str:
    """Return `cuda` or `cpu` if all attempts of a cell had such devices; empty if they differ or are unknown."""
    kinds = {"cuda" if float(count) else "cpu" for count in values(provenance, "num_gpus") if count}
    return kinds.pop() if len(kinds) == 1 else ""


def known(attempt: Attempt) -> Row:
    """Return everything that is recorded of how an attempt was made."""
    owner = attempt.known_owner()
    started: Row = next((event for event in attempt.events() if event["event"] == "started"), {})
    return {COMMIT: owner.get(COMMIT, ""), **owner.get("provenance", {}), **attempt.environment(), **started}


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return "" if value is None else str(value)
