"""Strict JSON: what `json` writes and reads by default, less NaN and Infinity."""

from __future__ import annotations

import json
from typing import Any, NoReturn

__all__ = ["dump_json", "load_json", "require_finite"]


def dump_json(value: object) -> str:
    """Compact JSON; raises ValueError for NaN, Infinity and anything that is no JSON."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except TypeError as error:
        raise ValueError(str(error)) from error


def load_json(text: str | bytes) -> Any:
    """Reads JSON; raises ValueError, also for NaN and Infinity."""
    return json.loads(text, parse_constant=_refuse)


def require_finite(value: dict[str, Any]) -> dict[str, Any]:
    """Returns the object as given; raises ValueError if strict JSON cannot say it."""
    dump_json(value)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
