"""`benchmarks.ablations`: every arm trains, the command goes on where it was ended, and verdicts follow their rule."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file

from benchmarks import ablation_evaluation, ablation_results, ablation_runs, ablations
from benchmarks.ablation_evaluation import (
    evaluate_run,
    evaluate_start,
    start_folder,
)
from benchmarks.ablation_report import markdown, summary
from benchmarks.ablation_results import Result, keep_result, read_result
from benchmarks.ablation_runs import Options, Run, collect_bank, runs_of, train_stage
from benchmarks.arms.catalogue import ARMS, FINDINGS, FORMS, PANELS, PAPER, START
from benchmarks.arms.elsewhere import Elsewhere
from benchmarks.arms.reward_on_student import MatchingAlone, RewardOnStudent
from benchmarks.arms.stochastic import StochasticTdmR1, stochastic_sampler
from benchmarks.arms.tuned_teacher import TunedTeacher
from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.messages import OracleInfo, Scored
from trainer.algorithms.draws import seeded
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.feedback import PictureGroup, PictureSample
from trainer.models.sd3 import Sd3Family
from trainer.recipe import load_recipe
from trainer.report import read_metrics
from trainer.training_process import build_roles
from trainer.worlds.shapes.weights_folder import WEIGHTS

TINY = (
    "algorithm.precision=float32",
    "algorithm.batch_size=4",
    "algorithm.surrogate.initial_weights=teacher",
    "algorithm.fake_score.initial_weights=teacher",
    "algorithm.student.initial_weights=teacher",
    "prompts={groups_per_iteration: 2, group_size: 2, kinds: [colors]}",
    "evaluation={prompts_per_kind: 1, pictures_per_kind: 1}",
    "run.iterations=2",
    "run.checkpoint_every=2",
)
PROMPTS = ["a red circle", "a blue star"]


class Brightness(Oracle):
    """Stands for one of the demo's oracles: brighter is better."""

    def __init__(self, name: str) -> None:
        self.info = OracleInfo(
            name=name, version="1", reward_min=0.0, reward_max=1.0, media_types=("image/png",), max_batch=64
        )

    def score(self, batch: Sequence[OracleInput]) -> list[Any]:
        return [Scored(sample_id=one.sample.sample_id, reward=float(one.picture.mean()) / 255) for one in batch]


class Bright:
    """Stands for `OraclesInProcess`."""

    def __init__(self) -> None:
        self.by_name = {name: Brightness(name) for name in ("object_count", "ocr_spelling")}

    @staticmethod
    def judge(pictures: Sequence[Any], _: Any) -> tuple[list[bool], list[dict[str, Any]]]:
        return [True] * len(pictures), [{}] * len(pictures)


@pytest.fixture(scope="module")
def family() -> Sd3Family:
    """The shapes world around a transformer of two narrow blocks."""
    found = Sd3Family.load(WEIGHTS)
    narrow = {"num_layers": 2, "num_attention_heads": 1, "attention_head_dim": 32, "caption_projection_dim": 32}
    with seeded(0):
        transformer = SD3Transformer2DModel.from_config({**found.teacher.config, **narrow})
    found.pipeline.transformer = transformer.eval().requires_grad_(False)
    return found


