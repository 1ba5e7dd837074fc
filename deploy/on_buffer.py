"""What commands that work directly on the buffer share: where it is, and reading what was given on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import typer

from rewardmesh.wire.errors import RewardmeshError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from deploy.settings import Settings

__all__ = ["buffer_url", "checked"]

ModelT = TypeVar("ModelT", bound="BaseModel")


def buffer_url(settings: Settings) -> str:
    """REDIS_URL, or the running stack's. Raises: RewardmeshError if there is neither."""
    from deploy.state import read_state

    state = read_state(settings.state_dir)
    url = settings.redis_url or (state.redis_url if state else None)
    if url is None:
        raise RewardmeshError("no stack runs here", str(settings.run_root), "set REDIS_URL, or start `rewardmesh up`")
    return url


def checked(model: type[ModelT], **given: Any) -> ModelT:
    """The message of what was given on the command line. Raises typer.BadParameter."""
    from pydantic import ValidationError

    try:
        return model(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise typer.BadParameter(f"{place}: {first['msg']}" if place else first["msg"]) from error
