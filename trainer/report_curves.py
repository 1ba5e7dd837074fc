"""Which curves a report draws from the lines of `metrics.jsonl`. Owns no drawing; unknown figures are drawn as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.charts import NUM_COLOURS, Chart, Points, Series, series_of
from trainer.late_answers import LATE_SUMS

__all__ = ["boundary_means", "charts"]

Lines = Sequence[Mapping[str, Any]]

_SECONDS = {
    "rollout": "rollout",
    "surrogate": "surrogate",
    "fake_score": "fake score",
    "student": "student",
    "exposed_wait": "exposed reward time",
    "hidden_reward": "hidden reward time",
}
"""Keys of a line's `seconds`, as a reader sees them; the iteration as a whole has no line of its own."""


def charts(lines: Lines) -> list[Chart]:
    """All charts, in the order of reading: rewards first, then what learns, then time and the buffer."""
    return [
        Chart("Reward by oracle", series_of(_by_key(lines, "rewards")), "mean over the iteration's finished pictures"),
        _pair(lines, "Combined reward and its spread", {"reward": "reward", "spread": "spread inside groups"}),
        _pair(lines, "Strict passes of training pictures", {"strict_share": "share at the highest reward"}),
        *_boundary_charts(lines),
        *_figure_charts(lines),
        _seconds(lines),
        _pair(lines, "Samples scored a second", {"samples_scored_per_s": "samples"}, from_zero=True),
        _pair(lines, "Policy versions from rollout to learning", {"staleness": "staleness"}, from_zero=True),
        Chart("Late answers", series_of(_nested(_arrived(lines), "late")), "by what became of them", from_zero=True),
        Chart("Samples waiting in the buffer", series_of(_waiting(lines)), from_zero=True),
        Chart("Groups", series_of(_nested(lines, "groups")), "rewarded, of those tied, and unrewarded", from_zero=True),
    ]


def boundary_means(lines: Lines) -> dict[str, dict[int, float]]:
    """Mean reward by oracle and boundary over the last quarter of the iterations."""
    recent = lines[-max(1, len(lines) // 4) :]
    found: dict[str, dict[int, list[float]]] = {}
    for line in recent:
        for oracle, by_boundary in line.get("rewards_by_boundary", {}).items():
            for index, value in by_boundary.items():
                found.setdefault(oracle, {}).setdefault(int(index), []).append(float(value))
    return {
        oracle: {index: sum(values) / len(values) for index, values in sorted(row.items())}
        for oracle, row in sorted(found.items())
    }


def _curve(lines: Lines, *keys: str) -> Points:
    """(iteration, value) where the line has a number under these keys."""
    points = []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            points.append((float(line["iteration"]), float(value)))
    return points


def _pair(lines: Lines, title: str, keys: Mapping[str, str], *, from_zero: bool = False) -> Chart:
    series = {name: _curve(lines, key) for key, name in keys.items()}
    return Chart(title, series_of(series), from_zero=from_zero)


def _by_key(lines: Lines, *section: str) -> dict[str, Points]:
    """A curve for each key that any line has in a section."""
    names: set[str] = set()
    for line in lines:
        value: Any = line
        for key in section:
            value = value.get(key) if isinstance(value, Mapping) else None
        names.update(value or {})
    return {name: _curve(lines, *section, name) for name in sorted(names)}


def _nested(lines: Lines, section: str) -> dict[str, Points]:
    """As `_by_key`, less what is always zero."""
    return {name: points for name, points in _by_key(lines, section).items() if any(y for _, y in points)}


def _arrived(lines: Lines) -> list[dict[str, Any]]:
    """Of what a line says about late answers, what is counted in answers."""
    return [
        {"iteration": line["iteration"], "late": {name: line["late"][name] for name in (*LATE_SUMS[:-1], "waiting")}}
        for line in lines
        if "late" in line
    ]


def _boundary_charts(lines: Lines) -> list[Chart]:
    result = []
    for oracle in sorted({name for line in lines for name in line.get("rewards_by_boundary", {})}):
        curves = _by_key(lines, "rewards_by_boundary", oracle)
        if len(curves) > 1:
            named = {f"boundary {index}": curves[index] for index in sorted(curves, key=int)}
            result.append(Chart(f"Reward by boundary: {oracle}", series_of(named)))
    return result


def _figure_charts(lines: Lines) -> list[Chart]:
    """One chart a figure: losses and norms share no scale. The surrogate's ranking comes first."""
    names = {
        (network, figure)
        for line in lines
        for network, figures in line.get("figures", {}).items()
        for figure in figures
    }
    order = sorted(names, key=lambda name: ("ranking" not in name[1], "loss" not in name[1], name))
    colours = {network: number for number, network in enumerate(sorted({network for network, _ in names}))}
    return [
        Chart(
            figure.replace("_", " ").capitalize(),
            [
                Series(
                    network.replace("_", " "),
                    _curve(lines, "figures", network, figure),
                    colours[network] % NUM_COLOURS,
                )
            ],
            "share of unequal pairs of a group ordered as the rewards are; 0.5 is chance"
            if "ranking" in figure
            else "",
        )
        for network, figure in order
    ]


def _seconds(lines: Lines) -> Chart:
    present = _nested(lines, "seconds")
    named = {name: present[key] for key, name in _SECONDS.items() if key in present}
    note = "exposed: learning stood still for rewards; hidden: it did not"
    return Chart("Seconds an iteration", series_of(named), note, from_zero=True)


def _waiting(lines: Lines) -> dict[str, Points]:
    """Samples of each oracle without an outcome."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for oracle, depth in sorted(line.get("depth", {}).items()):
            waiting = float(depth["samples"])
            curves.setdefault(oracle, []).append((float(line["iteration"]), waiting))
    return dict(curves)
