"""Flow-Factory's reward server: `POST /compute` with base64 PNG, rewards in order.

Upstream: X-GenGroup/Flow-Factory at 696af0711dbda2d7b717970f82c1af54bdcb5eb6, `reward_server/example_server.py` (reads
`prompts` and `images`) and `src/flow_factory/rewards/my_reward_remote.py` (sends `prompt` and `image`). The two halves
name their keys differently, and a server may follow either, so the registration says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rewardmesh.dialects.dialect import Asked, DialectOptions, Request, in_order
from rewardmesh.dialects.failures import ServerError
from rewardmesh.dialects.reply import RawReply, load_answer
from rewardmesh.wire.messages import OracleEndpoint

__all__ = ["FlowFactory", "FlowFactoryOptions"]


class FlowFactoryOptions(DialectOptions):
    """`keys`: `plural` as in the template of a server, `singular` as the trainer's own client writes them."""

    keys: Literal["plural", "singular"] = "plural"


class FlowFactory:
    """Prompts and pictures; checks are not part of the schema."""

    def __init__(self, endpoint: OracleEndpoint) -> None:
        self._options = FlowFactoryOptions.of(endpoint)
        self.info = self._options.info(endpoint)

    def request(self, asked: Sequence[Asked]) -> Request:
        prompts, images = ("prompts", "images") if self._options.keys == "plural" else ("prompt", "image")
        body = {prompts: [one.prompt for one in asked], images: [one.picture_base64 for one in asked]}
        return Request(path="/compute", json=body)

    def read(self, body: bytes, asked: Sequence[Asked]) -> RawReply:
        answer = load_answer(body, oracle=self.info.name)
        if answer.get("error"):  # upstream says so in a 200
            raise ServerError(f"it answered an error, {str(answer['error'])[:300]!r}", self.info.name)
        return in_order(answer.get("rewards"), asked, info=self.info)
