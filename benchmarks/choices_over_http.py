"""The preference service as raters' programs see it: comparisons leased, looked at and chosen from over HTTP.

One rater holds few comparisons at once, and simulated ones take their time: each comparison has a rater of its own,
whose name is used again once it was answered.
"""

from __future__ import annotations

import secrets
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.raters import Choice, Comparison
from rewardmesh.wire.codec import decode_picture

__all__ = ["ChoicesOverHttp"]

_LOOK_S = 2.0


class ChoicesOverHttp:
    """`benchmarks.raters.Choices` of a service."""

    def __init__(self, url: str, invite: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """`invite`: what its link ends with."""
        headers = {"Authorization": f"Bearer {invite}"}
        self._client = httpx.Client(base_url=url.rstrip("/") + "/", headers=headers, timeout=30, transport=transport)
        self._free: list[str] = []
        self._num_raters = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._client.close()

    def lease(self) -> Comparison | None:
        """A comparison for the next free rater. Raises: httpx.HTTPStatusError, saying what the service said."""
        rater = self._free.pop() if self._free else self._new_rater()
        shown = self._post(rater, "api/lease", {"have": []}).json()
        if shown["kind"] == "nothing":
            self._free.append(rater)
            return None
        left, right = (self._picture(rater, path) for path in shown["pictures"])
        return Comparison(f"{rater} {shown['lease_id']}", shown["prompt"], left, right)

    def choose(self, comparison_id: str, choice: Choice) -> None:
        """A lease that is gone meanwhile is offered again by the service: nothing is chosen then."""
        rater, _, lease_id = comparison_id.partition(" ")
        made = {"lease_id": lease_id, "choice": choice, "choice_id": secrets.token_hex(16), "look_s": _LOOK_S}
        self._post(rater, "api/choice", made, gone_is_fine=True)
        self._free.append(rater)

    def _new_rater(self) -> str:
        self._num_raters += 1
        return f"simulated-{secrets.token_hex(4)}-{self._num_raters}"

    def _post(self, rater: str, path: str, content: dict[str, Any], *, gone_is_fine: bool = False) -> httpx.Response:
        answer = self._client.post(path, json=content, headers={"X-Rater": rater})
        if not (gone_is_fine and answer.status_code == HTTPStatus.CONFLICT):
            _require(answer)
        return answer

    def _picture(self, rater: str, path: str) -> NDArray[np.uint8]:
        answer = self._client.get(path, headers={"X-Rater": rater})
        _require(answer)
        return decode_picture(answer.content, answer.headers["content-type"])


def _require(answer: httpx.Response) -> None:
    if answer.is_error:
        what = f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:500]}"
        raise httpx.HTTPStatusError(what, request=answer.request, response=answer)
