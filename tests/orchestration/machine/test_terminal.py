"""What is printed where the encoding of the output lacks characters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
RECORDS = """
from orchestration.machine import terminal
from orchestration.tables import formats
from orchestration.tables.layouts import Layout
from orchestration.tables.table import build
from orchestration.results.compare import sparkline
from rich.console import Console

terminal.take_any_character()
values = {"a": (0.5, 0.51), "b": (0.7, 0.72), "c": (0.6, None)}
records = [
    {"method": method, "split": "4", "seed": str(seed), "best_miou": value, "last_miou": value}
    for method, both in values.items()
    for seed, value in enumerate(both)
]
formats.show(build(records, Layout(["method"], ["split"], ["seed"]), baseline={"method": "a"}), Console(width=100))
print(sparkline([0.0, 1.0], 0.0, 1.0, 2), "für", "\\udcfc.png")
"""


def printed(words: list[str], encoding: str, **variables: str) -> str:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": encoding, **variables}
    root = Path(__file__).parents[3]
    done = subprocess.run(words, capture_output=True, env=environment, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(encoding)


def test_table_and_curves_reach_a_terminal_of_ascii() -> None:
    text = printed([sys.executable, "-c", RECORDS], "ascii")
    assert "71.0 +- 1.4^1" in text and "+20.5" in text and "60.0 (1/2)" in text
    assert "^1 best of a column" in text
    assert text.splitlines()[-1] == "_# f\\xfcr \\udcfc.png"


def test_what_an_encoding_has_is_left_as_it_is() -> None:
    latin, utf8 = (printed([sys.executable, "-c", RECORDS], encoding) for encoding in ("latin-1", "utf-8"))
    assert "71.0 ± 1.4¹" in latin and latin.splitlines()[-1] == "_# für \\udcfc.png"
    assert utf8.splitlines()[-1] == "▁█ für \\udcfc.png"


@pytest.mark.parametrize(
    "words", [["--help"], ["plan", "--grid", "pascal_classic"], ["tune", "search_rank", "--dry-run"]]
)
def test_commands_end_well_on_a_terminal_of_ascii(words: list[str], tmp_path: Path) -> None:
    at = ["--runs", str(tmp_path / "für")] if words != ["--help"] else []
    assert printed([str(BIN / "rankmatch"), *words, *at], "ascii")


def test_fault_with_any_character_is_told_in_ascii() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [str(BIN / "rankmatch"), "plan", "--grid", "größe"]
    done = subprocess.run(words, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 2 and b"got 'gr\\xf6\\xdfe'" in done.stderr and b"Traceback" not in done.stderr
