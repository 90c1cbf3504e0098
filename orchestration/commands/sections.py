"""`rankmatch --help`: the commands in the order in which they are needed, below headings."""

from typing import Any

from typer.core import TyperGroup

SECTIONS = {
    "Prepare": ("doctor", "site", "data", "splits", "grid"),
    "Train": ("plan", "launch", "tune"),
    "Follow": ("status", "logs", "dashboard", "ui", "resume", "retry", "cancel", "drop", "reconcile", "sync"),
    "Keep run folders": ("cells", "migrate", "import"),
    "Read results": ("table", "report", "figure", "results", "describe", "compare", "verify", "reproduce"),
    "Use trained models": ("evaluate", "predict", "register"),
    "For programs and developers": ("schema", "bench"),
}


class Sections(TyperGroup):
    """A group of commands that lists them in sections."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 (typer's copy of click has no public types)
        """Write the list of commands."""
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, names in SECTIONS.items():
            with formatter.section(title):
                there = [(name, self.commands[name]) for name in names if name in self.commands]
                formatter.write_dl([(name, command.get_short_help_str(width)) for name, command in there])
