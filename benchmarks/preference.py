"""Raters at work: how fast a choice is kept and the next pair is there, how many at once, and what a kill costs.

    python -m benchmarks.preference [--minutes 5] [--raters 50] [--waiting 100000] [--json FILE]

Everything is real: raters by program over HTTP, one more in Chromium before the page itself, the service in a process
of its own, a buffer that writes every choice to disk before it answers (`appendfsync always`). The next pair is timed
in the browser, from the key to the pictures painted, while the others work. Then: as fast as it goes; kill -9 of
service and buffer in full work; the memory of comparisons that wait. All of it shares this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from playwright.async_api import async_playwright

from benchmarks.people import Place, accept_group
from benchmarks.rating import Tally, answers_of, rate
from benchmarks.record import Figure, parser, report
from rewardmesh.wire.telemetry import configure_logging
from services.preference.model import Answer, QueueSettings

__all__ = ["Measured", "interval", "measure"]

PACE_S: Final = 3.0  # between two choices of one rater: quick for a person
SATURATION_S: Final = 20.0
RECOVERY_S: Final = 20.0
_PICTURES: Final = 6
_SETTINGS: Final = QueueSettings(gold_share=0, repeat_share=0, min_look_s=0.3, comparisons_per_group=15)


@dataclass(frozen=True)
class Measured:
    """What was seen."""

    work: Tally
    seconds: float
    browser_ms: list[float]
    saturated: Tally
    recovery_s: float
    lost: int
    answers: list[Answer]
    bytes_each: float
    num_waiting: int


async def measure(*, minutes: float, num_raters: int, num_waiting: int) -> Measured:
    """All of it, one after the other. Raises RuntimeError without a browser."""
    seconds = 60 * minutes
    with Place([_SETTINGS]) as place:
        needed = num_raters * (seconds + RECOVERY_S) / PACE_S + 250 * SATURATION_S + 2 * seconds
        keys = await _fill(place, 1 + int(needed) // _SETTINGS.comparisons_per_group)
        work, browser_ms = await asyncio.gather(
            rate(place, num_raters=num_raters, seconds=seconds, pace_s=PACE_S), _in_browser(place, seconds)
        )
        saturated = await rate(place, num_raters=num_raters, seconds=SATURATION_S, pace_s=0)
        killed = asyncio.create_task(rate(place, num_raters=num_raters, seconds=RECOVERY_S, pace_s=1.0))
        await asyncio.sleep(RECOVERY_S / 4)
        died = time.monotonic()
        await asyncio.to_thread(place.kill_all)
        await asyncio.to_thread(place.restart)
        after = await killed
        async with place.opened() as preference:
            answers = await answers_of(preference.queue, keys)
    return Measured(
        work=work,
        seconds=seconds,
        browser_ms=browser_ms,
        saturated=saturated,
        recovery_s=min(at for at in after.kept_at if at > died) - died,
        lost=sum(tally.lost(answers) for tally in (work, saturated, after)),
        answers=answers,
        bytes_each=await _memory(num_waiting),
        num_waiting=num_waiting,
    )


async def _fill(place: Place, num_groups: int, *, side: int = 48) -> list[str]:
    rng = np.random.default_rng(0)
    async with place.opened() as preference:
        groups = [
            await accept_group(preference.queue, f"g{number}", rng=rng, num_pictures=_PICTURES, side=side)
            for number in range(num_groups)
        ]
    return [group.key for group in groups]


async def _in_browser(place: Place, seconds: float) -> list[float]:
    """Milliseconds from a key to the next pair, of one rater before the page who chooses as soon as it counts."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise RuntimeError("no Chromium on PATH: apt-get install chromium")
    until = time.monotonic() + seconds
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found)
        page = await browser.new_page()
        await page.goto(f"{place.url()}/join/{await place.invite()}")
        await page.get_by_role("button", name="Begin").click()
        for number in range(1, 1_000_000):
            await page.locator("#work.seen").wait_for()
            await page.wait_for_timeout(700)  # with the least look, a second: no person is quicker
            await page.keyboard.press("1" if number % 2 else "2")
            if time.monotonic() > until:
                break
        took: list[float] = await page.evaluate(
            "performance.getEntriesByName('choice to next pair').map((one) => one.duration)"
        )
        await browser.close()
    return took


