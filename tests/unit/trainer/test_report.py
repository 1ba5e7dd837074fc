from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.heldout_world import grey_evaluation
from trainer.charts import Chart, Series, format_number, line_chart, nice_ticks, smoothed
from trainer.evaluation_files import heldout_figures, write_heldout
from trainer.late_answers import LATE_FIGURES
from trainer.pictures import write_comparison
from trainer.report import read_metrics, write_report
from trainer.report_curves import boundary_means, charts


def metrics_line(iteration: int, *, boundaries: int = 1) -> dict[str, Any]:
    """A line as the loop writes it."""
    reward = 0.4 + 0.2 * (1 - math.exp(-iteration / 20)) + 0.03 * math.sin(iteration * 1.7)
    by_boundary = {str(4 - b): reward - 0.08 * b for b in range(boundaries)}
    return {
        "iteration": iteration,
        "policy_version": iteration,
        "form": "value_contrast",
        "pictures": "every_boundary" if boundaries > 1 else "endpoint",
        "permuted": False,
        "rewards": {"object_count": reward, "ocr_spelling": reward / 2},
        "rewards_by_boundary": {"object_count": by_boundary},
        "strict_share": reward - 0.1,
        "reward": reward,
        "spread": 0.2,
        "groups": {"rewarded": 12, "unrewarded": 0, "tied": 1 + iteration % 3},
        "samples": {"scored": 144, "failed": 0},
        "outcomes": {
            "object_count": {"asked": 100, "scored": 97, "failed": 2, "stale": 1, "masked": 3},
            "<late>": {"asked": 44, "missing": 44, "late": 11},
        },
        "staleness": iteration % 2,
        "late": {
            **dict.fromkeys(LATE_FIGURES, 0),
            "arrived": 3,
            "used": 2,
            "too_stale": 1,
            "waiting": 4,
            "staleness": {"1": 2, "16": 1},
            "age_s": {"60": 2},
        },
        "updates": {"student": 1, "surrogate": 2, "fake_score": 1},
        "figures": {
            "surrogate": {"surrogate_loss": 0.6 - 0.001 * iteration, "surrogate_ranking": 0.7},
            "student": {"student_loss": 2.0, "student_grad_norm": 0.3},
        },
        "samples_scored_per_s": 40.0 + iteration % 5,
        "depth": {"object_count": {"samples": 10 + iteration % 4}},
        "seconds": {"iteration": 5.0, "rollout": 1.0, "student": 2.0, "exposed_wait": 0.1, "hidden_reward": 1.5},
        "elapsed_s": 5.0 * iteration,
    }


def run_folder(path: Path, *, iterations: int, boundaries: int = 1) -> Path:
    path.mkdir()
    lines = (json.dumps(metrics_line(i, boundaries=boundaries)) for i in range(1, iterations + 1))
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (path / "recipe.yaml").write_text("name: demo\ndescription: <b>bold</b>\n")
    before, after = grey_evaluation("before", 0.0), grey_evaluation("after", 0.3)
    difference = write_heldout(path, before=before, after=after)
    write_comparison(path / "pictures" / "before-after.png", [before, after])
    figures = heldout_figures(before, after, difference)
    (path / "summary.json").write_text(json.dumps({"recipe": "demo", "heldout": figures, "wall_s": 540.2}))
    return path


