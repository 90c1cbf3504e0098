"""`rankmatch results` over 10,000 runs of 80 epochs: without and with a cache; the reference is the bound aimed at."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, Settings, peak_mb, plain, seconds
from orchestration.grids.cells import to_yaml
from orchestration.results import run_table
from orchestration.runs.folders import RunsFolder
from rankmatch.config import MethodConfig, NumericsConfig, TrainConfig

COLD_S, WARM_S = 3.0, 0.5
METHODS, SPLITS = ("supervised", "fixmatch", "unimatch", "rankmatch"), ("92", "183", "366", "732", "1464")
NUM_CLASSES, NUM_TEMPLATES = 21, 40
TERMS = ("loss", "loss_x", "loss_fp", "loss_s1", "loss_rank1", "loss_s2", "loss_rank2", "mask_ratio", "learning_rate")


def make_runs(root: Path, num_runs: int, num_epochs: int) -> None:
    """Write finished runs as a training on PASCAL VOC leaves them, each epoch with the IoU of 21 classes."""
    draws = np.random.default_rng(0)
    epochs = [_epochs(draws, num_epochs) for _ in range(NUM_TEMPLATES)]
    yamls = {method: to_yaml(_config(method, "92", 0)) for method in METHODS}
    for number in range(num_runs):
        method, split = METHODS[number % 4], SPLITS[number // 4 % 5]
        axes = {"method": method, "split": split, "seed": str(number // 20)}
        folder = root / f"grid{number % 3}" / "cells" / f"{number:012x}-{method}-{split}-s{axes['seed']}"
        attempt = folder / "attempts" / "1"
        attempt.mkdir(parents=True)
        text = (
            yamls[method].replace("split: '92'", f"split: '{split}'").replace("  seed: 0", f"  seed: {axes['seed']}", 1)
        )
        (folder / "config.yaml").write_text(text)
        (folder / "axes.json").write_text(json.dumps({"schema": 1, "axes": axes}, indent=1))
        (folder / "result.json").write_text(json.dumps(_result(draws, num_epochs), indent=1))
        (attempt / "owner.json").write_text('{"schema": 1, "host": "here", "pid": 1, "commit": "c0ffee"}')
        (attempt / "events.jsonl").write_text('{"event": "started", "time": 1795561714.5, "step": 0}\n')
        (attempt / "epochs.jsonl").write_text(epochs[number % NUM_TEMPLATES])


def rows(settings: Settings) -> Iterator[Row]:
    """Time the table of runs alone, and with every epoch's row; then the memory of the latter without a cache."""
    num_runs, num_epochs = (40, 4) if settings.tiny else (10_000, 80)
    root = Path(tempfile.mkdtemp(prefix="rankmatch-bench-"))
    try:
        make_runs(root, num_runs, num_epochs)
        note = f"{num_runs} runs x {num_epochs} epochs; reference: the bound"
        for name, with_epochs in (("grid_table", False), ("grid_epochs", True)):
            for kind, bound in (("", COLD_S), ("_cached", WARM_S)):
                taken = seconds(lambda with_epochs=with_epochs: run_table.load(root, with_epochs=with_epochs))
                yield plain(f"{name}{kind}", taken, bound, "s", note)
            shutil.rmtree(RunsFolder(root).cache_dir)
        grown = peak_mb("bench_results", "loaded", str(root))
        yield plain("grid_table_memory", grown, grown, "MB", f"{note}; with epochs, cold")
    finally:
        shutil.rmtree(root)


def loaded(root: str) -> Callable[[], object]:
    """Prepare to read everything, for `peak_mb`."""
    return lambda: run_table.load(Path(root), with_epochs=True)


def _config(method: str, split: str, seed: int) -> TrainConfig:
    return TrainConfig(numerics=NumericsConfig(seed=seed, split=split, method=MethodConfig(name=method)))


def _epochs(draws: np.random.Generator, num_epochs: int) -> str:
    rows = []
    for epoch in range(num_epochs):
        row = {"step": 1000 * (epoch + 1) - 1, "time": 1795561714.5 + 60 * epoch + draws.random()}
        row |= {name: draws.random() for name in TERMS} | {"pseudo_label_accuracy": None}
        row |= {"epoch": epoch + 1, "num_epochs": num_epochs, "num_steps": 1000 * num_epochs}
        row |= {name: draws.random() for name in ("miou", "best_miou", "duration_s", "evaluation_s")}
        rows.append(row | {f"class_iou_{number}": draws.random() for number in range(NUM_CLASSES)})
    return "".join(json.dumps(row) + "\n" for row in rows)


def _result(draws: np.random.Generator, num_epochs: int) -> dict[str, object]:
    counts = {"step": 1000 * num_epochs, "num_steps": 1000 * num_epochs, "epoch": num_epochs, "num_epochs": num_epochs}
    iou = {name: draws.random(NUM_CLASSES).tolist() for name in ("best_class_iou", "last_class_iou")}
    numbers = {"best_miou": draws.random(), "best_epoch": 70, "last_miou": draws.random(), "duration_s": 36000.0}
    known = {"commit": "c0ffee", "split_sha256": "5a" * 32, "data_fingerprint": "7b" * 32, "host": "here"}
    packages = {name: "1.2.3" for name in ("torch", "torchvision", "numpy", "pyarrow", "ray", "mlflow")}
    return {
        "schema": 1,
        "attempt": 1,
        **counts,
        **numbers,
        **iou,
        "num_present_classes": NUM_CLASSES,
        "provenance": known | {"packages": packages},
    }
