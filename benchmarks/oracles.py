"""Pictures a second of each shipped oracle: called as a class, over HTTP on loopback, and through the whole road.

    python -m benchmarks.oracles                      both oracles
    python -m benchmarks.oracles --oracle object_count --pictures 512

The three take turns; what each of them is, `benchmarks.road` says. The oracle over HTTP runs in a process of its own,
as a Serve replica does; Serve's proxy is not part of it. `benchmarks.overhead` asks what the road costs.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.record import Figure, parser, report
from benchmarks.road import (
    BATCH,
    app_of,
    as_class,
    draw_groups,
    endpoint_at,
    inputs_of,
    new_oracle,
    over_http,
    through_the_road,
)
from benchmarks.served import app_process, embedded_server, worker_process
from rewardmesh.wire.telemetry import configure_logging
from services.catalogue import ORACLES


def measure(name: str, *, redis_url: str, num_pictures: int, repetitions: int) -> list[Figure]:
    """One oracle on the three ways, which take turns so that a change of load meets all of them."""
    groups = draw_groups(name, num_pictures)
    oracle, inputs = new_oracle(name), inputs_of(groups)
    values: dict[str, list[float]] = {"as a class": [], "over HTTP": [], "through the whole road": []}
    with app_process(partial(app_of, name)) as url:
        endpoint = endpoint_at(name, url)
        as_class(oracle, inputs[:BATCH])  # warm-up, as is the first call over HTTP
        over_http(endpoint, inputs[:BATCH])
        for _ in range(repetitions):
            values["as a class"].append(as_class(oracle, inputs))
            values["over HTTP"].append(over_http(endpoint, inputs))
            values["through the whole road"].append(through_the_road(redis_url, endpoint, groups))
    figures = [Figure(f"{name} {way}", "pictures/s", measured) for way, measured in values.items()]
    ratios = [far / near for far, near in zip(values["through the whole road"], values["as a class"], strict=True)]
    return [*figures, Figure(f"{name}: road / class", "ratio", ratios, note=f"{num_pictures} pictures a value")]


def main() -> None:
    """Runs the benchmark that the arguments ask for."""
    made = parser(__doc__)
    made.add_argument("--oracle", choices=ORACLES, action="append", help="this one only (may be repeated)")
    made.add_argument("--pictures", type=int, default=256, metavar="N", help="pictures for each value (default 256)")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    configure_logging(level="WARNING")
    figures: list[Figure] = []
    with embedded_server() as redis_url, worker_process(redis_url):
        for name in arguments.oracle or ORACLES:
            figures += measure(
                name, redis_url=redis_url, num_pictures=arguments.pictures, repetitions=arguments.repetitions
            )
    report("oracles", figures, json_file=arguments.json)


if __name__ == "__main__":
    main()
