"""Requests of the oracle protocol, for tests: samples, pictures, multipart and JSON bodies."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from rewardmesh.kit.oracle import OracleInput
from rewardmesh.wire.codec import choose_media_type, encode_picture
from rewardmesh.wire.messages import Checks, Sample, ScoreBatch, ScoreBatchReply, ScoreItem

GREY = np.full((8, 8, 3), 128, np.uint8)


def sample(sample_id: str = "s0", *, prompt: str = "a photo", **checks: Any) -> Sample:
    return Sample(
        run_id="run",
        group_id="group",
        sample_id=sample_id,
        policy_version=0,
        boundary_index=4,
        prompt=prompt,
        checks=Checks.from_metadata({"tag": "test", **checks}),
    )


def given(picture: np.ndarray, sample_id: str = "s0", *, prompt: str = "a photo", **checks: Any) -> OracleInput:
    return OracleInput(sample=sample(sample_id, prompt=prompt, **checks), picture=picture)


def batch(oracle: str, samples: Sequence[Sample], media_type: str, **more: Any) -> ScoreBatch:
    """A batch whose pictures are the parts p0, p1, …"""
    items = [ScoreItem(sample=one, media_type=media_type, picture=f"p{i}") for i, one in enumerate(samples)]
    return ScoreBatch(oracle=oracle, items=items, **more)


def multipart(request: ScoreBatch | str, pictures: Sequence[bytes]) -> dict[str, Any]:
    """Keyword arguments of a post: the request and its pictures as parts."""
    text = request if isinstance(request, str) else request.to_json()
    files: list[tuple[str, tuple[str | None, str | bytes, str]]] = [("request", (None, text, "application/json"))]
    files += [(f"p{i}", (f"p{i}", data, "application/octet-stream")) for i, data in enumerate(pictures)]
    return {"files": files}


def inline(oracle: str, samples: Sequence[Sample], pictures: Sequence[np.ndarray]) -> dict[str, Any]:
    """Keyword arguments of a post: the JSON form, pictures as base64."""
    items = [
        ScoreItem(
            sample=one,
            media_type=choose_media_type(picture),
            picture_base64=base64.b64encode(encode_picture(picture, choose_media_type(picture))).decode(),
        )
        for one, picture in zip(samples, pictures, strict=True)
    ]
    return {
        "content": ScoreBatch(oracle=oracle, items=items).to_json(),
        "headers": {"Content-Type": "application/json"},
    }


def parts(oracle: str, samples: Sequence[Sample], pictures: Sequence[np.ndarray], **more: Any) -> dict[str, Any]:
    """Keyword arguments of a post: the multipart form, as the workers send it."""
    media_type = choose_media_type(pictures[0])
    return multipart(batch(oracle, samples, media_type, **more), [encode_picture(one, media_type) for one in pictures])


def reply_of(response: httpx.Response) -> ScoreBatchReply:
    assert response.status_code == 200, response.text
    return ScoreBatchReply.model_validate_json(response.content)
