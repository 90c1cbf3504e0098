"""Which taps of the ASPP's dilated convolutions a feature grid reaches; needs no torch, so that plans can use it.

A tap at distance `rate` from the centre falls on the padding wherever the grid is no larger than that. It then adds
nothing, gets no gradient and keeps what it started from; a larger grid, such as that of a whole image, meets it so.
"""

RATES = (6, 12, 18)
TAPS = 9
"""Number of taps of each convolution, including the centre."""


def unreached_rates(grid_size: int, met_by: int | None = None) -> tuple[int, ...]:
    """Return the rates whose outer taps no position of a square grid reaches.

    Args:
        grid_size: Height and width of the grid that is trained on.
        met_by: The largest side of the grids that are scored, which meet no rate from there on; None: not known.
    """
    return tuple(rate for rate in RATES if grid_size <= rate and (met_by is None or rate < met_by))


def num_unreached(rates: tuple[int, ...]) -> int:
    """Return how many taps that are: all but the centres."""
    return (TAPS - 1) * len(rates)


def smallest_crop(output_stride: int) -> int:
    """Return the smallest crop whose grid reaches every tap."""
    return output_stride * max(RATES) + 1
