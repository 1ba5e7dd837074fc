"""Raters who are programs: they come by an invite's link and choose over HTTP, as fast as they are shown pairs."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx

from rewardmesh.wire.codec import WEBP, decode_picture

__all__ = ["rate_by_brightness"]


async def rate_by_brightness(url: str, link: str, *, name: str = "prog") -> int:
    """Chooses the brighter picture until nothing waits; how many choices that were."""
    headers = {"Authorization": f"Bearer {link}", "X-Rater": name}
    num_choices = 0
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
        while (shown := await _asked(client, "/api/lease", {"have": []}))["kind"] == "pair":
            shades = []
            for path in shown["pictures"]:
                picture = await client.get(f"/{path}")
                assert picture.status_code == httpx.codes.OK, picture.text
                shades.append(int(decode_picture(picture.content, WEBP)[0, 0, 0]))
            choice = "left" if shades[0] > shades[1] else "right"
            made = {"lease_id": shown["lease_id"], "choice": choice, "choice_id": uuid4().hex, "look_s": 2.0}
            assert (await _asked(client, "/api/choice", made))["first_time"]
            num_choices += 1
    return num_choices


async def _asked(client: httpx.AsyncClient, path: str, body: dict[str, object]) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    return dict(answer.json())
