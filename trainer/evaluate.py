"""Held-out evaluation: the same prompts and seeds for every network, judged strictly, kind by kind.

Owns what is asked, the counting and the timing. Knows no oracle and no network: pictures come from a sampler, passes
from a judge (`trainer.samplers` makes samplers; how likely a difference is, `trainer.paired` says; files and tables are
`trainer.evaluation_files`).

Axis legend: N pictures of a batch, [N, H, W, 3] uint8.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Evaluation",
    "HeldoutPicture",
    "HeldoutPrompt",
    "Judge",
    "KindResult",
    "Outcome",
    "Pictures",
    "Sampler",
    "evaluate",
    "plan_heldout",
]

Pictures = NDArray[np.uint8]


class HeldoutPrompt(Protocol):
    """A prompt of a world, and what its picture must show."""

    @property
    def prompt(self) -> str: ...

    @property
    def checks(self) -> Mapping[str, Any]: ...

    @property
    def kind(self) -> str: ...

    @property
    def key(self) -> str: ...


Sampler = Callable[[Sequence[str], Sequence[int]], Pictures]
"""(prompts, seeds), N of each -> pictures [N, H, W, 3] uint8; a seed fixes its picture, whatever the batch."""
Judge = Callable[[Pictures, Sequence[HeldoutPrompt]], tuple[Sequence[bool], Sequence[Mapping[str, Any]]]]
"""(pictures, prompts), N of each -> N strict passes, and N details (plain JSON) that explain them."""


@dataclass(frozen=True)
class HeldoutPicture:
    """One picture to be asked for."""

    spec: HeldoutPrompt
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What became of one picture."""

    prompt: str
    kind: str
    key: str
    seed: int
    passed: bool
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KindResult:
    """Strict passes of one kind of prompt."""

    kind: str
    num_prompts: int
    num_pictures: int
    num_passed: int

    @property
    def share(self) -> float:
        return self.num_passed / self.num_pictures


@dataclass(frozen=True)
class Evaluation:
    """One network's held-out pictures, judged."""

    name: str
    """What was evaluated: `teacher`, `student`, a checkpoint's name."""
    nfe: int
    """Network forwards a picture, guidance counted."""
    outcomes: tuple[Outcome, ...]
    """In the order of the plan."""
    sampling_s: float
    """Seconds of sampling and decoding, in all."""
    judging_s: float
    """Seconds of judging, in all."""
    pictures: Pictures | None = field(default=None, compare=False, repr=False)
    """[N, H, W, 3] in the order of the outcomes; None where read back from a file."""

    @property
    def seconds_a_picture(self) -> float:
        return self.sampling_s / len(self.outcomes)

    @property
    def by_kind(self) -> tuple[KindResult, ...]:
        """In the order in which the kinds were asked for."""
        kinds = dict.fromkeys(outcome.kind for outcome in self.outcomes)
        return tuple(_kind_result(kind, [o for o in self.outcomes if o.kind == kind]) for kind in kinds)

    @property
    def overall(self) -> float:
        """Mean of the kinds' shares: every kind counts the same, however many pictures it has."""
        shares = [result.share for result in self.by_kind]
        return sum(shares) / len(shares)


def _kind_result(kind: str, outcomes: Sequence[Outcome]) -> KindResult:
    return KindResult(kind, len({o.prompt for o in outcomes}), len(outcomes), sum(o.passed for o in outcomes))


def plan_heldout(
    prompts: Sequence[HeldoutPrompt], *, prompts_per_kind: int, pictures_per_kind: int, seed: int
) -> list[HeldoutPicture]:
    """Which pictures to ask for: the same list for the same arguments, on any machine.

    Prompts of a kind are chosen by the hash of their text, kinds keep the order in which they first appear, and the
    pictures of a kind go round its prompts. Every picture has a seed of its own, from `seed` on.
    Raises: ValueError if there is nothing to ask for.
    """
    if not prompts or prompts_per_kind < 1 or pictures_per_kind < 1:
        raise ValueError("an evaluation needs at least one prompt, and one picture of each kind")
    plan: list[HeldoutPicture] = []
    for kind in dict.fromkeys(spec.kind for spec in prompts):
        chosen = sorted((spec for spec in prompts if spec.kind == kind), key=lambda spec: _rank(spec.prompt))
        chosen = chosen[:prompts_per_kind]
        plan += [
            HeldoutPicture(chosen[number % len(chosen)], seed + len(plan) + number)
            for number in range(pictures_per_kind)
        ]
    return plan


def evaluate(
    plan: Sequence[HeldoutPicture],
    *,
    sampler: Sampler,
    judge: Judge,
    name: str,
    nfe: int,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Samples and judges every picture of a plan.

    `progress` is told (pictures done, pictures in all) after each batch.
    Raises: ValueError if the plan is empty, or sampler or judge do not answer for every picture.
    """
    if not plan:
        raise ValueError("there is no picture to evaluate")
    outcomes: list[Outcome] = []
    batches: list[Pictures] = []
    sampling_s = judging_s = 0.0
    for start in range(0, len(plan), batch_size):
        asked = plan[start : start + batch_size]
        specs = [item.spec for item in asked]
        begun = time.perf_counter()
        pictures = sampler([spec.prompt for spec in specs], [item.seed for item in asked])
        sampled = time.perf_counter()
        passes, details = judge(pictures, specs)
        judging_s += time.perf_counter() - sampled
        sampling_s += sampled - begun
        if not len(pictures) == len(passes) == len(details) == len(asked):
            raise ValueError(
                f"{len(asked)} pictures were asked for: the sampler gave {len(pictures)}, the judge {len(passes)} "
                f"passes and {len(details)} details"
            )
        outcomes += [
            Outcome(item.spec.prompt, item.spec.kind, item.spec.key, item.seed, bool(passed), detail)
            for item, passed, detail in zip(asked, passes, details, strict=True)
        ]
        batches.append(pictures)
        if progress is not None:
            progress(len(outcomes), len(plan))
    return Evaluation(name, nfe, tuple(outcomes), sampling_s, judging_s, np.concatenate(batches))


def _rank(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
