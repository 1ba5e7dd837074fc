"""What `benchmarks.ablations` says of its runs: a line an arm, a verdict a finding, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, Final

from benchmarks.ablation_evaluation import difference, verdict
from benchmarks.ablation_figure import figure
from benchmarks.ablation_results import Result, plan_of
from benchmarks.ablation_runs import Options
from benchmarks.arms.catalogue import ARMS, FINDINGS, FORMS, PANELS, START, Finding
from trainer.charts import Points
from trainer.evaluate import Evaluation, HeldoutPicture

__all__ = ["common_snapshot", "curve", "draw", "markdown", "summary"]

_BINS: Final = 24
_AT_TIME, _AT_CALLS = "equal wall time", "equal oracle calls"


def summary(results: Sequence[Result], options: Options) -> dict[str, Any]:
    """Everything that is known so far, as plain JSON."""
    plan, at = plan_of(options), common_snapshot(results)
    found = [line for one in FINDINGS if (line := _finding_line(one, results, plan))]
    if at is not None:
        compared = [one for one in FINDINGS if {one.higher, one.lower} <= set(FORMS)]
        found += [line for one in compared if (line := _finding_line(one, results, plan, at=at))]
    return {
        "minutes": options.minutes,
        "bank_groups": options.bank_groups,
        "iterations_at_equal_oracle_calls": at,
        "arms": {name: _arm_line(_of(results, name), plan) for name in _names(results)},
        "findings": found,
        "curves": {name: [list(point) for point in curve(_of(results, name))] for name in _names(results)},
    }


def _names(results: Sequence[Result]) -> list[str]:
    """In the order of the catalogue."""
    return [name for name in ARMS if _of(results, name)]


def _of(results: Sequence[Result], name: str) -> list[Result]:
    return [result for result in results if result.arm == name]


def common_snapshot(results: Sequence[Result]) -> int | None:
    """The last iteration whose student was judged for every form of the surrogate; None if one has none.

    Equal iterations are equal oracle calls, as all ask for as many pictures in each.
    """
    judged = [{int(at) for result in _of(results, name) for at in result.snapshots} for name in FORMS]
    return max(set.intersection(*judged), default=None)


def _arm_line(results: Sequence[Result], plan: Sequence[HeldoutPicture]) -> dict[str, Any]:
    """Of the seeds that are done. An arm rises from the start as it samples it itself."""
    arm = ARMS[results[0].arm]
    evaluations = [result.evaluation(plan) for result in results]
    starts = [result.evaluation_of_start(plan) for result in results]
    interval, by_seed = difference(evaluations, starts)
    return {
        "says": arm.says,
        "overrides": [list(stage.overrides) for stage in arm.stages],
        "seeds": [result.seed for result in results],
        "diverged": [result.seed for result in results if result.diverged],
        "strict": [found.overall for found in evaluations],
        "by_kind": [{kind.kind: kind.share for kind in found.by_kind} for found in evaluations],
        "iterations": fmean(result.iterations for result in results),
        "pictures_scored": fmean(result.pictures_scored for result in results),
        "threads": sorted({number for result in results for number in result.threads}),
        "start": starts[0].overall,
        "rise": asdict(interval),
        "rise_by_seed": by_seed,
    }


def _finding_line(
    finding: Finding, results: Sequence[Result], plan: Sequence[HeldoutPicture], *, at: int | None = None
) -> dict[str, Any] | None:
    """None unless both arms are done with at least one seed in common. Arms that sample differently, and so do not
    start from the same accuracy, are compared by how far they rose.
    """

    def judged(name: str) -> dict[int, Evaluation]:
        if name == START:
            return {one.seed: one.evaluation_of_start(plan) for one in _of(results, finding.higher)}
        return {one.seed: one.evaluation(plan, at=at) for one in _of(results, name)}

    higher, lower = judged(finding.higher), judged(finding.lower)
    seeds = sorted(higher.keys() & lower.keys())
    if not seeds:
        return None
    starts = _unlike_starts(finding, results, plan)
    interval, by_seed = difference([higher[n] for n in seeds], [lower[n] for n in seeds], starts=starts)
    return {
        **asdict(finding),
        "of": "accuracy" if starts is None else "rise",
        "at": _AT_TIME if at is None else _AT_CALLS,
        "seeds": seeds,
        "difference": asdict(interval),
        "by_seed": by_seed,
        "verdict": verdict(finding, interval, by_seed),
    }


def _unlike_starts(
    finding: Finding, results: Sequence[Result], plan: Sequence[HeldoutPicture]
) -> tuple[Evaluation, Evaluation] | None:
    """Of the two arms, where one samples otherwise; else None."""
    names = (finding.higher, finding.lower)
    if START in names or len({ARMS[name].sampler for name in names}) == 1:
        return None
    one, other = (_of(results, name)[0].evaluation_of_start(plan) for name in names)
    return one, other


def curve(results: Sequence[Result]) -> Points:
    """Mean graded reward of the pictures that the arm was scored for, over minutes of training and over its seeds."""
    points = [point for result in results for point in result.curve]
    if not points:
        return []
    last = max(minute for minute, _ in points)
    bins: dict[int, list[tuple[float, float]]] = {}
    for minute, reward in points:
        bins.setdefault(min(_BINS - 1, int(_BINS * minute / last)), []).append((minute, reward))
    return [(fmean(m for m, _ in bins[n]), fmean(r for _, r in bins[n])) for n in sorted(bins)]


def draw(results: Sequence[Result], options: Options) -> str:
    """The figure, as SVG. A panel that has one curve compares nothing, and is left out."""
    done = {name: len(_of(results, name)) for name in _names(results)}
    panels = {
        title: {
            f"{name} ({done[name]} seed{'s' if done[name] > 1 else ''})": curve(_of(results, name))
            for name in names
            if name in done
        }
        for title, names in PANELS.items()
    }
    return figure(
        f"Mean reward of training pictures over {options.minutes:g} minutes of training; mean of so many seeds",
        {title: curves for title, curves in panels.items() if len(curves) > 1},
    )


def markdown(found: dict[str, Any]) -> str:
    """The two tables."""
    threads = sorted({number for arm in found["arms"].values() for number in arm["threads"]})
    on = f", on {' or '.join(map(str, threads))} thread{'' if threads == [1] else 's'}" if threads else ""
    start = f"from the shipped student and one bank of {found['bank_groups']} groups"
    lines = [
        f"Each arm for {found['minutes']:g} minutes of training{on}, {start}.",
        "",
        "| arm | what | seeds | start | strict, held out | rise [95 %] | iterations | pictures scored |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, arm in found["arms"].items():
        spread = f" ({min(arm['strict']):.3f}–{max(arm['strict']):.3f})" if len(arm["strict"]) > 1 else ""
        cells = [
            f"`{name}`",
            arm["says"],
            str(len(arm["seeds"])),
            f"{arm['start']:.3f}",
            f"{fmean(arm['strict']):.3f}{spread}",
            _interval(arm["rise"]),
            f"{arm['iterations']:.0f}" + (", diverged" if arm["diverged"] else ""),
            f"{arm['pictures_scored']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| finding | source | compared | at | seeds | difference [95 %] | here |",
        "|---|---|---|---|--:|--:|---|",
    ]
    for one in found["findings"]:
        cells = [
            one["says"],
            one["source"],
            f"`{one['higher']}` − `{one['lower']}`",
            one["at"],
            str(len(one["seeds"])),
            _interval(one["difference"]) + (" of the rises" if one["of"] == "rise" else ""),
            f"**{one['verdict']}**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    known = set(found["arms"])
    missing = [name for name in ARMS if name not in known]
    lines += ["", f"Not done: {', '.join(missing)}." if missing else "Every arm is done.", ""]
    return "\n".join(lines)


def _interval(interval: dict[str, float]) -> str:
    return f"{interval['value']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"
