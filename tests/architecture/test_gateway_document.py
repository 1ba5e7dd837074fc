"""docs/gateway.md lists the routes and scopes that there are, and the OpenAPI document is one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.app import build_gateway
from tests.architecture.repository import read


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """As it is sent: what is in it is JSON."""
    return dict(json.loads(json.dumps(build_gateway("redis://nowhere", OutgoingPolicy()).openapi())))


def test_the_table_has_every_route_with_its_scopes(document: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `([A-Z]+) (/\S*)` \|([a-z, ]*)\|", read(Path("docs/gateway.md")), re.MULTILINE)
    listed = {(method, path): set(re.findall("[a-z]+", scopes)) for method, path, scopes in rows}
    known = {
        (method.upper(), path): {scope for one in operation.get("security", []) for scope in one["token"]}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert listed == known


def test_every_reference_leads_somewhere_and_every_schema_is_one(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(schemas)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


def test_every_route_says_what_it_answers(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            answers = operation["responses"]
            assert {"401", "403", "422", "429"} <= set(answers), path
            (good,) = (status for status in answers if status.startswith("2"))
            assert good == "204" or answers[good]["content"], path
            assert operation["description"]
            for status, answer in answers.items():
                if status >= "400":
                    schema = {"$ref": "#/components/schemas/FaultAnswer"}
                    assert answer["content"] == {"application/json": {"schema": schema}}, (path, status)
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert all(name.isidentifier() for name in names)
    assert len(set(names)) == len(names)
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
