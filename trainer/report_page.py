"""The frame of a report: a page of HTML that needs nothing but itself, its sections and tables. Fetches nothing."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

__all__ = ["page", "section", "table"]


def page(title: str, body: str) -> str:
    """The whole page; `body` is HTML."""
    style = (Path(__file__).parent / "report_assets" / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def section(title: str, content: str) -> str:
    """A heading with what belongs to it (HTML), or nothing where there is nothing."""
    return f"<h2>{escape(title)}</h2>{content}" if content else ""


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of plain text."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
