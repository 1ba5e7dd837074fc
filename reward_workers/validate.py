"""Nothing that an oracle answers is believed before it is checked: ids, number, finite, within the declared range.

What is wrong with one result fails that sample; what is wrong with the answer as a whole raises `InvalidAnswer`.
Results are matched by id, so their order does not matter; a sample without a result was not answered (retryable).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rewardmesh.dialects.failures import InvalidAnswer
from rewardmesh.dialects.reply import RawReply, writable
from rewardmesh.wire.messages import Deferred, OracleInfo, Scored, ScoreFailure, ScoreResult
from rewardmesh.wire.stream import Result
from rewardmesh.wire.strict_json import dump_json

__all__ = ["MAX_DETAIL_BYTES", "check_results"]

#: A longer `detail` is left out: it would be kept in the server's memory until the group is forgotten.
MAX_DETAIL_BYTES = 64 * 1024
_MAX_FAILURE_CHARS = 2_000  # of what is said about a failure, which is logged and kept with the dead letter

_RESULT: TypeAdapter[Scored | ScoreFailure | Deferred] = TypeAdapter(ScoreResult)


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
        if writable(detail) != detail:
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
    said = writable(detail[:_MAX_FAILURE_CHARS])
    return ScoreFailure(sample_id=sample_id, code="invalid_answer", detail=said, retryable=retryable)
