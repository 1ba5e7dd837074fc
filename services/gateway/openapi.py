"""The OpenAPI document, where FastAPI cannot know: bodies that a route reads by itself, of more than one form."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rewardmesh.wire.messages import Message

__all__ = ["body_of", "document"]

_BODIES: Final[dict[str, type[Message]]] = {}


def body_of(model: type[Message]) -> dict[str, Any]:
    """What a route says that takes the model as JSON, or as the part `request` before parts with pictures."""
    _BODIES[model.__name__] = model
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    multipart = {
        "type": "object",
        "properties": {"request": schema},
        "required": ["request"],
        "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
    }
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": multipart}}
    return {"requestBody": {"required": True, "content": content}}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document, with the models that `body_of` named."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        openapi_version="3.1.0",
        servers=app.servers or [{"url": "/"}],  # FastAPI adds the path below which the app is mounted
    )
    schemas = made["components"]["schemas"]
    for name, model in _BODIES.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        for inner, definition in schema.pop("$defs", {}).items():
            schemas.setdefault(inner, definition)
        schemas[name] = schema
    for operation in (one for methods in made["paths"].values() for one in methods.values()):
        for status, answer in operation["responses"].items():
            if status >= "400":  # errors are JSON, of the page too
                (schema,) = answer["content"].values()
                answer["content"] = {"application/json": schema}
    return made
