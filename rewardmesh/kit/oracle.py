"""An oracle: a plain object that turns pictures into rewards. It knows no queue and no cluster.

    class Blueness(Oracle):
        info = OracleInfo(name="blueness", version="1", reward_min=0.0, reward_max=1.0,
                          media_types=("image/png",), max_batch=64)

        def score(self, batch):
            return [Scored(sample_id=one.sample.sample_id, reward=float(one.picture[..., 2].mean() / 255))
                    for one in batch]

`Blueness().serve()` serves it over HTTP; `rewardmesh.kit.app.build_app` makes the app for other servers. `score` is
called from one thread at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewardmesh.wire.messages import Deferred, FailureCode, OracleInfo, Sample, Scored, ScoreFailure

__all__ = ["Oracle", "OracleInput", "Result", "failed"]

Result = Scored | ScoreFailure | Deferred


@dataclass(frozen=True, slots=True)
class OracleInput:
    """One sample with its picture [H, W, 3] uint8, already decoded, and the surrogate's present opinion, if sent."""

    sample: Sample
    picture: np.ndarray
    hint: float | None = None


class Oracle(ABC):
    """Turns batches of pictures into rewards; subclasses set `info` and write `score`."""

    info: OracleInfo

    @abstractmethod
    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        """One result a sample, in any order: a reward in the declared range, a failure, or an answer for later.

        `batch` holds 1 to `info.max_batch` samples. Samples are independent: what one gets must not depend on the
        others, and a sample that cannot be judged is a `ScoreFailure` of its own (see `failed`), not an exception.
        An exception fails the whole batch as `oracle_error`. Where `info.granularity` is `group`, the batch is one
        whole group, and what a sample gets may depend on the others.
        """

    def serve(self, *, host: str = "127.0.0.1", port: int = 8800, token: str | None = None) -> None:
        """Answers the protocol over HTTP until it is stopped, on this machine only unless `host` says otherwise.

        `token`, if given, is the bearer token that every route but health asks for.
        """
        from rewardmesh.kit.serving import serve_oracle  # noqa: PLC0415 - only who serves needs a web framework

        serve_oracle(self, host=host, port=port, token=token)

    def close(self) -> None:  # noqa: B027 - an oracle with nothing to let go of need not say so
        """Lets go of what the oracle holds; it is not used afterwards."""


def failed(sample: Sample, code: FailureCode, detail: str, *, retryable: bool = False) -> ScoreFailure:
    """The failure of one sample; terminal unless said otherwise: the same picture would fail the same way again."""
    return ScoreFailure(sample_id=sample.sample_id, code=code, detail=detail, retryable=retryable)
