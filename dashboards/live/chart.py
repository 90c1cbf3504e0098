"""Panels -> SVG of a few kilobytes, drawn for each answer, without styles, which a page's policy would drop."""

import math
from collections.abc import Sequence
from html import escape

from dashboards import palette
from dashboards.panels import Line, Lines

WIDTH, HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 40
_DASHES = ("none", "8 3", "4 2", "8 2 2 2", "2 2", "none", "8 3", "4 2")
Scale = tuple[float, float]
"""The lowest and the highest value that is drawn."""


def svg(panel: Lines) -> str:
    """Draw curves with their bands; name and description are those of the panel."""
    xs = [x for line in panel.lines for x, y in zip(line.x, line.mean, strict=True) if y is not None]
    ys = [y for line in panel.lines for y in _ends(line)]
    if not ys:
        return ""
    x_scale, y_scale = _scale(xs, 0.0), _scale(ys, 0.06)
    key = escape(panel.key, quote=True)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(panel.y_title)}</title>'
        f'<desc id="{key}-desc">{escape(panel.description)}</desc>',
        *_axes(panel, x_scale, y_scale),
        *(_line(line, x_scale, y_scale) for line in panel.lines),
        "</svg>",
    ]
    return "".join(parts)


def bars(name: str, said: str, rows: Sequence[tuple[str, float, float, str]], now: float) -> str:
    """Draw spans of time below each other: label, start and end in seconds, and the state that colours it."""
    low = min(begin for _, begin, _, _ in rows)
    span = max(1.0, max(max(end for _, _, end, _ in rows), low) - low)
    height = 20 * len(rows) + 6
    parts = [f'<svg viewBox="0 0 480 {height}" role="img" class="spans" aria-labelledby="spans-title spans-desc">'
             f'<title id="spans-title">{escape(name)}</title><desc id="spans-desc">{escape(said)}</desc>']  # fmt: skip
    for place, (label, begin, end, state) in enumerate(rows):
        x, y = 40 + 435 * (begin - low) / span, 20 * place + 4
        width = max(2.0, 435 * (min(end, now) - begin) / span)
        fill = palette.STATES[state][0]
        parts.append(f'<text x="34" y="{y + 11}" text-anchor="end" class="tick">{escape(label)}</text>')
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="14" rx="2" fill="{fill}"/>')
    return "".join([*parts, "</svg>"])


def _axes(panel: Lines, x_scale: Scale, y_scale: Scale) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value in ticks(*y_scale):
        y = _y(value, y_scale)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" class="tick">{value:g}</text>')
    for value in ticks(*x_scale, whole=True):
        x = _x(value, x_scale)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" class="tick">{value:g}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" class="axis"/>')
    parts.append(
        f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 7}" text-anchor="middle">{escape(panel.x_title)}</text>'
    )
    turned = f'transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle"'
    parts.append(f"<text {turned}>{escape(panel.y_title)}</text>")
    return parts


def _line(line: Line, x_scale: Scale, y_scale: Scale) -> str:
    place = line.style % len(palette.SERIES)
    known = [(x, y, spread) for x, y, spread in zip(line.x, line.mean, line.spread, strict=True) if y is not None]
    points = [(_x(x, x_scale), _y(y, y_scale)) for x, y, _ in known]
    if not points:
        return ""
    band = ""
    if any(spread for _, _, spread in known):
        over = [(_x(x, x_scale), _y(y + (spread or 0), y_scale)) for x, y, spread in known]
        under = [(_x(x, x_scale), _y(y - (spread or 0), y_scale)) for x, y, spread in reversed(known)]
        band = f'<path d="{_path([*over, *under])}Z" fill="var(--s{place})" class="band"/>'
    if len(points) == 1:
        x, y = points[0]
        return f'{band}<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--s{place})"/>'
    look = f'stroke="var(--s{place})" stroke-dasharray="{_DASHES[place]}"'
    return f'{band}<path d="{_path(points)}" class="curve" {look}/>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _ends(line: Line) -> list[float]:
    pairs = [(y, spread or 0.0) for y, spread in zip(line.mean, line.spread, strict=True) if y is not None]
    return [end for y, spread in pairs for end in (y - spread, y + spread) if math.isfinite(end)]


def _scale(values: Sequence[float], margin: float) -> Scale:
    low, high = min(values), max(values)
    if high - low < 1e-12:
        return low - max(abs(low) * 0.1, 0.5), high + max(abs(high) * 0.1, 0.5)
    return low - margin * (high - low), high + margin * (high - low)


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return three to seven round values between two, in order; only integers if `whole`."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _x(value: float, scale: Scale) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * (value - scale[0]) / (scale[1] - scale[0])


def _y(value: float, scale: Scale) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - scale[0]) / (scale[1] - scale[0])
