"""A client that is generated from the gateway's OpenAPI document alone: types, calls and errors."""

from __future__ import annotations

from typing import Any

import httpx
import httpx2
import pytest
from aiopenapi3 import OpenAPI
from aiopenapi3.errors import HTTPClientError

from rewardmesh.wire.codec import PNG
from services.gateway.app import build_gateway
from tests.unit.services.gateway.conftest import LOOPBACK, Front, png, serving


def session(**more: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(trust_env=False, **more)


session.__annotations__["return"] = httpx2.AsyncClient  # the generator reads it, and not as text


async def test_a_client_made_from_the_document_works(front: Front, blue: str) -> None:
    token = await front.token("admin", "score")
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as http:
        url = f"{front.url}/v1/openapi.json"
        client = OpenAPI(url, (await http.get(url)).json(), session_factory=session, use_operation_tags=False)
    assert (await client._.health()).status == "ok"
    client.authenticate(token=token)
    made = await client._.register_oracle(data={"url": blue})
    assert (made.endpoint.name, made.endpoint.max_batch, made.breaker.kind) == ("blue", 8, "closed")
    assert [one.endpoint.name for one in await client._.list_oracles()] == ["blue"]
    pictures = [{"prompt": "a photo", "media_type": PNG, "picture_base64": png()}]
    sent = await client._.submit_pictures(data={"oracles": ["blue"], "pictures": pictures})
    known = await client._.fetch_results(parameters={"group_id": sent.group_id, "wait_s": 0})
    assert (known.group_id, known.complete) == (sent.group_id, False)
    with pytest.raises(HTTPClientError) as refused:
        await client._.show_oracle(parameters={"name": "nobody"})
    assert (refused.value.status_code, refused.value.data.error.kind) == (404, "UnknownOracle")


async def test_the_document_says_below_which_path_it_is_served(front: Front, buffer: Any) -> None:
    """Ray Serve mounts the gateway below a prefix; a generated client must call there."""
    app = build_gateway(buffer.url, LOOPBACK)
    headers = {"Authorization": f"Bearer {await front.token('score')}"}
    async with serving(app, root_path="/gateway") as url, httpx.AsyncClient(headers=headers, trust_env=False) as http:
        document = (await http.get(f"{url}/v1/openapi.json")).json()
    assert document["servers"][0] == {"url": "/gateway"}
    assert app.openapi()["servers"] == [{"url": "/"}]
