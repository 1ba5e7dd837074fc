"""Answers of deferred oracles: what took its pictures over posts the results here, with the token that it was given.

Such a token has the scope `rate` and names its oracle: it can answer for that one and do nothing else.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import Field

from rewardmesh.wire.errors import ProtocolError, ScopeMissing
from rewardmesh.wire.messages import Message, Name, OracleInfo, Scored, ScoreFailure
from services.gateway.context import Gateway
from services.gateway.gate import Rate
from services.gateway.oracles import OracleName
from services.gateway.registering import info_of

__all__ = ["LateResult", "LateResults", "Recorded", "record", "router"]

#: The stream's own: an oracle may not say them.
_NOT_TO_BE_SAID = frozenset({"stale", "expired", "poison"})


class LateResult(Message):
    """The answer to one sample, with the ids that it came with."""

    run_id: Name
    group_id: str = Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+=:/#-]*$")
    result: Scored | ScoreFailure = Field(discriminator="kind")


class LateResults(Message):
    """Answers, and the version of the oracle that gave them."""

    version: str = Field(min_length=1, max_length=200)
    results: tuple[LateResult, ...] = Field(min_length=1, max_length=1024)


class Recorded(Message):
    """How many were new. The others had an outcome, were never asked about, or are forgotten."""

    recorded: int
    ignored: int


async def record(gateway: Gateway, oracle: str, answers: LateResults) -> Recorded:
    """Records each answer if it is the first. Idempotent by (run, group, sample, oracle).

    Raises: ProtocolError, before anything is recorded, for a reward outside the declared range, a code that is not an
    oracle's, or an oracle that was not probed; UnknownOracle; BufferUnavailable.
    """
    await gateway.registry.oracle(oracle)
    info = await info_of(gateway, oracle)
    if info is None:
        raise ProtocolError("the range of its rewards is not known", oracle, "POST /v1/oracles/…/recheck first")
    for answer in answers.results:
        _require_sound(answer, info)
    recorded = 0
    for answer in answers.results:
        stream = gateway.stream(answer.run_id)
        recorded += await stream.settle_late(
            oracle, group_id=answer.group_id, result=answer.result, version=answers.version
        )
    return Recorded(recorded=recorded, ignored=len(answers.results) - recorded)


def _require_sound(answer: LateResult, info: OracleInfo) -> None:
    result = answer.result
    if isinstance(result, Scored):
        if not info.reward_min <= result.reward <= info.reward_max:
            what = f"reward {result.reward} is outside {info.reward_min} to {info.reward_max}"
            raise ProtocolError(what, result.sample_id, "send rewards of the declared range")
    elif result.code in _NOT_TO_BE_SAID:
        raise ProtocolError(f"an oracle may not answer {result.code}", result.sample_id, "see docs/protocol.md")


router = APIRouter(prefix="/v1", tags=["late answers"])


@router.post("/oracles/{name}/results")
async def post_results(request: Request, token: Rate, name: OracleName, answers: LateResults) -> Recorded:
    """Post the results of samples that were deferred."""
    if token.oracle != name:
        raise ScopeMissing(f"this token answers for {token.oracle} alone", token.token_id, "use the oracle's own token")
    return await record(request.app.state.gateway, name, answers)
