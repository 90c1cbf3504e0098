"""One of several workers that torchrun starts: trains the configuration in a folder and writes rank 0's rows there."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import rankmatch


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # rounding must not flip what is chosen: agents, ranks, confident pixels
    dist.init_process_group("gloo")
    rows = []
    config = torch.load(folder / "config.pt", weights_only=False)
    rankmatch.fit(config, folder / "two", lambda step, row: rows.append((step, dict(row))))
    if dist.get_rank() == 0:
        (folder / "rows.json").write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


main(Path(sys.argv[1]))
# A gloo thread that still holds a tensor while the interpreter is taken down aborts the process: seen now and then.
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
