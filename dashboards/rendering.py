"""Templates to HTML, for the report and for the live pages: everything escaped, and a name that is missing an error."""

import re
from functools import cache
from importlib.resources import files as resources
from urllib.parse import quote

import jinja2

from dashboards import palette
from dashboards.plain import plain

_IDS = re.compile(r'(\bid="|href="#|url\(#)')
_LISTS = re.compile(r'(\baria-labelledby=")([^"]*)"')


def render(template: str, **data: object) -> str:
    """Fill a template; see `plain` for the characters that no page has."""
    return plain(_environment().get_template(template).render(**data))


def css() -> str:
    """Return the style that all pages share."""
    return resource("templates/report.css") + palette.css()


def scoped(text: str, prefix: str) -> str:
    """Put a prefix before every id of a part of a page, and before every use of one: a page may have each id once."""
    text = _IDS.sub(rf"\1{prefix}", str(text))  # of Markup, which would escape what is put in
    return _LISTS.sub(lambda found: found[1] + " ".join(prefix + one for one in found[2].split()) + '"', text)


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
    made.filters["scoped"] = scoped
    made.filters["part"] = lambda text: quote(text, safe="", errors="replace")
    return made
