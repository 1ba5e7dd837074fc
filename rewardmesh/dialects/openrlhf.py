"""OpenRLHF's remote reward model: `POST /get_reward` with texts, rewards in order.

Upstream: OpenRLHF/OpenRLHF at 58ec6ffd957e617b7dbb14596a22de99d9a75617, `openrlhf/cli/serve_rm.py`: `query`, `prompts`
and `labels` are lists of text, the answer is `{"rewards": […], "scores": […], "extra_logs": {…}}`, of which the first
is the reward. Upstream judges text and has no key for pictures: ours go beside it as `images`, base64 PNG, which a
server written for pictures reads and others pass over. `labels` are the sample's checks as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewardmesh.dialects.dialect import Asked, DialectOptions, Request, in_order
from rewardmesh.dialects.reply import RawReply, load_answer
from rewardmesh.wire.messages import OracleEndpoint

__all__ = ["OpenRLHF"]


class OpenRLHF:
    """`query` is the prompt: the response is the picture."""

    def __init__(self, endpoint: OracleEndpoint) -> None:
        self.info = DialectOptions.of(endpoint).info(endpoint)

    def request(self, asked: Sequence[Asked]) -> Request:
        prompts = [one.prompt for one in asked]
        body = {
            "query": prompts,
            "prompts": prompts,
            "labels": [one.claim.sample.checks.to_json() for one in asked],
            "images": [one.picture_base64 for one in asked],
        }
        return Request(path="/get_reward", json=body)

    def read(self, body: bytes, asked: Sequence[Asked]) -> RawReply:
        return in_order(load_answer(body, oracle=self.info.name).get("rewards"), asked, info=self.info)