@pytest.fixture(autouse=True)
def small_world(family: Sd3Family, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One family for all, oracles that look at brightness, one thread."""
    teacher = {key: tensor.clone() for key, tensor in family.teacher.state_dict().items()}
    for module in (ablation_runs, ablation_evaluation):
        monkeypatch.setattr(module, "load_family", lambda *_, **__: family)
        monkeypatch.setattr(module, "oracles", Bright)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    family.teacher.load_state_dict(teacher)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablations")


def tiny(folder: Path) -> Options:
    return Options(folder=folder, minutes=10.0, seeds=1, bank_groups=6, overrides=TINY)


def quick(name: str) -> Any:
    """The arm, its oracles not so far away."""
    arm = ARMS[name]
    stages = tuple(
        replace(stage, feedback=partial(Elsewhere, delay_s=1.5, blocking=name == "waiting"))
        if name in ("overlapped", "waiting")
        else stage
        for stage in arm.stages
    )
    return replace(arm, stages=stages)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains(name: str, bank: Path) -> None:
    """Two iterations, from one bank; what it leaves behind is what is judged."""
    options = tiny(bank)
    if not (bank / START).exists():
        collect_bank(options)
    run = Run(quick(name), 0, options)
    while (stage := run.next_stage()) is not None:
        train_stage(run, stage)
    for stage in run.arm.stages:
        folder = run.stage_folder(stage)
        assert [line["iteration"] for line in read_metrics(folder)] == [1, 2]
        assert load_file(folder / "network.safetensors")
        fresh = run.recipe(stage).algorithm.surrogate.fresh_share == 1
        first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        assert (first["bank_groups"] <= 2) == fresh  # with the bank: its six groups too
        assert first["updates"].get("student", 0) == (0 if stage.name == "tune" else 3)
    if name in ("overlapped", "waiting"):
        line = read_metrics(run.stage_folder(run.arm.stages[-1]))[-1]
        assert line["free_updates"] == (2 if name == "overlapped" else 0)
        assert line["seconds"]["exposed_wait"] + line["seconds"]["hidden_reward"] >= 0.3


def test_an_arm_that_diverges_ends_with_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(ARMS["e9"], 0, tiny(tmp_path))
    steps = iter([TdmR1.student_step] * 3)

    def student_step(algorithm: TdmR1, batch: TrajectoryBatch) -> dict[str, float]:
        for step in steps:
            return step(algorithm, batch)
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(TdmR1, "student_step", student_step)
    train_stage(run, run.arm.stages[0])
    assert run.next_stage() is None and len(read_metrics(run.folder / "run")) == 1
    assert evaluate_run(run) and evaluate_start(run.arm, run.options) and keep_result(run)
    found = summary([kept(run)], run.options)
    assert found["arms"]["e9"]["diverged"] == [0] and "| 1, diverged |" in markdown(found)


def kept(run: Run) -> Result:
    result = read_result(run)
    assert result is not None
    return result


def algorithm_of(kind: type[TdmR1], name: str, family: Sd3Family) -> TdmR1:
    stage = ARMS[name].stages[0]
    recipe = load_recipe("demo", [*stage.overrides, *TINY])
    return kind(recipe.algorithm, family, roles=build_roles(recipe.model, family))


def batch_of(algorithm: TdmR1) -> TrajectoryBatch:
    rewards = torch.tensor([0.0, 1.0, 0.3, 0.2])
    return TrajectoryBatch(
        boundaries=algorithm.rollout(PROMPTS, 2, torch.Generator().manual_seed(0)).boundaries,
        prompts=[prompt for prompt in PROMPTS for _ in range(2)],
        group_index=torch.tensor([0, 0, 1, 1]),
        rewards=rewards,
        advantages=torch.tensor([-1.0, 1.0, 1.0, -1.0]),
    )


def test_a_reward_on_the_student_moves_the_student_and_its_own_loss_knows_no_reward(family: Sd3Family) -> None:
    algorithm = algorithm_of(RewardOnStudent, "reward_on_student", family)
    batch = batch_of(algorithm)
    before = {key: tensor.clone() for key, tensor in algorithm.student.state_dict().items()}
    figures = algorithm.surrogate_step(batch)
    assert any(not torch.equal(tensor, before[key]) for key, tensor in algorithm.student.state_dict().items())
    assert np.isfinite(figures["surrogate_loss"])
    assert "reward_rms" not in algorithm.student_step(batch)
    state = algorithm.state_dict()
    assert "surrogate" not in state["networks"] and {"surrogate_origin", "surrogate_lagged"} <= set(state["networks"])
    again = algorithm_of(RewardOnStudent, "reward_on_student", family)
    again.load_state_dict(state)
    assert again.surrogate_step(batch) == algorithm.surrogate_step(batch)


def test_matching_alone_is_tdm(family: Sd3Family) -> None:
    plain, rewarded = (algorithm_of(kind, "tdm_r1", family) for kind in (MatchingAlone, TdmR1))
    batch = batch_of(plain)
    assert set(rewarded.student_step(batch)) - set(plain.student_step(batch)) == {"reward_rms"}


def test_a_tuned_teacher_draws_and_learns_its_own_clean_pictures(family: Sd3Family) -> None:
    algorithm = algorithm_of(TunedTeacher, "tuned_teacher", family)
    batch = batch_of(algorithm)
    assert algorithm.num_steps == 1 and batch.boundaries.shape[:2] == (4, 2)
    at, k_next = algorithm.renoised(batch)
    assert k_next.tolist() == [1] * 4 and at.sigma_next.tolist() == [0.0] * 4
    assert torch.equal(at.z_next, batch.boundaries[:, 1])
    algorithm.surrogate_step(batch)
    assert not torch.equal(batch_of(algorithm).boundaries[:, 1], batch.boundaries[:, 1])
    assert torch.equal(batch_of(algorithm).boundaries[:, 0], batch.boundaries[:, 0])


def test_a_stochastic_student_noises_anew_in_rollouts_updates_and_evaluation(family: Sd3Family) -> None:
    algorithm = algorithm_of(StochasticTdmR1, "stochastic", family)
    batch = batch_of(algorithm)
    start = algorithm._start(batch, torch.tensor([0, 3]))
    step, plain = algorithm._student_step(start), TdmR1._student_step(algorithm, start)
    assert torch.equal(step.x0_s, plain.x0_s)
    clean = start.sigma_next == 0
    torch.testing.assert_close(step.z_next[clean], step.x0_s[clean])
    assert not torch.allclose(step.z_next[~clean], plain.z_next[~clean], atol=0.1)
    assert torch.equal(step.z_next, algorithm._student_step(start).z_next)
    algorithm.student_step(batch)
    assert not torch.equal(step.z_next[~clean], algorithm._student_step(start).z_next[~clean])
    sampler, nfe = stochastic_sampler(family, algorithm.student, num_steps=4)
    together, alone = sampler(PROMPTS, [1, 2]), sampler(PROMPTS[1:], [2])
    assert nfe == 4 and np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert not np.array_equal(sampler(PROMPTS[1:], [3])[0], alone[0])


def test_answers_from_elsewhere_come_late_and_a_wait_ends_with_them() -> None:
    picture = PictureSample(sample_id="a", boundary_index=4, picture=np.zeros((2, 2, 3), np.uint8))
    group = PictureGroup(
        run_id="r",
        group_id="g",
        policy_version=0,
        prompt="p",
        checks={"tag": "single_object"},
        samples=(picture,),
        awaited=("toy",),
    )
    feedback = Elsewhere({"toy": Brightness("toy")}, delay_s=2.0)
    began = time.monotonic()
    feedback.publish([group])
    assert feedback.collect() == [] and time.monotonic() - began < 2
    (answer,) = feedback.collect(wait_s=30.0)
    assert answer.group_id == "g" and 2 <= time.monotonic() - began < 20
    assert feedback.times().exposed_s == pytest.approx(2, abs=1.5)
    blocking = Elsewhere({"toy": Brightness("toy")}, delay_s=0.1, blocking=True)
    blocking.publish([group])
    assert len(blocking.collect()) == 1
    assert blocking.times().exposed_s >= 0.1


def test_a_command_that_was_ended_goes_on_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(folder: str, *more: str) -> int:
        settings = [part for override in TINY for part in ("--set", override)]
        size = ["--minutes", "10", "--seeds", "2", "--bank-groups", "4"]
        arms = ["--arms", "tdm_r1", "e11"]
        return ablations.main(["--folder", str(tmp_path / folder), *arms, *size, *settings, *more])

    monkeypatch.setattr(ablation_runs, "SNAPSHOT_EVERY", 2)
    assert command("whole", "--json", str(tmp_path / "whole.json")) == 0
    pieces = 1
    while command("cut", "--piece-s", "0") == ablations.MORE_TO_DO:
        if pieces == 3:  # killed while the bank was being laid into an arm
            (tmp_path / "cut" / "tdm_r1" / "seed-0" / "run" / "store" / "rank-0").mkdir(parents=True)
        pieces += 1
    assert pieces > 2 * 4  # the bank, the start, three runs in two pieces each and judged
    for arm, seed in (("tdm_r1", 0), ("tdm_r1", 1), ("e11", 0)):
        whole, cut = (tmp_path / name / arm / f"seed-{seed}" / "run" for name in ("whole", "cut"))
        assert [line["iteration"] for line in read_metrics(cut)] == [1, 2]
        one, other = (load_file(folder / "network.safetensors") for folder in (whole, cut))
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
        assert (cut / "snapshots" / "2.safetensors").exists() == (arm in FORMS)
    assert not (tmp_path / "whole" / "e11" / "seed-1").exists()  # one seed: no arm of the publication's

    def again(*_: Any) -> None:
        raise AssertionError("done twice")

    monkeypatch.setattr(ablations, "train_stage", again)
    monkeypatch.setattr(ablation_evaluation, "_evaluate", again)
    capsys.readouterr()
    assert command("cut") == 0
    assert "| `e11` | tilt (E11), cold | 1 | 1.000 | 1.000 |" in capsys.readouterr().out
    assert command("nothing", "--only-report") == 0
    with pytest.raises(SystemExit, match=r"tdm_r1-seed-0.json is of 10 minutes"):
        command("cut", "--minutes", "0.5")
    assert command("cut", "--only-report", "--minutes", "20") == 0
    assert "Not done: tdm_r1," in capsys.readouterr().out
    elsewhere = ("--results", str(tmp_path / "cut" / "results"))
    assert command("new", *elsewhere) == 0, "done on another machine"
    assert not (tmp_path / "new" / START).exists()
    with pytest.raises(SystemExit, match=r"of other weights or held-out prompts"):
        command("new", *elsewhere, "--set", "evaluation.seed=5")
    for module in (ablation_runs, ablation_results):
        monkeypatch.setattr(module, "shipped_weights", lambda _: "others")
    with pytest.raises(SystemExit, match="of other weights"):
        command("cut")
    shutil.rmtree(tmp_path / "cut" / "results")
    with pytest.raises(SystemExit, match="begun with other weights"):
        command("cut")
    found = json.loads((tmp_path / "whole.json").read_text())
    assert found["benchmark"] == "ablations" and found["arms"]["tdm_r1"]["seeds"] == [0, 1]
    assert found["arms"]["tdm_r1"]["pictures_scored"] == 8
    ET.fromstring((tmp_path / "whole" / "ablations.svg").read_text())


def test_more_minutes_go_on_from_what_there_is(bank: Path, tmp_path: Path) -> None:
    """An arm of two stages trains its first one on, and its second one anew."""
    shutil.copytree(bank, tmp_path, dirs_exist_ok=True) if (bank / START).exists() else collect_bank(tiny(tmp_path))
    short = replace(tiny(tmp_path), overrides=(*TINY, "run.iterations=2"))
    long = replace(short, minutes=20.0, overrides=(*TINY, "run.iterations=3"))
    for name, stages in (("e12b", ["run"]), ("tuned_teacher", ["tune", "distil"])):
        run, more = Run(ARMS[name], 7, short), Run(ARMS[name], 7, long)
        while (stage := run.next_stage()) is not None:
            train_stage(run, stage)
        assert evaluate_run(run) and not evaluate_run(run)
        first = [read_metrics(run.folder / one) for one in stages]
        assert more.next_stage() == more.arm.stages[0]
        while (stage := more.next_stage()) is not None:
            train_stage(more, stage)
        lines = [read_metrics(more.folder / one) for one in stages]
        assert [[line["iteration"] for line in one] for one in lines] == [[1, 2, 3]] * len(stages)
        assert lines[0][:2] == first[0], "the first stage went on"
        assert name == "e12b" or lines[1][:2] != first[1], "the second began anew"
        assert evaluate_run(more), "judged again"


def test_an_arm_that_samples_otherwise_has_a_start_of_its_own(tmp_path: Path) -> None:
    options = tiny(tmp_path)
    assert start_folder(ARMS["tdm_r1"], options) == start_folder(ARMS["e9"], options) == tmp_path / START
    for arm in (ARMS["tdm_r1"], ARMS["stochastic"]):
        assert evaluate_start(arm, options) and not evaluate_start(arm, options)
        run = Run(arm, 0, options)
        run.stage_folder(arm.stages[0]).mkdir(parents=True)
        (run.stage_folder(arm.stages[0]) / "trained.json").write_text(json.dumps({"minutes": 10, "threads": 1}))
        (run.folder / "evaluation.json").write_bytes((tmp_path / START / "evaluation.json").read_bytes())
        assert keep_result(run)
    found = summary([kept(Run(ARMS[name], 0, options)) for name in ("tdm_r1", "stochastic")], options)
    assert found["arms"]["stochastic"]["start"] == 1.0
    of = {one["lower"]: one["of"] for one in found["findings"]}
    assert of["stochastic"] == "rise" and of[START] == "accuracy"


def test_the_catalogue_names_what_there_is() -> None:
    assert set(PAPER) | set(FORMS) <= set(ARMS)
    assert {name for names in PANELS.values() for name in names} == set(ARMS)
    assert {one.higher for one in FINDINGS} | {one.lower for one in FINDINGS} == {*ARMS, START}
    options = Options(folder=Path("unused"))
    assert [run.seed for run in runs_of(list(ARMS), options)].count(0) == len(ARMS)
    assert [run.arm.name for run in runs_of(list(ARMS), options) if run.seed == 2] == list(PAPER)
    for arm in ARMS.values():
        assert sum(stage.share for stage in arm.stages) == 1
        for stage in arm.stages:
            recipe = Run(arm, 0, options).recipe(stage)
            assert recipe.run.time_limit_s == 1200 * stage.share
            assert recipe.prompts == load_recipe("demo").prompts  # as many pictures an iteration
