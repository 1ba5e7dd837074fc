"""An oracle as a Ray Serve deployment: replicas that Ray places, restarts and scales. `serve run serve_oracle:app`.

Serve is given the builder, not an app: each replica builds its own, and an oracle with weights loads them there.
"""

from fastapi import FastAPI
from ray import serve

from rewardmesh import oracle
from rewardmesh.kit.app import build_app


@oracle(version="1", reward_min=0.0, reward_max=1.0)
def blueness(pictures, prompts, checks):
    """The share of blue."""
    return [picture[..., 2].mean() / 255 for picture in pictures]


def build() -> FastAPI:
    """The app of one replica."""
    return build_app(blueness)


deployment = serve.deployment(
    name="blueness",
    num_replicas=2,
    ray_actor_options={"num_cpus": 0.5},  # num_gpus takes fractions too
    max_ongoing_requests=4,
)(serve.ingress(build)())

app = deployment.bind()
