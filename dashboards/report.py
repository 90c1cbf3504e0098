"""`report.html` of a grid: one file with all that a person wants to see, which needs no network."""

from functools import cache
from importlib.resources import files as resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from dashboards import palette
from dashboards.gathered import Gathered, gather
from dashboards.page import Limits, build
from orchestration import files
from orchestration.grid import Grid

PAGE = "report.html"
MAX_BYTES = 6_000_000
_LIMITS = (Limits(), Limits(panels=6, pictures=4), Limits(panels=2, pictures=0, metrics=2), Limits(0, 0, 0))
"""Tried in this order until the page is small enough: less is drawn, no table is cut."""


def write(loaded: Grid, grid_dir: Path) -> Path:
    """Write the page of a grid anew; return its path."""
    files.replace(grid_dir / PAGE, render(gather(loaded, grid_dir)))
    return grid_dir / PAGE


def render(gathered: Gathered) -> str:
    """Return the page of a grid."""
    for limits in _LIMITS:
        text = _template().render(page=build(gathered, limits), css=Markup(_css()), limits=limits)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dashboards"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _css() -> str:
    text = (resources("dashboards") / "templates" / "report.css").read_text(encoding="utf-8")
    light = "".join(f"--s{place}:{hexed};" for place, hexed in enumerate(palette.SERIES))
    dark = "".join(f"--s{place}:{hexed};" for place, hexed in enumerate(palette.DARK_SERIES))
    states = "".join(f".is-{name}{{background:{back};color:{ink}}}" for name, (back, ink, _) in palette.STATES.items())
    print_too = f"@media print{{:root{{{light}}}}}"
    return f"{text}:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{print_too}{states}"
