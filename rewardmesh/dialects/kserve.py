"""The Open Inference Protocol (KServe v2): `POST /v2/models/MODEL[/versions/VERSION]/infer`, tensors in and out.

Upstream: kserve/open-inference-protocol at 011728e1fe18619e620e4df99f63678e2b6b7285,
`specification/protocol/inference_rest.md`. Two inputs of datatype BYTES and shape [B]: pictures as base64 PNG and
prompts as text (JSON has no bytes; `content_type` is the hint that MLServer reads, and others pass over). One output
of B numbers, shape [B] or [B, 1], flat or nested as the specification allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from rewardmesh.dialects.dialect import Asked, DialectOptions, Request, in_order
from rewardmesh.dialects.failures import InvalidAnswer
from rewardmesh.dialects.reply import RawReply, load_answer
from rewardmesh.wire.messages import OracleEndpoint

__all__ = ["KServe", "KServeOptions"]

PathPart = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class KServeOptions(DialectOptions):
    """The model, and how its tensors are called."""

    model: PathPart
    model_version: PathPart | None = None
    picture_input: str = "image"
    prompt_input: str = "prompt"
    reward_output: str = "reward"


class KServe:
    """Asks one model of the server."""

    def __init__(self, endpoint: OracleEndpoint) -> None:
        self._options = KServeOptions.of(endpoint)
        self.info = self._options.info(endpoint)

    def request(self, asked: Sequence[Asked]) -> Request:
        options = self._options
        version = f"/versions/{options.model_version}" if options.model_version else ""
        body = {
            "inputs": [
                _texts(options.picture_input, "base64", [one.picture_base64 for one in asked]),
                _texts(options.prompt_input, "str", [one.prompt for one in asked]),
            ],
            "outputs": [{"name": options.reward_output}],
        }
        return Request(path=f"/v2/models/{options.model}{version}/infer", json=body)

    def read(self, body: bytes, asked: Sequence[Asked]) -> RawReply:
        wanted = self._options.reward_output
        outputs = load_answer(body, oracle=self.info.name).get("outputs")
        listed = outputs if isinstance(outputs, list) else []
        named = [one for one in listed if isinstance(one, dict) and one.get("name") == wanted]
        if len(named) != 1:
            raise InvalidAnswer(f"the answer holds {len(named)} outputs named {wanted!r}", self.info.name)
        if named[0].get("shape") not in ([len(asked)], [len(asked), 1]):
            what = f"the output {wanted!r} is not of the shape [{len(asked)}] or [{len(asked)}, 1]"
            raise InvalidAnswer(what, self.info.name)
        data = named[0].get("data")
        if isinstance(data, list):
            data = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in data]
        return in_order(data, asked, info=self.info)


def _texts(name: str, content_type: str, data: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "shape": [len(data)],
        "datatype": "BYTES",
        "parameters": {"content_type": content_type},
        "data": data,
    }
