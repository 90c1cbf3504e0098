"""What goes wrong, drawn from the seed of a history: how commands answer, files read, trainings end, and clocks go."""

import errno
import os
import random
from collections import Counter
from collections.abc import Sequence

from simulation.coroutines import Hub

ENDS = ("runs", "runs", "runs", "killed", "out of host memory", "code error", "file system", "GPU fault", "shm")
"""How an attempt ends in bad weather."""


class Weather:
    """Faults, until the sky clears."""

    def __init__(self, hub: Hub, chance: random.Random) -> None:
        self.hub, self.chance = hub, chance
        self.is_stormy = True
        self.num = Counter[str]()
        self.down_until = self.files_down_until = 0.0
        self.blind_until = 0.0
        """Accounting says nothing."""
        self.skew: dict[str, float] = {}
        """How far the clocks of hosts are off."""
        self.rate = chance.choice([0.0, 0.02, 0.1, 0.3])

    def happens(self, probability: float, kind: str) -> bool:
        """Draw whether something goes wrong, and count it."""
        if not self.is_stormy or self.chance.random() >= probability:
            return False
        self.num[kind] += 1
        return True

    def latency(self) -> float:
        return self.chance.uniform(0.01, 0.3)

    def of_command(self, words: Sequence[str]) -> str:
        """Return how a command fails; empty: it answers.

        `silent`: not done, no answer; `late`: done, no answer; `later`: done once nobody waits any more; `refused`.
        """
        if self.hub.now < self.down_until:
            return "silent"
        program = words[0]
        if program == "sacct" and self.hub.now < self.blind_until:
            return "refused"
        if self.happens(self.rate, f"{program} does not answer"):
            return "silent"
        if program == "sbatch" and self.happens(self.rate, "sbatch submits and fails"):
            return "late"
        if program == "sbatch" and self.happens(self.rate, "sbatch fails and submits"):
            return "later"
        if program in ("sbatch", "scontrol", "scancel") and self.happens(self.rate / 2, f"{program} fails"):
            return "refused"
        return ""

    def lag_of_accounting(self) -> float:
        """Return how long accounting takes to learn of an end."""
        if self.happens(0.1, "sacct never knows an end"):
            return 1e9
        if self.happens(0.2, "sacct is late"):
            return self.chance.uniform(60, 3 * 3600)
        return self.chance.uniform(0.1, 1.7)

    def wait_in_queue(self) -> float:
        return (
            self.chance.uniform(60, 3 * 3600) if self.happens(0.1, "the queue is long") else self.chance.uniform(0, 5)
        )

    def refuse_files(self, host: str, path: object) -> None:
        """Raise ESTALE while the file server is away."""
        if self.hub.now < self.files_down_until and host.startswith(self.files_of):
            self.num["ESTALE"] += 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    files_of = ""
    """The hosts whose file server is away begin so."""

    def end_of_attempt(self) -> str:
        if not self.is_stormy:
            return "runs"
        end = self.chance.choice(ENDS)
        if end != "runs":
            self.num[f"training: {end}"] += 1
        return end