async def _memory(num_waiting: int) -> float:
    """Bytes of the buffer for each waiting comparison, the pictures themselves left out."""
    with Place([_SETTINGS]) as place:
        async with place.opened() as preference:
            before = (await preference.redis.info("memory"))["used_memory"]
            await _fill(place, -(-num_waiting // _SETTINGS.comparisons_per_group), side=8)
            after = (await preference.redis.info("memory"))["used_memory"]
            depth = await preference.queue.depth()
    return float((after - before - depth.bytes_in_use) / depth.comparisons)


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent))


def interval(hits: int, of: int, *, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, spread = hits / of, z * z / of
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def figures_of(seen: Measured) -> tuple[list[Figure], dict[str, object]]:
    """The table's rows, and what others look up by name."""
    per_s = len(seen.saturated.kept) / SATURATION_S
    first_left = sum(not answer.swapped for answer in seen.answers)
    low, high = interval(first_left, len(seen.answers))
    note = f"95 % interval {low:.3f} – {high:.3f} of {len(seen.answers)} choices"
    figures = [
        Figure(f"{what}, {name}", "ms", [_percentile(values, percent)], note=f"{len(values)} values")
        for what, values in (
            ("key to next pair painted, in Chromium", seen.browser_ms),
            ("choice kept, over HTTP", seen.work.choice_ms),
            ("pair leased, over HTTP", seen.work.lease_ms),
        )
        for name, percent in (("median", 50), ("p99", 99))
    ]
    figures += [
        Figure("choices kept", "1/s", [len(seen.work.kept) / seen.seconds], note=f"a choice each {PACE_S:g} s a rater"),
        Figure("choices kept, as fast as it goes", "1/s", [per_s], note="each with its lease and two pictures"),
        Figure(
            "kill -9 of service and buffer to the next choice kept",
            "s",
            [seen.recovery_s],
            note="started again at once; most of it is that",
        ),
        Figure("choices lost", "", [seen.lost], note="of all that were answered with `kept`"),
        Figure("first picture on the left", "share", [first_left / len(seen.answers)], note=note),
        Figure(
            f"memory of {seen.num_waiting} waiting comparisons",
            "MiB",
            [seen.bytes_each * seen.num_waiting / 2**20],
            note=f"{seen.bytes_each:.0f} bytes each, pictures not counted",
        ),
    ]
    keys: dict[str, object] = {
        "next_pair_ms": {"p50": _percentile(seen.browser_ms, 50), "p99": _percentile(seen.browser_ms, 99)},
        "choice_ms": {"p50": _percentile(seen.work.choice_ms, 50), "p99": _percentile(seen.work.choice_ms, 99)},
        "lease_ms": {"p50": _percentile(seen.work.lease_ms, 50), "p99": _percentile(seen.work.lease_ms, 99)},
        "choices_per_s": per_s,
        "lost": seen.lost,
        "recovery_s": seen.recovery_s,
        "left_share": {"share": first_left / len(seen.answers), "low": low, "high": high},
        "bytes_per_waiting_comparison": seen.bytes_each,
    }
    return figures, keys


def main(arguments: argparse.Namespace) -> int:
    """Prints the table; 1 if a choice was lost."""
    configure_logging(level="WARNING")  # this process makes invites, each a line of the audit
    minutes, num_raters = arguments.minutes, arguments.raters
    seen = asyncio.run(measure(minutes=minutes, num_raters=num_raters, num_waiting=arguments.waiting))
    figures, keys = figures_of(seen)
    title = f"benchmarks.preference: {num_raters} raters, {minutes:g} minutes"
    report("preference", figures, json_file=arguments.json, title=title, keys=keys)
    return 0 if seen.lost == 0 else 1


def _arguments() -> argparse.Namespace:
    made = parser(__doc__, repeats=False)
    made.add_argument("--minutes", type=float, default=5.0, metavar="M", help="how long raters work (default 5)")
    made.add_argument("--raters", type=int, default=50, metavar="N", help="how many at once (default 50)")
    made.add_argument(
        "--waiting", type=int, default=100_000, metavar="N", help="comparisons for the memory (default 100000)"
    )
    return made.parse_args()


if __name__ == "__main__":
    raise SystemExit(main(_arguments()))
