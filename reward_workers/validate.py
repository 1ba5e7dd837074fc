"""Nothing that an oracle answers is believed before it is checked: ids, number, finite, within the declared range.

What is wrong with one result fails that sample; what is wrong with the answer as a whole raises `InvalidAnswer`.
Results are matched by id, so their order does not matter; a sample without a result was not answered (retryable).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from reward_workers.failures import InvalidAnswer
from rewardmesh.wire.messages import Deferred, OracleInfo, Scored, ScoreFailure, ScoreResult
from rewardmesh.wire.stream import Result
from rewardmesh.wire.strict_json import dump_json

__all__ = ["MAX_DETAIL_BYTES", "RawReply", "check_results", "load_answer", "parse_reply"]

#: A longer `detail` is left out: it would be kept in the server's memory until the group is forgotten.
MAX_DETAIL_BYTES = 64 * 1024
_MAX_FAILURE_CHARS = 2_000  # of what is said about a failure, which is logged and kept with the dead letter
_MAX_VERSION_CHARS = 200

_RESULT: TypeAdapter[Scored | ScoreFailure | Deferred] = TypeAdapter(ScoreResult)
_NOT_A_NUMBER = object()  # stands where JSON said NaN or Infinity, so that it fails one sample and not the batch


@dataclass(frozen=True, kw_only=True)
class RawReply:
    """The envelope of an answer: who answered, and results that were not looked at yet."""

    oracle: str
    version: str
    results: list[Any]


def load_answer(body: bytes, *, oracle: str) -> dict[str, Any]:
    """The JSON object that an answer is; NaN and Infinity in it fail where they are used. Raises InvalidAnswer."""
    try:
        answer = json.loads(body, parse_constant=lambda _: _NOT_A_NUMBER)
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer("the answer is no JSON", oracle, f"{error}") from error
    if not isinstance(answer, dict):
        raise InvalidAnswer("the answer is no JSON object", oracle)
    return answer


def parse_reply(body: bytes, *, oracle: str) -> RawReply:
    """Reads the envelope. Raises InvalidAnswer if it is no JSON, has another shape, or is another oracle's."""
    reply = load_answer(body, oracle=oracle)
    if set(reply) != {"oracle", "version", "results"}:
        raise InvalidAnswer("the answer is no object of oracle, version and results", oracle)
    if reply["oracle"] != oracle:
        raise InvalidAnswer(
            f"the answer is from {str(reply['oracle'])[:80]!r}", oracle, "check the URL registered for it"
        )
    version, results = reply["version"], reply["results"]
    if not isinstance(version, str) or not 0 < len(version) <= _MAX_VERSION_CHARS or _writable(version) != version:
        raise InvalidAnswer(f"the answer's version is no text of 1 to {_MAX_VERSION_CHARS} characters", oracle)
    if not isinstance(results, list):
        raise InvalidAnswer("the answer's results are no list", oracle)
    return RawReply(oracle=oracle, version=version, results=results)


def check_results(reply: RawReply, *, sample_ids: Sequence[str], info: OracleInfo) -> list[Result]:
    """One result a sample, in the order of `sample_ids`. Never raises for what one result holds.

    Raises InvalidAnswer if there are more results than samples, or one for a sample that was not asked about: such an
    answer belongs to another request, and none of it can be trusted.
    """
    if len(reply.results) > len(sample_ids):
        raise InvalidAnswer(f"{len(reply.results)} results for {len(sample_ids)} samples", info.name)
    by_id: dict[str, list[Any]] = {sample_id: [] for sample_id in sample_ids}
    for raw in reply.results:
        sample_id = raw.get("sample_id") if isinstance(raw, dict) else None
        if not isinstance(sample_id, str) or sample_id not in by_id:
            raise InvalidAnswer(f"a result for a sample that was not asked about: {str(sample_id)[:80]!r}", info.name)
        by_id[sample_id].append(raw)
    return [_check_sample(sample_id, raws, info) for sample_id, raws in by_id.items()]


def _check_sample(sample_id: str, raws: list[Any], info: OracleInfo) -> Result:
    if not raws:
        return _invalid(sample_id, "the answer lacks this sample", retryable=True)
    if len(raws) > 1:
        return _invalid(sample_id, f"the answer holds {len(raws)} results for this sample")
    try:
        result = _RESULT.validate_python(raws[0], strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return _invalid(sample_id, f"{place}: {first['msg']}")
    except (ValueError, OverflowError, RecursionError) as error:
        return _invalid(sample_id, f"{type(error).__name__}: {error}")
    return _check_result(result, info)


def _check_result(result: Result, info: OracleInfo) -> Result:
    if isinstance(result, Scored):
        if not info.reward_min <= result.reward <= info.reward_max:
            return _invalid(
                result.sample_id,
                f"reward {result.reward} is outside the declared range {info.reward_min} to {info.reward_max}",
            )
        detail = dump_json(result.detail)
        if _writable(detail) != detail:
            return _invalid(result.sample_id, "its detail holds half a character (a lone surrogate)")
        if len(detail.encode()) > MAX_DETAIL_BYTES:
            return result.model_copy(update={"detail": {"left_out_bytes": len(detail.encode())}})
    elif isinstance(result, Deferred) and not info.deferred:
        return _invalid(result.sample_id, "the oracle deferred its answer without having declared that it may")
    elif isinstance(result, ScoreFailure) and result.code in {"stale", "expired", "poison"}:
        return _invalid(result.sample_id, f"the code {result.code} is not an oracle's to give")
    elif isinstance(result, ScoreFailure) and len(result.detail) > _MAX_FAILURE_CHARS:
        return result.model_copy(update={"detail": result.detail[:_MAX_FAILURE_CHARS]})
    return result


def _invalid(sample_id: str, detail: str, *, retryable: bool = False) -> ScoreFailure:
    said = _writable(detail[:_MAX_FAILURE_CHARS])
    return ScoreFailure(sample_id=sample_id, code="invalid_answer", detail=said, retryable=retryable)


def _writable(text: str) -> str:
    """The text as UTF-8 can say it: JSON may hold half a character, and what is kept must be written."""
    return text.encode(errors="replace").decode()
