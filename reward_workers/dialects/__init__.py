"""Dialects: what a service is asked over HTTP, and how its answer reads. One file each.

own             our protocol (docs/protocol.md)
flow_factory    a reward server of Flow-Factory
openrlhf        a reward server of OpenRLHF
openai_judge    a vision model behind OpenAI's chat completions
kserve          a model behind the Open Inference Protocol (KServe, Triton and others)

A dialect neither calls nor judges: connections, deadlines, the mapping of failures and the checks of what was answered
are the client's, and the same for all. What a foreign service cannot say about itself stands in the options of its
registration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from reward_workers.dialects.dialect import Dialect
from reward_workers.dialects.flow_factory import FlowFactory
from reward_workers.dialects.kserve import KServe
from reward_workers.dialects.openai_judge import OpenAIJudge
from reward_workers.dialects.openrlhf import OpenRLHF
from reward_workers.dialects.own import Own
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
