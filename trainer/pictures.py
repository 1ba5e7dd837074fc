"""Picture grids: one row a prompt, the same seeds before and after side by side, each marked as passed or not.

Owns drawing only. Pixels are enlarged without smoothing, so that what is seen is what was judged.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from trainer.evaluate import Evaluation, Pictures

__all__ = ["GridColumn", "GridRow", "comparison_rows", "draw_grid", "png_bytes", "write_comparison"]

_INK, _MUTED, _PAPER, _RULE = "#1f2328", "#6a737d", "#ffffff", "#d8dee4"
_PASS, _FAIL = "#1a7f37", "#b42318"
_GAP, _MARGIN, _PROMPT_WIDTH, _CAPTION, _COLUMN_GAP, _HEADING = 8, 20, 190, 20, 28, 56


@dataclass(frozen=True)
class GridColumn:
    """Pictures of one network in one row, with their marks; `passed` holds None where nothing was judged."""

    pictures: Pictures
    """[N, H, W, 3] uint8."""
    passed: Sequence[bool | None]


@dataclass(frozen=True)
class GridRow:
    """One prompt."""

    prompt: str
    kind: str
    columns: Sequence[GridColumn]


def comparison_rows(
    evaluations: Sequence[Evaluation], *, rows_per_kind: int = 2, pictures_per_row: int = 3
) -> list[GridRow]:
    """Rows for a grid: the first prompts of every kind, and of each the first seeds. Nothing is picked by its outcome.

    Raises: ValueError if the evaluations are not of the same pictures, or have none.
    """
    first = evaluations[0]
    for other in evaluations:
        if other.pictures is None:
            raise ValueError(f"{other.name} has no pictures: it was read from a file")
        if [(o.prompt, o.seed) for o in other.outcomes] != [(o.prompt, o.seed) for o in first.outcomes]:
            raise ValueError(f"{first.name} and {other.name} were not evaluated on the same prompts and seeds")
    rows = []
    for kind in dict.fromkeys(outcome.kind for outcome in first.outcomes):
        prompts = list(dict.fromkeys(o.prompt for o in first.outcomes if o.kind == kind))
        for prompt in prompts[:rows_per_kind]:
            at = [i for i, o in enumerate(first.outcomes) if o.kind == kind and o.prompt == prompt][:pictures_per_row]
            columns = [
                GridColumn(e.pictures[at], [e.outcomes[i].passed for i in at])
                for e in evaluations
                if e.pictures is not None
            ]
            rows.append(GridRow(prompt, kind, columns))
    return rows


def draw_grid(rows: Sequence[GridRow], *, headings: Sequence[str], title: str = "", scale: int = 3) -> Image.Image:
    """One picture of all rows; `headings` name the columns (before, after).

    Raises: ValueError if there is nothing to draw, or a row has not one column a heading.
    """
    if not rows or any(len(row.columns) != len(headings) for row in rows):
        raise ValueError(f"a grid needs rows, each with one column for each of {list(headings)}")
    height, width = (scale * side for side in rows[0].columns[0].pictures.shape[1:3])
    counts = [max(len(row.columns[c].pictures) for row in rows) for c in range(len(headings))]
    widths = [count * width + (count - 1) * _GAP for count in counts]
    lefts = [_MARGIN + _PROMPT_WIDTH + sum(widths[:c]) + _COLUMN_GAP * c for c in range(len(headings))]
    top = _MARGIN + _HEADING + (34 if title else 0)
    row_height = height + _CAPTION + _GAP
    size = (lefts[-1] + widths[-1] + _MARGIN, top + len(rows) * row_height + _MARGIN)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((_MARGIN, _MARGIN - 2), title, fill=_INK, font=_font(20, bold=True))
    for c, heading in enumerate(headings):
        draw.text((lefts[c], top - 38), heading, fill=_INK, font=_font(16, bold=True))
        draw.text((lefts[c] + widths[c], top - 34), _tally(rows, c), fill=_MUTED, font=_font(13), anchor="ra")
        draw.line((lefts[c], top - 10, lefts[c] + widths[c], top - 10), fill=_INK, width=2)
    kind = ""
    for r, row in enumerate(rows):
        y = top + r * row_height
        if r and row.kind != kind:
            draw.line((_MARGIN, y - 5, size[0] - _MARGIN, y - 5), fill=_RULE)
        _draw_prompt(draw, row, (_MARGIN, y), show_kind=row.kind != kind)
        kind = row.kind
        for column, left in zip(row.columns, lefts, strict=True):
            _draw_column(canvas, column, (left, y), (width, height))
    return canvas


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_comparison(path: Path, evaluations: Sequence[Evaluation], *, title: str = "", scale: int = 3) -> Path:
    """Writes the grid of several evaluations of the same pictures; headings are their names and NFE."""
    headings = [f"{evaluation.name}, {evaluation.nfe} NFE" for evaluation in evaluations]
    grid = draw_grid(comparison_rows(evaluations), headings=headings, title=title, scale=scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(grid))
    return path


def _draw_prompt(draw: ImageDraw.ImageDraw, row: GridRow, at: tuple[int, int], *, show_kind: bool) -> None:
    x, y = at
    if show_kind:
        draw.text((x, y), row.kind.replace("_", " "), fill=_MUTED, font=_font(12, bold=True))
    font, line, lines = _font(15), "", []
    for word in row.prompt.split():
        longer = f"{line} {word}".strip()
        if line and draw.textlength(longer, font=font) > _PROMPT_WIDTH - 2 * _GAP:
            lines.append(line)
            longer = word
        line = longer
    for number, text in enumerate([*lines, line]):
        draw.text((x, y + 20 + 20 * number), text, fill=_INK, font=font)


def _draw_column(canvas: Image.Image, column: GridColumn, at: tuple[int, int], size: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(canvas)
    (x, y), (width, height) = at, size
    for pixels, passed in zip(column.pictures, column.passed, strict=True):
        canvas.paste(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST), (x, y))
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_RULE)
        if passed is not None:
            colour, mark, word = (_PASS, "✓", "pass") if passed else (_FAIL, "✗", "fail")
            draw.text((x + width // 2, y + height + 2), f"{mark} {word}", fill=colour, font=_font(13), anchor="ma")
        x += width + _GAP


def _tally(rows: Sequence[GridRow], column: int) -> str:
    marks = [passed for row in rows for passed in row.columns[column].passed if passed is not None]
    return f"{sum(marks)} of {len(marks)} pass" if marks else ""


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: the same letters on every machine, check mark and cross included."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", name)), size)
