"""Quality of pictures by measures that no reward sees: for each network, and against the student it came from.

    python -m benchmarks.quality [--networks teacher,student,RUN] [--baseline student] [--per-kind 100] [--json FILE]

Every network draws the same held-out prompts from the same seeds (`benchmarks.networks` says which names there are);
renders of the same prompts stand beside them. Intervals are of 95 %, by drawing prompts anew; those of a difference
are paired. A measure whose difference from the baseline lies beyond its interval on the worse side is marked, and named
below the table. What is measured: `benchmarks/measures`. A teacher at 80 NFE takes twenty times as long as a student.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.measures.bootstrap import Drawn, draw_weights
from benchmarks.measures.table import MEASURES, measure_pictures, worsened
from benchmarks.networks import Networks, shown_names
from benchmarks.record import parser, print_table, write
from trainer.evaluate import HeldoutPicture, Pictures, plan_heldout
from trainer.worlds.shapes.prompts import heldout_prompts
from trainer.worlds.shapes.render import render, scene_for

__all__ = ["measure", "table_of"]

RENDERS = "renders"
_SEED = 50_000_000  # beside those of evaluation and training
_BATCH = 64


def measure(
    pictures: Mapping[str, Pictures], plan: list[HeldoutPicture], *, num_draws: int
) -> dict[str, dict[str, Drawn]]:
    """All measures by network; `renders` is measured against other renders of the same prompts."""
    specs = [item.spec for item in plan]
    texts = list(dict.fromkeys(spec.prompt for spec in specs))
    prompts = [texts.index(spec.prompt) for spec in specs]
    kinds = {spec.prompt: spec.kind for spec in specs}
    weights = draw_weights([kinds[text] for text in texts], num_draws=num_draws)
    reference = _renders(plan, seed=0)
    columns = {RENDERS: _renders(plan, seed=1), **pictures}
    return {
        name: measure_pictures(drawn, specs, renders=reference, prompts=prompts, weights=weights)
        for name, drawn in columns.items()
    }


def _renders(plan: list[HeldoutPicture], *, seed: int) -> Pictures:
    rng = np.random.default_rng((seed, _SEED))
    return np.stack([render(scene_for(dict(item.spec.checks), rng)).picture for item in plan])


def sampled(networks: Networks, name: str, plan: list[HeldoutPicture]) -> Pictures:
    """A network's pictures of a plan."""
    network = networks.find(name)
    parts = []
    for start in range(0, len(plan), _BATCH):
        asked = plan[start : start + _BATCH]
        with torch.inference_mode():
            parts.append(network.sampler([item.spec.prompt for item in asked], [item.seed for item in asked]))
        print(f"{name}: {start + len(asked)} of {len(plan)} pictures", file=sys.stderr, flush=True)
    return np.concatenate(parts)


def table_of(found: Mapping[str, Mapping[str, Drawn]], baseline: str | None) -> tuple[Table, list[str]]:
    """The table, and a line for every network that is worse than the baseline in something."""
    table = Table(title="benchmarks.quality", title_justify="left")
    for head in ("measure", "unit", "better", *found):
        table.add_column(head)
    for name, one in MEASURES.items():
        cells = []
        for network, measured in found.items():
            low, high = measured[name].interval()
            cell = f"{measured[name].value:.3g} [{low:.3g}, {high:.3g}]"
            if baseline in found and network not in (baseline, RENDERS):
                difference = measured[name] - found[str(baseline)][name]
                low, high = difference.interval()
                mark = " worse" if worsened(name, difference) else ""
                cell += f"\n{difference.value:+.3g} [{low:+.3g}, {high:+.3g}]{mark}"
            cells.append(cell)
        table.add_row(name, one.unit, one.better, *cells)
    lines = []
    for network, measured in found.items():
        if baseline not in found or network in (baseline, RENDERS):
            continue
        worse = [name for name in MEASURES if worsened(name, measured[name] - found[str(baseline)][name])]
        lines.append(f"{network} against {baseline}: worse in {', '.join(worse) if worse else 'nothing'}")
    return table, lines


def content_of(found: Mapping[str, Mapping[str, Drawn]], baseline: str | None) -> dict[str, Any]:
    """The same as JSON: by network and measure a value, its interval, and the difference from the baseline."""
    content: dict[str, Any] = {}
    for network, measured in found.items():
        content[network] = {}
        for name, one in measured.items():
            row: dict[str, Any] = {"value": one.value, "interval": one.interval()}
            if baseline in found and network not in (baseline, RENDERS):
                difference = one - found[str(baseline)][name]
                row["difference"] = {"value": difference.value, "interval": difference.interval()}
                row["worse"] = worsened(name, difference)
            content[network][name] = row
    return content


def _arguments() -> argparse.Namespace:
    made = parser(__doc__, repeats=False)
    made.add_argument("--networks", default="teacher,student", help="names, with commas (default teacher,student)")
    made.add_argument("--baseline", default="student", help="what differences are from (default student)")
    made.add_argument("--per-kind", type=int, default=100, metavar="N", help="pictures of each kind (default 100)")
    made.add_argument("--group", type=int, default=4, metavar="N", help="pictures of each prompt (default 4)")
    made.add_argument("--draws", type=int, default=1000, metavar="N", help="draws of an interval (default 1000)")
    made.add_argument("--device", default="cpu", help="where pictures are drawn (default cpu)")
    return made.parse_args()


def main() -> None:
    """Draws, measures, prints and writes."""
    arguments = _arguments()
    plan = plan_heldout(
        heldout_prompts(),
        prompts_per_kind=max(1, arguments.per_kind // arguments.group),
        pictures_per_kind=arguments.per_kind,
        seed=_SEED,
    )
    networks = Networks(device=arguments.device)
    names = shown_names(arguments.networks.split(","))
    pictures = {shown: sampled(networks, name, plan) for name, shown in names.items()}
    baseline = names.get(arguments.baseline, Path(arguments.baseline).name)
    found = measure(pictures, plan, num_draws=arguments.draws)
    table, lines = table_of(found, baseline)
    print_table(table, f"{len(plan)} pictures a network, {arguments.group} of each prompt", *lines)
    units = {name: {"unit": one.unit, "better": one.better} for name, one in MEASURES.items()}
    content = {"pictures": len(plan), "baseline": baseline, "measures": units}
    write("quality", {**content, "networks": content_of(found, baseline)}, json_file=arguments.json)


if __name__ == "__main__":
    main()
