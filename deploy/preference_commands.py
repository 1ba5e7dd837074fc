"""`rewardmesh preference …`: invites, raters, gold, the queue's depth and its export, from a shell.

Like the gateway's commands they work directly on the buffer (REDIS_URL, or the running stack's) and need no service
that runs. The audit names their changes as the operator's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from deploy.on_buffer import buffer_url, checked

if TYPE_CHECKING:
    from rewardmesh.wire.codec import Picture
    from services.gateway.audit import Audit
    from services.preference.invites import Invite, Invites
    from services.preference.queue import PreferenceQueue

__all__ = ["gold", "preference"]

T = TypeVar("T")

preference = typer.Typer(no_args_is_help=True, help="People as an oracle: invite them, look, export, pause.")
gold = typer.Typer(no_args_is_help=True, help="Comparisons with a known answer, which measure raters.")
preference.add_typer(gold, name="gold")

RaterId = Annotated[str | None, typer.Argument(metavar="[RATER]", help="One rater; nobody named: the whole queue.")]
PictureFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", help="PNG or WebP.")]


@dataclass(frozen=True)
class _Desk:
    """What the commands work on."""

    queue: PreferenceQueue
    invites: Invites
    audit: Audit


def _on_queue(call: Callable[[_Desk], Awaitable[T]]) -> T:
    """Calls on the deployment's queue. Raises BufferUnavailable, SettingsError and what the call raises."""
    from deploy.people import link_secret
    from deploy.settings import load_settings
    from rewardmesh.wire.buffer import connect
    from rewardmesh.wire.telemetry import configure_logging
    from services.gateway.audit import Audit
    from services.preference.invites import Invites
    from services.preference.redis_queue import RedisQueue

    configure_logging()  # on standard error: what a command prints is its answer
    settings = load_settings()
    url = buffer_url(settings)

    async def run() -> T:
        client = await connect(url)
        try:
            queue = RedisQueue(client, settings.preference_queue)
            return await call(_Desk(queue, Invites(client, link_secret(settings)), Audit(client)))
        finally:
            await client.aclose()

    return asyncio.run(run())


@preference.command("invite")
def invite_raters(
    label: Annotated[str, typer.Option(help="For whom it is; only you see it.")] = "",
    raters: Annotated[int, typer.Option(help="How many may come by it.")] = 1,
    days: Annotated[float, typer.Option(help="It ends after so many days.")] = 7.0,
    choices: Annotated[int | None, typer.Option(help="A rater is done after so many; else whenever they like.")] = None,
    completion_code: Annotated[str | None, typer.Option(help="Prolific's, shown to who is done.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Where raters reach the service, if not where the stack does.")
    ] = None,
) -> None:
    """Make an invite and print its link."""
    from services.gateway.audit import OPERATOR
    from services.preference.invites import InviteRequest

    until_done = {"num_choices": choices, "completion_code": completion_code}
    wanted = checked(InviteRequest, label=label, max_raters=raters, expires_s=days * 86_400, **until_done)
    made, link = _on_queue(lambda desk: desk.invites.create(wanted, actor=OPERATOR))
    typer.echo(f"invite {made.invite_id}, {_until(made)}, for {made.max_raters}", err=True)
    typer.echo(f"{url.rstrip('/') if url else _service_url()}/join/{link}")


@preference.command("invites")
def list_invites() -> None:
    """All invites, and how many came by each."""

    async def look(desk: _Desk) -> list[tuple[Invite, int]]:
        return [(one, await desk.invites.num_raters(one.invite_id)) for one in await desk.invites.all()]

    for one, num_raters in _on_queue(look):
        state = "REVOKED" if one.revoked else _until(one)
        typer.echo(f"{one.invite_id}  {num_raters} of {one.max_raters} raters  {state}  {one.label}".rstrip())


@preference.command("revoke")
def revoke_invite(invite_id: Annotated[str, typer.Argument(metavar="INVITE")]) -> None:
    """Refuse an invite's link, and those who came by it, from now on."""
    from services.gateway.audit import OPERATOR

    _on_queue(lambda desk: desk.invites.revoke(invite_id, actor=OPERATOR))
    typer.echo(f"invite {invite_id} is revoked")


@preference.command("raters")
def list_raters() -> None:
    """Who answers, and how far they can be relied on."""
    from services.preference.reliability import Reliability, reliability
    from services.preference.rules import LATEST_KEPT

    async def look(desk: _Desk) -> list[Reliability]:
        return reliability(await desk.queue.raters(), await desk.queue.latest(LATEST_KEPT))

    for one in _on_queue(look):
        said = [
            f"{one.num_choices} choices",
            f"gold {_share(one.gold_rate)} of {one.num_gold}",
            f"same again {_share(one.self_consistency)} of {one.num_repeats}",
            f"left {_share(one.left_share)}",
            "-" if one.per_minute is None else f"{one.per_minute:.1f} a minute",
        ]
        paused = f"  PAUSED ({one.why_paused})" if one.paused else ""
        typer.echo(f"{one.rater_id}  {'  '.join(said)}{paused}")


