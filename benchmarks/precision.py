"""float32 against bfloat16 on this machine's CPU: seconds of one update of each network, at the demo's batch.

    python -m benchmarks.precision [--json FILE] [--repetitions 5]

The two take turns, so that what else runs is met by both. `chosen` is what `precision: auto` would take here.
"""

from __future__ import annotations

import statistics

import torch

from benchmarks.lora import NETWORKS, seconds_an_update
from benchmarks.record import Figure, parser, report
from rewardmesh.wire.telemetry import configure_logging
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.models.sd3 import Sd3Family, native_precision
from trainer.recipe import load_recipe
from trainer.training_process import build_roles
from trainer.worlds.shapes.weights_folder import WEIGHTS


def main() -> None:
    """Runs the benchmark and prints the table."""
    arguments = parser(__doc__).parse_args()
    configure_logging(level="WARNING")
    recipe = load_recipe("demo")
    algorithms = {}
    for precision in (torch.float32, torch.bfloat16):
        family = Sd3Family.load(WEIGHTS, precision=precision)
        algorithms[_name(precision)] = TdmR1(
            recipe.algorithm, family, roles=build_roles(recipe.model, family), seed=recipe.run.seed
        )
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.repetitions):
        for precision_name, algorithm in algorithms.items():
            for network, values in seconds_an_update(algorithm, recipe, 1).items():
                seconds.setdefault((network, precision_name), []).extend(values)
    figures, ratios = [], {}
    for network in NETWORKS:
        full, half = (seconds[network, name] for name in algorithms)
        ratios[network] = statistics.median(half) / statistics.median(full)
        figures += [
            Figure(f"{network}, float32", "s an update", full, f"{recipe.algorithm.batch_size} samples"),
            Figure(f"{network}, bfloat16", "s an update", half, f"{ratios[network]:.2f} times float32's"),
        ]
    chosen = _name(native_precision(torch.device("cpu")))
    print(f"chosen by auto: {chosen}")
    report("precision", figures, json_file=arguments.json, keys={"chosen": chosen, "ratio": ratios})


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")


if __name__ == "__main__":
    main()
