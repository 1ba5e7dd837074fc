"""The report of a run folder: one HTML file that needs nothing but itself.

Reads what a run leaves behind (`metrics.jsonl`, `recipe.yaml`, `amendments.jsonl`, `heldout.json`, `summary.json`,
`pictures/*.png`); what is not there yet is left out, so a run can be looked at while it goes on. No script, nothing
fetched.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rewardmesh.wire.strict_json import load_json
from trainer.amendments import show_amendments
from trainer.charts import format_number, line_chart
from trainer.evaluation_files import read_heldout
from trainer.iteration_record import OUTCOMES, add_counts
from trainer.late_answers import LATE_SUMS
from trainer.report_curves import boundary_means, charts
from trainer.report_page import page
from trainer.report_page import section as _section
from trainer.report_page import table as _table

__all__ = ["REPORT_FILE", "read_metrics", "render_report", "write_report"]

REPORT_FILE = "report.html"


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder, replacing the one there; returns its path.

    Raises: FileNotFoundError if there is no such folder; ValueError if heldout.json or summary.json is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no run folder {folder}")
    path = folder / REPORT_FILE
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(render_report(folder), encoding="utf-8")
    partial.replace(path)
    return path


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, an iteration each; a torn last line (the run may be writing it) is left out."""
    path = folder / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = load_json(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "iteration" in line:
            lines.append(line)
    return lines


def render_report(folder: Path) -> str:
    """The whole page."""
    metrics = read_metrics(folder)
    heldout = read_heldout(folder)
    summary = _read_json(folder / "summary.json")
    recipe = _read_text(folder / "recipe.yaml")
    body = [
        _header(folder.resolve().name, metrics, summary),
        _tiles(metrics, heldout, summary),
        _section("Held-out pictures", _heldout_table(heldout)),
        _section("While it trained", _curves(metrics)),
        _section("Rewards by boundary", _boundaries(metrics)),
        _section("Outcomes by oracle", _outcomes(metrics)),
        _section("Late answers", _late(metrics)),
        _section("Oracles added while it trained", _amendments(folder)),
        _section("Pictures", "".join(_picture(path) for path in sorted((folder / "pictures").glob("*.png")))),
        _section("Summary", _pre(summary)),
        _section("Recipe", f"<pre>{escape(recipe)}</pre>" if recipe else ""),
    ]
    return page(folder.resolve().name, "".join(body))


def _header(name: str, metrics: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> str:
    last = metrics[-1] if metrics else {}
    facts = [
        ("recipe", (summary or {}).get("recipe")),
        ("surrogate", last.get("form") or (summary or {}).get("form")),
        ("pictures sent", last.get("pictures")),
    ]
    said = " · ".join(f"{what} {escape(str(value))}" for what, value in facts if value)
    notices = []
    if last.get("permuted"):
        notices.append("Control: rewards were permuted within each group, so they say nothing about the pictures.")
    if not metrics:
        notices.append("No iteration has ended yet.")
    text = "".join(f'<p class="notice">{escape(notice)}</p>' for notice in notices)
    return f'<h1>{escape(name)}</h1><p class="muted">{said}</p>{text}'


def _tiles(
    metrics: Sequence[Mapping[str, Any]], heldout: Mapping[str, Any] | None, summary: Mapping[str, Any] | None
) -> str:
    tiles: list[tuple[str, str, str]] = []
    if heldout is not None:
        before, after = (heldout[which]["overall"]["value"] for which in ("before", "after"))
        overall, confidence = heldout["difference"]["overall"], heldout["difference"]["confidence"]
        tiles.append(("held-out strict accuracy", f"{before:.3f} → {after:.3f}", "mean of the kinds"))
        interval = f"{100 * confidence:.0f} % interval {overall['low']:+.3f} to {overall['high']:+.3f}"
        tiles.append(("difference", f"{overall['value']:+.3f}", interval))
    if metrics:
        last = metrics[-1]
        tiles.append(("iterations", str(last["iteration"]), f"policy version {last.get('policy_version', '–')}"))
        scored = sum(int(line.get("samples", {}).get("scored", 0)) for line in metrics)
        rates = [float(line["samples_scored_per_s"]) for line in metrics if "samples_scored_per_s" in line]
        rate = f"{format_number(sum(rates) / len(rates))} a second" if rates else ""
        tiles.append(("samples scored", f"{scored:,}".replace(",", "\u202f"), rate))
        if "elapsed_s" in last:
            tiles.append(("training time", _duration(float(last["elapsed_s"])), "this run, resumes included"))
    if summary and "wall_s" in summary:
        tiles.append(("wall time", _duration(float(summary["wall_s"])), "start and evaluation included"))
    cells = (
        f"<div><dt>{escape(what)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for what, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>' if tiles else ""


def _heldout_table(heldout: Mapping[str, Any] | None) -> str:
    if heldout is None:
        return ""
    columns = [*heldout["others"], heldout["before"], heldout["after"]]
    shares = [{kind["kind"]: kind["share"] for kind in column["by_kind"]} for column in columns]
    heads = [
        "kind",
        "prompts",
        "pictures",
        *(f"{c['name']}, {c['nfe']} NFE" for c in columns),
        "difference",
        "interval",
    ]
    rows = []
    for kind in heldout["before"]["by_kind"]:
        name = kind["kind"]
        cells = [name.replace("_", " "), str(kind["num_prompts"]), str(kind["num_pictures"])]
        cells += [f"{share[name]:.3f}" if name in share else "–" for share in shares]
        rows.append(_row(cells, heldout["difference"]["by_kind"][name]))
    kinds = heldout["before"]["by_kind"]
    total = [
        "overall (mean of kinds)",
        str(sum(k["num_prompts"] for k in kinds)),
        str(sum(k["num_pictures"] for k in kinds)),
    ]
    total += [f"{column['overall']['value']:.3f}" for column in columns]
    rows.append(_row(total, heldout["difference"]["overall"], css="total"))
    speed = ", ".join(f"{c['name']} {1000 * c['seconds_a_picture']:.1f} ms" for c in columns)
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<p class="muted">Strict passes, the same prompts and seeds in every column. Intervals count prompts, not '
        f"pictures. A picture took: {escape(speed)}.</p>"
    )


def _row(cells: Sequence[str], interval: Mapping[str, float], *, css: str = "") -> str:
    sure = "good" if interval["low"] > 0 else "bad" if interval["high"] < 0 else ""
    tail = f'<td class="{sure}">{interval["value"]:+.3f}</td><td>{interval["low"]:+.3f} to {interval["high"]:+.3f}</td>'
    return f'<tr class="{css}">{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}{tail}</tr>'


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    drawn = "".join(line_chart(chart) for chart in charts(metrics))
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _boundaries(metrics: Sequence[Mapping[str, Any]]) -> str:
    means = boundary_means(metrics)
    indices = sorted({index for row in means.values() for index in row})
    if len(indices) < 2:
        return ""
    rows = (
        [oracle, *(f"{row[index]:.3f}" if index in row else "–" for index in indices)] for oracle, row in means.items()
    )
    return _table(["oracle", *(f"boundary {index}" for index in indices)], rows) + (
        '<p class="muted">Mean reward over the last quarter of the iterations; the highest boundary is the '
        "finished picture, lower ones the decoded clean prediction there.</p>"
    )


def _outcomes(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What became of every picture that an oracle was asked about, over the run."""
    by_oracle = add_counts(line.get("outcomes", {}) for line in metrics)
    if not by_oracle:
        return ""
    rows = ([oracle, *(str(counts.get(name, 0)) for name in OUTCOMES)] for oracle, counts in sorted(by_oracle.items()))
    return _table(["oracle", *OUTCOMES], rows) + (
        '<p class="muted">Pictures. Asked is the sum of scored, failed, stale, dropped (refused by a full budget, '
        "lost, or never answered) and missing (no answer when the iteration learnt). Masked: learnt from without this "
        "reward. Late: rewards that came afterwards.</p>"
    )


def _late(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What became of answers that came after their group had been learnt from, how stale they were, and how old."""
    lates = [line["late"] for line in metrics if "late" in line]
    total = add_counts({key: late[key] for key in (*LATE_SUMS, "staleness", "age_s")} for late in lates)
    if not lates or not total["arrived"]:
        return ""
    rows = [[*(str(total[name]) for name in LATE_SUMS), str(lates[-1]["waiting"])]]
    return (
        _table([*(name.replace("_", " ") for name in LATE_SUMS), "waiting"], rows)
        + _classes("policy versions behind, from", total["staleness"])
        + _classes("seconds from picture to use, from", total["age_s"])
        + '<p class="muted">Answers, one a group and oracle. Used: in an update of the surrogate of their own. Too '
        "stale: older than the recipe lets it learn from. Untaught: nothing to learn in them. Given up: groups that "
        "are not watched any more.</p>"
    )


def _classes(what: str, counts: Mapping[str, int]) -> str:
    begins = sorted(counts, key=int)
    return _table([what, *begins], [["answers", *(str(counts[begin]) for begin in begins)]]) if begins else ""


def _amendments(folder: Path) -> str:
    shown = show_amendments(folder)
    heads = ["oracle", "weight", "normalisation", "on_missing", "requested_by", "from_iteration", "refused"]
    rows = ([_said(one.get(head)) for head in heads] for one in shown)
    return _table([head.replace("_", " ") for head in heads], rows) if shown else ""


def _said(value: object) -> str:
    return "–" if value is None or value == "" else str(value)


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    name = escape(path.stem.replace("-", " ").replace("_", " "))
    return (
        f'<figure class="picture"><img alt="{name}" src="data:image/png;base64,{data}">'
        f'<figcaption class="muted">{name}</figcaption></figure>'
    )


def _pre(content: Mapping[str, Any] | None) -> str:
    if not content:
        return ""
    return f"<pre>{escape(chr(10).join(_flat(content)))}</pre>"


def _flat(content: Mapping[str, Any], at: str = "") -> Iterable[str]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}: {format_number(value) if isinstance(value, float) else value}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole >= 3600 else f"{whole // 60} min {whole % 60} s"


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = load_json(path.read_bytes())
    return content
