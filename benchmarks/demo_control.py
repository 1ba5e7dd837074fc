"""Was it the rewards? The demo against the same recipe with rewards permuted within each group.

Runs `rewardmesh demo` twice, or takes a finished demo with --real, with the same number of iterations, prompts and
seeds; only the control's rewards are shuffled among the samples of their group. Both rises are printed, each with the
95 % interval of its paired difference, and the difference of the two rises. Exit status 1 if the real rise does not
exceed the control's.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import Figure, parser, report
from deploy.demo import run_demo
from deploy.runs import choose_run_folder, find_run
from deploy.settings import Settings, load_settings


def run(settings: Settings, name: str, overrides: list[str]) -> dict[str, Any]:
    """One demo, begun anew; its summary."""
    folder, _ = choose_run_folder(settings.run_root, name, resume=False)
    run_demo(settings, name=name, resume=False, overrides=overrides)
    return summary(folder)


def summary(folder: Path) -> dict[str, Any]:
    """`summary.json` of a run folder."""
    return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def figures(real: dict[str, Any], control: dict[str, Any]) -> list[Figure]:
    """Rises of both with their intervals, and how far the real one exceeds the control's."""
    made = []
    for name, one in (("real rewards", real), ("permuted rewards", control)):
        heldout = one["heldout"]
        note = f"95 % interval {heldout['low']:+.3f} to {heldout['high']:+.3f}, {one['iterations']} iterations"
        made.append(Figure(name, "rise of held-out accuracy", [rise(one)], note=note, extra={"summary": one}))
    half = math.hypot(*((one["heldout"]["high"] - one["heldout"]["low"]) / 2 for one in (real, control)))
    excess = rise(real) - rise(control)
    note = f"95 % interval {excess - half:+.3f} to {excess + half:+.3f}, taking the two runs as independent"
    return [*made, Figure("real beyond permuted", "accuracy", [excess], note=note)]


def rise(one: dict[str, Any]) -> float:
    """How far held-out accuracy rose in a run."""
    """Held-out accuracy after a run, less what it was before."""
    return float(one["heldout"]["after"] - one["heldout"]["before"])


def main() -> int:
    """Runs what is missing and prints the comparison."""
    arguments = parser(__doc__)
    arguments.add_argument("--real", metavar="RUN", help="a finished demo to compare with, by name or folder")
    arguments.add_argument("--control", metavar="RUN", help="a finished control, by name or folder")
    given = arguments.parse_args()
    settings = load_settings()
    real = summary(find_run(settings.run_root, given.real)) if given.real else run(settings, "demo", [])
    if given.control:
        control = summary(find_run(settings.run_root, given.control))
    else:
        same = f"run.iterations={real['iterations']}"
        control = run(settings, "demo-control", ["run.permute_rewards=true", same])
    report("demo_control", figures(real, control), json_file=given.json)
    return 0 if rise(real) > rise(control) else 1


if __name__ == "__main__":
    sys.exit(main())
