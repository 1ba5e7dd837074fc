"""Bad answers: generated ones, served over real HTTP to the reward workers' client, and what of them got through.

    python -m benchmarks.bad_answers [--tried N] [--json FILE]

An answer starts as a good one for two samples and is spoilt in one to three places, or is bytes that were never one.
`reached_trainer` counts those that made the client return a reward that the answer does not plainly state for that
sample, within the declared range, or a result that could not be written down. `tests/unit/reward_workers/
test_bad_answers.py` draws from the same strategy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.table import Table

from benchmarks.record import parser, print_table, write
from reward_workers.client import OracleClient
from rewardmesh.wire.errors import OracleError, ProtocolError
from rewardmesh.wire.messages import Checks, OracleEndpoint, OracleInfo, Sample, Scored
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.stream import Claim, Result

__all__ = ["BadServer", "bad_bodies", "faults", "serving", "what_became"]

IDS = ("a", "b")
INFO = OracleInfo(
    name="theirs", version="1", reward_min=0.0, reward_max=1.0, media_types=("application/x-raw-rgb",), max_batch=8
)

_texts = st.text(max_size=8) | st.just("\ud800")
_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\ud800", "\x00", "é" * 300, "NaN", "1", 10**400, -(10**30), math.nan, math.inf, 1e308])
)
_junk = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3), max_leaves=6
)
_deep = (st.integers(1, 30_000) | st.integers(700, 1_100)).map(  # the second: about as deep as Python reads
    lambda depth: "[" * depth + "]" * depth
)

#: Bad values for the keys of one result.
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "sample_id": st.sampled_from(["a", "b", "c", "A", "a ", "", "a\x00", "\ud800"]) | _junk,
    "reward": st.sampled_from([1.0000001, -1e-9, 2, -1, 1e308, 10**400, math.nan, math.inf, "0.5", True]) | _junk,
    "kind": st.sampled_from(["failed", "deferred", "Scored", "stale"]) | _junk,
    "detail": st.integers(1, 200_000).map(lambda size: {"text": "x" * size}) | _junk,
}


def _spoil_result(draw: st.DrawFn, one: dict[str, Any]) -> None:
    fault = draw(st.sampled_from([*_VALUES, "missing", "more"]))
    if fault == "more":
        one[draw(_texts)] = draw(_junk)
    elif fault == "missing":
        one.pop(draw(st.sampled_from(["kind", "sample_id", "reward"])), None)
    else:
        one[fault] = draw(_VALUES[fault])


def _spoil_answer(draw: st.DrawFn, answer: dict[str, Any]) -> None:
    results = answer["results"]
    fault = draw(st.sampled_from(["duplicate", "shorter", "no result", "order", "envelope", "another oracle"]))
    if fault == "envelope":
        answer[draw(st.sampled_from(["oracle", "version", "results", "more"]))] = draw(_junk)
    elif fault == "another oracle":
        answer["oracle"] = draw(st.sampled_from(["ours", "Theirs", "theirs ", ""]))
    elif isinstance(results, list) and results:
        if fault == "duplicate":
            results.append(draw(st.sampled_from(results)))
        elif fault == "shorter":
            results.pop()
        elif fault == "no result":
            results[0] = draw(_junk)
        else:
            results.reverse()


@st.composite
def _spoilt(draw: st.DrawFn) -> bytes:
    """A good answer with faults in it, as bytes; perhaps nested deeply, perhaps cut short."""
    results: list[Any] = [{"kind": "scored", "sample_id": one, "reward": 0.25, "detail": {}} for one in IDS]
    answer: dict[str, Any] = {"oracle": INFO.name, "version": "1", "results": results}
    for _ in range(draw(st.integers(1, 3))):
        one = draw(st.sampled_from(results)) if results else None
        if isinstance(one, dict) and draw(st.booleans()):
            _spoil_result(draw, one)
        else:
            _spoil_answer(draw, answer)
    text = json.dumps(answer)
    ending = draw(st.sampled_from(["as it is", "as it is", "deep", "truncated"]))
    if ending == "deep":
        place = draw(st.sampled_from(["{}", '"a"', '"theirs"', "0.25"]))
        text = text.replace(place, draw(_deep), 1)
    elif ending == "truncated":
        text = text[: draw(st.integers(0, len(text) - 1))]
    return text.encode()


#: Bodies of a 200 that nobody should learn from.
bad_bodies: st.SearchStrategy[bytes] = st.one_of(
    _spoilt(),
    _spoilt(),
    _spoilt(),  # more often than those below, which are refused at once
    st.binary(max_size=200),
    _junk.map(lambda junk: json.dumps(junk).encode()),
    _deep.map(str.encode),
)


class BadServer:
    """An oracle that says what it is, and answers every batch with `body`."""

    def __init__(self) -> None:
        self.body = b""
        self.url = ""
        self.connections: set[asyncio.Task[Any] | None] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.lower().split(": ", 1) for line in head.strip().split("\r\n")[1:])
                await reader.readexactly(int(headers.get("content-length", "0")))
                body = INFO.to_json().encode() if head.startswith("GET") else self.body
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is through
        finally:
            self.connections.discard(asyncio.current_task())
            writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[BadServer, OracleClient]]:
    """The server on loopback, and the client that reward workers ask with."""
    bad = BadServer()
    server = await asyncio.start_server(bad.connected, "127.0.0.1", 0)
    bad.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    endpoint = OracleEndpoint(name=INFO.name, url=bad.url, max_batch=8, deadline_s=60.0)
    async with server:
        async with OracleClient(endpoint, policy=OutgoingPolicy.parse("127.0.0.0/8")) as client:
            yield bad, client
        while bad.connections:  # noqa: ASYNC110 - they end by themselves, now that their client is gone
            await asyncio.sleep(0)


async def what_became(body: bytes, bad: BadServer, client: OracleClient) -> Sequence[Result] | None:
    """The results that the client made of an answer; None if it refused the answer as a whole."""
    bad.body = body
    try:
        return (await client.score([_claim(sample_id) for sample_id in IDS])).results
    except (OracleError, ProtocolError):
        return None


def faults(body: bytes, results: Sequence[Result] | None) -> list[str]:
    """What is wrong with these results of this answer: empty if nothing of it can mislead anybody."""
    if results is None:
        return []
    found = [] if [result.sample_id for result in results] == list(IDS) else ["other samples than were asked about"]
    for result in results:
        try:
            result.to_json().encode()
        except ValueError:
            found.append("a result that cannot be written down")
        if isinstance(result, Scored):
            stated = _stated(body, result.sample_id)
            if type(result.reward) is not float or not 0.0 <= result.reward <= 1.0 or stated != [result.reward]:
                found.append(f"a reward {result.reward!r} where the answer states {stated!r}"[:200])
    return found


def _stated(body: bytes, sample_id: str) -> list[Any]:
    """The numbers that a well-formed answer of the oracle gives for the sample: one, if it is to be believed."""
    answer = json.loads(body)
    if answer["oracle"] != INFO.name:
        return []
    rewards = [one["reward"] for one in answer["results"] if one["sample_id"] == sample_id]
    return [reward for reward in rewards if isinstance(reward, int | float) and not isinstance(reward, bool)]


def _claim(sample_id: str) -> Claim:
    sample = Sample(
        run_id="run",
        group_id="g",
        sample_id=sample_id,
        policy_version=0,
        boundary_index=4,
        prompt="a red circle",
        checks=Checks(tag="counting"),
    )
    return Claim(
        entry_id="1-0",
        sample=sample,
        media_type="application/x-raw-rgb;width=1;height=1",
        picture=b"\x00\x00\x00",
        hint=None,
        attempts=0,
        deliveries=1,
    )


def try_many(num_answers: int) -> tuple[Counter[str], list[tuple[bytes, list[str]]]]:
    """What became of that many different answers, and those of which something wrong got through."""
    became: Counter[str] = Counter()
    through: list[tuple[bytes, list[str]]] = []
    seen: set[bytes] = set()
    with asyncio.Runner() as runner:
        stack = serving()
        bad, client = runner.run(stack.__aenter__())

        @settings(
            max_examples=2 * num_answers,
            database=None,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(bad_bodies)
        def once(body: bytes) -> None:
            if body in seen or len(seen) >= num_answers:
                return
            seen.add(body)
            results = runner.run(what_became(body, bad, client))
            wrong = faults(body, results)
            if wrong:
                through.append((body, wrong))
            for kind in ["whole answer refused"] if results is None else [result.kind for result in results]:
                became[kind] += 1

        try:
            once()
        finally:
            runner.run(stack.__aexit__(None, None, None))
    became["tried"] = len(seen)
    return became, through


def main(arguments: argparse.Namespace) -> int:
    """Prints what became of the answers; 1 if something wrong got through, or fewer were tried than asked for."""
    became, through = try_many(arguments.tried)
    tried = became.pop("tried")
    table = Table(title="benchmarks.bad_answers: two samples an answer", title_justify="left")
    table.add_column("what became of them")
    table.add_column("n", justify="right")
    for kind, amount in became.most_common():
        table.add_row(kind, str(amount))
    found = [f"{body[:300]!r}: {'; '.join(wrong)}" for body, wrong in through[:10]]
    print_table(table, f"{tried} bad answers, {len(through)} reached the trainer", *found)
    keys = {"tried": tried, "reached_trainer": len(through), "became": became}
    write("bad_answers", keys, json_file=arguments.json)
    return 0 if not through and tried >= arguments.tried else 1


if __name__ == "__main__":
    options = parser(__doc__, repeats=False)
    options.add_argument("--tried", type=int, default=1_000, metavar="N", help="different answers to try")
    raise SystemExit(main(options.parse_args()))
