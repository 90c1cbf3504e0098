"""A grid of one's own in a folder of one's own: images, their lists, a data set file, and the command line alone."""

import shutil
import warnings
from pathlib import Path

from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.machine.damage import DamageWarning
from orchestration.runs.run_folder import RunFolder, folders

DATASET = """
numerics:
  split: "2"
  dataset: {name: scan, num_classes: 3}
  augment: {crop_size: 33}
  trainer: {epochs: 1, labeled_batch_size: 2, unlabeled_batch_size: 2, reference_batch_size: 2}
execution:
  data_root: images
  class_names: [water, wall, cell]
"""
GRID = """
set:
  dataset: scan.yaml
  backbone: mobilenet_v2
  backbone.pretrained: false
  backbone.width: 0.25
  method.num_agents: 4
  trainer.num_threads: 1
axes:
  method: [supervised, rankmatch]
  seed: [0, 1]
per:
  method: {rankmatch: {trainer.learning_rate: 100, trainer.epochs: 30}}
exclude: [{method: rankmatch, seed: 1}]
baseline: {method: supervised}
table: {rows: [method]}
"""
DONE, NAN = "supervised-s0", "rankmatch-s0"
"""A cell that ends well, and one whose loss is not finite after some steps."""


class OwnGrid:
    """The folder in which somebody stands who has such a grid; called, it says a command and returns its words."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder, self.images, self.printed, self.warned = folder, images, "", list[str]()
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(images, folder / "images")
        (folder / "scan.yaml").write_text(DATASET)
        (folder / "membranes.yaml").write_text(GRID)
        self.runs = folder / "runs"

    def __call__(self, *words: object, code: int = 0) -> str:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DamageWarning)
            done = CliRunner().invoke(app, [*map(str, words), "--runs", str(self.runs)])
        self.warned = [str(warning.message) for warning in caught]
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            assert isinstance(done.exception, ValueError) and code == 2, (words, done.exception)
            return f"error: {done.exception}"
        assert done.exit_code == code, (words, done.exception, done.output)
        return " ".join(str(done.output).split())

    def launch(self, *words: object, code: int = 0) -> str:
        return self("launch", "--grid", self.folder / "membranes.yaml", "--cluster", "inline", *words, code=code)

    def cell(self, name: str) -> RunFolder:
        (found,) = [one for one in folders(self.runs / "membranes").values() if one.path.name.endswith(f"-{name}")]
        return found

    def copied(self, folder: Path) -> "OwnGrid":
        """Return it in another folder, with its runs."""
        made = OwnGrid(folder, self.images)
        left = shutil.ignore_patterns("mlflow.db", "artifacts", "runs.json")
        shutil.copytree(self.runs, made.runs, symlinks=True, ignore=left)
        for path in made.runs.glob("*/launches/*/mlflow.json"):
            path.unlink()
        for path in made.runs.glob("*/grid.yaml"):
            path.write_text(path.read_text().replace(str(self.folder), str(made.folder)))
        return made
