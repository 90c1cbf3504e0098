"""What is asked of every page in a real browser."""

from pathlib import Path

AXE = Path(__file__).parent / "dashboards" / "axe-core" / "axe.min.js"
WCAG = "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
WIDER_THAN_THE_WINDOW = """() => [...document.querySelectorAll('body *')].filter(part =>
    !part.closest('.wide > *, pre > *, svg, .skip, .unseen') && part.getBoundingClientRect().right > innerWidth + 1
).map(part => part.outerHTML.slice(0, 100))"""
PANELS_THAT_OVERLAP = """() => {
    const boxes = [...document.querySelectorAll('figure, h2, h3, .wide')].filter(
        part => !part.closest('figure *, details:not([open]) *'));
    const found = boxes.map(part => [part, part.getBoundingClientRect()]).filter(pair => pair[1].width);
    const pairs = found.flatMap(([a, one], i) => found.slice(i + 1).map(([b, two]) => [a, one, b, two]));
    return pairs.filter(([a, one, b, two]) => !a.contains(b) && !b.contains(a) && one.left < two.right - 1
        && two.left < one.right - 1 && one.top < two.bottom - 1 && two.top < one.bottom - 1)
        .map(([a, , b]) => a.outerHTML.slice(0, 60) + ' | ' + b.outerHTML.slice(0, 60));
}"""


def violations(page) -> list:
    """Open what is folded, and return what axe-core finds against WCAG 2.1 AA."""
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(WCAG)
    assert len(found["passes"]) > 8
    return [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]]
