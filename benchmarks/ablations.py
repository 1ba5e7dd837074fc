"""TDM-R1 taken apart: every arm from one student and one bank, for the same time, judged on the same held-out pictures.

    make ablations                       all of it: 19 arms of 20 minutes, five of them with three seeds
    python -m benchmarks.ablations --arms tdm_r1 stochastic --minutes 5 --json FILE
    python -m benchmarks.ablations --only-report --results docs/ablations       of what is kept in the repository

Oracles are called in this process, on as many threads as OMP_NUM_THREADS says: the same for all arms. Everything lies
in --folder and is gone on with: a killed command, called again, continues; with more --minutes each arm goes on to
them; what is done is not repeated. Commands with different --arms may share a folder once its bank is there. With
--piece-s one piece of work is done and the exit status is 75 while there is more to do. What a run came to is kept in
--results, a small file a run: one that is there is done, on whatever machine. Tables and figure are written
to --folder (ablations.md, ablations.svg); --only-report writes them of what there is. Which arm is what:
`benchmarks/arms/catalogue.py`; when a finding counts as seen: `benchmarks/ablation_evaluation.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ablation_evaluation import evaluate_run, evaluate_start
from benchmarks.ablation_report import draw, markdown, summary
from benchmarks.ablation_results import keep_result, read_result
from benchmarks.ablation_runs import Options, Run, collect_bank, runs_of, train_stage
from benchmarks.arms.catalogue import ARMS, FORMS
from benchmarks.record import commit, machine, parser, write
from rewardmesh.wire.telemetry import configure_logging

MORE_TO_DO = 75


def next_piece(runs: Sequence[Run], options: Options) -> bool:
    """Does the next piece of work that is missing; False if nothing is."""
    run = next((run for run in runs if read_result(run) is None), None)
    if run is None:
        return False
    if collect_bank(options) or evaluate_start(run.arm, options):
        return True
    stage = run.next_stage()
    if stage is not None:
        train_stage(run, stage)
        return True
    snapshots = sorted(run.snapshots()) if run.arm.name in FORMS else []
    return evaluate_run(run) or any(evaluate_run(run, at=at) for at in snapshots) or keep_result(run)


def write_report(runs: Sequence[Run], options: Options, json_file: Path | None) -> None:
    """Prints the tables, and writes them, the figure and the JSON file."""
    results = [result for run in runs if (result := read_result(run)) is not None]
    found = summary(results, options)
    about = ", ".join(f"{key} {value}" for key, value in machine().items())
    text = f"{markdown(found)}\nCommit {commit()}; {about}.\n"
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "ablations.md").write_text(text, encoding="utf-8")
    (options.folder / "ablations.svg").write_text(draw(results, options), encoding="utf-8")
    print(text)
    write("ablations", found, json_file=json_file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what is missing, all of it or one piece, and reports once nothing is."""
    made = parser(__doc__, repeats=False)
    made.add_argument("--folder", type=Path, default=Path("runs/ablations"), help="where everything lies")
    made.add_argument("--results", type=Path, help="where results are kept, and what is there is done (in --folder)")
    made.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS), metavar="ARM")
    made.add_argument("--minutes", type=float, default=20.0, help="of training, each arm (default 20)")
    made.add_argument("--seeds", type=int, default=3, help="of the publication's own arms (default 3)")
    made.add_argument("--bank-groups", type=int, default=1200, help="of the bank that all start from (default 1200)")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides of every recipe")
    made.add_argument("--piece-s", type=float, help="do one piece, training for at most so many seconds")
    made.add_argument("--only-report", action="store_true", help="train and evaluate nothing")
    given = made.parse_args(arguments)
    configure_logging(level="WARNING")
    options = Options(
        folder=given.folder,
        minutes=given.minutes,
        seeds=given.seeds,
        bank_groups=given.bank_groups,
        overrides=tuple(given.set),
        piece_s=given.piece_s,
        kept=given.results,
    )
    runs = list(runs_of(given.arms, options))
    while not given.only_report and next_piece(runs, options):
        if options.piece_s is not None:
            return MORE_TO_DO
    write_report(runs, options, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
