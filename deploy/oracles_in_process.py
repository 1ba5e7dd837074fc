"""The shipped oracles as objects of this process, to make the shipped weights with: the scorer of the surrogate's bank
and the judge of the world's own measures.

The same classes that Ray Serve serves, without a road between. Post-training takes the road, but where there is none
(`deploy.post_training`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.messages import Checks, Sample, Scored
from services.oracles.object_count import ObjectCount, ObjectCountSettings
from services.oracles.ocr_spelling import OcrSettings, OcrSpelling
from trainer.evaluate import HeldoutPrompt, Pictures

__all__ = ["OraclesInProcess"]

_AT_ONCE = 1024
"""Samples of a call: more than a request may hold, since most are one picture asked for several prompts."""


class OraclesInProcess:
    """`object_count` and `ocr_spelling` side by side: each picture goes to the one that can judge its prompt."""

    def __init__(self, *, device: str = "cpu") -> None:
        """Raises: WeightsMissing."""
        self._objects: Oracle = ObjectCount(ObjectCountSettings(device=device))
        self._text: Oracle = OcrSpelling(OcrSettings(device=device))

    @property
    def by_name(self) -> Mapping[str, Oracle]:
        return {oracle.info.name: oracle for oracle in (self._objects, self._text)}

    def judge(self, pictures: Pictures, prompts: Sequence[HeldoutPrompt]) -> tuple[list[bool], list[Mapping[str, Any]]]:
        """Strict passes and what explains them, in order: a `trainer.evaluate.Judge`."""
        answers = self._answers(list(pictures), prompts)
        return [bool(answer.detail.get("strict")) for answer in answers], [answer.detail for answer in answers]

    def score(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[HeldoutPrompt]) -> list[float]:
        """Graded rewards in [0, 1], in order."""
        return [answer.reward for answer in self._answers(pictures, prompts)]

    def _answers(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[HeldoutPrompt]) -> list[Scored]:
        """Raises: ValueError if a picture was not scored: a failure is no reward."""
        inputs = [OracleInput(_sample(i, spec), pictures[i]) for i, spec in enumerate(prompts)]
        answers: dict[str, Scored] = {}
        for oracle, text in ((self._objects, False), (self._text, True)):
            fitting = [one for one in inputs if (one.sample.checks.text is not None) == text]
            for start in range(0, len(fitting), _AT_ONCE):
                for result in oracle.score(fitting[start : start + _AT_ONCE]):
                    if not isinstance(result, Scored):
                        raise ValueError(f"a picture was not scored: {result}")
                    answers[result.sample_id] = result
        return [answers[one.sample.sample_id] for one in inputs]


def _sample(index: int, spec: HeldoutPrompt) -> Sample:
    return Sample(
        run_id="world",
        group_id="world",
        sample_id=str(index),
        policy_version=0,
        boundary_index=0,
        prompt=spec.prompt,
        checks=Checks.from_metadata(dict(spec.checks)),
    )
