"""docs/protocol.md says what the code does: fields, types, defaults, statuses and codes, equal to the app's OpenAPI."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from fastapi.testclient import TestClient

from rewardmesh import oracle
from rewardmesh.kit.app import AppLimits, build_app
from rewardmesh.wire.codec import PNG, encode_picture
from rewardmesh.wire.messages import FailureCode, ScoreBatch, ScoreBatchReply
from tests.architecture.repository import read

DOCUMENT = read(Path("docs/protocol.md"))
TABLE = re.compile(r"^`(\w+)`[^\n|]*:\n\n\| field .*\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE)


@cache
def openapi() -> dict[str, Any]:
    """The document that the app serves, of an oracle with a token."""
    app = build_app(oracle(name="toy", version="1")(lambda *_: []), token="secret")
    with TestClient(app) as client:
        document: dict[str, Any] = client.get("/openapi.json", headers={"Authorization": "Bearer secret"}).json()
    return document


def example(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return code


def tables() -> dict[str, dict[str, tuple[str, str]]]:
    """Model -> field -> (type, default), as the document has them."""
    found = {}
    for model, rows in TABLE.findall(DOCUMENT):
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
        found[model] = {field.strip("`"): (kind, default) for field, kind, default, _ in cells}
    return found


PATTERNS = {r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "name", r"^[A-Za-z0-9][A-Za-z0-9._@+=:/#-]*$": "identifier"}


def said(schema: dict[str, Any]) -> str:
    """A schema in the document's words."""
    match schema:
        case {"$ref": ref}:
            return f"`{ref.rpartition('/')[2]}`"
        case {"const": value}:
            return f"`{json.dumps(value)}`"
        case {"enum": values}:
            codes = set(values) == set(get_args(FailureCode))
            return "[failure code](#failure-codes)" if codes else " or ".join(f"`{json.dumps(one)}`" for one in values)
        case {"anyOf": [one, {"type": "null"}]}:
            return said(one) + (", or null" if "prefixItems" in one else " or null")
        case {"oneOf": kinds}:
            *most, last = [said(one) for one in kinds]
            return f"{', '.join(most)} or {last}"
        case {"prefixItems": [first, second]}:
            return f"pair of {said(first)} and {said(second)}"
        case {"type": "array", "items": items}:
            return f"list of {said(items)}" + (f", at least {schema['minItems']}" if "minItems" in schema else "")
        case {"pattern": pattern}:
            return PATTERNS[pattern]
        case {"type": kind}:
            bounds = "".join(
                f" {word} {schema[key]:g}"
                for key, word in (
                    ("minimum", "from"),
                    ("exclusiveMinimum", "above"),
                    ("gt", "above"),
                    ("maximum", "to"),
                )
                if key in schema
            )
            return f"{kind}{bounds}" + (", not empty" if schema.get("minLength") == 1 else "")
    raise AssertionError(f"no words for {schema}")


def default_of(name: str, model: dict[str, Any]) -> str:
    schema = model["properties"][name]
    if name in model.get("required", ()) or "const" in schema:  # a constant is always given
        return ""
    return f"`{json.dumps(schema.get('default', {}))}`"


def test_every_model_and_field_is_described_as_it_is() -> None:
    schemas = openapi()["components"]["schemas"]
    expected = {
        name: {field: (said(schema), default_of(field, model)) for field, schema in model["properties"].items()}
        for name, model in schemas.items()
    }
    assert tables() == expected
    assert all(model["additionalProperties"] is False for model in schemas.values())


@pytest.mark.parametrize(("pattern", "word"), PATTERNS.items())
def test_names_and_identifiers_are_described_as_they_are(pattern: str, word: str) -> None:
    (said_characters,) = re.findall(rf"\*{word}\* is 1 to \d+[^`]*`([^`]*)`", DOCUMENT)
    (allowed,) = re.findall(r"\[A-Za-z0-9([^\]]+)\]\*", pattern)
    assert set(said_characters.split()) == set(allowed)


def test_every_route_is_described() -> None:
    routes = {(method.upper(), path) for path, methods in openapi()["paths"].items() for method in methods}
    assert set(re.findall(r"^## (GET|POST) (/\S+)$", DOCUMENT, re.MULTILINE)) == routes
    guarded = {path for path, methods in openapi()["paths"].items() for one in methods.values() if "security" in one}
    assert guarded == {path for _, path in routes} - {"/v1/health"}


def test_every_header_and_content_type_is_described() -> None:
    score = openapi()["paths"]["/v1/score"]["post"]
    rows = dict(re.findall(r"^\| `([A-Z][\w-]+)` \| (.*) \|$", DOCUMENT.partition("### Answers")[0], re.MULTILINE))
    assert set(rows) == {"Content-Type", "Authorization", *(one["name"] for one in score["parameters"])}
    assert set(re.findall(r"`(\w+/[\w-]+)`", rows["Content-Type"])) == set(score["requestBody"]["content"])


def test_every_status_is_described() -> None:
    rows = re.findall(r"^\| (\d{3}(?:, \d{3})*) \| ([^|]*) \|", DOCUMENT.partition("### Statuses")[2], re.MULTILINE)
    ours = {status for status, when in rows if not when.startswith("(")}
    assert ours == set(openapi()["paths"]["/v1/score"]["post"]["responses"])
    limits = AppLimits()
    assert f"larger than {limits.max_body_bytes // 2**20} MiB" in DOCUMENT
    assert f"than {limits.max_request_pixels // 10**6} million pixels" in DOCUMENT


def test_every_failure_code_is_described() -> None:
    rows = set(
        re.findall(
            r"^\| `([a-z_]+)` \|.*\| .* \| .* \|$",
            DOCUMENT.partition("### Failure codes")[2].partition("## ")[0],
            re.MULTILINE,
        )
    )
    assert rows == set(openapi()["components"]["schemas"]["ScoreFailure"]["properties"]["code"]["enum"])


def test_the_request_in_it_is_one() -> None:
    batch = ScoreBatch.model_validate_json(example("json"))
    assert batch.items[0].sample.checks.include[0].cls == "circle"


def test_the_oracle_in_it_answers() -> None:
    """The class as printed, behind our app, asked with the request as printed."""
    namespace: dict[str, Any] = {}
    exec(compile(example("python"), "docs/protocol.md", "exec"), namespace)
    request = json.loads(example("json")) | {"oracle": "blue"}
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4, 2] = 255
    files = {
        "request": (None, json.dumps(request), "application/json"),
        "p3": ("p3", encode_picture(picture, PNG), PNG),
    }
    with TestClient(build_app(namespace["Blue"]())) as client:
        assert client.get("/v1/oracle").json()["name"] == "blue"
        assert client.get("/v1/health").json() == {"status": "ok"}
        reply = ScoreBatchReply.model_validate_json(client.post("/v1/score", files=files).content)
    assert [(result.sample_id, result.reward) for result in reply.results] == [("g17.3", 0.5)]
