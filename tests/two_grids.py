"""Two small grids with common cells, and a grid of both, in a folder of one's own, with the command line alone."""

from pathlib import Path

import own_grid
import yaml
from typer.testing import CliRunner

from orchestration.commands.main import app

SMALL = Path(__file__).with_name("orchestration") / "small.yaml"
NUM_CELLS, NUM_DISTINCT = 8, 6
"""Of `methods` and `agents`, which both have rankmatch with four agents."""


class TwoGrids:
    """The folder in which somebody stands who has such grids; called, it says a command and returns its words."""

    def __init__(self, folder: Path, parts: object = ("methods.yaml", "agents.yaml"), **more: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.runs, self.file = folder, folder / "runs", folder / "both.yaml"
        methods = yaml.safe_load(SMALL.read_text())
        methods["axes"]["split"] = ["4"]
        methods["table"] = {"number": 1, "rows": ["method"], "columns": ["split"]}
        agents = {
            "set": methods["set"] | {"method": "rankmatch", "split": "4"},
            "axes": {"method.num_agents": [4, 8], "seed": [0, 1]},
            "table": {"number": 2, "rows": ["method.num_agents"]},
        }
        del agents["set"]["method.num_agents"]
        self.write("methods", methods)
        self.write("agents", agents)
        self.write("both", {"grids": parts if isinstance(parts, dict | str) else [*parts], **more})

    def add_scan(self) -> Path:
        """Add a part of a data set of one's own; return the folder in which its images are missing."""
        (self.folder / "scan_data.yaml").write_text(own_grid.DATASET)
        methods = yaml.safe_load((self.folder / "methods.yaml").read_text())
        kept = {
            key: value for key, value in methods["set"].items() if not key.startswith(("dataset", "trainer.epochs"))
        }
        axes = {"method": ["supervised"], "seed": [0, 1]}
        table = {"number": 3, "rows": ["method"]}
        self.write("scan", {"set": kept | {"dataset": "scan_data.yaml"}, "axes": axes, "table": table})
        self.write("both", {"grids": ["methods.yaml", "agents.yaml", "scan.yaml"]})
        return self.folder / "images"

    def write(self, name: str, content: object) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def lines(self, *words: object) -> list[str]:
        """Return what a command prints on stdout."""
        done = CliRunner().invoke(app, [*map(str, words), "--runs", str(self.runs)])
        assert done.exit_code == 0, (words, done.exception, done.output)
        return str(done.stdout).splitlines()

    def __call__(self, *words: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*map(str, words), "--runs", str(self.runs)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            if not isinstance(done.exception, ValueError):
                raise done.exception
            assert code == 2, (words, done.exception)
            return f"error: {done.exception}"
        assert done.exit_code == code, (words, done.exception, done.output)
        return " ".join(str(done.output).split())

    def launch(self, *words: object, code: int = 0) -> str:
        return self("launch", "--grid", self.file, "--cluster", "inline", *words, code=code)
