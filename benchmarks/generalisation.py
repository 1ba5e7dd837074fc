"""Does a reward reach beyond the prompts that it was given for? Strict passes on training and held-out prompts.

    python -m benchmarks.generalisation [--networks student,tdm_r1] [--per-kind 200] [--json FILE]

Pictures of both sets are drawn from noises that training never drew, and judged by the oracles. Of held-out prompts
pre-training saw pictures, and post-training no reward. `single_object` has six prompts, which stand in both sets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import torch
from rich.table import Table

from benchmarks.networks import Network, Networks
from benchmarks.record import parser, print_table, write
from deploy.oracles_in_process import OraclesInProcess
from trainer.evaluate import Evaluation, Judge, evaluate, plan_heldout
from trainer.worlds.shapes.prompts import PromptSpec, heldout_prompts, train_prompts
from trainer.worlds.shapes.vocabulary import KINDS

__all__ = ["content_of", "table_of"]

_SEED: Final = 70_000_000  # training, and every other evaluation, draw from seeds of their own
SETS: Final = ("training", "held out")


def judged(network: Network, prompts: Sequence[PromptSpec], judge: Judge, *, per_kind: int) -> Evaluation:
    """So many pictures of each kind, spread over all of its prompts."""
    plan = plan_heldout(prompts, prompts_per_kind=len(prompts), pictures_per_kind=per_kind, seed=_SEED)
    with torch.inference_mode():
        return evaluate(plan, sampler=network.sampler, judge=judge, name=network.name, nfe=network.nfe)


def content_of(found: dict[str, dict[str, Evaluation]]) -> dict[str, Any]:
    """By network and set: accuracy, and by kind the share of passes and the number of prompts."""
    return {
        network: {
            name: {
                "strict": one.overall,
                "by_kind": {kind.kind: kind.share for kind in one.by_kind},
                "prompts": {kind.kind: kind.num_prompts for kind in one.by_kind},
            }
            for name, one in sets.items()
        }
        for network, sets in found.items()
    }


def table_of(content: dict[str, Any]) -> Table:
    """A row for each kind, and the mean of the kinds."""
    table = Table(title="benchmarks.generalisation: strict passes", title_justify="left")
    table.add_column("kind")
    first = next(iter(content.values()))
    for network in content:
        for name in SETS:
            table.add_column(f"{network}, {name}", justify="right")
    for kind in KINDS:
        prompts = " / ".join(str(first[name]["prompts"][kind]) for name in SETS)
        shares = [f"{sets[name]['by_kind'][kind]:.3f}" for sets in content.values() for name in SETS]
        table.add_row(f"{kind} ({prompts} prompts)", *shares)
    means = [f"{sets[name]['strict']:.3f}" for sets in content.values() for name in SETS]
    table.add_row("mean of the kinds", *means, style="bold")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws, judges, prints and writes."""
    made = parser(__doc__, repeats=False)
    made.add_argument("--networks", default="student,tdm_r1", help="names, with commas (default student,tdm_r1)")
    made.add_argument("--per-kind", type=int, default=200, metavar="N", help="pictures of each kind (default 200)")
    given = made.parse_args(arguments)
    networks, judge = Networks(), OraclesInProcess().judge
    prompts = dict(zip(SETS, (train_prompts(), heldout_prompts()), strict=True))
    found = {
        name: {which: judged(networks.find(name), of, judge, per_kind=given.per_kind) for which, of in prompts.items()}
        for name in given.networks.split(",")
    }
    content = content_of(found)
    print_table(table_of(content), f"{given.per_kind} pictures of each kind")
    write("generalisation", {"per_kind": given.per_kind, "networks": content}, json_file=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
