"""Seconds that `rankmatch results` takes to read many runs, with and without its cache."""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from orchestration import results
from orchestration.cells import to_yaml
from rankmatch.config import MethodConfig, NumericsConfig, TrainConfig

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


def seconds(num_runs: int = 10_000, num_epochs: int = 80) -> dict[str, float]:
    """Return the seconds of a first reading (`cold`, without the cache) and of a second one (`warm`)."""
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder), num_runs, num_epochs)
        return {name: _timed(Path(folder), num_runs * num_epochs) for name in ("cold", "warm")}


def _timed(root: Path, num_rows: int) -> float:
    began = time.perf_counter()
    found = results.load(root, with_epochs=True)
    assert found.epochs is not None and found.epochs.num_rows == num_rows
    return time.perf_counter() - began


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


if __name__ == "__main__":
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for name, value in seconds(num_runs).items():
        sys.stdout.write(f"{name}: {value:.2f} s\n")
    sys.stdout.write(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB\n")
