"""Templates to HTML, for the report and for the live pages: everything escaped, and a name that is missing an error."""

from functools import cache
from importlib.resources import files as resources
from urllib.parse import quote

import jinja2

from dashboards import palette
from dashboards.plain import plain


def render(template: str, **data: object) -> str:
    """Fill a template; see `plain` for the characters that no page has."""
    return plain(_environment().get_template(template).render(**data))


def css() -> str:
    """Return the style that all pages share."""
    return resource("templates/report.css") + palette.css()


@cache
def resource(name: str) -> str:
    """Read a file of this package."""
    return (resources("dashboards") / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("dashboards"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["part"] = lambda text: quote(text, safe="", errors="replace")
    return made
