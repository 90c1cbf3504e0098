"""Notes on images and labels that can be read but may not be what was meant, with a count for each kind."""

from collections.abc import Mapping

from rankmatch.data.pixels import (
    CMYK,
    DEEP,
    LOSSY,
    LYING_TIFF,
    READ_OTHERWISE,
    SHALLOW,
    TRANSPARENT,
    TURNED,
    TURNED_TIFF,
    Facts,
)

_SENTENCES = {
    TURNED: "turned upright, as their EXIF orientation says",
    TURNED_TIFF: "TIFFs turned upright, as their orientation says",
    LYING_TIFF: "uncompressed TIFFs turned upright from their side, as their orientation says",
    DEEP: "grey of 12 bits, of which the upper 8 are read",
    SHALLOW: "grey of 2 or 4 bits, read as the values 0, 1, 2, ... that they hold",
    TRANSPARENT: "transparent in places, where the colours behind are read",
    CMYK: "made of printing inks (CMYK), turned into red, green and blue without a colour profile",
    LOSSY: "labels in JPEG, which does not keep values",
}
_MIN_USED_BITS = 15
"""If the largest value of all 16-bit images needs fewer bits, at most a quarter of the 256 grey levels is left."""


def of_facts(facts: Mapping[str, Facts]) -> list[str]:
    """Report the kinds of the files, which are given by name."""
    lines = []
    for note, sentence in _SENTENCES.items():
        names = [name for name, fact in facts.items() if note in fact.notes]
        earlier = "; an earlier version read them differently" if note in READ_OTHERWISE else ""
        if names:
            lines.append(f"{len(names)} of {len(facts)} files are {sentence}, first {names[0]}{earlier}")
    return lines


def fault_of_bits(facts: Mapping[str, Facts], image_bits: int) -> str:
    """Report 16-bit images that use so few bits that they are nearly black; empty if there are none."""
    used = [fact.used_bits for fact in facts.values() if fact.used_bits]
    if image_bits or not used or max(used) >= _MIN_USED_BITS:
        return ""
    most = max(8, max(used))
    return (
        f"the {len(used)} images of 16 bits a channel have no value above {(1 << most) - 1}, and their upper 8 bits "
        f"are read: {1 << (most - 8)} levels are left. dataset.image_bits={most} reads the upper 8 of {most} bits, "
        "dataset.image_bits=16 leaves them as they are"
    )
