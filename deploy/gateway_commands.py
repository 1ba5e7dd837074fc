"""`rewardmesh token …`, `oracle …`, `dead-letter …` and `amend`: the gateway's routes from a shell.

They call the same functions as the routes, directly on the buffer (REDIS_URL, or the running stack's): who has the
buffer's URL may do all of this anyway, it needs no gateway that runs, and it is how the first token comes to be. The
audit names such changes as the operator's.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from deploy.on_buffer import buffer_url, checked

if TYPE_CHECKING:
    from services.gateway.context import Gateway

__all__ = ["amend_run", "dead_letter", "oracle", "token"]

T = TypeVar("T")

token = typer.Typer(no_args_is_help=True, help="Tokens of the gateway.")
oracle = typer.Typer(no_args_is_help=True, help="Oracles: register, look, pause, drain, remove, test.")
dead_letter = typer.Typer(no_args_is_help=True, help="Samples that failed for good.")

OracleName = Annotated[str, typer.Argument(metavar="ORACLE")]
RunId = Annotated[str, typer.Argument(metavar="RUN")]
LetterId = Annotated[str, typer.Argument(metavar="LETTER")]
Url = Annotated[str, typer.Argument(metavar="URL")]
Dialect = Annotated[str | None, typer.Option(help="Of a service that speaks another protocol.")]
Options = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="What such a service cannot say; may be given again."),
]
SecretFile = Annotated[Path | None, typer.Option(help="A file with the token that we send to it.")]


def _on_buffer(call: Callable[[Gateway], Awaitable[T]]) -> T:
    """Calls on the deployment's buffer. Raises BufferUnavailable, SettingsError and what the call raises."""
    from deploy.settings import load_settings
    from rewardmesh.wire.outgoing import OutgoingPolicy
    from rewardmesh.wire.telemetry import configure_logging
    from services.gateway.context import open_gateway

    configure_logging()  # on standard error: what a command prints is its answer

    settings = load_settings()
    url = buffer_url(settings)

    async def run() -> T:
        async with open_gateway(url, OutgoingPolicy.parse(settings.outgoing_networks)) as gateway:
            return await call(gateway)

    return asyncio.run(run())


def _options(given: list[str] | None) -> dict[str, Any] | None:
    """Options of a dialect: values are JSON, and text where they are none. Raises typer.BadParameter."""
    if not given:
        return None
    options = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{one!r} is not of the form KEY=VALUE")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def _secret(file: Path | None) -> str | None:
    return None if file is None else file.read_text().strip()


@token.command("create")
def create_token(
    team: Annotated[str, typer.Option(help="Whose it is.")],
    scope: Annotated[list[str], typer.Option(help="score, admin or rate; may be given again.")],
    oracle: Annotated[str | None, typer.Option(help="The oracle that a `rate` token answers for.")] = None,
    days: Annotated[float | None, typer.Option(help="It expires after so many days; else never.")] = None,
    requests_per_s: Annotated[float | None, typer.Option(help="How often it may ask.")] = None,
) -> None:
    """Make a token and print it; it cannot be shown again."""
    from services.gateway.audit import OPERATOR
    from services.gateway.tokens import TokenRequest

    expires_s = None if days is None else days * 86400
    wanted = checked(
        TokenRequest, team=team, scopes=scope, oracle=oracle, expires_s=expires_s, requests_per_s=requests_per_s
    )
    made, text = _on_buffer(lambda gateway: gateway.tokens.create(wanted, actor=OPERATOR))
    typer.echo(
        f"token {made.token_id} of {made.team}: {', '.join(made.scopes)}; keep it, it is not shown again", err=True
    )
    typer.echo(text)


@token.command("list")
def list_tokens() -> None:
    """All tokens, without their secrets."""
    from datetime import UTC, datetime

    for one in _on_buffer(lambda gateway: gateway.tokens.all()):
        ends = "never expires" if one.expires is None else f"expires {datetime.fromtimestamp(one.expires, UTC):%F %T}Z"
        state = "REVOKED" if one.revoked else ends
        about = f" for {one.oracle}" if one.oracle else ""
        scopes = ", ".join(one.scopes)
        typer.echo(f"{one.token_id}  {one.team}  {scopes}{about}  {one.requests_per_s:g}/s  {state}")


