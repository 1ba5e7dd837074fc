"""How well pictures are read: by the oracles that reward, and by the independent evaluator that never does.

    python -m benchmarks.evaluators [--per-kind 200] [--only independent] [--json FILE]

Pictures rendered from held-out prompts, as they are, blurred (1 pixel), noisy (12 of 255) and through the shipped
autoencoder; the share that passes the prompt's checks, which should be all. `near miss`: as they are, by checks of
which one word is another (`benchmarks.near_misses`), which none should pass.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.table import Table

from benchmarks.degraded import blurred, noisy
from benchmarks.independent.judge import IndependentJudge
from benchmarks.near_misses import near_miss
from benchmarks.record import parser, print_table, write
from deploy.oracles_in_process import OraclesInProcess
from trainer.evaluate import Judge, Pictures
from trainer.worlds.shapes.autoencoder import to_tensor
from trainer.worlds.shapes.prompts import PromptSpec, heldout_prompts
from trainer.worlds.shapes.render import render, scene_for
from trainer.worlds.shapes.vocabulary import KINDS
from trainer.worlds.shapes.weights_folder import WEIGHTS

__all__ = ["measure", "readings", "reconstructed"]

_SEED = 40_000  # training, oracles and evaluation draw from seeds of their own
_BATCH = 64


def reconstructed(pictures: Pictures, autoencoder: AutoencoderKL) -> Pictures:
    """Pictures [N, H, W, 3] through an autoencoder and back."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), _BATCH):
            latents = autoencoder.encode(to_tensor(pictures[start : start + _BATCH])).latent_dist.mode()
            decoded = autoencoder.decode(latents).sample
            parts.append(((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def readings(judge: Judge, specs: Sequence[PromptSpec], variants: Mapping[str, Pictures]) -> dict[str, float]:
    """Share of pictures that pass, by variant; `near miss` of those that are first; seconds a picture of those."""
    rng = np.random.default_rng(_SEED)
    first = next(iter(variants.values()))
    begun = time.perf_counter()
    passed = {name: _share(judge, pictures, specs) for name, pictures in variants.items()}
    seconds = (time.perf_counter() - begun) / len(variants) / len(specs)
    missed = _share(judge, first, [near_miss(spec, rng) for spec in specs])
    return {**passed, "near miss": missed, "ms a picture": 1000 * seconds}


def _share(judge: Judge, pictures: Pictures, specs: Sequence[PromptSpec]) -> float:
    passes: list[bool] = []
    for start in range(0, len(specs), _BATCH):
        passes += judge(pictures[start : start + _BATCH], specs[start : start + _BATCH])[0]
    return float(np.mean(passes))


def measure(judges: Mapping[str, Judge], *, per_kind: int) -> dict[str, dict[str, dict[str, float]]]:
    """Readings by judge and kind, all judges on the same pictures."""
    rng = np.random.default_rng(_SEED)
    autoencoder = AutoencoderKL.from_pretrained(WEIGHTS / "vae", low_cpu_mem_usage=False).eval()
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in judges}
    for kind in KINDS:
        of_kind = [spec for spec in heldout_prompts() if spec.kind == kind]
        specs = [of_kind[index % len(of_kind)] for index in range(per_kind)]
        drawn = np.stack([render(scene_for(spec.checks, rng)).picture for spec in specs])
        variants = {
            "as drawn": drawn,
            "blurred": blurred(drawn, 1.0),
            "noisy": noisy(drawn, 12.0, rng),
            "reconstructed": reconstructed(drawn, autoencoder),
        }
        for name, judge in judges.items():
            found[name][kind] = readings(judge, specs, variants)
            print(f"{name} has read {kind}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Prints a table a judge."""
    made = parser(__doc__, repeats=False)
    made.add_argument("--per-kind", type=int, default=200, metavar="N", help="pictures of each kind (default 200)")
    made.add_argument("--only", choices=("oracles", "independent"), help="this judge alone")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    makers: dict[str, Callable[[], Judge]] = {
        "oracles": lambda: OraclesInProcess().judge,
        "independent": IndependentJudge,
    }
    judges: dict[str, Judge] = {name: make() for name, make in makers.items() if arguments.only in (None, name)}
    found = measure(judges, per_kind=arguments.per_kind)
    table = Table(title=f"benchmarks.evaluators: {arguments.per_kind} pictures of each kind", title_justify="left")
    columns = list(next(iter(next(iter(found.values())).values())))
    for column in ("judge", "kind", *columns):
        table.add_column(column, justify="left" if column in ("judge", "kind") else "right")
    for name, by_kind in found.items():
        means = {column: float(np.mean([row[column] for row in by_kind.values()])) for column in columns}
        for kind, row in [*by_kind.items(), ("mean of the kinds", means)]:
            table.add_row(name, kind, *(f"{row[column]:.{1 if column == columns[-1] else 3}f}" for column in columns))
    print_table(table)
    write("evaluators", {"per_kind": arguments.per_kind, "read": found}, json_file=arguments.json)


if __name__ == "__main__":
    main()
