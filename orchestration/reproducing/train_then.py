"""A script, run with the code of an earlier commit: train a configuration, and write down its losses.

It imports only what that code has had for long: `from_yaml`, and `fit` of the library.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any


def main(order_file: str) -> None:
    """Do what the file says, and write a line of JSON for each row."""
    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    import torch

    import rankmatch
    from orchestration.grids.cells import from_yaml
    from rankmatch.trainer import fit

    if not Path(rankmatch.__file__).is_relative_to(order["code"]):
        raise SystemExit(f"the code of {order['code']} must be imported; Python finds {rankmatch.__file__}")
    config = from_yaml(order["config"])
    for name, value in order["execution"].items():
        *path, last = name.split(".")
        section: Any = config.execution
        for part in path:
            section = getattr(section, part)
        setattr(section, last, value)
    if order["num_threads"]:
        torch.set_num_threads(order["num_threads"])
    last_step = order["last_step"]
    reached = -1
    with Path(order["rows"]).open("w", encoding="utf-8") as rows:

        def write(row: dict[str, Any]) -> None:
            rows.write(json.dumps(row) + "\n")
            rows.flush()

        def report(step: int, row: Mapping[str, float | None]) -> None:
            nonlocal reached
            if "epoch" not in row:
                reached = step
                write({"step": step, **row})

        def should_stop() -> bool:
            return last_step is not None and reached >= last_step

        write({"torch": torch.__version__, "cuda": torch.version.cuda or ""})
        later: dict[str, Any] = {"left_out": order["left_out"]} if order["left_out"] else {}  # earlier code has none
        result = fit(config, Path(order["run_dir"]), report, should_stop=should_stop, **later)
        write({"result": asdict(result)})


if __name__ == "__main__":
    main(sys.argv[1])
