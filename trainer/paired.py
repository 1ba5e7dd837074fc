"""How large a difference between two evaluations of the same pictures is, and how sure that is.

The overall figure is the mean of the kinds, so its variance is that of independent strata. Pictures of one prompt are
not independent, so inside a kind the prompt is what is counted: the variance is that of a ratio estimated from
clusters. The quantile is Student's, with the degrees of freedom of Welch and Satterthwaite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from trainer.evaluate import Evaluation

__all__ = [
    "Interval",
    "PairedDifference",
    "overall_interval",
    "paired_difference",
    "stratified_intervals",
    "student_quantile",
]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class PairedDifference:
    """After minus before, on the same prompts and seeds."""

    overall: Interval
    """Mean of the kinds' differences."""
    by_kind: dict[str, Interval]
    confidence: float
    num_pictures: int
    num_prompts: int

    @property
    def risen(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.overall.low > 0


def paired_difference(before: Evaluation, after: Evaluation, *, confidence: float = 0.95) -> PairedDifference:
    """Difference of strict accuracy, overall and by kind.

    Raises: ValueError if the two did not draw the same prompts with the same seeds, in the same order.
    """
    pairs = list(zip(before.outcomes, after.outcomes, strict=False))
    same = all((b.prompt, b.kind, b.seed) == (a.prompt, a.kind, a.seed) for b, a in pairs)
    if not pairs or len(before.outcomes) != len(after.outcomes) or not same:
        raise ValueError(f"{before.name} and {after.name} were not evaluated on the same prompts and seeds")
    differences = [(b.kind, b.prompt, float(a.passed) - float(b.passed)) for b, a in pairs]
    overall, by_kind = stratified_intervals(differences, confidence=confidence)
    return PairedDifference(overall, by_kind, confidence, len(pairs), len({b.prompt for b, _ in pairs}))


def overall_interval(evaluation: Evaluation, *, confidence: float = 0.95) -> Interval:
    """Strict accuracy of one evaluation, overall, with its interval."""
    values = [(o.kind, o.prompt, float(o.passed)) for o in evaluation.outcomes]
    return stratified_intervals(values, confidence=confidence)[0]


def student_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t by its expansion in 1/degrees; at 0.975 within 1 % from 3 degrees on."""
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def stratified_intervals(
    values: Sequence[tuple[str, str, float]], *, confidence: float = 0.95
) -> tuple[Interval, dict[str, Interval]]:
    """Mean of the kinds' means, and each kind's own, of one value a picture: (kind, prompt, value)."""
    kinds = dict.fromkeys(kind for kind, _, _ in values)
    by_kind: dict[str, Interval] = {}
    estimates: list[tuple[float, float, float]] = []
    for kind in kinds:
        estimate = _clustered([(prompt, value) for of, prompt, value in values if of == kind])
        estimates.append(estimate)
        by_kind[kind] = _interval(*estimate, confidence)
    count = len(estimates)
    mean = sum(value for value, _, _ in estimates) / count
    variance = sum(variance for _, variance, _ in estimates) / count**2
    spread = sum(variance**2 / degrees for _, variance, degrees in estimates) / count**4
    degrees = variance**2 / spread if spread else 1.0
    return _interval(mean, variance, degrees, confidence), by_kind


def _clustered(values: Sequence[tuple[str, float]]) -> tuple[float, float, float]:
    """Mean, its variance and degrees of freedom; clusters are prompts, or pictures where there is one prompt."""
    clusters: dict[str, list[float]] = {}
    for prompt, value in values:
        clusters.setdefault(prompt, []).append(value)
    groups = list(clusters.values()) if len(clusters) > 1 else [[value] for _, value in values]
    mean = sum(value for _, value in values) / len(values)
    if len(groups) == 1:
        return mean, 1.0, 1.0  # one picture: anything is possible
    squares = sum((sum(group) - mean * len(group)) ** 2 for group in groups)
    return mean, len(groups) / (len(groups) - 1) * squares / len(values) ** 2, len(groups) - 1.0


def _interval(mean: float, variance: float, degrees: float, confidence: float) -> Interval:
    error = variance**0.5
    # The expansion is for 3 degrees and more; less (a few prompts in all) is treated as 3.
    half = student_quantile((1 + confidence) / 2, max(degrees, 3.0)) * error
    return Interval(mean, mean - half, mean + half, error)
