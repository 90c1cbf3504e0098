import resource

import numpy as np

from rankmatch.memory import keep_freed_memory

NUM_BYTES = 2**24


def pages_taken():
    """Return how many pages the kernel gives while an array is made."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(NUM_BYTES, 1, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_used_again():
    keep_freed_memory()
    pages_taken()
    assert pages_taken() < 0.05 * NUM_BYTES / resource.getpagesize()
