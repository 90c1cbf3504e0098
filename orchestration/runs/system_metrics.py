"""Measure what a training process uses of its machine: processor, memory and its own GPU, as rows of their own."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestration.machine import clock, files
from orchestration.runs.patience import say_once

if TYPE_CHECKING:  # torch and psutil are imported only in processes that train
    import psutil
    import torch

GB = 1e9


class SystemSampler:
    """Write a row at intervals while it is open, and a last one at its end; none once it is superseded."""

    def __init__(
        self, path: Path, every_s: float, device: "torch.device", superseded: Callable[[], bool] = bool
    ) -> None:
        """Measure this process, its children and `device`; `every_s` 0 measures nothing."""
        self._path, self._every_s, self._device, self._superseded = path, every_s, device, superseded
        self._ended = threading.Event()
        self._processes: dict[int, psutil.Process] = {}
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)

    def __enter__(self) -> Self:
        if self._every_s:
            self._processor_and_memory()  # processor time is counted between two measurements
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
        """Write a row if possible; on a full disk the training's own rows stop it, and these rows show it alive."""
        try:
            if not self._superseded():
                row = {"time": clock.now(), **self._processor_and_memory(), **self._gpu()}
                files.append_row(self._path, row)
        except OSError as error:
            say_once(f"{self._path} lacks rows", error)

    def _gpu(self) -> dict[str, float]:
        try:
            return gpu(self._device)
        except Exception as error:  # of many classes, none of which may cost the row
            say_once(f"{self._path} lacks what NVML says", error)
            return {}

    def _processor_and_memory(self) -> dict[str, float]:
        """Sum over this process and its children; shared memory counts for each of them."""
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
    """Read a GPU's use by NVML; it is for the whole GPU, which other processes may share. Empty for a CPU."""
    if device.type != "cuda":
        return {}
    from torch import cuda

    return {
        "gpu_percent": float(cuda.utilization(device)),
        "gpu_memory_gb": cuda.device_memory_used(device) / GB,
        "gpu_power_w": cuda.power_draw(device) / 1000,
    }
