"""Charts as SVG text: bars beside each other, and lines over logarithmic axes. Pure; readable on light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.quiet { fill: #59636e; font-size: 12px }
.bar { fill: #8c959f } .own { fill: #0969da }
.axis { stroke: #d1d9e0; fill: none }
.s0 { stroke: #0969da } .s1 { stroke: #bc4c00 } .s2 { stroke: #1a7f37 } .s3 { stroke: #8250df } .s4 { stroke: #cf222e }
.line { fill: none; stroke-width: 2 } .dot { fill: #ffffff; stroke-width: 2 }
.paper { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .quiet { fill: #9198a1 } .bar { fill: #656c76 } .own { fill: #4493f8 } .axis { stroke: #3d444d }
.s0 { stroke: #4493f8 } .s1 { stroke: #db6d28 } .s2 { stroke: #3fb950 } .s3 { stroke: #ab7df8 } .s4 { stroke: #f85149 }
.dot { fill: #0d1117 } .paper { fill: #0d1117 }
}
</style>"""

COLOURS = 5
MARGIN = 16
LABEL_WIDTH = 210
BAR_WIDTH = 190
NUMBER_WIDTH = 70
ROW_HEIGHT = 26
HEAD_HEIGHT = 76
PLOT_WIDTH = 620
PLOT_HEIGHT = 320
LEFT = 74
FOOT_HEIGHT = 48
TICKS_MAX = 7


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of every row. None is no figure. `better` says which end of the bar is the good one."""

    title: str
    better: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line: points with positive coordinates. Others are left out: they have no place on a logarithmic axis."""

    name: str
    points: Sequence[tuple[float, float]]


def bars(title: str, labels: Sequence[str], columns: Sequence[Column], *, own: str) -> str:
    """A row for each label, a column of bars for each figure. Rows that begin with `own` stand out."""
    step = BAR_WIDTH + NUMBER_WIDTH + MARGIN
    width = MARGIN + LABEL_WIDTH + step * len(columns)
    height = HEAD_HEIGHT + ROW_HEIGHT * len(labels) + MARGIN
    parts = [_text(MARGIN, 26, title, "title")]
    for row, label in enumerate(labels):
        parts.append(_text(MARGIN, HEAD_HEIGHT + ROW_HEIGHT * row + 15, label))
    for number, column in enumerate(columns):
        left = MARGIN + LABEL_WIDTH + step * number
        parts += [_text(left, 50, column.title), _text(left, 66, column.better, "quiet")]
        longest = max((value for value in column.values if value is not None), default=0.0) or 1.0
        for row, value in enumerate(column.values):
            top = HEAD_HEIGHT + ROW_HEIGHT * row
            if value is None:
                parts.append(_text(left, top + 15, "no figure", "quiet"))
                continue
            long = max(1.0, BAR_WIDTH * value / longest)
            kind = "own" if labels[row].startswith(own) else "bar"
            parts.append(f'<rect class="{kind}" x="{left}" y="{top + 2}" width="{long:.1f}" height="16" rx="2"/>')
            parts.append(_text(left + long + 6, top + 15, readable(value)))
    return _sheet(width, height, title, parts)


def lines(title: str, x_title: str, y_title: str, series: Sequence[Series]) -> str:
    """Lines with a dot at every point, both axes logarithmic, and a legend of as many rows as there are lines."""
    kept = [Series(one.name, [p for p in one.points if p[0] > 0 and p[1] > 0]) for one in series]
    points = [point for one in kept for point in one.points]
    top = 52 + 18 * len(series)
    width, height = LEFT + PLOT_WIDTH + MARGIN, top + PLOT_HEIGHT + FOOT_HEIGHT
    parts = [_text(MARGIN, 26, title, "title")]
    for number, one in enumerate(kept):
        y = 46 + 18 * number
        parts.append(f'<path class="line s{number % COLOURS}" d="M{MARGIN} {y}h22"/>')
        parts.append(_text(MARGIN + 30, y + 4, one.name))
    parts.append(_text(LEFT + PLOT_WIDTH / 2, height - 8, x_title, "quiet", "middle"))
    parts.append(_text(MARGIN, top - 2, y_title, "quiet"))
    if points:
        x_axis, y_axis = _span([x for x, _ in points]), _span([y for _, y in points])
        parts += _grid(x_axis, y_axis, top)
        for number, one in enumerate(kept):
            placed = [(_place(x, x_axis) * PLOT_WIDTH + LEFT, _height(y, y_axis, top)) for x, y in one.points]
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
            if path:
                parts.append(f'<path class="line s{number % COLOURS}" d="M{path}"/>')
            parts += [f'<circle class="dot s{number % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in placed]
    else:
        parts.append(_text(LEFT, top + 30, "no figures", "quiet"))
    return _sheet(width, height, title, parts)


def readable(value: float) -> str:
    """Three digits that count, thousands apart: 13800 is 13,800 and 0.12345 is 0.123."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, digits)
    return f"{rounded:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{rounded:,.0f}"


def _grid(x_axis: tuple[float, float], y_axis: tuple[float, float], top: float) -> list[str]:
    bottom = top + PLOT_HEIGHT
    parts = []
    for value in _ticks(x_axis):
        x = LEFT + _place(value, x_axis) * PLOT_WIDTH
        parts.append(f'<path class="axis" d="M{x:.1f} {top + 6:.1f}V{bottom:.1f}"/>')
        parts.append(_text(x, bottom + 18, readable(value), "quiet", "middle"))
    for value in _ticks(y_axis):
        y = _height(value, y_axis, top)
        parts.append(f'<path class="axis" d="M{LEFT} {y:.1f}h{PLOT_WIDTH}"/>')
        parts.append(_text(LEFT - 8, y + 4, readable(value), "quiet", "end"))
    return parts


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From the power of ten at or below the least to that at or above the greatest; never empty."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return float(low), float(max(high, low + 1))


def _ticks(axis: tuple[float, float]) -> list[float]:
    step = max(1, math.ceil((axis[1] - axis[0]) / TICKS_MAX))
    return [10.0**power for power in range(int(axis[0]), int(axis[1]) + 1, step)]


def _place(value: float, axis: tuple[float, float]) -> float:
    """0 at the low end, 1 at the high."""
    return (math.log10(value) - axis[0]) / (axis[1] - axis[0])


def _height(value: float, axis: tuple[float, float], top: float) -> float:
    return top + 6 + (1 - _place(value, axis)) * (PLOT_HEIGHT - 6)


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    marks = f' class="{kind}"' if kind else ""
    marks += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{marks}>{escape(words)}</text>'


def _sheet(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img"><title>{escape(title)}</title>'
    )
    paper = f'<rect class="paper" width="{width}" height="{height}"/>'
    return "\n".join([head, STYLE, paper, *parts, "</svg>"]) + "\n"
