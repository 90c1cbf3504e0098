"""The command that prints the JSON schemas of what other commands answer to programs."""

from pathlib import Path
from typing import Annotated

import typer

FOLDER = Path(__file__).parent / "schemas"


def schema(
    name: Annotated[str, typer.Argument(metavar="NAME", help="status, plan, or results (of one row).")],
) -> None:
    """Print the JSON schema of `status --json`, `plan --json`, or a row of `results --format json`."""
    known = sorted(path.stem for path in FOLDER.glob("*.json"))
    if name not in known:
        raise ValueError(f"NAME must be one of {', '.join(known)}; got {name!r}")
    typer.echo((FOLDER / f"{name}.json").read_text().rstrip())


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(schema)
