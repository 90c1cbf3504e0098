"""The reference of the command line, from the program itself."""

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from orchestration.commands.main import app


def as_markdown() -> str:
    """Return a section for each command, in the order of the alphabet, with the words of its `--help`."""
    return "\n\n".join(_section(name, command) for name, command in sorted(all_commands()))


def all_commands() -> Iterator[tuple[str, Any]]:
    """Yield each command that does something, by the words that call it."""
    yield from _below("rankmatch", get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 (typer's copy of click has no public types)
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, one in command.commands.items():
        if not one.hidden:
            yield from _below(f"{name} {word}", one)


def _section(name: str, command: Any) -> str:  # noqa: ANN401
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    records = [one.get_help_record(context) for one in command.get_params(context) if "--help" not in one.opts]
    rows = [f"| `{_cell(words)}` | {_cell(text)} |" for words, text in filter(None, records)]
    table = "\n\n| | |\n| --- | --- |\n" + "\n".join(rows) if rows else ""
    return f"## {name}\n\n```text\n{name} {usage}\n```\n\n{' '.join((command.help or '').split())}{table}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
