"""How Sphinx builds the documentation: `make docs` turns the pages of docs/ into build/docs.

The pages are Markdown that GitHub shows as well. What a page takes from the code stands in none of them: the line
`<!-- from the code: settings -->` is replaced by what `from_code` reads there at each build.
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import contents  # noqa: E402 (found by the line above, as the next)
import from_code  # noqa: E402

project = "RankMatch"
html_title = "RankMatch, the whole grid"
root_doc = "index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["site"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["page.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
suppress_warnings = ["myst.header"]
html_math_renderer = "mathml"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes of tensors, which the signature shows already
default_role = "code"
nitpick_ignore_regex = [("py:.*", ".*")]  # names of types in docstrings lead to no page

_OUTSIDE = re.compile(r"\]\((\.\./[^)#]*\.md)(?:#[^)]*)?\)")
"""A link to a Markdown page that is not below docs/: the site offers it as a file."""


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Give a page what comes from the code; the first page also the tree of all, which its lists of links make."""
    source[0] = _OUTSIDE.sub(r"](path:\1)", from_code.filled(source[0]))
    if page == root_doc:
        source[0] += contents.trees(source[0])


def formula(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw without a script or a network."""
    is_block = isinstance(node, nodes.math_block)
    mathml = tex2mathml(node.astext(), as_block=is_block)
    translator.body.append(f'<div class="math">{mathml}</div>' if is_block else mathml)
    raise nodes.SkipNode


def keep_colons(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Keep Napoleon, which comes next, from taking the words before a colon of an attribute's text for its type."""
    if what in ("attribute", "data", "property"):
        lines.insert(0, "\\ ")


def setup(app: Sphinx) -> None:
    """Connect all of it."""
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("source-read", fill)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
