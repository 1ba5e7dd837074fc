"""The gateway's client for notebooks and evaluation jobs: pictures in, rewards out, in one call that waits.

    from rewardmesh import Client

    with Client("http://127.0.0.1:8000/gateway", token) as client:
        for by_oracle in client.score(pictures, prompts, checks, oracles=["object_count"]):
            print(by_oracle["object_count"])       # Scored(reward=…) or ScoreFailure(code=…)

Synchronous and small: what a trainer does while it waits is the stream's business, not this one's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from rewardmesh.wire import errors
from rewardmesh.wire.codec import Picture, choose_media_type, encode_picture
from rewardmesh.wire.errors import GatewayUnavailable, OracleTimeout, ProtocolError, RewardmeshError
from rewardmesh.wire.messages import Checks, Deferred, OracleEndpoint, Sample, Scored, ScoreFailure, parse_result
from rewardmesh.wire.strict_json import dump_json, load_json

__all__ = ["Client", "Result"]

Result = Scored | ScoreFailure | Deferred
LONGEST_WAIT_S = 25.0  # of one request; the gateway allows 30
PATIENCE_S = 5.0  # for a gateway that is away, or asks to come back later


class Client:
    """One gateway, asked with one token. Close it, or use it in a `with`."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}"},
            timeout=60.0,
            trust_env=False,  # no proxy of the environment; SSL_CERT_FILE is read all the same
            verify=httpx.create_ssl_context(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the connections."""
        self._http.close()

    def score(
        self,
        pictures: Sequence[Picture],
        prompts: Sequence[str],
        checks: Sequence[Checks | Mapping[str, Any] | None] | None = None,
        *,
        oracles: Sequence[str],
        wait_s: float = 300.0,
    ) -> list[dict[str, Result]]:
        """What each oracle says of each picture ([H, W, 3] uint8), in order, by the oracle's name.

        Each sample is asked about once, however often a lost answer makes this ask the gateway again. A failure is a
        result, not an exception; an oracle whose budget was full is missing. Raises OracleTimeout after `wait_s` with
        what is still open; UnknownOracle, PictureRejected, BufferFull, AccessError, GatewayUnavailable.
        """
        given = checks if checks is not None else [None] * len(pictures)
        if not pictures or not len(pictures) == len(prompts) == len(given):
            what = f"{len(pictures)} pictures, {len(prompts)} prompts and {len(given)} checks"
            raise ProtocolError(what, "score", "give as many of each, and one at least")
        group_id = uuid4().hex
        items: list[dict[str, Any]] = []
        files: list[tuple[str, tuple[str, bytes, str]]] = []
        for index, (picture, prompt, check) in enumerate(zip(pictures, prompts, given, strict=True)):
            media_type = choose_media_type(picture)
            items.append({"prompt": prompt, "media_type": media_type, "picture": f"p{index}"} | _checks(check))
            files.append((f"p{index}", (f"p{index}", encode_picture(picture, media_type), "application/octet-stream")))
        request = dump_json({"group_id": group_id, "oracles": list(oracles), "pictures": items}).encode()
        files.append(("request", ("request", request, "application/json")))
        sent = self._ask("POST", "/v1/groups", files=files)
        known = self._wait(group_id, wait_s)
        self._ask("DELETE", f"/v1/groups/{group_id}")
        return [
            {name: parse_result(dump_json(one["results"][sample_id])) for name, one in known.items()}
            for sample_id in sent["sample_ids"]
        ]

    def post_results(
        self, oracle: str, results: Sequence[tuple[Sample, Scored | ScoreFailure]], *, version: str
    ) -> int:
        """Answers for samples that `oracle` deferred, by the version that gave the rewards; how many were new.

        Idempotent: the first answer to a sample counts. Needs the oracle's own token, of scope `rate`. Raises
        ProtocolError for a reward outside the declared range, before anything is recorded; AccessError, UnknownOracle,
        GatewayUnavailable.
        """
        said = [
            {"run_id": sample.run_id, "group_id": sample.group_id, "result": result.model_dump(by_alias=True)}
            for sample, result in results
        ]
        body = {"version": version, "results": said}
        return int(self._ask("POST", f"/v1/oracles/{oracle}/results", json=body)["recorded"])

    def oracles(self) -> list[OracleEndpoint]:
        """All oracles that are registered, by name."""
        return [OracleEndpoint.model_validate(one["endpoint"]) for one in self._ask("GET", "/v1/oracles")]

    def status(self) -> dict[str, Any]:
        """Buffer, oracles with their breakers, runs and what waits in them; the shape is in the OpenAPI document."""
        return dict(self._ask("GET", "/v1/status"))

    def _wait(self, group_id: str, wait_s: float) -> dict[str, Any]:
        ends_s = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, ends_s - time.monotonic())
            params = {"wait_s": min(left_s, LONGEST_WAIT_S)}
            known = self._ask("GET", f"/v1/groups/{group_id}", params=params)
            if known["complete"]:
                return dict(known["oracles"])
            if time.monotonic() >= ends_s:
                waiting = ", ".join(name for name, one in known["oracles"].items() if not one["complete"])
                what = f"no whole answer from {waiting} after {wait_s:g} s"
                raise OracleTimeout(what, group_id, "see `rewardmesh status`; wait longer with wait_s")

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        """The answer's JSON. Every request may be repeated, and is, for PATIENCE_S. Raises errors of the one tree."""
        ends_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self._http.request(method, path, **request)
                if answer.is_success:
                    return load_json(answer.content) if answer.content else None
                error, pause_s = _error_of(answer), float(answer.headers.get("Retry-After", "1"))
            except ValueError as fault:
                raise ProtocolError("the gateway's answer is no JSON", path, "is it a gateway?") from fault
            except httpx.HTTPError as fault:
                said = f"{type(fault).__name__} {fault}".strip()
                error, pause_s = (
                    GatewayUnavailable(said, str(self._http.base_url), "check the URL and that it runs"),
                    0.5,
                )
            if not error.retryable or time.monotonic() + pause_s > ends_s:
                raise error
            time.sleep(pause_s)


def _checks(given: Checks | Mapping[str, Any] | None) -> dict[str, Any]:
    if given is None:
        return {}
    return {"checks": (given if isinstance(given, Checks) else Checks.from_metadata(given)).to_metadata()}


def _error_of(answer: httpx.Response) -> RewardmeshError:
    """The error that the gateway named."""
    try:
        said = load_json(answer.content)["error"]
        known = said["kind"] in errors.__all__
        kind: type[RewardmeshError] = getattr(errors, said["kind"]) if known else RewardmeshError
        return kind(said["what"], said["which"], said["what_to_do"])
    except (ValueError, LookupError, TypeError):
        what_to_do = "check the URL: this does not look like a gateway"
        return GatewayUnavailable(
            f"it answered {answer.status_code}", str(answer.url.copy_with(query=None)), what_to_do
        )
