"""The OpenAPI 3.1 of an oracle's app: complete enough to generate a client from.

The routes read their requests by hand, strictly, so that nothing is guessed or converted; what they read and answer
is therefore declared here, from the same models. docs/protocol.md says the same in prose, and a test compares the two.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from rewardmesh.kit.refused import ErrorReply
from rewardmesh.wire.messages import ScoreBatch

__all__ = ["REFUSED_CALLER", "SCORE_REFUSALS", "SCORE_REQUEST", "openapi_of"]

_RETRY_AFTER: Final = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 0}}}
_BATCH: Final = {"$ref": "#/components/schemas/ScoreBatch"}


def _error(description: str, **more: Any) -> dict[str, Any]:
    return {"model": ErrorReply, "description": description, **more}


REFUSED_CALLER: Final[dict[int | str, dict[str, Any]]] = {
    401: _error("no bearer token, or another one", headers={"WWW-Authenticate": {"schema": {"const": "Bearer"}}})
}
SCORE_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    400: _error("no strict JSON, or a part is missing or there twice"),
    413: _error("the body, the batch, or its pictures together are too large"),
    415: _error("neither multipart/form-data nor application/json"),
    422: _error("no ScoreBatch, another protocol, another oracle's name, or one sample_id twice"),
    429: _error("too many requests wait", headers=_RETRY_AFTER),
    503: _error("waited for its turn past its deadline_s", headers=_RETRY_AFTER),
}
SCORE_REQUEST: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "the same for the same samples asked of the same oracle",
            "schema": {"type": "string"},
        },
        {
            "name": "Traceparent",
            "in": "header",
            "required": False,
            "description": "W3C's trace context: the span of the call, in the trace of the batch's first sample",
            "schema": {"type": "string"},
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"request": _BATCH},
                    "required": ["request"],
                    "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
                },
                "encoding": {"request": {"contentType": "application/json"}},
            },
            "application/json": {"schema": _BATCH},
        },
    },
}


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The document of the app, with the models that its routes read by hand."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description="The oracle protocol of rewardmesh, version 1.",
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    _, read = models_json_schema([(ScoreBatch, "validation")], ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= read["$defs"]
    return document
