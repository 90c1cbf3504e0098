"""What histories came to, together: how many there were, and for each fault how often it befell them and what broke."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from simulation.history import KINDS, Outcome

SIMULATED = "simulated"
"""The property of a test with what its histories came to."""
NUM_WITH_EVERY_FAULT = 500
"""So many histories surely have every kind of fault."""


@dataclass
class Tally:
    """Sums over histories."""

    num_histories: int = 0
    num_events: int = 0
    num_broken: int = 0
    num_lost: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    """How often each fault happened."""
    met: Counter[str] = field(default_factory=Counter)
    """How many histories had it."""
    broken: Counter[str] = field(default_factory=Counter)
    """In how many of them something did not hold, whatever it was of."""
    lost: Counter[str] = field(default_factory=Counter)
    """In how many of them a cell was forgotten."""

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Self:
        found = cls()
        for outcome in outcomes:
            found.add(outcome)
        return found

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """Take it from what a worker of pytest sent."""
        return cls(**{name: Counter(value) if isinstance(value, dict) else value for name, value in row.items()})

    def to_json(self) -> dict[str, Any]:
        return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(self).items()}

    def add(self, outcome: Outcome) -> None:
        is_broken, is_lost = bool(outcome.broken), outcome.is_lost
        self.num_histories += 1
        self.num_events += outcome.num_events
        self.num_broken += is_broken
        self.num_lost += is_lost
        self.injected.update(outcome.faults)
        for counts, counted in ((self.met, True), (self.broken, is_broken), (self.lost, is_lost)):
            counts.update(dict.fromkeys(outcome.faults, int(counted)))

    def __iadd__(self, other: Self) -> Self:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def lacking(self) -> list[str]:
        """Return the faults that never happened although there were histories enough."""
        return sorted(KINDS - self.injected.keys()) if self.num_histories >= NUM_WITH_EVERY_FAULT else []

    def lines(self) -> list[str]:
        """Return the table; a history with several faults counts in the row of each."""
        rows = [
            (kind, num, self.met[kind], self.broken[kind], self.lost[kind])
            for kind, num in sorted(self.injected.items(), key=lambda one: -one[1])
        ]
        return [
            f"{self.num_histories:,} histories, {self.num_events:,} events, {self.injected.total():,} faults: "
            f"{self.num_broken:,} histories broken, {self.num_lost:,} of them with a cell that was forgotten",
            f"{'fault':<36}{'injected':>9}{'histories':>11}{'broken':>8}{'lost':>6}",
            *(f"{kind:<36}{num:>9,}{met:>11,}{broken:>8,}{lost:>6,}" for kind, num, met, broken, lost in rows),
        ]
