"""The modules whose docstrings make the page of the library."""

MODULES = (
    "rankmatch.methods",
    "rankmatch.trainer",
    "rankmatch.evaluation",
    "rankmatch.predict",
    "rankmatch.models.deeplabv3plus",
    "rankmatch.models.weights",
    "rankmatch.losses",
    "rankmatch.agents",
    "rankmatch.plackett_luce",
    "orchestration.grids.grid",
    "orchestration.runs.run_folder",
    "orchestration.results.run_table",
    "orchestration.tables.estimates",
    "orchestration.tables.comparisons",
)


def as_markdown() -> str:
    """Return a section for each module, which Sphinx fills from its docstrings."""
    return "\n\n".join(map(_section, MODULES))


def _section(module: str) -> str:
    return f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```"
