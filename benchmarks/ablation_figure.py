"""The figure of `benchmarks.ablations`: all reward curves as one SVG file, a panel for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from trainer.charts import Chart, Points, chart_svg, series_of

__all__ = ["figure"]

_PANEL_W, _PANEL_H, _LEGEND_LINE, _TITLE_H, _COLUMNS = 460, 230, 16, 24, 2
_MOST_LINES: Final = 5
_COLOURS: Final = ("#2a6fdb", "#c2570c", "#14795f", "#a03597", "#7a6a00", "#5b52c8")
_STYLE: Final = (
    "text { font: 12px system-ui, sans-serif; fill: #59636e; } .title { font-weight: 650; fill: #1f2328; }"
    " .grid { stroke: #d1d9e0; } path { fill: none; stroke-width: 2; stroke-linejoin: round; }"
    " path.raw { stroke-width: 1; opacity: 0.35; } .hover circle { opacity: 0; } .hover circle:hover { opacity: 1; }"
    + "".join(f" path.s{n} {{ stroke: {c}; }} .s{n}:not(path) {{ fill: {c}; }}" for n, c in enumerate(_COLOURS))
)


def figure(title: str, panels: Mapping[str, Mapping[str, Points]]) -> str:
    """By panel, by line: points (minutes, reward). Panels without a line are left out."""
    drawn = [(name, lines) for name, lines in panels.items() if any(lines.values())]
    height_each = _TITLE_H + _MOST_LINES * _LEGEND_LINE + _PANEL_H + 16
    rows = (len(drawn) + _COLUMNS - 1) // _COLUMNS
    width, height = _COLUMNS * (_PANEL_W + 20) + 20, rows * height_each + 2 * _TITLE_H
    parts = [f'<text class="title" x="20" y="{_TITLE_H}">{escape(title)}</text>']
    for number, (name, lines) in enumerate(drawn):
        x = 20 + number % _COLUMNS * (_PANEL_W + 20)
        y = 2 * _TITLE_H + number // _COLUMNS * height_each
        parts += _panel(name, lines, x, y)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{_STYLE}</style><rect width="{width}" height="{height}" style="fill: #ffffff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _panel(name: str, lines: Mapping[str, Points], x: int, y: int) -> Sequence[str]:
    chart = Chart(name, series_of({key: points for key, points in lines.items() if points}), across="minute")
    legend = [
        f'<text class="s{one.colour}" x="{x}" y="{y + _TITLE_H + row * _LEGEND_LINE + 8}">{escape(one.name)}</text>'
        for row, one in enumerate(chart.series)
    ]
    top = y + _TITLE_H + _MOST_LINES * _LEGEND_LINE
    placed = f'x="{x}" y="{top}" width="{_PANEL_W}" height="{_PANEL_H}"'
    return [f'<text class="title" x="{x}" y="{y + 8}">{escape(name)}</text>', *legend, chart_svg(chart, placed)]
