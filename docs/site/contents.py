"""The tree of pages, from the lists of links that the first page has for people."""

import re


def trees(page: str) -> str:
    """Return a hidden tree for each section of the page, with the pages that its list links to."""
    sections = re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", page, re.M)
    found = [(title, re.findall(r"^- \[[^\]]*\]\((\w+)\.md\)", text, re.M)) for title, text in sections]
    return "".join(_tree(title, pages) for title, pages in found if pages)


def _tree(title: str, pages: list[str]) -> str:
    return f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(pages) + "\n```\n"
