"""The parts that this project brings to a stack: which applications there are, and how they are put on it.

The one module of `deploy` that knows which services and reward workers there are, by name.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
from pydantic import SecretStr

from deploy.serving import ServedApplication
from deploy.settings import Settings
from deploy.state import kept_secret
from rewardmesh.wire.buffer import connect, describe
from rewardmesh.wire.errors import OracleUnavailable
from rewardmesh.wire.messages import OracleEndpoint, OracleInfo
from rewardmesh.wire.registry import Registry
from services.catalogue import ORACLES

__all__ = [
    "ORACLES",
    "applications",
    "ask_oracle",
    "check_buffer",
    "import_early",
    "is_healthy",
    "oracle_url",
    "oracles_answer",
    "own_oracles",
    "register_oracles",
    "require_weights",
    "token_of",
]

WORKERS = "reward_workers"
GATEWAY = "gateway"
PREFERENCE = "preference"

#: What an oracle of ours bears, where that is not the registry's default. People's queue is full for hours.
_LIMITS: Final[dict[str, dict[str, Any]]] = {
    PREFERENCE: {"retries": {"overloaded": {"max_attempts": 10_000, "budget_s": 86_400.0}}}
}


def import_early() -> None:
    """Imports what the driver needs later, while a local Ray starts in processes of its own."""
    for module in ("ray.serve", "services.serve", "services.gateway.serve", "reward_workers.serve"):
        importlib.import_module(module)


def own_oracles(settings: Settings) -> tuple[str, ...]:
    """The oracles that this stack brings, by name; people only if they are asked for."""
    return (*ORACLES, PREFERENCE) if settings.preference else ORACLES


def oracle_url(serve_url: str, name: str) -> str:
    """Where Serve answers for an oracle."""
    return f"{serve_url}/{PREFERENCE}/oracle" if name == PREFERENCE else f"{serve_url}/oracles/{name}"


def token_of(settings: Settings) -> str:
    """What our oracles ask for: REWARDMESH_ORACLE_TOKEN, or the one that this run root keeps."""
    given = settings.oracle_token
    return kept_secret(settings.state_dir, "oracle-token") if given is None else given.get_secret_value()


def applications(settings: Settings, *, redis_url: str, serve_url: str) -> list[ServedApplication]:
    """The oracles, the reward workers and the gateway, as Serve applications; and people, if they are asked for.

    Deploys nothing; the token that people's rewards are posted with is made on the buffer, if there is none.
    """
    from reward_workers.serve import worker_application
    from reward_workers.settings import WorkerSettings
    from services.gateway.serve import GatewaySettings, gateway_application
    from services.serve import OraclesSettings, oracle_applications

    scales = {name: settings.scale_of(name) for name in ORACLES}
    oracles = OraclesSettings(redis_url=redis_url, oracles=scales, token=SecretStr(token_of(settings)))
    workers = WorkerSettings(
        redis_url=redis_url, replicas=settings.num_reward_workers, allowed_networks=settings.outgoing_networks
    )
    gateway = GatewaySettings(redis_url=redis_url, allowed_networks=settings.outgoing_networks)
    wanted = [
        *(ServedApplication(one.name, one.application, one.route_prefix) for one in oracle_applications(oracles)),
        ServedApplication(WORKERS, worker_application(workers), None),
        ServedApplication(GATEWAY, gateway_application(gateway), f"/{GATEWAY}"),
    ]
    if settings.preference:
        from deploy.people import preference_settings
        from services.preference.serve import preference_application

        people = preference_settings(
            settings, redis_url=redis_url, gateway_url=f"{serve_url}/{GATEWAY}", oracle_token=token_of(settings)
        )
        wanted.append(ServedApplication(PREFERENCE, preference_application(people), people.base_path))
    return wanted


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


def oracles_answer(redis_url: str, oracles: Sequence[str]) -> bool:
    """True if the registry knows all of these oracles of ours, and each says that it is well."""

    async def known() -> list[OracleEndpoint]:
        client = await connect(redis_url)
        try:
            return await Registry(client).oracles()
        finally:
            await client.aclose()

    endpoints = {endpoint.name: endpoint for endpoint in asyncio.run(known())}
    return all(name in endpoints and is_healthy(endpoints[name].url) for name in oracles)


def is_healthy(url: str) -> bool:
    """Whether the oracle there says that it is well."""
    try:
        return _get(f"{url}/v1/health", timeout_s=5.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def register_oracles(redis_url: str, oracles: Sequence[str], *, serve_url: str, token: str) -> str:
    """Asks each oracle what it is, and writes down where it is and what it asks for. Returns their names and versions.

    What an operator made of one that is known (its limits, its state) stays.

    Raises: OracleUnavailable, BufferUnavailable.
    """
    infos = [ask_oracle(oracle_url(serve_url, name), token=token) for name in oracles]

    from services.gateway.audit import OPERATOR, Audit
    from services.gateway.registering import keep_info

    async def register() -> None:
        client = await connect(redis_url)
        try:
            registry, audit = Registry(client), Audit(client)
            known = {endpoint.name: endpoint for endpoint in await registry.oracles()}
            for info in infos:
                said = {
                    "url": oracle_url(serve_url, info.name),
                    "version": info.version,
                    "granularity": info.granularity,
                }
                limits = {"max_batch": info.max_batch, **_LIMITS.get(info.name, {})}
                new = OracleEndpoint.model_validate({"name": info.name, **limits, **said})
                endpoint = known[info.name].model_copy(update=said) if info.name in known else new
                await registry.put_oracle(endpoint, secret=token)
                await keep_info(client, info.name, info)
                if endpoint != known.get(info.name):
                    await audit.record(OPERATOR, "oracle.register", info.name, **said)
        finally:
            await client.aclose()

    asyncio.run(register())
    return ", ".join(f"{info.name} {info.version}" for info in infos)


def ask_oracle(url: str, *, token: str) -> OracleInfo:
    """What the oracle there says about itself. Raises OracleUnavailable."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = _get(f"{url}/v1/oracle", timeout_s=30.0, headers=headers).raise_for_status()
        return OracleInfo.model_validate_json(answer.content)
    except (httpx.HTTPError, ValueError) as error:
        advice = "see its log in the Ray dashboard; if another stack put it there, set REWARDMESH_ORACLE_TOKEN to its"
        raise OracleUnavailable(f"an oracle does not say what it is: {error}", url, advice) from error


def _get(url: str, *, timeout_s: float, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """No proxy of the environment is asked; SSL_CERT_FILE names whom TLS trusts."""
    return httpx.get(url, headers=headers, timeout=timeout_s, trust_env=False, verify=httpx.create_ssl_context())
