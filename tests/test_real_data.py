"""The commands of the pages on real data, shortened, where that data stands beside the project."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [line for page in PAGES for line in re.findall(r"^python .*\.\./shared/data.*$", page.read_text(), re.M)]
# float32: processors without instructions for bfloat16 take ten times as long in it
SHORT = ["--cluster", "inline", "method=supervised", "seed=0", "trainer.epochs=1", "augment.crop_size=65",
         "trainer.precision=float32"]  # fmt: skip


@pytest.mark.shared
@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_real_data_is_trained_on_by_the_command_of_a_page(command, shared, tmp_path):
    words = shlex.split(command.replace("../shared", str(shared)))
    words = [sys.executable, str(ROOT / words[1]), *words[2:], *SHORT, "--runs", str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    percent = float(re.search(r"done  mIoU ([\d.]+)", done.stdout)[1])
    assert 2 < percent < 90  # about what one class everywhere gives, and more than a broken evaluation
