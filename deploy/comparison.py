"""`rewardmesh compare RUN RUN`: Markdown to read in a terminal, and a page with the curves of both in one chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import typer

from deploy.compared_runs import Heldout, Run, figures, heldout_of, outcomes, read_run, recipe_differences
from deploy.runs import find_run
from deploy.settings import Settings
from rewardmesh.wire.errors import RecipeError
from trainer.charts import Chart, Points, line_chart, series_of
from trainer.iteration_record import OUTCOMES
from trainer.paired import Interval
from trainer.report_page import page, section, table

__all__ = ["as_markdown", "as_page", "compare_runs"]

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, heads and rows."""

_CURVES = {
    ("reward",): "Combined reward",
    ("strict_share",): "Strict passes of training pictures",
    ("spread",): "Spread of the reward inside groups",
    ("seconds", "iteration"): "Seconds an iteration",
    ("samples_scored_per_s",): "Samples scored a second",
    ("figures", "surrogate", "surrogate_ranking"): "Pairs that the surrogate orders rightly",
    ("figures", "student", "reward_rms"): "Size of the reward's direction",
}


def compare_runs(settings: Settings, one: str, other: str, *, to: Path | None) -> None:
    """Prints the comparison and writes the page. Raises RecipeError for runs that are none, or one and the same."""
    folders = [find_run(settings.run_root, run) for run in (one, other)]
    if folders[0] == folders[1]:
        raise RecipeError("a run cannot be compared with itself", str(folders[0]), "name two runs")
    named = [None, None] if folders[0].name != folders[1].name else [str(folder) for folder in folders]
    runs = read_run(folders[0], name=named[0]), read_run(folders[1], name=named[1])
    file = to or settings.run_root / f"compare-{folders[0].name}-{folders[1].name}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(as_page(*runs), encoding="utf-8")
    typer.echo(as_markdown(*runs))
    typer.echo(f"with curves: {file}")


def as_markdown(one: Run, other: Run) -> str:
    """Every table, with a line on what the held-out difference is."""
    parts = [f"# {one.name} and {other.name}\n", f"{_verdict(one, other)}\n"]
    for title, heads, rows in _tables(one, other):
        lines = [_line(heads), _line(["---", *["--:"] * (len(heads) - 1)]), *(_line(row) for row in rows)]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def as_page(one: Run, other: Run) -> str:
    """The same as HTML that needs nothing but itself, with both runs' curves."""
    drawn = "".join(line_chart(chart) for chart in _charts(one, other))
    body = [
        f"<h1>{escape(one.name)} and {escape(other.name)}</h1><p>{escape(_verdict(one, other))}</p>",
        *(section(title, table(heads, rows)) for title, heads, rows in _tables(one, other)),
        section("While they trained", f'<div class="charts">{drawn}</div>' if drawn else ""),
    ]
    return page(f"{one.name} and {other.name}", "".join(body))


def _tables(one: Run, other: Run) -> list[Table]:
    heldout = heldout_of(one, other)
    names = (one.name, other.name)
    found: list[Table] = [
        ("Recipes differ in", ("key", *names), recipe_differences(one, other)),
        ("Held-out strict accuracy", ("kind", *names, "difference"), _heldout_rows(heldout) if heldout else ()),
        ("What was done, and what it took", ("figure", *names), figures(one, other)),
        ("Outcomes by oracle", ("oracle", "run", *OUTCOMES), outcomes(one, other)),
    ]
    return [one_table for one_table in found if one_table[2]]


def _heldout_rows(heldout: Heldout) -> list[list[str]]:
    first, second = ({result.kind: result.share for result in one.by_kind} for one in heldout.evaluations)
    by_kind = heldout.difference.by_kind if heldout.difference else {}
    rows = []
    for kind in dict.fromkeys([*first, *second]):
        shares = [f"{share[kind]:.3f}" if kind in share else "–" for share in (first, second)]
        rows.append([kind, *shares, _signed(by_kind[kind]) if kind in by_kind else "–"])
    overall = [f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in heldout.intervals]
    last = _signed(heldout.difference.overall) if heldout.difference else "not paired"
    return [*rows, ["overall (mean of kinds)", *overall, last]]


def _verdict(one: Run, other: Run) -> str:
    heldout = heldout_of(one, other)
    if heldout is None:
        lacking = " and ".join(run.name for run in (one, other) if run.after is None)
        return f"Held-out accuracy cannot be compared: {lacking} has not been evaluated (`rewardmesh evaluate`)."
    if heldout.difference is None:
        return "The held-out pictures are of other prompts or seeds: the difference of accuracy is not a paired one."
    overall, count = heldout.difference.overall, heldout.difference.num_pictures
    said = "is higher" if overall.low > 0 else "is lower" if overall.high < 0 else "has not been shown to differ"
    confidence = f"{100 * heldout.difference.confidence:.0f} % interval"
    return f"{other.name} {said} in held-out accuracy: {_signed(overall)} ({confidence}, {count} pictures, paired)."


def _charts(one: Run, other: Run) -> Iterable[Chart]:
    for keys, title in _CURVES.items():
        yield Chart(title, series_of({run.name: _points(run, keys) for run in (one, other)}))
    oracles = dict.fromkeys(name for run in (one, other) for line in run.metrics for name in line.get("rewards", {}))
    for oracle in oracles:
        named = {run.name: _points(run, ("rewards", oracle)) for run in (one, other)}
        yield Chart(f"Reward of {oracle}", series_of(named))


def _points(run: Run, keys: Sequence[str]) -> Points:
    points = []
    for line in run.metrics:
        value: object = line
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            points.append((float(line["iteration"]), float(value)))
    return points


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
