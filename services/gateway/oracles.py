"""The routes of oracles; what they do is `registering`, which the commands of a shell call too."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from rewardmesh.wire.messages import Message
from services.gateway.context import Gateway
from services.gateway.gate import Admin, Look
from services.gateway.registering import (
    OracleChange,
    OracleView,
    Registration,
    change,
    check,
    recheck,
    register,
    remove,
    view,
)

__all__ = ["OracleName", "router"]

OracleName = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ReportView(Message):
    """What the conformance check found."""

    passed: bool
    report: str


router = APIRouter(prefix="/v1", tags=["oracles"])


@router.post("/oracles", status_code=201)
async def register_oracle(request: Request, token: Admin, wanted: Registration) -> OracleView:
    """Probe a service and register it; it gets work within 2 seconds."""
    gateway: Gateway = request.app.state.gateway
    return await view(gateway, await register(gateway, wanted, actor=token.actor))


@router.get("/oracles")
async def list_oracles(request: Request, token: Look) -> list[OracleView]:  # noqa: ARG001 - the scope is all
    """All oracles, by name."""
    gateway: Gateway = request.app.state.gateway
    return [await view(gateway, endpoint) for endpoint in await gateway.registry.oracles()]


@router.get("/oracles/{name}")
async def show_oracle(request: Request, token: Look, name: OracleName) -> OracleView:  # noqa: ARG001 - the scope is all
    """One oracle: where it is, what it bears, how its breaker stands."""
    gateway: Gateway = request.app.state.gateway
    return await view(gateway, await gateway.registry.oracle(name))


@router.patch("/oracles/{name}")
async def change_oracle(request: Request, token: Admin, name: OracleName, wanted: OracleChange) -> OracleView:
    """Change limits, URL or secret; pause it, drain it (what was claimed is finished), make it active."""
    gateway: Gateway = request.app.state.gateway
    return await view(gateway, await change(gateway, name, wanted, actor=token.actor))


@router.post("/oracles/{name}/recheck")
async def recheck_oracle(request: Request, token: Admin, name: OracleName) -> OracleView:
    """Run the conformance check on a registered oracle, and take over its version."""
    gateway: Gateway = request.app.state.gateway
    return await view(gateway, await recheck(gateway, name, actor=token.actor))


@router.delete("/oracles/{name}", status_code=204)
async def remove_oracle(request: Request, token: Admin, name: OracleName) -> None:
    """Forget the oracle, its secret and its breaker."""
    await remove(request.app.state.gateway, name, actor=token.actor)


@router.post("/conformance")
async def test_service(request: Request, token: Admin, wanted: Registration) -> ReportView:  # noqa: ARG001 - the scope is all
    """Run the conformance check on any service, as if it were to be registered, and register nothing."""
    report = await check(request.app.state.gateway, wanted.endpoint(), secret=wanted.secret)
    return ReportView(passed=report.passed, report=str(report))
