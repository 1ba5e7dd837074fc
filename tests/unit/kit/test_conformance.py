"""The conformance check: passes what keeps to the protocol, and names exactly what does not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from rewardmesh.kit.app import build_app
from rewardmesh.kit.conformance import CHECKS, ConformanceReport, check_conformance
from rewardmesh.kit.function import FunctionOracle, oracle
from rewardmesh.wire.codec import PNG
from rewardmesh.wire.errors import OracleError
from tests.unit.kit.misbehaving import Misbehaving, serving


def brightness(**declared: Any) -> FunctionOracle:
    def score(pictures: Sequence[np.ndarray], prompts: Sequence[str], checks: Sequence[Any]) -> list[float]:
        return [float(picture.mean() / 255) for picture in pictures]

    return oracle(**{"name": "toy", "version": "1", "max_batch": 16, "media_types": [PNG], **declared})(score)


async def examine(url: str, *, deadline_s: float = 30.0, headers: dict[str, str] | None = None) -> ConformanceReport:
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        return await check_conformance(url, http=http, name="toy", deadline_s=deadline_s)


def failed(report: ConformanceReport) -> set[str]:
    return {one.check for one in report.findings if not one.passed}


async def test_our_own_app_passes_every_check() -> None:
    every_type = ["application/x-raw-rgb", "image/webp", PNG]
    with serving(build_app(brightness(media_types=every_type), token="secret")) as url:
        report = await examine(url, headers={"Authorization": "Bearer secret"})
        stranger = await examine(url)
    assert report.passed, str(report)
    assert {one.check for one in report.findings} == set(CHECKS)
    assert all(one.detail for one in report.findings)
    assert "18 pictures, 3 media types" in str(report)
    assert "keeps to the protocol" in str(report)
    assert failed(stranger) == {"identity"}
    assert "401" in str(stranger)
    assert "secret" not in str(report) + str(stranger)


@pytest.mark.parametrize("max_batch", [1, 2, 5000])
async def test_any_batch_size_can_be_examined(max_batch: int) -> None:
    with serving(build_app(brightness(max_batch=max_batch))) as url:
        report = await examine(url, deadline_s=30.0)
    assert report.passed, str(report)


MISBEHAVING = {
    "no identity": {"identity"},
    "identity is garbage": {"identity"},
    "identity hangs": {"identity"},
    "identity is huge": {"identity"},
    "changing identity": {"identity"},
    "no health": {"health"},
    "unhealthy": {"health"},
    "nan": {"answer"},
    "out of range": {"answer"},
    "text for a reward": {"answer"},
    "deferred undeclared": {"answer"},
    "a code of the stream": {"answer"},
    "missing samples": {"answer"},
    "doubled samples": {"answer"},
    "strange ids": {"answer"},
    "another oracle answers": {"answer"},
    "another version answers": {"answer"},
    "another shape": {"answer"},
    "hangs": {"deadline"},
    "garbage": {"answer"},
    "deep garbage": {"answer"},
    "huge answer": {"answer"},
    "500s": {"answer"},
    "redirects": {"answer"},
    "busy": {"answer"},
    "malformed scored": {"malformed_picture"},
    "neighbours fail": {"malformed_picture"},
    "fails what it declares": {"pictures", "batch", "malformed_picture"},
    "fails large batches": {"batch"},
    "accepts everything": {"other_name", "repeated_id", "malformed_request"},
    "faults of its own": {"other_name", "repeated_id", "malformed_request"},
}


@pytest.mark.parametrize("how", MISBEHAVING)
async def test_what_it_does_wrong_is_named(how: str) -> None:
    began = time.monotonic()
    with serving(Misbehaving(brightness(), how)) as url:
        report = await examine(url, deadline_s=5.0 if "hangs" in how else 30.0)
    assert failed(report) == MISBEHAVING[how], str(report)
    assert not report.passed
    assert "FAIL" in str(report)
    assert all(one.detail and "\n" not in one.detail and len(one.detail) < 1500 for one in report.findings)
    if "hangs" in how:
        assert time.monotonic() - began < 40


async def test_another_name_than_the_one_registered() -> None:
    with serving(build_app(brightness(name="other"))) as url:
        report = await examine(url)
    assert failed(report) == {"identity"}
    assert "it is other, not toy" in str(report)


async def test_an_oracle_that_wavers_is_warned_about() -> None:
    rng = np.random.default_rng(0)
    wavering = oracle(name="toy", version="1")(lambda pictures, prompts, checks: list(rng.random(len(pictures))))
    with serving(build_app(wavering)) as url:
        report = await examine(url)
    assert report.passed, str(report)
    (finding,) = [one for one in report.findings if one.check == "determinism"]
    assert "warning: the same picture got" in finding.detail


async def test_media_types_that_nobody_sends() -> None:
    with serving(build_app(brightness(media_types=["image/x-unheard-of"]))) as url:
        report = await examine(url)
    assert failed(report) == {"pictures"}


async def test_what_cannot_be_reached_is_a_finding() -> None:
    report = await examine("http://127.0.0.1:9")
    assert failed(report) == {"identity"}
    assert report.info is None
    assert "not checked" in str(report)


async def test_an_address_that_the_client_refuses_is_a_finding() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise OracleError("address is private", "http://10.0.0.1", "allow its network")

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as http:
        report = await check_conformance("http://10.0.0.1", http=http)
    assert "address is private (http://10.0.0.1): allow its network" in str(report)


async def test_all_checks_together_are_bounded_in_time() -> None:
    def crawl(pictures: Sequence[np.ndarray], prompts: Sequence[str], checks: Sequence[Any]) -> list[float]:
        time.sleep(0.45)
        return [0.5] * len(pictures)

    with serving(build_app(oracle(name="toy", version="1", max_batch=1)(crawl))) as url:
        began = time.monotonic()
        report = await examine(url, deadline_s=0.5)
    assert time.monotonic() - began < 40
    assert "deadline" in failed(report)
