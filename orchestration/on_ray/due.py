"""The cells that wait for a try in a launch on Ray, by their places in its order; some wait for a time to pass."""

import heapq
import time
from collections.abc import Callable, Iterable

MAX_WAIT_S = 3600.0
"""So long a cell waits for room at most; the policy ends what does not help."""


class Due:
    """Gives the first place whose time has come."""

    def __init__(self, places: Iterable[int]) -> None:
        self._ready = sorted(places)
        self._later: list[tuple[float, int]] = []
        self.has_room: Callable[[], bool] = lambda: True
        """Whether the machine has by now what cells that were to wait may have lacked."""

    def __bool__(self) -> bool:
        """Whether any is left, ready or not."""
        return bool(self._ready or self._later)

    def push(self, place: int, wait_min: float = 0) -> None:
        """Have a cell tried again after some minutes."""
        if wait_min:
            heapq.heappush(self._later, (time.monotonic() + 60 * wait_min, place))
        else:
            heapq.heappush(self._ready, place)

    def is_ready(self, *, at_once: bool = False) -> bool:
        """Return whether a cell can be taken now; `at_once` ignores the times."""
        while self._later and (at_once or self._can_go_on(self._later[0][0])):
            heapq.heappush(self._ready, heapq.heappop(self._later)[1])
        return bool(self._ready)

    def take(self) -> int:
        """Take the first one that is ready."""
        return heapq.heappop(self._ready)

    def _can_go_on(self, when: float) -> bool:
        late_s = time.monotonic() - when
        return late_s >= 0 and (late_s > MAX_WAIT_S or self.has_room())
