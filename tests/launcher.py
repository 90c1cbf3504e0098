"""The small grid, launched inline; with what was printed."""

import io
import shutil
from pathlib import Path

from rich.console import Console
from typed_words import Options, launch

from orchestration.runs.run_folder import folders

SMALL = Path(__file__).with_name("orchestration") / "small.yaml"


class Launcher:
    """Launches the small grid inline and keeps what was printed."""

    def __init__(self, folder):
        self.file, self.runs, self.printed = folder / "small.yaml", folder / "runs", ""
        self.code: int | None = None
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(SMALL, self.file)

    def __call__(self, *overrides, **options):
        console = Console(record=True, width=160, file=io.StringIO())
        settings = {"cluster": "inline", "runs": self.runs} | options
        code = launch(Options(grid=str(self.file), overrides=overrides, **settings), console)
        self.printed = console.export_text()
        return code

    def copied(self, folder):
        """Return the same grid after its launch, in another folder."""
        copied = Launcher(folder)
        shutil.copytree(self.runs, copied.runs, symlinks=True)
        copied.code, copied.printed = self.code, self.printed
        return copied

    def launches(self):
        return sorted(path.name for path in (self.runs / "small" / "launches").iterdir())

    def attempts(self):
        found = folders(self.runs / "small").values()
        return {folder.path.name.partition("-")[2]: len(folder.attempts()) for folder in found}
