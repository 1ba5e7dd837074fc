"""The headline: do four steps, reinforced, beat the eighty that they came from? And is it so for a second judge?

    python -m benchmarks.headline [--run RUN] [--quick] [--json FILE] [--grid FILE]

Evaluates what ships: the teacher at 80 and at 4 NFE, TDM's student and TDM-R1's at 4; `--run RUN` takes the newest
checkpoint of a run for the last. All by the oracles that rewarded, and by the independent evaluator that never did. A
network that is not there has null in the JSON file, and `missing` says why.

Accuracy is the mean of the kinds' strict passes on held-out prompts. Of students 400 pictures of each kind are judged,
of the teacher 100, since at 80 NFE one costs twenty; `--quick` takes 8 and 2, and takes about a minute.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.table import Table

from benchmarks.independent.judge import IndependentJudge
from benchmarks.networks import Network, Networks
from benchmarks.record import parser, print_table, write
from benchmarks.two_judges import TwoWay, disagreement_sheet, judged_by, two_way, two_way_table
from deploy.oracles_in_process import OraclesInProcess
from rewardmesh.wire.errors import RecipeError, WeightsMissing
from trainer.evaluate import Evaluation, Judge, evaluate, plan_heldout
from trainer.paired import Interval, overall_interval, paired_difference
from trainer.pictures import write_comparison
from trainer.worlds.shapes.prompts import heldout_prompts
from trainer.worlds.shapes.vocabulary import KINDS

__all__ = ["NETWORKS", "Judged", "content_of", "judge_network", "table_of"]

NETWORKS: Final = {"teacher_80": "teacher", "teacher_4": "teacher_4", "tdm_4": "student", "tdm_r1_4": "tdm_r1"}
"""Names of the figures, and the network of each."""
MAX_APART: Final = 0.03
"""Of the two judges: beyond it, the student has learnt the oracles' mistakes, or one of the two cannot read it."""
_SEED = 60_000_000  # training, and every other evaluation, draw from seeds of their own
_PROMPTS = 100  # of each kind; those that have fewer are asked with more seeds


@dataclass(frozen=True)
class Judged:
    """One network's pictures, judged twice."""

    oracles: Evaluation
    independent: Evaluation

    @property
    def agreement(self) -> dict[str, TwoWay]:
        return two_way(self.oracles, self.independent)

    @property
    def apart(self) -> Interval:
        """Accuracy by the oracles less that by the independent evaluator, on the same pictures."""
        return paired_difference(self.independent, self.oracles).overall

    @property
    def too_far_apart(self) -> bool:
        """By more than MAX_APART, and by more than chance."""
        apart = self.apart
        return abs(apart.value) > MAX_APART and not apart.low <= 0 <= apart.high


def judge_network(network: Network, name: str, *, pictures_per_kind: int, judges: tuple[Judge, Judge]) -> Judged:
    """Draws held-out pictures with a network and has both judges, oracles first, see them."""
    plan = plan_heldout(heldout_prompts(), prompts_per_kind=_PROMPTS, pictures_per_kind=pictures_per_kind, seed=_SEED)

    def tell(done: int, total: int) -> None:
        print(f"{name}: {done} of {total} pictures", file=sys.stderr, flush=True)

    with torch.inference_mode():
        first = evaluate(plan, sampler=network.sampler, judge=judges[0], name=name, nfe=network.nfe, progress=tell)
        return Judged(first, judged_by(first, plan, judges[1]))


def write_grid(file: Path, networks: Mapping[str, Network], judge: Judge) -> None:
    """The same prompts from the same noise by each network, marked by the oracles; none is picked by its outcome."""
    plan = plan_heldout(heldout_prompts(), prompts_per_kind=2, pictures_per_kind=6, seed=_SEED)
    with torch.inference_mode():
        drawn = [
            evaluate(plan, sampler=network.sampler, judge=judge, name=name.rpartition("_")[0], nfe=network.nfe)
            for name, network in networks.items()
        ]
    write_comparison(file, drawn, title="The same prompts and seeds by each network", scale=2)


def content_of(judged: Mapping[str, Judged], missing: Mapping[str, str]) -> dict[str, Any]:
    """The figures by name, null for what is not there."""
    content: dict[str, Any] = {"strict": {}, "independent": {}, "by_kind": {}, "independent_by_kind": {}}
    content |= {
        "interval": {},
        "pictures": {},
        "pictures_per_s": {},
        "seconds_a_picture": {},
        "agreement": {},
        "apart": {},
    }
    for name in NETWORKS:
        one = judged.get(name)
        for section in content.values():
            section[name] = None
        if one is None:
            continue
        content["strict"][name], content["independent"][name] = one.oracles.overall, one.independent.overall
        for section, evaluation in (("by_kind", one.oracles), ("independent_by_kind", one.independent)):
            content[section][name] = {result.kind: result.share for result in evaluation.by_kind}
        content["interval"][name] = asdict(overall_interval(one.oracles))
        content["pictures"][name] = len(one.oracles.outcomes)
        content["seconds_a_picture"][name] = one.oracles.seconds_a_picture
        content["pictures_per_s"][name] = 1 / one.oracles.seconds_a_picture
        content["apart"][name] = asdict(one.apart)
        content["agreement"][name] = {kind: asdict(way) for kind, way in one.agreement.items()}
    content["speed_ratio"] = _speed_ratio(judged)
    content["tdm_r1_4_above_teacher_80"] = _above(judged, "tdm_r1_4", "teacher_80")
    return {**content, "missing": dict(missing)}


