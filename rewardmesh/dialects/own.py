"""Our own protocol: `POST /v1/score` as multipart, results by sample id. The service describes itself."""

from __future__ import annotations

from collections.abc import Sequence

from rewardmesh.dialects.dialect import Asked, Part, Request
from rewardmesh.dialects.failures import CallerRefused
from rewardmesh.dialects.reply import RawReply, parse_reply
from rewardmesh.wire.messages import OracleEndpoint, ScoreBatch, ScoreItem

__all__ = ["Own"]


class Own:
    """Takes no options."""

    info = None

    def __init__(self, endpoint: OracleEndpoint) -> None:
        if endpoint.options:
            raise CallerRefused("the dialect rewardmesh takes no options", endpoint.name, "register it without any")
        self._endpoint = endpoint

    def request(self, asked: Sequence[Asked]) -> Request:
        names = [f"picture-{index}" for index in range(len(asked))]
        items = [
            ScoreItem(sample=one.claim.sample, media_type=one.media_type, picture=name, hint=one.claim.hint)
            for name, one in zip(names, asked, strict=True)
        ]
        batch = ScoreBatch(oracle=self._endpoint.name, items=items, deadline_s=self._endpoint.deadline_s)
        parts: list[Part] = [("request", (None, batch.to_json(), "application/json"))]
        parts += [(name, (name, one.picture, one.media_type)) for name, one in zip(names, asked, strict=True)]
        return Request(path="/v1/score", parts=parts)

    def read(self, body: bytes, _asked: Sequence[Asked]) -> RawReply:
        return parse_reply(body, oracle=self._endpoint.name)
