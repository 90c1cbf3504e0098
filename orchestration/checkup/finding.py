"""What a check of one thing has found."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    GOOD = "good"
    NOTE = "note"
    """Works, and is worth knowing."""
    FAULT = "FAULT"
    """A launch fails, or comes to harm."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor; for a fault also what it breaks and what fixes it."""

    verdict: Verdict
    subject: str
    text: str
    breaks: str = ""
    mend: str = ""

    def lines(self) -> Iterator[str]:
        """Yield it for the terminal."""
        yield f"{self.verdict.value:6} {self.subject}: {self.text}"
        if self.breaks:
            yield f"       breaks: {self.breaks}"
        if self.mend:
            yield f"       fix:    {self.mend}"


def good(subject: str, text: str) -> Finding:
    """Report that a thing is as it should be."""
    return Finding(Verdict.GOOD, subject, text)


def note(subject: str, text: str, mend: str = "") -> Finding:
    """Report what works differently than many expect."""
    return Finding(Verdict.NOTE, subject, text, mend=mend)


def fault(subject: str, text: str, breaks: str, mend: str) -> Finding:
    """Report what keeps a launch from working."""
    return Finding(Verdict.FAULT, subject, text, breaks, mend)


Look = Callable[[], Iterable[Finding]]


def findings_of(subject: str, look: Look) -> Iterator[Finding]:
    """Yield the findings of a check; a check that fails is a fault itself and keeps no other from running."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 (whatever is broken here is what the doctor is asked for)
        reason = " ".join(str(error).split()) or type(error).__name__
        yield fault(
            subject,
            f"the look at it failed: {type(error).__name__}: {reason}",
            "nothing is known of it",
            "see the reason",
        )
