"""The colours of a run's pictures; needs no torch, so that programs that only show them can import it."""

import numpy as np
import numpy.typing as npt

RIGHT, WRONG, IGNORED = range(3)
DIFFERENCE = ((236, 239, 243), (190, 58, 0), (140, 146, 155))
"""Colours where prediction and label agree, where they differ, and where there is no label."""
RAMP = ((0, 32, 76), (124, 123, 120), (255, 233, 69))
"""Colours of the correlations 0, 0.5 and 1; distinguishable with any colour vision, and in gray."""


def colour_map() -> npt.NDArray[np.uint8]:
    """Return the colours of PASCAL VOC for 256 classes [256, 3]: a class's bits, spread over the three channels."""
    classes = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((classes >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def class_name(value: int, names: list[str], ignored: int = 255) -> str:
    """Return the name of a label value for a legend."""
    if value == ignored:
        return "ignored"
    return names[value] if value < len(names) else f"class {value}"
