"""What the road costs: pictures a second through the whole of it, against the same oracle called in one process.

    python -m benchmarks.overhead [--json FILE]
    python -m benchmarks.overhead --oracle constant --repetitions 9

For the constant oracle (nothing but road), `ocr_spelling` and `object_count`, on pictures of 64 × 64 and 512 × 512: the
shapes world's, enlarged with grain, so that a codec makes of them as many bytes as of photographs. `benchmarks.road`
says what the two ways are; encoding is part of the road. Everything takes turns in one run: each repetition goes once
through all oracles and sizes, and a ratio is of two values that were measured one right after the other, in changing
order. In the JSON file `ratio` is for the small pictures and `ratio_512` for the large ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch

from benchmarks.record import Figure, parser, report
from benchmarks.road import (
    BATCH,
    CONSTANT,
    NAMES,
    app_of,
    as_class,
    draw_groups,
    endpoint_at,
    inputs_of,
    new_oracle,
    through_the_road,
)
from benchmarks.served import app_process, embedded_server, worker_process
from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.telemetry import configure_logging
from trainer.feedback import PictureGroup

AIM = 0.8
SMALL, LARGE = 64, 512
#: Side of a picture -> pictures for one value.
SIZES = {SMALL: 512, LARGE: 128}


@dataclass
class Case:
    """One oracle at one size, and what was measured so far."""

    name: str
    side: int
    oracle: Oracle
    endpoint: OracleEndpoint
    groups: list[PictureGroup]
    inputs: list[OracleInput]
    direct: list[float] = field(default_factory=list)
    road: list[float] = field(default_factory=list)

    def run(self, redis_url: str, *, road_first: bool) -> None:
        """One value of either way."""
        if road_first:
            self.road.append(through_the_road(redis_url, self.endpoint, self.groups))
        self.direct.append(as_class(self.oracle, self.inputs))
        if not road_first:
            self.road.append(through_the_road(redis_url, self.endpoint, self.groups))

    @property
    def ratio(self) -> Figure:
        """The road's rate as a share of direct calls', pair by pair."""
        shares = [road / direct for road, direct in zip(self.road, self.direct, strict=True)]
        aim = "" if self.name == CONSTANT else f"; aim: {AIM}"
        return Figure(f"{self.name} {self.side}²: road / direct", "ratio", shares, f"{len(self.inputs)} pictures{aim}")

    @property
    def figures(self) -> list[Figure]:
        """Both rates, what a picture costs more on the road, and the ratio."""
        what = f"{self.name} {self.side}²"
        more_ms = [1000 / road - 1000 / direct for road, direct in zip(self.road, self.direct, strict=True)]
        return [
            Figure(f"{what}, direct", "pictures/s", self.direct),
            Figure(f"{what}, whole road", "pictures/s", self.road),
            Figure(f"{what}, more on the road", "ms a picture", more_ms),
            self.ratio,
        ]


def new_cases(urls: Mapping[str, str], *, share: float) -> list[Case]:
    """Every oracle at every size, with that share of the pictures; an oracle is made once for both sizes."""
    cases = []
    for name, url in urls.items():
        oracle, endpoint = new_oracle(name), endpoint_at(name, url)
        for side, number in SIZES.items():
            groups = draw_groups(name, round(number * share), side=side)
            cases.append(Case(name, side, oracle, endpoint, groups, inputs_of(groups)))
    return cases


def main() -> None:
    """Runs the benchmark and prints the table."""
    made = parser(__doc__)
    made.add_argument("--oracle", choices=NAMES, action="append", help="this one only (may be repeated)")
    made.add_argument("--share", type=float, default=1.0, metavar="X", help=f"of the pictures of a value, {SIZES}")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    configure_logging(level="WARNING")
    with ExitStack() as stack:
        redis_url = stack.enter_context(embedded_server())
        stack.enter_context(worker_process(redis_url))
        asked = arguments.oracle or NAMES
        cases = new_cases(
            {name: stack.enter_context(app_process(partial(app_of, name))) for name in asked}, share=arguments.share
        )
        for case in cases:  # warm-up
            as_class(case.oracle, case.inputs[:BATCH])
            through_the_road(redis_url, case.endpoint, case.groups[:1])
        for repetition in range(arguments.repetitions):
            for case in cases:
                case.run(redis_url, road_first=repetition % 2 == 1)
    keys = {
        "ratio": {case.name: case.ratio.median for case in cases if case.side == SMALL},
        f"ratio_{LARGE}": {case.name: case.ratio.median for case in cases if case.side == LARGE},
    }
    figures = [figure for case in cases for figure in case.figures]
    report("overhead", figures, json_file=arguments.json, keys=keys)


if __name__ == "__main__":
    main()
