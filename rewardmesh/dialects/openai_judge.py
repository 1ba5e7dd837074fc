"""A vision model as a judge, behind OpenAI's chat completions: one picture a request, the reward read from the reply.

Upstream: OpenAI API v1, `POST /chat/completions`, as its reference describes it and as vLLM, SGLang and others serve
it: a user message of a text part and an `image_url` part that holds a data URI; the reply is
`choices[0].message.content`. Register the URL up to and with `/v1`.

The rule by which a reply becomes a reward: the last JSON object in it that has a number under `reward` (an object
inside another is part of that one); without such an object, the whole reply if it is a plain number. Anything else is
an invalid answer, and is asked again within the oracle's attempts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from rewardmesh.dialects.dialect import Asked, DialectOptions, Request, in_order
from rewardmesh.dialects.failures import InvalidAnswer
from rewardmesh.dialects.reply import RawReply, load_answer
from rewardmesh.wire.messages import Count, Number, OracleEndpoint

__all__ = ["OpenAIJudge", "OpenAIJudgeOptions", "reward_in"]

#: A reply is read from its end, this far: reading it all would let one judge hold up the others' loop.
_TAIL_CHARS = 20_000
_NUMBER = re.compile(r"[-+]?\d{1,30}(\.\d{1,30})?")


class OpenAIJudgeOptions(DialectOptions):
    """`instruction` comes before the prompt; it should ask for the JSON that the rule reads."""

    model: str = Field(min_length=1)
    instruction: str = Field(
        default=(
            "Judge how well the picture shows what the prompt asks for. End your reply with a JSON object that has"
            " your judgement, a number from {reward_min} to {reward_max}, under the key reward. The prompt:"
        ),
        min_length=1,
    )
    temperature: Number = Field(default=0.0, ge=0)
    max_tokens: Count = Field(default=512, ge=1)


class OpenAIJudge:
    """Asks about one sample at a time: a reply about several could not be told apart."""

    def __init__(self, endpoint: OracleEndpoint) -> None:
        self._options = OpenAIJudgeOptions.of(endpoint)
        self.info = self._options.info(endpoint, max_batch=1)

    def request(self, asked: Sequence[Asked]) -> Request:
        (one,) = asked
        options = self._options
        instruction = options.instruction.replace("{reward_min}", f"{options.reward_min:g}")
        instruction = instruction.replace("{reward_max}", f"{options.reward_max:g}")
        content = [
            {"type": "text", "text": f"{instruction}\n{one.prompt}"},
            {"type": "image_url", "image_url": {"url": f"data:{one.media_type};base64,{one.picture_base64}"}},
        ]
        body = {
            "model": options.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
        }
        return Request(path="/chat/completions", json=body)

    def read(self, body: bytes, asked: Sequence[Asked]) -> RawReply:
        answer = load_answer(body, oracle=self.info.name)
        try:
            reply = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise InvalidAnswer("the answer has no choices[0].message.content", self.info.name) from error
        reward = reward_in(reply) if isinstance(reply, str) else None
        if reward is None:
            raise InvalidAnswer(f"no reward in the judge's reply {str(reply)[-200:]!r}", self.info.name)
        return in_order([reward], asked, info=self.info)


def reward_in(reply: str) -> float | None:
    """The reward that a reply states, by the rule above; None if it states none."""
    text = reply[-_TAIL_CHARS:]
    found: float | None = None
    at = text.find("{")
    while at >= 0:
        try:
            value, after = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            after = at + 1
        else:
            reward = value.get("reward")
            if isinstance(reward, int | float) and not isinstance(reward, bool):
                found = reward
        at = text.find("{", after)
    if found is None and _NUMBER.fullmatch(reply.strip()):
        return float(reply)
    return found


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