class Page(HTMLParser):
    """What a page refers to, and whether its tags close."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_stands_alone_and_is_well_formed(tmp_path) -> None:
    folder = run_folder(tmp_path / "demo-1", iterations=40)
    text = write_report(folder).read_text()
    page = Page(text)
    assert page.open == []
    assert page.references and all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert page.tags.count("svg") >= 10


def test_the_report_says_what_was_measured(tmp_path) -> None:
    folder = run_folder(tmp_path / "demo-1", iterations=40)
    text = write_report(folder).read_text()
    heldout = json.loads((folder / "heldout.json").read_text())
    before, after = (heldout[which]["overall"]["value"] for which in ("before", "after"))
    assert f"{before:.3f} → {after:.3f}" in text
    assert "value_contrast" in text and "endpoint" in text
    assert "Reward by oracle" in text and "object_count" in text
    assert "Surrogate ranking" in text and "exposed reward time" in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text and "<b>bold</b>" not in text
    assert "5\u202f760" in text  # 40 iterations of 144 samples
    assert "9 min 0 s" in text
    cells = "".join(f"<td>{count}</td>" for count in (4000, 3880, 80, 40, 0, 0, 120, 0))
    assert f"<td>object_count</td>{cells}" in text  # asked, scored, failed, stale, dropped, missing, masked, late
    assert "<td>&lt;late&gt;</td><td>1760</td><td>0</td>" in text
    late = "".join(f"<td>{count}</td>" for count in (120, 80, 40, 0, 0, 4))
    assert f"<tr>{late}</tr>" in text  # arrived, used, too stale, untaught, given up, and waiting at the end
    assert "<td>answers</td><td>80</td><td>40</td>" in text and "<td>answers</td><td>80</td></tr>" in text
    assert "Oracles added while it trained" not in text
    assert "Rewards by boundary" not in text


def test_scores_by_boundary_are_shown_when_there_are_several(tmp_path) -> None:
    folder = run_folder(tmp_path / "every", iterations=8, boundaries=4)
    text = write_report(folder).read_text()
    assert "Rewards by boundary" in text and "Reward by boundary: object_count" in text
    means = boundary_means(read_metrics(folder))
    assert list(means["object_count"]) == [1, 2, 3, 4]
    expected = sum(metrics_line(i)["reward"] for i in (7, 8)) / 2
    assert means["object_count"][4] == pytest.approx(expected)
    assert f"<td>{expected - 0.24:.3f}</td>" in text


def test_a_run_that_has_only_begun_has_a_report(tmp_path) -> None:
    (tmp_path / "new").mkdir()
    text = write_report(tmp_path / "new").read_text()
    assert "No iteration has ended yet." in text and Page(text).open == []
    (tmp_path / "new" / "metrics.jsonl").write_text(json.dumps(metrics_line(1)) + '\n{"iteration": 2, "rew')
    assert [line["iteration"] for line in read_metrics(tmp_path / "new")] == [1]
    assert Page(write_report(tmp_path / "new").read_text()).open == []
    with pytest.raises(FileNotFoundError, match="no run folder"):
        write_report(tmp_path / "nowhere")


def test_a_control_says_so(tmp_path) -> None:
    folder = run_folder(tmp_path / "control", iterations=2)
    (folder / "metrics.jsonl").write_text(json.dumps(metrics_line(1) | {"permuted": True}) + "\n")
    assert "rewards were permuted within each group" in write_report(folder).read_text()


def test_missing_and_null_figures_are_left_out() -> None:
    empty = {"iteration": 1, "rewards": {}, "reward": None, "strict_share": None, "spread": None}
    drawn = [line_chart(chart) for chart in charts([empty, metrics_line(2)])]
    assert any(drawn) and "NaN" not in "".join(drawn)
    assert [line_chart(chart) for chart in charts([])] == [""] * len(charts([]))


def test_ticks_are_round_and_enclose() -> None:
    assert nice_ticks(0, 1) == [0, 0.5, 1.0]
    assert nice_ticks(0.31, 0.44) == [0.3, 0.35, 0.4, 0.45]
    for low, high in ((0.31, 0.44), (-3, 250), (1e-5, 3e-5), (5, 5), (0, 0)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8


def test_smoothing_keeps_constants_and_length() -> None:
    points = [(float(x), 2.0) for x in range(100)]
    assert smoothed(points) == points
    assert [format_number(v) for v in (0, 0.1234567, 12345.0, 2.5e6, 1e-5)] == [
        "0",
        "0.1235",
        "12.3k",
        "2.5M",
        "1.0e-05",
    ]


def test_points_lie_inside_the_drawing_and_names_are_escaped() -> None:
    points = [(float(x), math.sin(x)) for x in range(30)] + [(31.0, math.nan)]
    drawn = line_chart(Chart("a <b>", [Series("x & y", points, 0)]))
    assert "a &lt;b&gt;" in drawn and "x &amp; y" in drawn and "nan" not in drawn
    path = re.search(r'd="M([^"]+)"', drawn)
    assert path is not None
    for pair in path[1].split("L"):
        x, y = map(float, pair.split())
        assert 0 <= x <= 460 and 0 <= y <= 230
