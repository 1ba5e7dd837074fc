"""Dialects: what a service is asked over HTTP, and how its answer reads. One file each.

own             our protocol (docs/protocol.md)
flow_factory    a reward server of Flow-Factory
openrlhf        a reward server of OpenRLHF
openai_judge    a vision model behind OpenAI's chat completions
kserve          a model behind the Open Inference Protocol (KServe, Triton and others)

failures        how a call fails, by the code that is recorded
reply           the envelope of an answer

A dialect neither calls nor judges: connections, deadlines, the mapping of failures and the checks of what was answered
are the caller's, and the same for all. Callers are the reward workers, and the conformance check before an oracle is
registered. What a foreign service cannot say about itself stands in the options of its registration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rewardmesh.dialects.dialect import Dialect
from rewardmesh.dialects.flow_factory import FlowFactory
from rewardmesh.dialects.kserve import KServe
from rewardmesh.dialects.openai_judge import OpenAIJudge
from rewardmesh.dialects.openrlhf import OpenRLHF
from rewardmesh.dialects.own import Own
from rewardmesh.wire.messages import OracleEndpoint

__all__ = ["DIALECTS", "open_dialect"]

DIALECTS: Final[dict[str, Callable[[OracleEndpoint], Dialect]]] = {
    "rewardmesh": Own,
    "flow_factory": FlowFactory,
    "openrlhf": OpenRLHF,
    "openai_judge": OpenAIJudge,
    "kserve": KServe,
}


def open_dialect(endpoint: OracleEndpoint) -> Dialect:
    """The dialect of a registered oracle. Raises CallerRefused if its options are not those of the dialect."""
    return DIALECTS[endpoint.dialect](endpoint)
