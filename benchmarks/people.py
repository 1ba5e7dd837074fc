"""What measurements of the preference service put up: a buffer that keeps every write, the service, raters by program.

    with Place([QueueSettings()]) as place:
        link = await place.invite()
        async with Rater(place.url(), link, "ada") as rater:
            pair = await rater.lease()
            await rater.choose(pair, "left")

Both processes may be killed and started again; what was acknowledged must be there then. Tests use this too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import httpx
import numpy as np

from deploy.embedded_server import EmbeddedServer, find_server
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.codec import PNG, Picture, encode_picture
from rewardmesh.wire.messages import Checks, Sample
from services.gateway.audit import OPERATOR
from services.preference.context import Preference
from services.preference.invites import InviteRequest
from services.preference.model import Group, GroupPicture, QueueSettings, digest_of
from services.preference.pairing import comparisons_of
from services.preference.queue import PreferenceQueue
from services.preference.redis_queue import RedisQueue
from services.preference.settings import PreferenceSettings

__all__ = ["Place", "Rater", "accept_group", "draw_picture"]

_ROOT: Final = Path(__file__).parent.parent
_START_S: Final = 60.0
_ANSWER_S: Final = 20.0
_SECRETS: Final = {"secret": "s" * 32, "gateway_url": "http://127.0.0.1:9", "gateway_token": "g" * 32}
_COLOURS: Final = ((214, 69, 65), (65, 105, 200), (60, 160, 95), (233, 184, 48))


class Place:
    """A buffer and the service on loopback, one app below `/<number>` for each settings; each has its own database."""

    def __init__(self, settings: Sequence[QueueSettings]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rewardmesh-people-")
        data = Path(self._folder.name) / "data"
        self.buffer = EmbeddedServer(data, binary=find_server(), appendfsync="always")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self._queues = list(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.buffer.start()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()
        self.buffer.stop()
        self._folder.cleanup()

    def url(self, number: int = 0) -> str:
        """Where the app of that number answers."""
        return f"{self._root}/{number}"

    @property
    def _root(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def settings(self, number: int = 0) -> PreferenceSettings:
        at = {"redis_url": f"{self.buffer.url}?db={number}", "base_path": f"/{number}"}
        return PreferenceSettings.model_validate({**_SECRETS, **at, "queue": self._queues[number]})

    def start(self) -> None:
        """Starts the service and returns once it answers. Raises RuntimeError if it does not."""
        secrets = {"secret", "gateway_token"}
        written = [
            {**_SECRETS, **self.settings(number).model_dump(mode="json", exclude=secrets)}
            for number in range(len(self._queues))
        ]
        with (Path(self._folder.name) / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.people_app", str(self._port)],
                cwd=_ROOT,
                env=os.environ | {"PYTHONPATH": str(_ROOT)},
                stdin=subprocess.PIPE,
                stderr=log,
                stdout=log,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(written).encode())
        self._process.stdin.close()
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not start: {self.log()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill -9, of the service alone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def kill_all(self) -> None:
        """Kill -9, of the service and of its buffer."""
        self.buffer.kill()
        self.kill()

    def restart(self) -> None:
        """Starts what was killed, on the data that there is."""
        if not self.buffer.answers():
            self.buffer.start()
        self.start()

    def log(self) -> str:
        """What the service said."""
        return (Path(self._folder.name) / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self._root}/v1/health", trust_env=False).is_success
        return False

    @asynccontextmanager
    async def opened(self, number: int = 0) -> AsyncIterator[Preference]:
        """The parts of one app, in this process."""
        settings = self.settings(number)
        redis = await connect(settings.redis_url)
        try:
            yield Preference.on(redis, RedisQueue(redis, settings.queue), settings)
        finally:
            await redis.aclose()

    async def invite(self, number: int = 0, **wanted: Any) -> str:
        """The text that a new invite's link ends with."""
        async with self.opened(number) as preference:
            _, link = await preference.invites.create(InviteRequest(**wanted), actor=OPERATOR)
        return link


class Rater:
    """One who rates over the API. Whatever was not answered is sent again, until it is."""

    def __init__(self, url: str, link: str, name: str) -> None:
        headers = {"Authorization": f"Bearer {link}", "X-Rater": name}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=_ANSWER_S)
        self.num_repeated = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def lease(self) -> dict[str, Any]:
        """A pair, or why there is none."""
        return await self.ask("/api/lease", {})

    async def look(self, pair: dict[str, Any]) -> list[bytes]:
        """The pair's pictures."""
        return [(await self._answer("GET", f"/{path}")).content for path in pair["pictures"]]

    async def choose(self, pair: dict[str, Any], choice: str, *, look_s: float = 1.0) -> str:
        """Makes a choice and returns its id once it is kept."""
        choice_id = uuid4().hex
        said = {"lease_id": pair["lease_id"], "choice": choice, "choice_id": choice_id, "look_s": look_s}
        await self.ask("/api/choice", said)
        return choice_id

    async def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call. Raises httpx.HTTPStatusError for what is refused."""
        answered: dict[str, Any] = (await self._answer("POST", path, json=body)).json()
        return answered

    async def _answer(self, method: str, path: str, **request: Any) -> httpx.Response:
        while True:
            with suppress(httpx.TransportError):
                answer = await self._http.request(method, path, **request)
                if answer.status_code < 500:
                    return answer.raise_for_status()
            self.num_repeated += 1
            await asyncio.sleep(0.2)


def draw_picture(rng: np.random.Generator, side: int = 48) -> Picture:
    """A few plain shapes on grey."""
    picture = np.full((side, side, 3), rng.integers(200, 250), np.uint8)
    rows, columns = np.mgrid[:side, :side]
    for _ in range(int(rng.integers(2, 5))):
        row, column, size = rng.uniform(0.15, 0.85) * side, rng.uniform(0.15, 0.85) * side, rng.uniform(0.1, 0.22) * side
        away = np.stack([np.abs(rows - row), np.abs(columns - column)])
        inside = (away.max(0) if rng.random() < 0.5 else np.hypot(*away)) < size
        picture[inside] = _COLOURS[rng.integers(len(_COLOURS))]
    return picture


async def accept_group(
    queue: PreferenceQueue,
    name: str,
    *,
    rng: np.random.Generator,
    num_pictures: int = 4,
    side: int = 48,
    prompt: str = "three red circles to the left of a green square",
) -> Group:
    """Has the queue take over a group with pictures of its own, and questions as the oracle would ask."""
    drawn = [draw_picture(rng, side) for _ in range(num_pictures)]
    pictures = [encode_picture(picture, PNG) for picture in drawn]
    ids = {"run_id": "run", "group_id": name, "policy_version": 0, "boundary_index": 4}
    samples = [
        Sample(**ids, sample_id=f"{name}-{index}", prompt=prompt, checks=Checks(tag="counting"))
        for index in range(num_pictures)
    ]
    named = [GroupPicture(sample=one, digest=digest_of(data)) for one, data in zip(samples, pictures, strict=True)]
    now = time.time()
    group = Group(
        key=f"run/{name}",
        run_id="run",
        group_id=name,
        prompt=prompt,
        pictures=tuple(named),
        accepted=now,
        until=now + queue.settings.deadline_s,
    )
    await queue.accept(group, pictures, comparisons_of(group, queue.settings))
    return group
