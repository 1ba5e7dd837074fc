"""A plain function as an oracle. Owns the decorator, and how what the function returns becomes results.

    from rewardmesh import oracle

    @oracle(version="1", reward_min=0.0, reward_max=1.0)
    def blueness(pictures, prompts, checks):
        return [picture[..., 2].mean() / 255 for picture in pictures]

    blueness.serve()

Group oracles, oracles that answer later and oracles that hold something are classes: `rewardmesh.kit.oracle.Oracle`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from rewardmesh.kit.oracle import Oracle, OracleInput, Result, failed
from rewardmesh.wire.codec import PNG, RAW, WEBP
from rewardmesh.wire.messages import Checks, OracleInfo, Sample, Scored

__all__ = ["FunctionOracle", "RewardFunction", "oracle"]

#: pictures [H, W, 3] uint8, prompts, checks -> one reward a picture, in order, or (reward, what explains it)
RewardFunction = Callable[[Sequence[np.ndarray], Sequence[str], Sequence[Checks]], Sequence[Any]]


def oracle(
    *,
    version: str,
    name: str | None = None,
    reward_min: float = 0.0,
    reward_max: float = 1.0,
    media_types: Sequence[str] = (RAW, WEBP, PNG),
    max_batch: int = 32,
    batch_size: int | None = None,
) -> Callable[[RewardFunction], FunctionOracle]:
    """Decorates `pictures, prompts, checks -> rewards` into an oracle, named as the function unless told otherwise.

    `max_batch` bounds one request; `batch_size`, if given, what the function is handed at a time. An exception, or
    another number of rewards than pictures, has each picture asked about alone, and fails those for which it happens
    again; a reward that is no finite number within the range fails its picture.

    Raises: pydantic.ValidationError (a ValueError) for a name, range or number that the protocol does not allow.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is below 1")

    def decorate(function: RewardFunction) -> FunctionOracle:
        info = OracleInfo(
            name=function.__name__ if name is None else name,
            version=version,
            reward_min=reward_min,
            reward_max=reward_max,
            media_types=tuple(media_types),
            max_batch=max_batch,
        )
        return FunctionOracle(info, function, batch_size=batch_size or max_batch)

    return decorate


class FunctionOracle(Oracle):
    """What `oracle` makes of a function; calling it calls the function."""

    def __init__(self, info: OracleInfo, function: RewardFunction, *, batch_size: int) -> None:
        self.info = info
        self._function = function
        self._batch_size = batch_size

    def __call__(
        self, pictures: Sequence[np.ndarray], prompts: Sequence[str], checks: Sequence[Checks]
    ) -> Sequence[Any]:
        return self._function(pictures, prompts, checks)

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        results: list[Result] = []
        for start in range(0, len(batch), self._batch_size):
            results += self._score(batch[start : start + self._batch_size])
        return results

    def _score(self, batch: Sequence[OracleInput]) -> list[Result]:
        samples = [one.sample for one in batch]
        rewards = self._function(
            [one.picture for one in batch], [one.prompt for one in samples], [one.checks for one in samples]
        )
        if len(rewards) != len(batch):
            raise ValueError(f"{self.info.name} gave {len(rewards)} rewards for {len(batch)} pictures")
        return [_result(sample, reward) for sample, reward in zip(samples, rewards, strict=True)]


def _result(sample: Sample, said: Any) -> Result:
    """The score, or the failure of a sample whose reward is no number. Its range is the app's to check."""
    reward, detail = said if isinstance(said, tuple) and len(said) == 2 else (said, {})
    if isinstance(reward, str | bytes):  # float() would read "1"
        return failed(sample, "oracle_error", f"a reward of type {type(reward).__name__} is no number")
    try:
        return Scored(sample_id=sample.sample_id, reward=float(reward), detail=detail)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return failed(sample, "oracle_error", f"{first['loc'][0]} {said!r}"[:200] + f": {first['msg']}")
    except (TypeError, ValueError):
        return failed(sample, "oracle_error", f"a reward of type {type(reward).__name__} is no number")
