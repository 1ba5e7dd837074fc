"""From registering an oracle to its first rewards, on a stack that runs: seconds, in two parts.

    python -m benchmarks.registration [--json FILE]

The stack is the real one (embedded server, local Ray, oracles, reward workers and gateway on Ray Serve), started once;
the newcomer is a light oracle of the kit in a process of its own. Each repetition registers it over the gateway, which
probes it with the whole conformance check, sends a group of pictures over the gateway at once and waits for its
rewards, then removes the oracle and lets the workers forget it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console

from benchmarks.neighbours import SIDE, light_app
from benchmarks.record import Figure, parser, report
from benchmarks.served import LOOPBACK, app_process
from deploy.local import Stack
from deploy.progress import ConsoleProgress
from deploy.settings import Settings
from deploy.signals import stopping_on_signals
from rewardmesh import Client
from rewardmesh.wire.messages import Scored
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.telemetry import configure_logging
from services.gateway.audit import OPERATOR
from services.gateway.context import open_gateway
from services.gateway.tokens import TokenRequest

NEWCOMER = "newcomer"
GROUP_SIZE = 8
_FORGOTTEN_S = 2.5  # workers pick up a change within two seconds


async def new_token(redis_url: str) -> str:
    """A token that may register and send pictures."""
    async with open_gateway(redis_url, OutgoingPolicy.parse(LOOPBACK)) as gateway:
        wanted = TokenRequest(team="benchmark", scopes=("admin", "score"))
        return (await gateway.tokens.create(wanted, actor=OPERATOR))[1]


def newcomer_scores(gateway_url: str, token: str, url: str) -> tuple[float, float]:
    """Seconds until the oracle is registered, and from then until its first group is scored.

    Raises: RuntimeError if it is refused, or a picture is not scored.
    """
    pictures = list(np.random.default_rng(1).integers(0, 256, (GROUP_SIZE, SIDE, SIDE, 3), dtype=np.uint8))
    headers = {"Authorization": f"Bearer {token}"}
    with (
        httpx.Client(base_url=gateway_url, headers=headers, trust_env=False, timeout=60) as http,
        Client(gateway_url, token) as client,
    ):
        began = time.perf_counter()
        answer = http.post("/v1/oracles", json={"url": url})
        registered = time.perf_counter()
        if answer.status_code != httpx.codes.CREATED:
            raise RuntimeError(f"the oracle was not registered: {answer.status_code} {answer.text}")
        results = client.score(pictures, ["blue"] * GROUP_SIZE, oracles=[NEWCOMER])
        scored = time.perf_counter()
        http.delete(f"/v1/oracles/{NEWCOMER}").raise_for_status()
    if not all(isinstance(one[NEWCOMER], Scored) for one in results):
        raise RuntimeError(f"a picture was not scored: {results}")
    return registered - began, scored - registered


def measure(repetitions: int) -> list[tuple[float, float]]:
    """Both parts, of each repetition on one stack."""
    values = []
    with tempfile.TemporaryDirectory(prefix="rewardmesh-bench-") as folder, stopping_on_signals() as install:
        settings = Settings(run_root=Path(folder), dashboard_port=0, serve_port=0)
        stack = Stack(settings, progress=ConsoleProgress(Console(stderr=True)), on_connected=install)
        with app_process(partial(light_app, NEWCOMER)) as url, stack:
            token = asyncio.run(new_token(stack.redis_url))
            for _ in range(repetitions):
                values.append(newcomer_scores(f"{stack.serve_url}/gateway", token, url))
                time.sleep(_FORGOTTEN_S)
    return values


def main() -> int:
    """Prints the table."""
    arguments = parser(__doc__).parse_args()
    configure_logging(level="WARNING")
    values = measure(arguments.repetitions)
    registering, scoring = ([one[part] for one in values] for part in (0, 1))
    totals = [sum(one) for one in values]
    figures = [
        Figure("registration, with the conformance check", "s", registering),
        Figure("from registered to first group scored", "s", scoring, f"{GROUP_SIZE} pictures"),
        Figure("registration to first score", "s", totals),
    ]
    report("registration", figures, json_file=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
