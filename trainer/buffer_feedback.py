"""Feedback through the buffer: a thread with its own event loop encodes, enqueues, watches and collects.

The training thread only hands over pictures and takes rewards; what goes on in between never blocks it. Completion
hints say where to look, the recorded outcomes are the truth: every few seconds all that is watched is looked up anyway,
so a lost hint delays a group and loses nothing. An oracle whose budget is full refuses the group, for itself: the loop
is told, and learns from what it has. A server that does not answer is tried again, with growing pauses, for `outage_s`;
then `publish` and `collect` raise, and what was acknowledged is still there for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

from rewardmesh.wire.amendments import Amendment
from rewardmesh.wire.codec import choose_media_type, encode_picture
from rewardmesh.wire.errors import BufferFull, BufferUnavailable, UnknownGroup
from rewardmesh.wire.messages import Scored
from rewardmesh.wire.stream import Group, PendingSample, Stream
from rewardmesh.wire.telemetry import get_logger
from rewardmesh.wire.tracing import span
from trainer.feedback import FeedbackDepth, GroupFeedback, PictureGroup, RewardClock, RewardTimes

__all__ = ["BufferFeedback", "OpenStream"]

OpenStream = Callable[[], AbstractAsyncContextManager[Stream]]
"""Entered and left in the thread's event loop; what it opens (a client of the server) it closes."""

Registered = Callable[[], Awaitable[Collection[str]]]
"""Names of the oracles that are registered now; called in the thread's event loop."""

T = TypeVar("T")
Pair = tuple[str, str]

HINT_WAIT_S = 0.5
LONGEST_PAUSE_S = 5.0


