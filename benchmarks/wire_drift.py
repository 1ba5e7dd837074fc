"""What a lossy codec on the wire would do to rewards: JPEG at quality 95 and WebP at 90, against lossless.

    python -m benchmarks.wire_drift [--pictures N] [--json FILE]

For each oracle so many pictures of held-out prompts, half of them rendered and half drawn by the shipped student in
four steps, which is what an oracle sees in training. The oracle scores each as it is and after a round trip through the
codec (Pillow's, other options as they come: JPEG halves the resolution of colour). A strict pass is the one that
held-out accuracy counts. Scoring is repeatable: lossless against lossless is part of the run, and must not differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from rich.table import Table
from transformers.utils import logging as transformers_logging

from benchmarks.record import parser, print_table, write
from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.codec import Picture, choose_media_type, decode_picture, encode_picture
from rewardmesh.wire.messages import Checks, Sample, Scored
from services.catalogue import ORACLES, make_oracle
from trainer.algorithms.tdm import NUM_STUDENT_STEPS
from trainer.evaluate import HeldoutPicture, plan_heldout
from trainer.models.sd3 import Sd3Family, native_precision
from trainer.samplers import student_sampler
from trainer.worlds.shapes.prompts import heldout_prompts
from trainer.worlds.shapes.render import render, scene_for
from trainer.worlds.shapes.weights_folder import WEIGHTS

SEED = 30_000  # neither training nor evaluation draws it
SOURCES = ("rendered", "student")
_BATCH = 64

Codec = Callable[[Picture], tuple[Picture, int]]
"""A picture after the round trip, and its bytes on the wire."""


def lossless(picture: Picture) -> tuple[Picture, int]:
    """As our own processes send it."""
    media_type = choose_media_type(picture)
    data = encode_picture(picture, media_type)
    return decode_picture(data, media_type), len(data)


def _lossy(kind: str, quality: int) -> Codec:
    def there_and_back(picture: Picture) -> tuple[Picture, int]:
        out = BytesIO()
        Image.fromarray(picture).save(out, format=kind, quality=quality)
        with Image.open(out) as image:
            return np.asarray(image.convert("RGB")), len(out.getvalue())

    return there_and_back


CODECS: dict[str, Codec] = {"lossless": lossless, "JPEG q95": _lossy("JPEG", 95), "WebP q90": _lossy("WEBP", 90)}


@dataclass
class Judged:
    """What an oracle said of its pictures, one value a picture."""

    rewards: list[float] = field(default_factory=list)
    strict: list[bool] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


def plan(oracle: str, number: int) -> list[HeldoutPicture]:
    """Held-out prompts that the oracle can judge, all their kinds alike, each with a seed."""
    specs = [spec for spec in heldout_prompts() if (spec.kind == "spelling") == (oracle == "ocr_spelling")]
    kinds = len({spec.kind for spec in specs})
    per_kind = -(-number // kinds)
    whole = plan_heldout(specs, prompts_per_kind=per_kind, pictures_per_kind=per_kind, seed=SEED)
    return [whole[index * len(whole) // number] for index in range(number)]


def draw(source: str, asked: Sequence[HeldoutPicture], family: Sd3Family) -> list[Picture]:
    """Their pictures [H, W, 3], rendered or by the shipped student."""
    if source == "rendered":
        return [render(scene_for(dict(one.spec.checks), np.random.default_rng(one.seed))).picture for one in asked]
    student = family.new_transformer(WEIGHTS / "student").eval()
    sampler, _ = student_sampler(family, student, num_steps=NUM_STUDENT_STEPS)
    drawn: list[Picture] = []
    with torch.inference_mode():
        for start in range(0, len(asked), _BATCH):
            batch = asked[start : start + _BATCH]
            drawn += list(sampler([one.spec.prompt for one in batch], [one.seed for one in batch]))
    return drawn


def judge(oracle: Oracle, asked: Sequence[HeldoutPicture], pictures: Sequence[Picture], codec: Codec) -> Judged:
    """What the oracle says of the pictures after the codec. Raises RuntimeError if one is not scored."""
    judged = Judged()
    for start in range(0, len(asked), _BATCH):
        arrived = [codec(picture) for picture in pictures[start : start + _BATCH]]
        batch = [
            OracleInput(_sample(start + place, asked[start + place]), picture)
            for place, (picture, _) in enumerate(arrived)
        ]
        results = {result.sample_id: result for result in oracle.score(batch)}
        for one, (_, size) in zip(batch, arrived, strict=True):
            result = results[one.sample.sample_id]
            if not isinstance(result, Scored):
                raise RuntimeError(f"a picture was not scored: {result}")
            judged.rewards.append(result.reward)
            judged.strict.append(bool(result.detail["strict"]))
            judged.sizes.append(size)
    return judged


def _sample(index: int, asked: HeldoutPicture) -> Sample:
    return Sample(
        run_id="benchmark",
        group_id="wire-drift",
        sample_id=f"s{index}",
        policy_version=0,
        boundary_index=NUM_STUDENT_STEPS,
        prompt=asked.spec.prompt,
        checks=Checks.from_metadata(dict(asked.spec.checks)),
    )


def drift(exact: Judged, lossy: Judged) -> dict[str, float]:
    """How the rewards of the same pictures differ, and how large the pictures are."""
    differences = np.abs(np.array(lossy.rewards) - np.array(exact.rewards))
    gained = np.array(lossy.strict, int) - np.array(exact.strict, int)
    return {
        "pictures": len(differences),
        "mean_difference": float(differences.mean()),
        "largest_difference": float(differences.max()),
        "share_changed": float((differences > 0).mean()),
        "passes_lost": float((gained < 0).mean()),
        "passes_gained": float((gained > 0).mean()),
        "bytes": float(np.mean(lossy.sizes)),
    }


def measure(number: int) -> list[dict[str, Any]]:
    """A row for each oracle, codec and source of pictures, and for both sources together."""
    for libraries in (diffusers_logging, transformers_logging):
        libraries.disable_progress_bar()
    device = torch.device("cpu")
    family = Sd3Family.load(WEIGHTS, device=device, precision=native_precision(device))
    rows = []
    for name in ORACLES:
        oracle = make_oracle(name, {})
        asked = plan(name, number)
        halves = {"rendered": asked[::2], "student": asked[1::2]}
        pictures = {source: draw(source, half, family) for source, half in halves.items()}
        exact = {source: judge(oracle, half, pictures[source], lossless) for source, half in halves.items()}
        for codec, there_and_back in CODECS.items():
            found = {source: judge(oracle, half, pictures[source], there_and_back) for source, half in halves.items()}
            for what, parts in {"both": SOURCES, **{source: (source,) for source in SOURCES}}.items():
                row = drift(_together(exact, parts), _together(found, parts))
                rows.append({"oracle": name, "codec": codec, "of": what, **row})
    return rows


def _together(judged: Mapping[str, Judged], sources: Sequence[str]) -> Judged:
    parts = [judged[source] for source in sources]
    return Judged(
        rewards=[reward for part in parts for reward in part.rewards],
        strict=[strict for part in parts for strict in part.strict],
        sizes=[size for part in parts for size in part.sizes],
    )


def main() -> None:
    """Prints the table."""
    made = parser(__doc__, repeats=False)
    made.add_argument("--pictures", type=int, default=500, metavar="N", help="for each oracle (default 500)")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    rows = measure(arguments.pictures)
    table = Table(title="benchmarks.wire_drift: rewards after the codec against lossless", title_justify="left")
    for column in ("oracle", "codec", "pictures"):
        table.add_column(column, no_wrap=True)
    for column in ("mean |Δ|", "largest |Δ|", "changed", "passes lost", "passes gained", "bytes"):
        table.add_column(column, justify="right")
    for row in rows:
        shares = (f"{row[key]:.1%}" for key in ("share_changed", "passes_lost", "passes_gained"))
        table.add_row(
            row["oracle"],
            row["codec"],
            f"{row['pictures']:.0f} {row['of']}",
            f"{row['mean_difference']:.4f}",
            f"{row['largest_difference']:.3f}",
            *shares,
            f"{row['bytes']:.0f}",
        )
    print_table(table)
    write("wire_drift", {"rows": rows}, json_file=arguments.json)


if __name__ == "__main__":
    main()
