"""Do rewards that come late move the student? Raters with a hidden taste, at several bounds of staleness.

From the shipped student and its warm surrogate, which know nothing of the taste, the recipe `preference` trains on
counting, spelling and pairwise choices of simulated raters: they prefer pictures with blue things, err in one choice of
ten, and answer 1 to --longest-delay policy versions later. One run for each bound on the staleness of late answers;
bound 0 learns from no answer and is the control. Then, on held-out prompts and the same seeds: how often the picture
after training is preferred to the one before, and what became of the counting and spelling rewards.

Everything lies in --folder and is gone on with: with --piece-s, one piece of work is done and the exit status is 75
while there is more to do. Oracles, queue and raters are in this process; with --http a stack is started, with people
as one of its oracles, and raters ask its preference service over HTTP as any program may.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.choices_in_process import ChoicesInProcess, WithRaters
from benchmarks.choices_over_http import ChoicesOverHttp
from benchmarks.raters import TASTE_FILE, Raters, blueness, preferred, replace_json
from benchmarks.record import Figure, parser, report
from deploy.local import Stack
from deploy.oracles_in_process import OraclesInProcess
from deploy.parts import PREFERENCE
from deploy.people import link_secret
from deploy.settings import Settings, load_settings
from deploy.training import Training
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.strict_json import load_json
from services.gateway.audit import OPERATOR
from services.oracles.object_count import ObjectCount
from services.oracles.ocr_spelling import OcrSpelling
from services.preference.invites import InviteRequest, Invites
from services.preference.model import QueueSettings
from trainer.algorithms.tdm import NUM_STUDENT_STEPS
from trainer.checkpoint import CheckpointFolder
from trainer.coordination import Solo
from trainer.evaluate import HeldoutPicture
from trainer.late_answers import LATE_SUMS
from trainer.loop import Loop
from trainer.models.sd3 import Sd3Family
from trainer.paired import Interval, stratified_intervals
from trainer.recipe import Recipe, load_recipe
from trainer.report import read_metrics, write_report
from trainer.run_folder import RunFolder
from trainer.samplers import student_sampler
from trainer.training_process import build_algorithm, heldout_plan, load_family, model_folder, training_prompts

MORE_TO_DO = 75
_CPU = torch.device("cpu")
_CURVE_POINTS = 8
_RATERS_EVERY_S = 1.0
_LEASE_S = 7 * 86_400.0
_MAX_RATERS = 100_000


def recipe_of(bound: str, given: argparse.Namespace) -> Recipe:
    """The recipe of one arm."""
    overrides = [f"run.iterations={given.iterations}", f"evaluation.pictures_per_kind={given.pictures_per_kind}"]
    if bound != "any":
        overrides.append(f"algorithm.surrogate.max_late_staleness={bound}")
    return load_recipe("preference", [*overrides, *given.set])


def train(bound: str, given: argparse.Namespace) -> None:
    """Trains one arm to its end, or for a piece."""
    folder, recipe = RunFolder(arm_folder(given, bound)), recipe_of(bound, given)
    folder.adopt(recipe)
    (_train_over_http if given.http else _train_in_process)(folder, recipe, given)


def _train_in_process(folder: RunFolder, recipe: Recipe, given: argparse.Namespace) -> None:
    choices = ChoicesInProcess(folder.path / "choices.json", comparisons_per_group=given.comparisons)
    raters = Raters(choices, folder.path, noise=given.noise, longest_delay=given.longest_delay)
    oracles = {"object_count": ObjectCount(), "ocr_spelling": OcrSpelling()}
    family = load_family(recipe, device=_CPU)
    loop = Loop(
        recipe,
        build_algorithm(recipe, family, workers=Solo()),
        decode=family.decode,
        prompts=training_prompts(recipe),
        feedback=WithRaters(oracles, choices, raters),
        folder=folder,
        sinks=[_say],
    )
    ender = threading.Timer(given.piece_s or threading.TIMEOUT_MAX, loop.request_stop)
    ender.daemon = True
    ender.start()
    loop.run()
    ender.cancel()


def _train_over_http(folder: RunFolder, recipe: Recipe, given: argparse.Namespace) -> None:
    """On a stack of its own, with people as one of its oracles; raters work beside the trainer."""
    settings = people_settings(given)
    with Stack(settings) as stack, _raters_door(settings, stack) as choices:
        raters = Raters(choices, folder.path, noise=given.noise, longest_delay=given.longest_delay)
        training = Training(
            recipe, folder.path, redis_url=stack.redis_url, cpus_per_worker=settings.cpus_per_trainer(1)
        )
        training.start()
        ends = time.monotonic() + (given.piece_s or threading.TIMEOUT_MAX)
        while not training.done():
            raters.work(_policy_version(folder))
            if time.monotonic() > ends:
                training.ask_to_stop()
            training.wait(_RATERS_EVERY_S)
        training.result()


def people_settings(given: argparse.Namespace) -> Settings:
    """The environment's settings, with people whose leases outlast every delay and who are asked nothing twice."""
    queue = QueueSettings(
        comparisons_per_group=given.comparisons, lease_s=_LEASE_S, deadline_s=_LEASE_S, gold_share=0, repeat_share=0
    )
    return load_settings().model_copy(
        update={"preference": True, "preference_queue": queue, "run_root": Path(given.folder).resolve()}
    )


