"""Counted randomness: keys of draws, and how often two of them get the same stream."""

import torch

from rankmatch.distributed import Purpose, generator, seed_of

IMAGES, PURPOSES = 10_488, [Purpose(value) for value in range(Purpose.LABELED_GEOMETRY, Purpose.AGENT_2 + 1)]


def test_draws_share_a_stream_as_rarely_as_is_said() -> None:
    keys = [(0, 0, place, purpose) for place in range(IMAGES) for purpose in PURPOSES]
    first: dict[int, tuple[int, int, int, Purpose]] = {}
    pairs = [(other, key) for key in keys if (other := first.setdefault(seed_of(*key) % 2**32, key)) is not key]
    assert (len(keys), len(pairs)) == (157_320, 5)  # the birthday problem expects 3
    for pair in pairs:  # torch keeps no more than these 32 bits
        one, two = (torch.rand(4, generator=generator(*key)).tolist() for key in pair)
        assert one == two
