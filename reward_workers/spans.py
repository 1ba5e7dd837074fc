"""The spans of a worker: for each sample of a batch one of its own, in the trace that its rollout began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from rewardmesh.wire import tracing
from rewardmesh.wire.messages import Scored, ScoreFailure
from rewardmesh.wire.stream import Claim, Result

__all__ = ["sample_spans"]


@contextmanager
def sample_spans(
    name: str, claims: Sequence[Claim], *, oracle: str, results: Sequence[Result] = (), **attributes: str
) -> Iterator[Sequence[Claim]]:
    """Opens them, and gives the claims whose spans are to be their children. Where spans are off, the same claims.

    `results`, in the order of the claims, is what each span says of its outcome. One call asks about many samples: the
    spans of all but the first link to the first, whose context the call carries.
    """
    if not tracing.is_on():
        yield claims
        return
    with ExitStack() as opened:
        traced: list[Claim] = []
        for index, claim in enumerate(claims):
            first = [one.traceparent for one in traced[:1] if one.traceparent] if name == "ask" else []
            span = tracing.span(
                name,
                parent=claim.traceparent,
                links=first,
                run_id=claim.sample.run_id,
                group_id=claim.sample.group_id,
                sample_id=claim.sample.sample_id,
                oracle=oracle,
                attempts=claim.attempts,
                batch_samples=len(claims),
                **attributes,
                **(_outcome(results[index]) if results else {}),
            )
            traced.append(replace(claim, traceparent=opened.enter_context(span).traceparent))
        yield traced


def _outcome(result: Result) -> dict[str, str | float]:
    said: dict[str, str | float] = {"outcome": result.kind}
    if isinstance(result, Scored):
        said["reward"] = result.reward
    elif isinstance(result, ScoreFailure):
        said["code"] = result.code
    return said
