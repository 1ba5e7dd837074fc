"""Amendments: an oracle more for a run that is training. The trainer rules on them; here they are asked for and shown.

They reach it through the buffer, wherever it trains, and are written to its run folder with the iteration from which
they hold.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Query, Request

from rewardmesh.wire.amendments import Amendment
from rewardmesh.wire.errors import RecipeError, UnknownRun
from rewardmesh.wire.oracle_use import OracleUse
from services.gateway.audit import Actor
from services.gateway.context import Gateway
from services.gateway.dead_letters import RunId
from services.gateway.gate import Admin, Look
from services.gateway.scoring import MAX_WAIT_S, TEAM_RUNS

__all__ = ["ask", "router", "show"]


async def ask(gateway: Gateway, run_id: str, use: OracleUse, *, actor: Actor, wait_s: float = 0.0) -> Amendment:
    """Asks the run to learn from one more oracle; returns with the ruling, or without one after `wait_s`.

    Idempotent: the same use, asked for again while it stands, is that amendment; after a refusal it is a new one. A
    trainer rules before its next rollout, one that was killed when it goes on.
    Raises: UnknownRun, UnknownOracle, BufferUnavailable; RecipeError if another amendment adds the oracle otherwise.
    """
    await gateway.registry.oracle(use.name)
    await _require_training(gateway, run_id)
    wanted = Amendment(amendment_id=uuid4().hex, use=use, requested_by=actor.team, requested_unix_s=time.time())
    amendments = gateway.stream(run_id).amendments
    present = await amendments.ask(wanted)
    if present.use != use:
        raise RecipeError("another amendment adds this oracle", use.name, "one oracle is added once, in one way")
    if present.amendment_id == wanted.amendment_id:
        await gateway.audit.record(actor, "run.amend", run_id, **use.model_dump(mode="json"))
    ends_s = time.monotonic() + wait_s
    while present.is_pending and (left_s := ends_s - time.monotonic()) > 0:
        await asyncio.sleep(min(left_s, 0.25))
        known = {one.amendment_id: one for one in await amendments.all()}
        present = known.get(present.amendment_id, present)
    return present


async def show(gateway: Gateway, run_id: str) -> list[Amendment]:
    """What the run was asked for while it trained, and what became of it. Raises BufferUnavailable."""
    return await gateway.stream(run_id).amendments.all()


async def _require_training(gateway: Gateway, run_id: str) -> None:
    alive = [one for one in await gateway.registry.runs() if not one.startswith(TEAM_RUNS)]
    if run_id not in alive:
        raise UnknownRun("no such run is training", run_id, f"those that are: {', '.join(alive) or 'none'}")


router = APIRouter(prefix="/v1/runs/{run_id}/amendments", tags=["amendments"])


@router.post("")
async def amend_run(
    request: Request,
    token: Admin,
    run_id: RunId,
    use: OracleUse,
    wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0,
) -> Amendment:
    """Add an oracle to a run that is training; wait for the trainer's ruling, for `wait_s` at most."""
    return await ask(request.app.state.gateway, run_id, use, actor=token.actor, wait_s=wait_s)


@router.get("")
async def list_amendments(
    request: Request,
    token: Look,  # noqa: ARG001 - the scope is all
    run_id: RunId,
) -> list[Amendment]:
    """The run's amendments: pending, taken from an iteration on, or refused and why."""
    return await show(request.app.state.gateway, run_id)