def _raters_door(settings: Settings, stack: Stack) -> ChoicesOverHttp:
    """Where raters find the service, with an invite for as many as there may be comparisons."""

    async def invite() -> str:
        client = await connect(stack.redis_url)
        try:
            wanted = InviteRequest(label="simulated", max_raters=_MAX_RATERS)
            return (await Invites(client, link_secret(settings)).create(wanted, actor=OPERATOR))[1]
        finally:
            await client.aclose()

    return ChoicesOverHttp(f"{stack.serve_url}/{PREFERENCE}", asyncio.run(invite()))


def _policy_version(folder: RunFolder) -> int:
    status = folder.path / "status.json"
    return int(load_json(status.read_bytes())["policy_version"]) if status.exists() else 0


def _say(line: Mapping[str, Any]) -> None:
    late, seconds = line["late"], line["seconds"]["iteration"]
    print(
        f"iteration {line['iteration']}, {seconds:.1f} s, late {late['used']} used, "
        f"{late['too_stale']} too stale, {line['rewards']}",
        file=sys.stderr,
        flush=True,
    )


def evaluate(recipe: Recipe, run: Path | None) -> dict[str, Any]:
    """Held-out pictures of a run's averaged student (None: the shipped one): reward and taste of each."""
    family = load_family(recipe, device=_CPU)
    if run is None:
        network = family.new_transformer(model_folder(recipe) / "student")
    else:
        checkpoint = CheckpointFolder(run / "checkpoints", keep=1).read_latest()
        if checkpoint is None:
            raise SystemExit(f"{run} holds no checkpoint: remove it and begin anew")
        network = family.new_transformer()
        network.load_state_dict(dict(checkpoint.networks["ema_student"]))
    plan, pictures = heldout_plan(recipe), _sample(family, network, heldout_plan(recipe))
    rewards = _judges().score(list(pictures), [item.spec for item in plan])
    return {"rewards": rewards, "taste": blueness(pictures).tolist()}


@cache
def _judges() -> OraclesInProcess:
    return OraclesInProcess()


def _sample(family: Sd3Family, network: torch.nn.Module, plan: Sequence[HeldoutPicture]) -> NDArray[np.uint8]:
    sampler, _ = student_sampler(family, network.eval(), num_steps=NUM_STUDENT_STEPS)
    with torch.inference_mode():
        batches = [plan[start : start + 64] for start in range(0, len(plan), 64)]
        return np.concatenate([sampler([one.spec.prompt for one in b], [one.seed for one in b]) for b in batches])