@token.command("revoke")
def revoke_token(token_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Refuse a token from now on."""
    from services.gateway.audit import OPERATOR

    one = _on_buffer(lambda gateway: gateway.tokens.revoke(token_id, actor=OPERATOR))
    typer.echo(f"token {one.token_id} of {one.team} is revoked")


@oracle.command("add")
def add_oracle(
    url: Url,
    name: Annotated[str | None, typer.Option(help="What it is called; else what it calls itself.")] = None,
    dialect: Dialect = None,
    option: Options = None,
    max_batch: Annotated[int | None, typer.Option()] = None,
    concurrency: Annotated[int | None, typer.Option()] = None,
    deadline_s: Annotated[float | None, typer.Option()] = None,
    secret_file: SecretFile = None,
) -> None:
    """Check a service and register it."""
    from services.gateway import registering
    from services.gateway.audit import OPERATOR

    limits = {"max_batch": max_batch, "concurrency": concurrency, "deadline_s": deadline_s}
    service = {"url": url, "dialect": dialect, "options": _options(option), "secret": _secret(secret_file)}
    wanted = checked(registering.Registration, name=name, **service, **limits)
    endpoint = _on_buffer(lambda gateway: registering.register(gateway, wanted, actor=OPERATOR))
    typer.echo(f"{endpoint.name} {endpoint.version} is registered; workers ask it from now on")


@oracle.command("list")
def list_oracles() -> None:
    """All oracles and how they do."""

    async def look(gateway: Gateway) -> list[tuple[Any, Any]]:
        registry = gateway.registry
        return [(one, await registry.breaker(one.name)) for one in await registry.oracles()]

    for endpoint, breaker in _on_buffer(look):
        version = endpoint.version or "version not asked"
        typer.echo(f"{endpoint.name}  {version}  {endpoint.state}  breaker {breaker.kind}  {endpoint.url}")


@oracle.command("show")
def show_oracle(name: OracleName) -> None:
    """One oracle, as JSON."""
    from services.gateway.registering import view

    async def look(gateway: Gateway) -> str:
        return (await view(gateway, await gateway.registry.oracle(name))).model_dump_json(indent=1)

    typer.echo(_on_buffer(look))


def _set_state(name: str, state: str) -> None:
    from services.gateway import registering
    from services.gateway.audit import OPERATOR

    wanted = checked(registering.OracleChange, state=state)
    _on_buffer(lambda gateway: registering.change(gateway, name, wanted, actor=OPERATOR))
    typer.echo(f"{name} is {state}")


@oracle.command("pause")
def pause_oracle(name: OracleName) -> None:
    """Give it nothing until it is resumed."""
    _set_state(name, "paused")


@oracle.command("resume")
def resume_oracle(name: OracleName) -> None:
    """Give it work again."""
    _set_state(name, "active")


@oracle.command("drain")
def drain_oracle(name: OracleName) -> None:
    """Finish what was claimed, and give it nothing new."""
    _set_state(name, "draining")


@oracle.command("remove")
def remove_oracle(name: OracleName) -> None:
    """Forget it; what waits for it stays in its runs."""
    from services.gateway import registering
    from services.gateway.audit import OPERATOR

    _on_buffer(lambda gateway: registering.remove(gateway, name, actor=OPERATOR))
    typer.echo(f"{name} is removed")


@oracle.command("test")
def check_oracle(
    url: Url,
    dialect: Dialect = None,
    option: Options = None,
    max_batch: Annotated[int | None, typer.Option(help="Pictures in one request, of another dialect.")] = None,
    deadline_s: Annotated[float, typer.Option(min=0.1)] = 30.0,
    secret_file: SecretFile = None,
) -> None:
    """Run the conformance check on a service and register nothing; needs no buffer. Status 1 if it fails."""
    import httpx

    from deploy.settings import load_settings
    from rewardmesh.kit.dialect_conformance import check_endpoint
    from rewardmesh.wire.outgoing import OutgoingPolicy, open_client
    from services.gateway.registering import Registration

    policy = OutgoingPolicy.parse(load_settings().outgoing_networks)
    service = {"url": url, "dialect": dialect, "options": _options(option), "max_batch": max_batch}
    endpoint = checked(Registration, deadline_s=deadline_s, **service).endpoint()
    secret = _secret(secret_file)
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}

    async def run() -> Any:
        async with open_client(policy, timeout=httpx.Timeout(deadline_s), headers=headers) as http:
            return await check_endpoint(endpoint, http=http)

    report = asyncio.run(run())
    typer.echo(str(report))
    raise typer.Exit(0 if report.passed else 1)


def amend_run(run: str, oracle: str, *, overrides: list[str], wait_s: float) -> None:
    """`rewardmesh amend`. Idempotent. Raises: UnknownRun, UnknownOracle; RecipeError, also for a trainer's refusal."""
    from rewardmesh.wire.errors import RecipeError
    from services.gateway import amending
    from services.gateway.audit import OPERATOR
    from trainer.recipe import parse_oracle_use

    run_id, use = Path(run).name, parse_oracle_use(oracle, overrides)
    ruling = _on_buffer(lambda gateway: amending.ask(gateway, run_id, use, actor=OPERATOR, wait_s=wait_s))
    if ruling.refused:
        raise RecipeError(ruling.refused, f"run {run_id}", "its recipe and amendments.jsonl are in its folder")
    if ruling.is_pending:
        typer.echo(f"{run_id} was asked; it decides before its next rollout: the same command again says what")
    else:
        typer.echo(f"{run_id} learns from {oracle} from iteration {ruling.from_iteration} on")


@dead_letter.command("list")
def list_letters(
    run_id: RunId, name: OracleName, max_count: Annotated[int, typer.Option(min=1, max=1000)] = 20
) -> None:
    """The latest failures of an oracle in a run, newest first."""
    from services.gateway import dead_letters

    place = dead_letters.Place(run_id=run_id, oracle=name)
    for one in _on_buffer(lambda gateway: dead_letters.latest(gateway, place, max_count=max_count)):
        typer.echo(f"{one.letter_id}  {one.sample.sample_id}  {one.failure.code}  {one.failure.detail[:120]}")


@dead_letter.command("show")
def show_letter(
    run_id: RunId,
    name: OracleName,
    letter_id: LetterId,
    picture: Annotated[Path | None, typer.Option(help="Write the picture's bytes to this file.")] = None,
) -> None:
    """One failure, as JSON."""
    from services.gateway import dead_letters

    place = dead_letters.Place(run_id=run_id, oracle=name)
    one = _on_buffer(lambda gateway: dead_letters.show(gateway, place, letter_id))
    typer.echo(one.model_copy(update={"picture_base64": None}).model_dump_json(indent=1))
    if picture is not None and one.picture_base64 is not None:
        picture.write_bytes(base64.b64decode(one.picture_base64))
        typer.echo(f"{one.media_type} written to {picture}", err=True)


@dead_letter.command("requeue")
def requeue_letter(run_id: RunId, name: OracleName, letter_id: LetterId) -> None:
    """Have the sample asked about again."""
    from services.gateway import dead_letters
    from services.gateway.audit import OPERATOR

    place = dead_letters.Place(run_id=run_id, oracle=name)
    _on_buffer(lambda gateway: dead_letters.requeue(gateway, place, letter_id, actor=OPERATOR))
    typer.echo(f"{letter_id} waits again")


@dead_letter.command("discard")
def discard_letter(run_id: RunId, name: OracleName, letter_id: LetterId) -> None:
    """Drop the letter and its picture."""
    from services.gateway import dead_letters
    from services.gateway.audit import OPERATOR

    place = dead_letters.Place(run_id=run_id, oracle=name)
    _on_buffer(lambda gateway: dead_letters.discard(gateway, place, letter_id, actor=OPERATOR))
    typer.echo(f"{letter_id} is dropped")