@preference.command("pause")
def pause(rater: RaterId = None, why: Annotated[str, typer.Option(help="For a rater: the reason.")] = "") -> None:
    """Show nobody anything more, or one rater."""
    _set_paused(rater, paused=True, why=why)


@preference.command("resume")
def resume(rater: RaterId = None) -> None:
    """Go on, or let one rater work again."""
    _set_paused(rater, paused=False, why="")


@preference.command("depth")
def show_depth() -> None:
    """What waits for people, as JSON."""

    async def look(desk: _Desk) -> str:
        return (await desk.queue.depth()).to_json()

    typer.echo(_on_queue(look))


@preference.command("export")
def export_choices(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .parquet or .jsonl.")],
    pictures: Annotated[bool, typer.Option(help="With the pictures' bytes.")] = True,
) -> None:
    """Write what people said of settled groups, with Pick-a-Pic's column names."""
    from services.gateway.audit import OPERATOR
    from services.preference.export import export

    form = file.suffix.removeprefix(".")
    if form not in {"parquet", "jsonl"}:
        raise typer.BadParameter(f"{file.name} ends neither in .parquet nor in .jsonl")
    scratch = file.with_name(f"{file.name}.part")

    async def write(desk: _Desk) -> None:
        with scratch.open("wb") as into:
            async for part in export(desk.queue, "jsonl" if form == "jsonl" else "parquet", pictures=pictures):
                into.write(part)
        await desk.audit.record(OPERATOR, "export", form, pictures=pictures)

    try:
        _on_queue(write)
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)
    typer.echo(f"written to {file} ({file.stat().st_size:,} bytes)")


@gold.command("add")
def add_gold(
    preferred: PictureFile,
    other: PictureFile,
    prompt: Annotated[str, typer.Option(help="What raters are shown above the two.")],
) -> None:
    """Have raters be asked now and then whether they prefer the first picture, which they should."""
    from rewardmesh.wire.codec import WEBP, encode_picture
    from services.gateway.audit import OPERATOR
    from services.preference.model import GoldPair, digest_of

    data = [encode_picture(_read_picture(file), WEBP) for file in (preferred, other)]
    first, second = map(digest_of, data)
    gold_id = digest_of(f"{prompt}\n{first}\n{second}".encode())[:16]
    pair = GoldPair(gold_id=gold_id, prompt=prompt, first=first, second=second, preferred="first")

    async def add(desk: _Desk) -> None:
        await desk.queue.add_gold(pair, data)
        await desk.audit.record(OPERATOR, "gold.add", gold_id, prompt=prompt)

    _on_queue(add)
    typer.echo(f"gold {gold_id} is added")


@gold.command("list")
def list_gold() -> None:
    """All comparisons with a known answer."""
    for one in _on_queue(lambda desk: desk.queue.gold()):
        typer.echo(f"{one.gold_id}  {one.prompt}")


def _set_paused(rater_id: str | None, *, paused: bool, why: str) -> None:
    from services.gateway.audit import OPERATOR

    async def set_paused(desk: _Desk) -> None:
        change = "pause" if paused else "resume"
        if rater_id is None:
            await desk.queue.pause(paused=paused)
            await desk.audit.record(OPERATOR, f"queue.{change}", "preference")
        else:
            await desk.queue.pause_rater(rater_id, paused=paused, why=why or "by an operator")
            await desk.audit.record(OPERATOR, f"rater.{change}", rater_id, why=why)

    _on_queue(set_paused)
    typer.echo(f"{rater_id or 'the queue'} {'is paused' if paused else 'goes on'}")


def _read_picture(file: Path) -> Picture:
    """Raises: PictureRejected, also for other types than raters' browsers are sent."""
    from rewardmesh.wire.codec import PNG, WEBP, decode_picture

    return decode_picture(file.read_bytes(), WEBP if file.suffix.lower() == ".webp" else PNG)


def _service_url() -> str:
    from deploy.settings import load_settings
    from deploy.state import read_state

    settings = load_settings()
    state = read_state(settings.state_dir)
    return f"{(state and state.serve_url) or settings.serve_url(settings.serve_port)}/preference"


def _until(invite: Invite) -> str:
    from datetime import UTC, datetime

    return f"until {datetime.fromtimestamp(invite.expires, UTC):%F %R}Z"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