def compare(plan: Sequence[HeldoutPicture], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Win rate of after against before, and what counting and spelling rewards did: each with its 95 % interval."""
    wins = [preferred(a, b) for a, b in zip(after["taste"], before["taste"], strict=True)]
    rises = [a - b for a, b in zip(after["rewards"], before["rewards"], strict=True)]
    is_text = [item.spec.checks.get("text") is not None for item in plan]

    def interval(values: Sequence[float], *, text: bool | None = None) -> Interval:
        chosen = [
            (item.spec.kind, item.spec.prompt, value)
            for item, value, is_one in zip(plan, values, is_text, strict=True)
            if text is None or is_one == text
        ]
        return stratified_intervals(chosen)[0]

    return {
        "win_rate": asdict(interval(wins)),
        "wins": sum(win == 1 for win in wins),
        "ties": sum(win == 0.5 for win in wins),
        "losses": sum(win == 0 for win in wins),
        "counting": asdict(interval(rises, text=False)),
        "spelling": asdict(interval(rises, text=True)),
        "taste_before": float(np.mean(before["taste"])),
        "taste_after": float(np.mean(after["taste"])),
    }


def arm_folder(given: argparse.Namespace, bound: str) -> Path:
    """The run folder of one arm."""
    return Path(given.folder) / f"bound-{bound}"


def next_piece(given: argparse.Namespace) -> bool:
    """Does the next piece of work that is missing; False if nothing is."""
    before = Path(given.folder) / "before.json"
    if not before.exists():
        before.parent.mkdir(parents=True, exist_ok=True)
        replace_json(before, evaluate(recipe_of("any", given), None))
        return True
    for bound in given.bounds:
        folder = arm_folder(given, bound)
        after = folder / "after.json"
        lines = read_metrics(folder)
        if not lines or lines[-1]["iteration"] < given.iterations:
            print(f"training with bound {bound}", file=sys.stderr)
            train(bound, given)
            return True
        if not after.exists():
            replace_json(after, evaluate(recipe_of(bound, given), folder))
            write_report(folder)
            return True
    return False


def figures_of(bound: str, given: argparse.Namespace) -> list[Figure]:
    """One arm's figures."""
    folder, plan = arm_folder(given, bound), heldout_plan(recipe_of(bound, given))
    before, after = (load_json(path.read_bytes()) for path in (folder.parent / "before.json", folder / "after.json"))
    found, lines = compare(plan, before, after), read_metrics(folder)
    late = {name: sum(line["late"][name] for line in lines) for name in LATE_SUMS}
    curve = {name: _curve([line["rewards"].get(name) for line in lines]) for name in ("object_count", "ocr_spelling")}
    seen = {
        one["policy_version"]: one["taste"] for one in map(load_json, (folder / TASTE_FILE).read_text().splitlines())
    }
    curve["taste"] = _curve([seen[version] for version in sorted(seen)])
    said = {
        "win rate": f"{found['wins']} won, {found['ties']} tied, {found['losses']} lost; "
        f"{late['used']} answers used, {late['too_stale']} too stale",
        "counting": "graded reward, after less before",
        "spelling": "graded reward, after less before",
    }
    names = {"win rate": "win_rate", "counting": "counting", "spelling": "spelling"}
    return [
        Figure(
            f"bound {bound}: {what}",
            "share" if what == "win rate" else "reward",
            [found[key]["value"]],
            note=f"95 % interval {found[key]['low']:.3f} to {found[key]['high']:.3f}; {said[what]}",
            extra={"bound": bound, "late": late, "curve": curve, **found},
        )
        for what, key in names.items()
    ]


def _curve(values: Sequence[float | None]) -> list[float]:
    """Means over eighths of a run."""
    known = np.array([np.nan if value is None else value for value in values])
    return [float(np.nanmean(part)) for part in np.array_split(known, min(_CURVE_POINTS, len(known)))]


def main() -> int:
    """Does what is missing, all of it or one piece, and prints the table once nothing is."""
    arguments = parser(__doc__, repeats=False)
    arguments.add_argument("--folder", default="runs/late-rewards", help="where everything lies")
    arguments.add_argument("--bounds", nargs="+", default=["0", "4", "16", "any"], help="policy versions, or any")
    arguments.add_argument("--iterations", type=int, default=60, help="of each run")
    arguments.add_argument("--longest-delay", type=int, default=32, help="policy versions until the last answers")
    arguments.add_argument("--noise", type=float, default=0.1, help="share of choices made the other way round")
    arguments.add_argument("--comparisons", type=int, default=12, help="of each group")
    arguments.add_argument("--pictures-per-kind", type=int, default=102, help="held out")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides of the recipe")
    arguments.add_argument("--piece-s", type=float, help="do one piece of at most so many seconds")
    arguments.add_argument("--http", action="store_true", help="through the preference service, on a stack of its own")
    given = arguments.parse_args()
    while next_piece(given):
        if given.piece_s is not None:
            return MORE_TO_DO
    figures = [figure for bound in given.bounds for figure in figures_of(bound, given)]
    report("late_rewards", figures, json_file=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