def _speed_ratio(judged: Mapping[str, Judged]) -> float | None:
    """Pictures a second of a student at 4 NFE by those of the teacher at 80."""
    student = judged.get("tdm_r1_4") or judged.get("tdm_4")
    if student is None or "teacher_80" not in judged:
        return None
    return judged["teacher_80"].oracles.seconds_a_picture / student.oracles.seconds_a_picture


def _above(judged: Mapping[str, Judged], one: str, other: str) -> dict[str, float] | None:
    """Difference of accuracy by the oracles with its 95 % interval; the two drew different numbers of pictures."""
    if one not in judged or other not in judged:
        return None
    of, to = (overall_interval(judged[name].oracles) for name in (one, other))
    half = math.hypot(of.high - of.value, to.high - to.value)
    value = of.value - to.value
    return {"value": value, "low": value - half, "high": value + half}


def table_of(judged: Mapping[str, Judged]) -> Table:
    """By kind, the oracles' share and the independent evaluator's; then what it cost."""
    table = Table(title="benchmarks.headline: strict passes, oracles / independent", title_justify="left")
    table.add_column("kind")
    for name in judged:
        table.add_column(name, justify="right")
    shares = {
        name: [{result.kind: result.share for result in one.by_kind} for one in (judge.oracles, judge.independent)]
        for name, judge in judged.items()
    }
    for kind in KINDS:
        table.add_row(kind, *(f"{first[kind]:.3f} / {second[kind]:.3f}" for first, second in shares.values()))
    everyone = list(judged.values())
    overall = [f"{one.oracles.overall:.3f} / {one.independent.overall:.3f}" for one in everyone]
    intervals = [overall_interval(one.oracles) for one in everyone]
    table.add_row("mean of the kinds", *overall, style="bold")
    table.add_row("interval (oracles)", *(f"{one.low:.3f} to {one.high:.3f}" for one in intervals))
    table.add_row("pictures", *(str(len(one.oracles.outcomes)) for one in everyone))
    table.add_row("NFE", *(str(one.oracles.nfe) for one in everyone))
    table.add_row("ms a picture", *(f"{1000 * one.oracles.seconds_a_picture:.1f}" for one in everyone))
    table.add_row("pictures a second", *(f"{1 / one.oracles.seconds_a_picture:.2f}" for one in everyone))
    return table


def _arguments() -> argparse.Namespace:
    made = parser(__doc__, repeats=False)
    made.add_argument("--run", help="a run whose newest checkpoint is TDM-R1's student (default: the one that ships)")
    made.add_argument("--quick", action="store_true", help="few pictures: a minute, and wide intervals")
    made.add_argument("--only", metavar="NAMES", help=f"of {', '.join(NETWORKS)}, with commas (default: all)")
    made.add_argument("--per-kind", type=int, metavar="N", help="pictures of each kind of students (default 400)")
    made.add_argument("--teacher-per-kind", type=int, metavar="N", help="the same of the teacher (default 100)")
    made.add_argument(
        "--sheets", type=Path, metavar="FOLDER", help="also write there what the two judges see differently"
    )
    made.add_argument("--grid", type=Path, metavar="FILE", help="also draw the same prompts by each of them, as PNG")
    made.add_argument("--device", default="cpu", help="where pictures are drawn (default cpu)")
    given = made.parse_args()
    if unknown := set((given.only or "").split(",")) - {"", *NETWORKS}:
        made.error(f"--only knows {', '.join(NETWORKS)}, not {', '.join(sorted(unknown))}")
    return given


def main() -> int:
    """Draws, judges, prints and writes; status 1 if the judges are further apart than they may be on TDM-R1."""
    arguments = _arguments()
    students = arguments.per_kind or (8 if arguments.quick else 400)
    teachers = arguments.teacher_per_kind or (2 if arguments.quick else 100)
    networks, judges = Networks(device=arguments.device), (OraclesInProcess().judge, IndependentJudge())
    judged: dict[str, Judged] = {}
    found: dict[str, Network] = {}
    missing: dict[str, str] = {}
    for name in (arguments.only or ",".join(NETWORKS)).split(","):
        asked = arguments.run if arguments.run and name == "tdm_r1_4" else NETWORKS[name]
        try:
            network = found[name] = networks.find(asked)
        except (RecipeError, WeightsMissing) as error:
            missing[name] = str(error)
            continue
        per_kind = teachers if name == "teacher_80" else students
        judged[name] = judge_network(network, name, pictures_per_kind=per_kind, judges=judges)
    lines = [f"{name}: none, {reason}" for name, reason in missing.items()]
    for name, one in judged.items():
        apart, mark = one.apart, " (too far)" if one.too_far_apart else ""
        lines.append(f"{name}: oracles less independent {apart.value:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]{mark}")
        print_table(two_way_table(one.agreement, title=f"{name}, by both judges"))
        if arguments.sheets:
            _write_sheet(arguments.sheets, name, one)
    print_table(table_of(judged), *lines)
    if arguments.grid:
        write_grid(arguments.grid, found, judges[0])
    write("headline", {"quick": arguments.quick, **content_of(judged, missing)}, json_file=arguments.json)
    return 1 if "tdm_r1_4" in judged and judged["tdm_r1_4"].too_far_apart else 0


def _write_sheet(folder: Path, name: str, one: Judged) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    disagreement_sheet(one.oracles, one.independent).save(folder / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
