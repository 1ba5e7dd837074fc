"""The parts that this project brings to a stack: which applications there are, and how they are put on it.

The one module of `deploy` that knows which services and reward workers there are, by name.
"""

from __future__ import annotations

import asyncio
import importlib

import httpx

from deploy.serving import ServedApplication
from deploy.settings import Settings
from rewardmesh.wire.buffer import connect, describe
from rewardmesh.wire.errors import OracleUnavailable
from rewardmesh.wire.messages import OracleEndpoint, OracleInfo
from rewardmesh.wire.registry import Registry

__all__ = [
    "ORACLES",
    "applications",
    "ask_oracle",
    "check_buffer",
    "import_early",
    "is_healthy",
    "oracle_url",
    "oracles_answer",
    "register_oracles",
    "require_weights",
]

ORACLES = ("object_count", "ocr_spelling")
WORKERS = "reward_workers"
GATEWAY = "gateway"


def import_early() -> None:
    """Imports what the driver needs later, while a local Ray starts in processes of its own."""
    for module in ("ray.serve", "services.serve", "services.gateway.serve", "reward_workers.serve"):
        importlib.import_module(module)


def oracle_url(serve_url: str, name: str) -> str:
    """Where Serve answers for an oracle."""
    return f"{serve_url}/oracles/{name}"


def applications(settings: Settings, *, redis_url: str) -> list[ServedApplication]:
    """The oracles, the reward workers and the gateway, as Serve applications. Deploys nothing."""
    from reward_workers.serve import worker_application
    from reward_workers.settings import WorkerSettings
    from services.gateway.serve import GatewaySettings, gateway_application
    from services.serve import OracleScale, OraclesSettings, oracle_applications

    scale = OracleScale(max_replicas=settings.max_oracle_replicas)
    oracles = OraclesSettings(redis_url=redis_url, oracles=dict.fromkeys(ORACLES, scale))
    workers = WorkerSettings(
        redis_url=redis_url, replicas=settings.num_reward_workers, allowed_networks=settings.outgoing_networks
    )
    gateway = GatewaySettings(redis_url=redis_url, allowed_networks=settings.outgoing_networks)
    return [
        *(ServedApplication(one.name, one.application, one.route_prefix) for one in oracle_applications(oracles)),
        ServedApplication(WORKERS, worker_application(workers), None),
        ServedApplication(GATEWAY, gateway_application(gateway), f"/{GATEWAY}"),
    ]


def check_buffer(url: str) -> str:
    """What the server is, in one line. Raises BufferUnavailable or BufferMisconfigured."""

    async def ask() -> str:
        client = await connect(url)
        try:
            info = await describe(client)
        finally:
            await client.aclose()
        return f"{info.server} {info.version}, {info.durability}"

    return asyncio.run(ask())


def require_weights() -> None:
    """Raises WeightsMissing if a file that the oracles need is not the one that was shipped."""
    from services.weights import checksums, locate

    for name in checksums():
        locate(name)


def oracles_answer(redis_url: str) -> bool:
    """True if the registry knows all of our oracles, and each says that it is well."""

    async def known() -> list[OracleEndpoint]:
        client = await connect(redis_url)
        try:
            return await Registry(client).oracles()
        finally:
            await client.aclose()

    endpoints = {endpoint.name: endpoint for endpoint in asyncio.run(known())}
    return all(name in endpoints and is_healthy(endpoints[name].url) for name in ORACLES)


def is_healthy(url: str) -> bool:
    """Whether the oracle there says that it is well."""
    try:
        return httpx.get(f"{url}/v1/health", timeout=5.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def register_oracles(redis_url: str, *, serve_url: str) -> str:
    """Asks each oracle what it is and writes down where it is. Returns their names and versions."""
    infos = [ask_oracle(oracle_url(serve_url, name)) for name in ORACLES]

    async def register() -> None:
        client = await connect(redis_url)
        try:
            for info in infos:
                url = oracle_url(serve_url, info.name)
                endpoint = OracleEndpoint(
                    name=info.name,
                    url=url,
                    version=info.version,
                    max_batch=info.max_batch,
                    granularity=info.granularity,
                )
                await Registry(client).put_oracle(endpoint)
        finally:
            await client.aclose()

    asyncio.run(register())
    return ", ".join(f"{info.name} {info.version}" for info in infos)


def ask_oracle(url: str) -> OracleInfo:
    """What the oracle there says about itself. Raises OracleUnavailable."""
    try:
        answer = httpx.get(f"{url}/v1/oracle", timeout=30.0, trust_env=False).raise_for_status()
        return OracleInfo.model_validate_json(answer.content)
    except (httpx.HTTPError, ValueError) as error:
        advice = "see its log in the Ray dashboard"
        raise OracleUnavailable(f"an oracle does not say what it is: {error}", url, advice) from error
