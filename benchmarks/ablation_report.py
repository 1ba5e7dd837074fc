"""What `benchmarks.ablations` says of its runs: a line an arm, a verdict a finding, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, Final

from benchmarks.ablation_evaluation import common_snapshot, difference, read_evaluation_of, start_folder, verdict
from benchmarks.ablation_figure import figure
from benchmarks.ablation_runs import Options, Run
from benchmarks.arms.catalogue import ARMS, FINDINGS, FORMS, PANELS, START, Finding
from trainer.charts import Points
from trainer.evaluate import Evaluation
from trainer.report import read_metrics

__all__ = ["curve", "draw", "markdown", "summary"]

_BINS: Final = 24
_AT_TIME, _AT_CALLS = "equal wall time", "equal oracle calls"


def summary(runs: Sequence[Run], options: Options) -> dict[str, Any]:
    """Everything that is known so far, as plain JSON."""
    start = read_evaluation_of(options.folder / START)
    at = common_snapshot(runs)
    arms = {name: line for name in _names(runs) if (line := _arm_line(_of(runs, name), options))}
    found = [line for one in FINDINGS if (line := _finding_line(one, runs, options))]
    if at is not None:
        compared = [one for one in FINDINGS if {one.higher, one.lower} <= set(FORMS)]
        found += [line for one in compared if (line := _finding_line(one, runs, options, at=at))]
    curves = {name: [list(point) for point in curve(_of(runs, name))] for name in _names(runs)}
    return {
        "minutes": options.minutes,
        "bank_groups": options.bank_groups,
        "start": start.overall if start else None,
        "iterations_at_equal_oracle_calls": at,
        "arms": arms,
        "findings": found,
        "curves": curves,
    }


def _names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.arm.name for run in runs))


def _of(runs: Sequence[Run], name: str) -> list[Run]:
    return [run for run in runs if run.arm.name == name]


def _evaluation(run: Run, at: int | None = None) -> Evaluation | None:
    """Of the end of its time, or of a snapshot; None if that is still to come."""
    return None if at is None and run.next_stage() is not None else read_evaluation_of(run.folder, at)


def _arm_line(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Of the seeds that are done. An arm rises from the start as it samples it itself."""
    ended = [(run, found) for run in runs if (found := _evaluation(run)) is not None]
    if not ended:
        return None
    metrics = [line for run, _ in ended for stage in run.arm.stages for line in read_metrics(run.stage_folder(stage))]
    evaluations = [found for _, found in ended]
    line = {
        "says": ended[0][0].arm.says,
        "overrides": [list(stage.overrides) for stage in ended[0][0].arm.stages],
        "seeds": [run.seed for run, _ in ended],
        "diverged": [
            run.seed for run, _ in ended if any("diverged" in (run.trained(stage) or {}) for stage in run.arm.stages)
        ],
        "strict": [found.overall for found in evaluations],
        "by_kind": [{kind.kind: kind.share for kind in found.by_kind} for found in evaluations],
        "iterations": len(metrics) / len(ended),
        "pictures_scored": sum(_scored(one) for one in metrics) / len(ended),
        "threads": sorted(
            {int(done["threads"]) for run, _ in ended for stage in run.arm.stages if (done := run.trained(stage))}
        ),
    }
    start = read_evaluation_of(start_folder(runs[0].arm, options))
    if start is not None:
        line["start"] = start.overall
        interval, by_seed = difference(evaluations, [start] * len(evaluations))
        line |= {"rise": asdict(interval), "rise_by_seed": by_seed}
    return line


def _scored(line: dict[str, Any]) -> int:
    return sum(int(outcome["scored"]) for outcome in line["outcomes"].values())


def _finding_line(
    finding: Finding, runs: Sequence[Run], options: Options, *, at: int | None = None
) -> dict[str, Any] | None:
    """None unless both arms are done with at least one seed in common. Arms that sample differently, and so do not
    start from the same accuracy, are compared by how far they rose.
    """
    start = read_evaluation_of(options.folder / START)
    higher, lower = (
        {run.seed: found for run in _of(runs, name) if (found := _evaluation(run, at)) is not None}
        for name in (finding.higher, finding.lower)
    )
    if finding.lower == START and start is not None:
        lower = dict.fromkeys(higher, start)
    seeds = sorted(higher.keys() & lower.keys())
    if not seeds:
        return None
    starts = _unlike_starts(finding, options)
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


def _unlike_starts(finding: Finding, options: Options) -> tuple[Evaluation, Evaluation] | None:
    """Of the two arms, where one samples otherwise; else None."""
    if finding.lower == START:
        return None
    folders = [start_folder(ARMS[name], options) for name in (finding.higher, finding.lower)]
    one, other = map(read_evaluation_of, folders)
    return None if folders[0] == folders[1] or one is None or other is None else (one, other)


def curve(runs: Sequence[Run]) -> Points:
    """Mean graded reward of the pictures that the arm was scored for, over minutes of training and over its seeds.

    Stages stand one after another. A seed that is not done yet is left out.
    """
    points: list[tuple[float, float]] = []
    ended = [run for run in runs if run.next_stage() is None]
    for run in ended:
        before = 0.0
        for stage in run.arm.stages:
            lines = read_metrics(run.stage_folder(stage))
            points += [
                ((before + line["elapsed_s"]) / 60, line["reward"] + 0.5)
                for line in lines
                if line["reward"] is not None
            ]
            before += run.options.minutes * 60 * stage.share
    if not points:
        return []
    last = max(minute for minute, _ in points)
    bins: dict[int, list[tuple[float, float]]] = {}
    for minute, reward in points:
        bins.setdefault(min(_BINS - 1, int(_BINS * minute / last)), []).append((minute, reward))
    return [(fmean(m for m, _ in bins[n]), fmean(r for _, r in bins[n])) for n in sorted(bins)]


def draw(runs: Sequence[Run], options: Options) -> str:
    """The figure, as SVG."""
    done = {name: sum(run.next_stage() is None for run in _of(runs, name)) for name in _names(runs)}
    panels = {
        title: {
            f"{name} ({done[name]} seed{'s' if done[name] > 1 else ''})": curve(_of(runs, name))
            for name in names
            if done.get(name)
        }
        for title, names in PANELS.items()
    }
    compared = {
        title: curves for title, curves in panels.items() if len(curves) > 1
    }  # one curve alone compares nothing
    return figure(
        f"Mean reward of training pictures over {options.minutes:g} minutes of training; mean of so many seeds",
        compared,
    )


def markdown(found: dict[str, Any]) -> str:
    """The two tables."""
    threads = sorted({number for arm in found["arms"].values() for number in arm["threads"]})
    on = f", on {' or '.join(map(str, threads))} thread{'' if threads == [1] else 's'}" if threads else ""
    lines = [
        f"Each arm for {found['minutes']:g} minutes of training{on}, from the shipped student"
        + (f" (strict {found['start']:.3f} held out)" if found["start"] is not None else "")
        + f" and one bank of {found['bank_groups']} groups.",
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
            f"{arm['start']:.3f}" if "start" in arm else "",
            f"{fmean(arm['strict']):.3f}{spread}",
            _interval(arm.get("rise")),
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


def _interval(interval: dict[str, float] | None) -> str:
    return "" if interval is None else f"{interval['value']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"
