"""Line charts as inline SVG: no script and no font of their own, coloured by the page's style sheet.

Owns geometry only; colours are the classes `s0` … `s5` of the page, so that light and dark are the page's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = [
    "NUM_COLOURS",
    "Chart",
    "Points",
    "Series",
    "chart_svg",
    "format_number",
    "line_chart",
    "nice_ticks",
    "series_of",
    "smoothed",
]

_WIDTH, _HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 30
NUM_COLOURS = 6
_FULL_LINE_POINTS = 24
"""Up to this many points the line itself is drawn strong; beyond, it is faint, with a smoothed one over it."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One line; `colour` is its place in the page's palette."""

    name: str
    points: Points
    colour: int


@dataclass(frozen=True)
class Chart:
    """What one chart shows."""

    title: str
    series: Sequence[Series]
    note: str = ""
    from_zero: bool = False
    """Whether the axis must hold 0: for amounts, not for scores that move in a narrow band."""
    across: str = "iteration"
    """What the horizontal axis counts, for whoever points at a line."""


def nice_ticks(low: float, high: float, *, count: int = 4) -> list[float]:
    """Round numbers that enclose a range: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        half = abs(low) * 0.1 or 0.5
        low, high = low - half, high + half
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))  # what is left of 0.1 + 0.2 is no label
    return [round(number * step, digits) for number in range(first, last + 1)]


def smoothed(points: Points) -> list[tuple[float, float]]:
    """Centred running mean over a tenth of the points, at least 5."""
    half = max(2, len(points) // 20)
    values = [value for _, value in points]
    result = []
    for index, (x, _) in enumerate(points):
        window = values[max(0, index - half) : index + half + 1]
        result.append((x, sum(window) / len(window)))
    return result


def line_chart(chart: Chart) -> str:
    """The chart as a `<figure>`: title, legend, SVG, note. Points that are not finite are left out."""
    series = _drawable(chart)
    if not series:
        return ""
    legend = "".join(f'<li class="s{one.colour}">{escape(one.name)}</li>' for one in series)
    note = f"<p>{escape(chart.note)}</p>" if chart.note else ""
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption><ul class="legend">{legend}</ul>'
        f"{chart_svg(chart)}{note}</figure>"
    )


def chart_svg(chart: Chart, attributes: str = "") -> str:
    """Its lines and axes alone, as an `<svg>` with these attributes more; nothing if there is no line."""
    series = _drawable(chart)
    if not series:
        return ""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points] + ([0.0] if chart.from_zero else [])
    ticks = nice_ticks(min(ys), max(ys))
    scale = _Scale((min(xs), max(xs)), (ticks[0], ticks[-1]))
    parts = [*_grid(scale, ticks), *(_line(one, scale, chart.across) for one in series)]
    last = ", ".join(f"{one.name} {format_number(one.points[-1][1])}" for one in series)
    label = escape(f"{chart.title}; last values: {last}", quote=True)
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}"'
    return f"<svg {box}{attributes and ' '}{attributes}>{''.join(parts)}</svg>"


def format_number(value: float) -> str:
    """A number for a label: four digits at most, large ones with k and M."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size and size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Scale:
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        share = (value - low) / (high - low) if high > low else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _drawable(chart: Chart) -> list[Series]:
    return [one for one in map(_finite, chart.series) if one.points]


def _finite(series: Series) -> Series:
    points = [(x, y) for x, y in series.points if math.isfinite(x) and math.isfinite(y)]
    return Series(series.name, points, series.colour)


def _grid(scale: _Scale, ticks: Sequence[float]) -> list[str]:
    parts = []
    for tick in ticks:
        y = scale.y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{format_number(tick)}</text>')
    low, high = scale.x_range
    for tick in (t for t in nice_ticks(low, high, count=5) if low <= t <= high and t == round(t)):
        x = f"{scale.x(tick):.1f}"
        parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{format_number(tick)}</text>')
    return parts


def _line(series: Series, scale: _Scale, across: str) -> str:
    path = _path(series.points, scale)
    dots = "".join(
        f'<circle class="s{series.colour}" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="5">'
        f"<title>{escape(series.name)}, {escape(across)} {format_number(x)}: {format_number(y)}</title></circle>"
        for x, y in series.points
    )
    if len(series.points) == 1:
        return f'<g class="single">{dots}</g>'
    if len(series.points) <= _FULL_LINE_POINTS:
        return f'<path class="s{series.colour}" d="{path}"/><g class="hover">{dots}</g>'
    calm = _path(smoothed(series.points), scale)
    return (
        f'<path class="s{series.colour} raw" d="{path}"/><path class="s{series.colour}" d="{calm}"/>'
        f'<g class="hover">{dots}</g>'
    )


def _path(points: Points, scale: _Scale) -> str:
    return "M" + "L".join(f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in points)


def series_of(named: Mapping[str, Points], *, first_colour: int = 0) -> list[Series]:
    """Series in the order given, each with the next colour."""
    return [
        Series(name, points, (first_colour + number) % NUM_COLOURS)
        for number, (name, points) in enumerate(named.items())
    ]
