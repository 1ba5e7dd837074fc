"""Starts training on Ray Train: one process here (`num_workers` 0), one worker, or several that act as one.

Checkpoints are the loop's own folders (`trainer.checkpoint`), atomic and checksummed, in the run folder; what is
reported to Ray is a pointer to the newest one, so that Ray counts, shows and restarts by it while neither deletes the
other's files. A worker that dies is restarted by Ray and goes on from the newest whole checkpoint; so does the same
command when it is run again. On several machines the run folder must lie on storage that all of them see.

No secret is in the configuration that Ray shows, nor in the run folder: the buffer's URL, which may hold a password,
travels with the function that workers run, or is read from the environment (`REDIS_URL`) of the worker.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray
import ray.train
import torch
from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.config import FailureConfig  # ray.train's is typed as that of version 1

from rewardmesh.wire import errors
from rewardmesh.wire.errors import RecipeError, RewardmeshError
from rewardmesh.wire.telemetry import about, configure_logging, get_logger
from rewardmesh.wire.tracing import configure_tracing, flush
from trainer.coordination import Coordinator, Solo, TorchCoordinator
from trainer.loop import Loop
from trainer.process_group import GroupConfig
from trainer.ray_metrics import RayMetrics
from trainer.recipe import Recipe, dump_recipe, parse_recipe
from trainer.run_folder import RunFolder
from trainer.training_process import with_absolute_folder

__all__ = ["LaunchResult", "launch", "train_worker"]

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # shows the run in the dashboard's Train tab

MAX_FAILURES: Final = 3
CONTROLLER_FAILURES: Final = 3
POINTER: Final = "pointer.json"
PARTS: Final = "trainer.training_process:build_parts"


@dataclass(frozen=True)
class LaunchResult:
    """How training ended."""

    reason: str
    """finished, stopped or time_limit."""
    iterations: int
    elapsed_s: float
    run_folder: Path


def launch(
    recipe: Recipe,
    run_folder: Path,
    *,
    num_workers: int = 1,
    buffer_url: str | None = None,
    parts: str = PARTS,
    cpus_per_worker: float = 1.0,
    max_failures: int = MAX_FAILURES,
) -> LaunchResult:
    """Trains until the recipe's end, its time limit, or until a file `stop` appears in the run folder.

    With workers, Ray must be initialised. A folder that holds a checkpoint of the same recipe is gone on with.
    `parts` names the function (`module:function`) that builds a process's parts; see `training_process.build_parts`.

    Raises: RewardmeshError: what ended training, as the worker said it; RecipeError if the folder holds another
    experiment.
    """
    if num_workers > 0 and not ray.is_initialized():
        raise RewardmeshError(
            "Ray is not initialised", f"{num_workers} workers", "call ray.init first, or use 0 workers"
        )
    folder = RunFolder(run_folder.resolve())
    recipe = with_absolute_folder(recipe)  # a Ray worker has a working directory of its own
    folder.adopt(recipe)
    folder.clear_stop()
    folder.write_failure(None)
    trainer = TorchTrainer(
        partial(train_worker, buffer_url=buffer_url),
        train_loop_config={"recipe": dump_recipe(recipe), "run_folder": str(folder.path), "parts": parts},
        torch_config=GroupConfig(backend="nccl" if recipe.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=recipe.use_gpu, resources_per_worker={"CPU": cpus_per_worker}
        ),
        run_config=RunConfig(
            name=folder.run_id,  # by which the dashboard shows it
            storage_path=str(folder.path / "ray"),
            # Without a limit for the controller, a request that no cluster can meet would be retried for ever.
            failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=CONTROLLER_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        trainer.fit()
    except RewardmeshError:
        raise
    except Exception as error:
        raise _explained(folder, error) from error
    outcome = folder.read_outcome()
    return LaunchResult(outcome["reason"], outcome["iterations"], outcome["elapsed_s"], folder.path)


def train_worker(config: Mapping[str, Any], *, buffer_url: str | None) -> None:
    """What each worker runs. Its failure is left in the run folder, so that the launcher can say it in one line.

    Raises: RewardmeshError if the launcher's run folder is not on storage that this worker's node sees.
    """
    path = Path(config["run_folder"])
    if not (path / "recipe.yaml").is_file():  # the launcher wrote it
        where = f"{path} on {platform.node()}"
        advice = "set REWARDMESH_RUN_ROOT to storage that all nodes share"
        raise RewardmeshError("a training worker does not see the run folder", where, advice)
    folder = RunFolder(path)
    known = folder.read_failure()
    if known is not None and not known["retryable"]:
        raise _rebuilt(known)  # restarted after something that the next attempt would only meet again
    try:
        recipe = parse_recipe(config["recipe"], which="the run's recipe")
        with about(run_id=folder.run_id):
            _train(folder, recipe, parts=config["parts"], buffer_url=buffer_url or os.environ.get("REDIS_URL"))
    except RewardmeshError as error:
        folder.write_failure(
            {
                "type": type(error).__name__,
                "what": error.what,
                "which": error.which,
                "what_to_do": error.what_to_do,
                "retryable": error.retryable,
            }
        )
        raise


def _train(folder: RunFolder, recipe: Recipe, *, parts: str, buffer_url: str | None) -> None:
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    configure_logging()
    configure_tracing("trainer")
    coordinator: Coordinator = TorchCoordinator() if world_size > 1 else Solo()
    built = _builder(parts)(
        recipe, run_id=folder.run_id, device=_device(recipe), workers=coordinator, buffer_url=buffer_url
    )
    metrics = _ray_metrics(folder.run_id) if rank == 0 else None
    try:
        loop = Loop(
            recipe,
            built.algorithm,
            decode=built.decode,
            prompts=built.prompts,
            feedback=built.feedback,
            folder=folder,
            coordinator=coordinator,
            sinks=[metrics] if metrics is not None else [],
            on_checkpoint=_report,
        )
        with _stopping_on_signals(loop.request_stop):
            outcome = loop.run()
        if rank == 0:
            folder.write_outcome(
                {"reason": outcome.reason, "iterations": outcome.iterations, "elapsed_s": outcome.elapsed_s}
            )
    finally:
        built.feedback.close()
        flush()
        if metrics is not None:
            metrics.close()


def _report(checkpoint: Path | None, line: Mapping[str, Any]) -> None:
    """Tells Ray of a checkpoint; a barrier for all ranks."""
    figures = {key: value for key, value in line.items() if isinstance(value, (int, float, str))}
    if checkpoint is None:
        ray.train.report(figures)
        return
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, POINTER).write_text(json.dumps({"checkpoint": str(checkpoint)}), encoding="utf-8")
        ray.train.report(figures, checkpoint=ray.train.Checkpoint.from_directory(scratch))


def _builder(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    builder: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return builder


def _device(recipe: Recipe) -> torch.device:
    """Where this worker computes. Raises RecipeError if the recipe asks for a GPU and there is none."""
    if not recipe.use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RecipeError("the recipe asks for a GPU and there is none", "use_gpu", "override it with use_gpu=false")
    device: torch.device = get_device()
    return device


def _ray_metrics(run_id: str) -> RayMetrics | None:
    if not ray.is_initialized():
        return None
    return RayMetrics(run_id)


@contextmanager
def _stopping_on_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for an end after this iteration; the second does what it always does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        del frame
        request_stop()
        get_logger("launch").info("stopping after this iteration; once more to stop at once")
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explained(folder: RunFolder, error: Exception) -> RewardmeshError:
    """What the worker left behind about its end, or what Ray says of it."""
    known = folder.read_failure()
    if known is not None:
        return _rebuilt(known)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return RewardmeshError(
        f"training failed: {lines[-1] if lines else type(error).__name__}",
        str(folder.path),
        "the traceback is in the training worker's log; the same command goes on from the last checkpoint",
    )


def _rebuilt(failure: Mapping[str, Any]) -> RewardmeshError:
    kind = getattr(errors, failure["type"], RewardmeshError)
    if not (isinstance(kind, type) and issubclass(kind, RewardmeshError)):
        kind = RewardmeshError
    return kind(failure["what"], failure["which"], failure["what_to_do"])
