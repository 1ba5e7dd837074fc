"""Templates. What they show is escaped; links begin with the path that browsers find the service under."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rewardmesh.wire.errors import RewardmeshError
from services.preference.context import preference_of

__all__ = ["STATIC", "fault_page", "page"]

STATIC: Final = Path(__file__).parent / "static"
_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(request: Request, template: str, *, status: int = 200, **shown: Any) -> HTMLResponse:
    """A page of one template. `base` is known in all of them."""
    base = preference_of(request).settings.base_path
    return HTMLResponse(_TEMPLATES.get_template(template).render(base=base, **shown), status)


def fault_page(request: Request, status: int, error: RewardmeshError, *, headers: Mapping[str, str]) -> HTMLResponse:
    """What went wrong, and what to do: in the words of the error, with a way on."""
    path = request.url.path.removeprefix(preference_of(request).settings.base_path)
    is_operator = path.startswith("/operator")
    answer = page(request, "fault.html", status=status, error=error, is_operator=is_operator)
    answer.headers.update(headers)
    return answer