class BufferFeedback:
    """One trainer process's end of a run's stream."""

    def __init__(
        self,
        open_stream: OpenStream,
        *,
        oracles: Sequence[str],
        registered: Registered | None = None,
        outage_s: float = 120.0,
        sweep_s: float = 3.0,
        depth_s: float = 1.0,
    ) -> None:
        """Starts the thread and waits for the stream. Raises what opening raised, such as BufferUnavailable.

        Without `registered`, every oracle is taken to be known. `depth_s`: between looks for depths and amendments.
        """
        self._open_stream = open_stream
        self._oracles = dict.fromkeys(oracles)  # grows with what is published, in the thread
        self._registered = registered
        self._outage_s = outage_s
        self._sweep_s = sweep_s
        self._depth_s = depth_s
        self._clock = RewardClock()
        self._arrived: queue.SimpleQueue[GroupFeedback | None] = queue.SimpleQueue()
        self._watched: set[Pair] = set()  # this and the next are touched by the thread alone
        self._handed_over: dict[Pair, int] = {}  # not forgotten yet, and with how many rewards
        self._asked_late = False
        self._depth: dict[str, FeedbackDepth] = {}
        self._asked: list[Amendment] = []
        self._failure: BaseException | None = None
        self._log = get_logger("feedback")
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="feedback", daemon=True)
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._thread.join()
            raise

    def publish(self, groups: Sequence[PictureGroup]) -> None:
        self._raise_failure()
        self._clock.started([(group.group_id, oracle) for group in groups for oracle in group.awaited])
        for group in groups:
            self._command(self._send(group))

    def collect(self, *, wait_s: float = 0.0) -> list[GroupFeedback]:
        found = self._take(0.0)
        if not found and wait_s > 0:
            self._clock.blocked(True)
            try:
                found = self._take(wait_s)
            finally:
                self._clock.blocked(False)
        if not found:
            self._raise_failure()
        return found

    def knows(self, oracle: str) -> bool:
        """Asks the registry, for `outage_s` at most."""
        if self._registered is None:
            return True
        self._raise_failure()
        asked = asyncio.run_coroutine_threadsafe(self._persistently(self._registered), self._loop)
        try:
            return oracle in asked.result(timeout=self._outage_s + LONGEST_PAUSE_S)
        except TimeoutError as error:
            asked.cancel()
            raise BufferUnavailable("the registry does not answer", oracle, "see `rewardmesh status`") from error

    def asked(self) -> Sequence[Amendment]:
        return self._asked

    def rule(self, amendment: Amendment) -> None:
        self._command(self._persistently(lambda: self._stream.amendments.rule(amendment)))

    def depth(self) -> Mapping[str, FeedbackDepth]:
        return dict(self._depth)

    @property
    def asked_late(self) -> bool:
        """Whether a late oracle was asked, or one that joined the run still owes answers from before a restart."""
        return self._asked_late

    def set_policy_version(self, version: int) -> None:
        self._command(self._persistently(lambda: self._stream.set_policy_version(version)))

    def set_iteration(self, iteration: int) -> None:
        self._command(self._persistently(lambda: self._stream.set_iteration(iteration)))

    def forget(self, group_ids: Sequence[str]) -> None:
        self._command(self._forget(list(group_ids)))

    def resume(self, pairs: Sequence[tuple[str, str]], *, done: Sequence[str] = ()) -> None:
        self._command(self._resume(tuple(pairs), frozenset(done)))

    def times(self) -> RewardTimes:
        return self._clock.times()

    def close(self) -> None:
        """Finishes what was handed over (for ten seconds at most), then stops the thread."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):  # the loop ended in between
            self._loop.call_soon_threadsafe(self._commands.put_nowait, None)
        self._thread.join(timeout=10.0)
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    # -- the training thread ------------------------------------------------------------------------------------

    def _take(self, wait_s: float) -> list[GroupFeedback]:
        found: list[GroupFeedback] = []
        with contextlib.suppress(queue.Empty):
            first = self._arrived.get(timeout=wait_s) if wait_s > 0 else self._arrived.get_nowait()
            while True:
                if first is not None:  # None only wakes a wait
                    found.append(first)
                first = self._arrived.get_nowait()
        return found

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _command(self, command: Awaitable[None]) -> None:
        self._raise_failure_closing(command)
        try:
            self._loop.call_soon_threadsafe(self._commands.put_nowait, command)
        except RuntimeError:
            self._raise_failure_closing(command)
            raise

    def _raise_failure_closing(self, command: Awaitable[None]) -> None:
        if self._failure is not None:
            if asyncio.iscoroutine(command):
                command.close()
            raise self._failure

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - handed to the training thread, which raises it
            cause = error
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            if not self._started.done():
                self._started.set_exception(cause)
            self._failure = cause
            self._arrived.put(None)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._commands: asyncio.Queue[Awaitable[None] | None] = asyncio.Queue()
        self._stop = asyncio.Event()
        async with self._open_stream() as self._stream:
            self._log = self._log.bind(run_id=self._stream.run_id)
            self._started.set_result(None)
            await self._until_told()

    async def _until_told(self) -> None:
        workers = [asyncio.ensure_future(work()) for work in (self._watch, self._sweep, self._measure)]
        serving = asyncio.ensure_future(self._serve())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            done, _ = await asyncio.wait([*workers, serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what ended it
        finally:
            await _end([*workers, serving, stopping])
            while not self._commands.empty():
                command = self._commands.get_nowait()
                if asyncio.iscoroutine(command):
                    command.close()

    async def _serve(self) -> None:
        """Does what the training thread asked for, in order, until it asks for the end."""
        while (command := await self._commands.get()) is not None:
            await command

    async def _send(self, group: PictureGroup) -> None:
        began = time.monotonic()
        oracles = (*group.awaited, *group.late)
        self._asked_late |= bool(group.late)
        self._oracles.update(dict.fromkeys(oracles))
        ids = {"run_id": group.run_id, "group_id": group.group_id}
        with span("enqueue", parent=group.traceparent, samples=len(group.samples), **ids) as trace:
            packed = await asyncio.to_thread(_pack, group, trace.traceparent)
            try:
                admissions = await self._persistently(partial(self._stream.enqueue, packed, oracles=oracles))
            except BufferFull as error:
                self._log.warning("the buffer takes no more", group_id=group.group_id, error=str(error))
                admissions = {}
            trace.set(oracles=len(oracles), accepted=sum(one.accepted for one in admissions.values()))
        self._clock.encoded(time.monotonic() - began)
        for oracle in oracles:
            pair = (group.group_id, oracle)
            if pair in self._handed_over:
                self._clock.finished(pair)
            elif oracle in admissions and admissions[oracle].accepted:
                self._watched.add(pair)
            else:
                self._hand_over(GroupFeedback(group_id=group.group_id, oracle=oracle, status="refused"))
        for oracle in oracles:  # a group that was published before may be complete already
            await self._look_up((group.group_id, oracle))

    async def _watch(self) -> None:
        cursor = "0"
        while True:
            call = partial(self._stream.completions, after=cursor, wait_s=HINT_WAIT_S)
            hints, cursor = await self._persistently(call)
            for pair in hints:
                await self._look_up(pair)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_s)
            for pair in list(self._watched):
                await self._look_up(pair)

    async def _look_up(self, pair: Pair) -> None:
        if pair not in self._watched and pair not in self._handed_over:
            return
        group_id, oracle = pair
        try:
            outcome = await self._persistently(partial(self._stream.outcomes, group_id, oracle))
        except UnknownGroup:
            self._hand_over(GroupFeedback(group_id=group_id, oracle=oracle, status="lost"))
            return
        if outcome.complete:
            self._hand_over(
                GroupFeedback(group_id=group_id, oracle=oracle, results=outcome.results, oracle_version=outcome.version)
            )

    def _hand_over(self, feedback: GroupFeedback) -> None:
        """Once, though a hint and a sweep may both find it; again only if requeued samples brought it more rewards."""
        pair = (feedback.group_id, feedback.oracle)
        num_scored = sum(isinstance(result, Scored) for result in feedback.results.values())
        gained = pair in self._handed_over and num_scored > self._handed_over[pair]
        if feedback.status == "refused" or pair in self._watched or gained:
            self._watched.discard(pair)
            if feedback.status == "complete":
                self._handed_over[pair] = num_scored
            self._clock.finished(pair)
            self._arrived.put(feedback)

    async def _measure(self) -> None:
        while True:
            amendments = await self._persistently(self._stream.amendments.all)
            self._asked = [one for one in amendments if one.is_pending]
            for oracle in tuple(self._oracles):
                depth = await self._persistently(partial(self._stream.depth, oracle))
                self._depth[oracle] = FeedbackDepth(
                    samples=depth.lag + depth.pending + depth.retrying + depth.deferred,
                    bytes_in_use=depth.bytes_in_use,
                    budget_bytes=depth.budget_bytes,
                    oldest_pending_s=depth.oldest_pending_s,
                    dead_letters=depth.dead_letters,
                )
            await asyncio.sleep(self._depth_s)

    async def _forget(self, group_ids: Sequence[str]) -> None:
        gone = set(group_ids)
        for pair in [pair for pair in self._watched if pair[0] in gone]:
            self._watched.discard(pair)
            self._clock.finished(pair)
        self._handed_over = {pair: count for pair, count in self._handed_over.items() if pair[0] not in gone}
        for group_id in group_ids:
            await self._persistently(partial(self._stream.forget, group_id))

    async def _resume(self, pairs: Sequence[Pair], done: frozenset[str]) -> None:
        known = await self._persistently(self._stream.groups)
        await self._forget([group_id for group_id in known if group_id in done])
        self._watched.update(pairs)
        self._asked_late |= any(oracle not in self._oracles for _, oracle in pairs)
        for pair in pairs:
            await self._look_up(pair)

    async def _persistently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls the stream until the server answers. Every call may be repeated: the stream says so."""
        pause_s, began = 0.1, time.monotonic()
        while True:
            try:
                return await call()
            except BufferUnavailable as error:
                if time.monotonic() - began + pause_s > self._outage_s:
                    raise
                self._log.warning("the buffer does not answer; trying again", error=str(error), pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancels until it is done: a client of the server may swallow one cancellation while it reconnects."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.2)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, so that it is not reported as forgotten


def _pack(group: PictureGroup, traceparent: str | None) -> Group:
    """Encodes the pictures, losslessly. Raises RewardmeshError."""
    requests = []
    for sample, pictured in zip(group.wire_samples(), group.samples, strict=True):
        media_type = choose_media_type(pictured.picture)
        encoded = encode_picture(pictured.picture, media_type)
        request = PendingSample(
            sample=sample, media_type=media_type, picture=encoded, hint=pictured.hint, traceparent=traceparent
        )
        requests.append(request)
    return Group(group_id=group.group_id, requests=tuple(requests), reuse_answers_s=group.reuse_answers_s)
