"""What an evaluation leaves behind: JSON to read back, Markdown to read, and the few figures of a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rewardmesh.wire.strict_json import dump_json, load_json
from trainer.evaluate import Evaluation, Outcome
from trainer.paired import Interval, PairedDifference, overall_interval, paired_difference

__all__ = [
    "HELDOUT_FILE",
    "evaluation_json",
    "heldout_figures",
    "markdown_table",
    "read_evaluation",
    "read_heldout",
    "write_heldout",
]

HELDOUT_FILE = "heldout.json"
"""Of a run folder; `heldout.md` lies beside it."""


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """All of an evaluation but its pictures, as plain JSON."""
    return {
        "name": evaluation.name,
        "nfe": evaluation.nfe,
        "overall": asdict(overall_interval(evaluation)),
        "by_kind": [asdict(result) | {"share": result.share} for result in evaluation.by_kind],
        "num_pictures": len(evaluation.outcomes),
        "seconds_a_picture": evaluation.seconds_a_picture,
        "sampling_s": evaluation.sampling_s,
        "judging_s": evaluation.judging_s,
        "outcomes": [asdict(outcome) for outcome in evaluation.outcomes],
    }


def read_evaluation(content: Mapping[str, Any]) -> Evaluation:
    """Inverse of `evaluation_json`; what can be computed again is.

    Raises: KeyError or TypeError if it is no such object.
    """
    outcomes = tuple(Outcome(**outcome) for outcome in content["outcomes"])
    return Evaluation(
        str(content["name"]), int(content["nfe"]), outcomes, float(content["sampling_s"]), float(content["judging_s"])
    )


def heldout_figures(before: Evaluation, after: Evaluation, difference: PairedDifference) -> dict[str, Any]:
    """The `heldout` of a summary: accuracy before and after, and the interval of the paired difference."""
    return {
        "before": before.overall,
        "after": after.overall,
        "low": difference.overall.low,
        "high": difference.overall.high,
        "pictures": difference.num_pictures,
    }


def write_heldout(
    folder: Path, *, before: Evaluation, after: Evaluation, others: Sequence[Evaluation] = (), confidence: float = 0.95
) -> PairedDifference:
    """Writes `heldout.json` and `heldout.md` into a run folder; `others` (the teacher, say) stand beside the two.

    Raises: ValueError if before and after are not of the same prompts and seeds.
    """
    difference = paired_difference(before, after, confidence=confidence)
    content = {
        "before": evaluation_json(before),
        "after": evaluation_json(after),
        "others": [evaluation_json(other) for other in others],
        "difference": asdict(difference),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HELDOUT_FILE).write_text(dump_json(content) + "\n", encoding="utf-8")
    text = markdown_table([*others, before, after], difference=difference)
    (folder / HELDOUT_FILE).with_suffix(".md").write_text(text, encoding="utf-8")
    return difference


def read_heldout(folder: Path) -> dict[str, Any] | None:
    """What `write_heldout` wrote, as plain JSON; None if there is none.

    Raises: ValueError if the file is damaged.
    """
    path = folder / HELDOUT_FILE
    if not path.exists():
        return None
    content: dict[str, Any] = load_json(path.read_bytes())
    return content


def markdown_table(evaluations: Sequence[Evaluation], *, difference: PairedDifference | None = None) -> str:
    """A table of strict passes by kind, one column a network, and what it cost.

    `difference` is of the last two networks. Prompts and pictures a kind are those of the first.
    """
    heads = ["kind", "prompts", "pictures", *(e.name for e in evaluations), *(["difference"] if difference else [])]
    lines = [_row(heads), _row(["---", *["--:"] * (len(heads) - 1)])]
    results = [{result.kind: result for result in e.by_kind} for e in evaluations]
    for kind, first in results[0].items():
        shares = [f"{by_kind[kind].share:.3f}" if kind in by_kind else "" for by_kind in results]
        last = [_signed(difference.by_kind[kind])] if difference else []
        lines.append(_row([kind, str(first.num_prompts), str(first.num_pictures), *shares, *last]))
    prompts = sum(result.num_prompts for result in results[0].values())
    pictures = sum(result.num_pictures for result in results[0].values())
    overall = [f"**{e.overall:.3f}**" for e in evaluations]
    last = [f"**{_signed(difference.overall)}**"] if difference else []
    lines.append(_row(["**overall** (mean of kinds)", str(prompts), str(pictures), *overall, *last]))
    blank = [""] if difference else []
    lines.append(_row(["NFE", "", "", *(str(e.nfe) for e in evaluations), *blank]))
    lines.append(_row(["ms a picture", "", "", *(f"{1000 * e.seconds_a_picture:.1f}" for e in evaluations), *blank]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
