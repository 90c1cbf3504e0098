"""What a training process takes of its machine: processor, memory and its own GPU, as rows beside its other rows."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestration import files
from orchestration.patience import say_once

if TYPE_CHECKING:  # torch and psutil are imported where something trains
    import psutil
    import torch

PATTERN = "system-*.jsonl"
"""One file for each worker of an attempt."""
GB = 1e9


def file_name(worker: int) -> str:
    """Name the file of a worker."""
    return PATTERN.replace("*", str(worker))


class SystemSampler:
    """Writes a row every some seconds while it is open, and a last one at its end; none once it is superseded."""

    def __init__(
        self, path: Path, every_s: float, device: "torch.device", superseded: Callable[[], bool] = bool
    ) -> None:
        """Look at this process, its children and `device`; `every_s` 0 looks at nothing."""
        self._path, self._every_s, self._device, self._superseded = path, every_s, device, superseded
        self._ended = threading.Event()
        self._processes: dict[int, psutil.Process] = {}
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)

    def __enter__(self) -> Self:
        if self._every_s:
            self._processor_and_memory()  # processor time is counted between two looks
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._every_s:
            self._thread.join()

    def _work(self) -> None:
        while not self._ended.wait(self._every_s):
            self._write()
        self._write()

    def _write(self) -> None:
        """Write a row if possible: a full disk stops the training by its own rows, and by these rows it looks alive."""
        try:
            if not self._superseded():
                row = {"time": time.time(), **self._processor_and_memory(), **self._gpu()}
                files.append_row(self._path, row)
        except OSError as error:
            say_once(f"{self._path} lacks rows", error)

    def _gpu(self) -> dict[str, float]:
        try:
            return gpu(self._device)
        except Exception as error:  # pynvml has a class for each code, torch others: none is worth the process's row
            say_once(f"{self._path} lacks what NVML says", error)
            return {}

    def _processor_and_memory(self) -> dict[str, float]:
        """Sum over this process and its children; memory that they share counts for each of them."""
        import psutil

        me = psutil.Process()
        known = self._processes
        self._processes = {p.pid: known.get(p.pid, p) for p in (me, *me.children(recursive=True))}
        percent, memory = 0.0, 0
        for process in self._processes.values():
            with suppress(psutil.NoSuchProcess):
                percent += process.cpu_percent()
                memory += process.memory_info().rss
        return {"cpu_percent": percent, "memory_gb": memory / GB}


def gpu(device: "torch.device") -> dict[str, float]:
    """Read by NVML how busy a GPU is, as a whole, since other processes may share it; nothing for a CPU."""
    if device.type != "cuda":
        return {}
    from torch import cuda

    return {
        "gpu_percent": float(cuda.utilization(device)),
        "gpu_memory_gb": cuda.device_memory_used(device) / GB,
        "gpu_power_w": cuda.power_draw(device) / 1000,
    }
