"""An oracle joins a run that is training, over HTTP alone: registered in one call, joined in one call, learnt from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.kit.app import build_app
from tests.contract.conftest import Server
from tests.unit.services.gateway.conftest import Blue, Front, serving
from tests.unit.trainer.conftest import PROMPTS, RECIPE, ToyAlgorithm, toy_decode
from trainer.loop import Loop, RunOutcome
from trainer.recipe import parse_recipe
from trainer.run_folder import RunFolder
from trainer.training_process import open_buffer_feedback

FEEDBACK = "feedback={oracles: [{name: blue}], wait_s: 60}"


@dataclass
class Training:
    """A real loop over the toy, in a thread, on the buffer; its lines of metrics as they come."""

    task: asyncio.Task[RunOutcome]
    folder: Path
    lines: list[dict[str, Any]]

    async def until(self, iteration: int) -> None:
        while len(self.lines) < iteration:
            assert not self.task.done(), self.task.result()
            await asyncio.sleep(0.01)


@pytest.fixture
async def green() -> AsyncIterator[str]:
    """A second oracle, which nobody has registered; it is there for longer than the training."""
    async with serving(build_app(Blue(name="green"))) as url:
        yield url


@pytest.fixture
async def training(
    front: Front, blue: str, green: str, worker: object, buffer: Server, tmp_path: Path
) -> AsyncIterator[Training]:
    async with front.client("admin") as client:
        assert (await client.post("/v1/oracles", json={"url": blue})).status_code == 201
    recipe = parse_recipe(RECIPE, which="toy", overrides=[FEEDBACK, "run.iterations=10000", "run.checkpoint_every=100"])
    folder = RunFolder(tmp_path / "run-1")
    folder.adopt(recipe)
    feedback = await asyncio.to_thread(
        open_buffer_feedback,
        recipe.feedback,
        run_id=folder.run_id,
        url=buffer.url,
        group_pictures=recipe.prompts.group_size,
    )
    lines: list[dict[str, Any]] = []
    loop = Loop(
        recipe,
        ToyAlgorithm(),
        decode=toy_decode,
        prompts=PROMPTS,
        feedback=feedback,
        folder=folder,
        sinks=[lambda line: lines.append(dict(line))],
    )
    task = asyncio.create_task(asyncio.to_thread(loop.run))
    yield Training(task, folder.path, lines)
    loop.request_stop()
    await task
    await asyncio.to_thread(feedback.close)


async def test_an_oracle_is_registered_in_one_call_and_joins_in_one_call(
    front: Front, green: str, training: Training
) -> None:
    await training.until(2)
    async with front.client("admin") as client:
        assert (await client.post("/v1/oracles", json={"url": green})).status_code == 201
        use = {"name": "green", "weight": 2.0, "normalisation": "group_std", "on_missing": {"then": "mask"}}
        answer = await client.post("/v1/runs/run-1/amendments", json=use, params={"wait_s": 30})
        assert answer.status_code == 200, answer.text
        taken = answer.json()
        assert (taken["use"]["weight"], taken["requested_by"], taken["refused"]) == (2.0, "vision", "")
        first = taken["from_iteration"]
        assert first > 2
        await training.until(first + 2)

        # The same again is the same; another way is refused; and what cannot be is said.
        assert (await client.post("/v1/runs/run-1/amendments", json=use)).json() == taken
        otherwise = await client.post("/v1/runs/run-1/amendments", json={"name": "green"})
        assert (otherwise.status_code, "added once" in otherwise.text) == (422, True)
        twice = await client.post("/v1/runs/run-1/amendments", json={"name": "blue"}, params={"wait_s": 30})
        assert twice.json()["refused"] == "the run learns from blue already"
        for run_id, name in (("run-1", "nobody"), ("run-9", "green"), ("gateway.vision", "green")):
            refused = await client.post(f"/v1/runs/{run_id}/amendments", json={"name": name})
            assert (refused.status_code, bool(refused.json()["error"]["what_to_do"])) == (404, True)
        unfit = await client.post("/v1/runs/run-1/amendments", json={"name": "green", "on_missing": {"wait_s": 0}})
        assert (unfit.status_code, "wait_s 0 with drop_group" in unfit.text) == (422, True)
        listed = (await client.get("/v1/runs/run-1/amendments")).json()
        assert {one["use"]["name"]: one["from_iteration"] for one in listed} == {"green": first, "blue": None}
        audit = (await client.get("/v1/audit")).json()
        assert [line["subject"] for line in audit if line["action"] == "run.amend"] == ["run-1", "run-1"]

    assert ["green" in line["outcomes"] for line in training.lines[: first + 1]] == [False] * (first - 1) + [True] * 2
    assert all(line["outcomes"]["green"]["scored"] == 16 for line in training.lines[first - 1 : first + 1])
    written = [json.loads(line) for line in (training.folder / "amendments.jsonl").read_text().splitlines()]
    assert [(one["use"]["name"], one["from_iteration"]) for one in written] == [("green", first), ("blue", None)]
    status = json.loads((training.folder / "status.json").read_text())
    assert {one["oracle"]: one["from_iteration"] for one in status["amendments"]} == {"green": first, "blue": None}
