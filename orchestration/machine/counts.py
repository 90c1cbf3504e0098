"""Write counts as a reader expects them: `1 cell is`, `1,280 steps`."""

_PLURALS = {"is": "are", "was": "were", "has": "have"}


def counted(number: int, noun: str, verb: str = "") -> str:
    """Write a count with its noun, and the verb if there is one, given as for a single thing."""
    if number == 1:
        return f"1 {noun} {verb}".rstrip()
    return f"{number:,} {noun}s {_PLURALS.get(verb, verb.removesuffix('s'))}".rstrip()
