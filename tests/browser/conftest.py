"""A real browser before the real service: Debian's Chromium, headless; the app in a process of its own; a real buffer.

Three apps: pairs, pairs whose leases last four seconds, single pictures. Every page is listened to: a fault of its
script or a violation of its policy fails the test that opened it. Without a browser these tests fail and say what is
missing; REWARDMESH_NO_BROWSER=1 skips them instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from benchmarks.people import Place, accept_group
from services.preference.context import Preference
from services.preference.model import Answer, QueueSettings

PAIRS, SHORT, SINGLES = range(3)
PROMPTS: Final = ("three red circles to the left of a green square", "a photo of two blue squares and a yellow circle")
SCREENSHOTS: Final = Path(__file__).parent / "screenshots"
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_PLAIN: Final = {"gold_share": 0, "repeat_share": 0, "min_look_s": 0.3}
_SETTINGS: Final = ({}, {"lease_s": 4.0}, {"mode": "singles"})
_REPORT_VIOLATIONS: Final = (
    "document.addEventListener('securitypolicyviolation', "
    "(e) => console.error(`violation of the policy: ${e.violatedDirective} ${e.blockedURI}`))"
)


@dataclass
class Watched:
    """A browser's context whose pages are listened to."""

    context: BrowserContext
    url: str
    heard: list[str] = field(default_factory=list)

    async def page(self) -> Page:
        page = await self.context.new_page()
        page.on("pageerror", lambda error: self.heard.append(f"fault: {error}"))
        page.on("console", lambda said: self.heard.append(said.text) if "olicy" in said.text else None)
        return page

    async def shown(self) -> list[str]:
        """What is on each page, for whoever looks into a failure."""
        return [await page.locator("body").inner_html() for page in self.context.pages]

    async def join(self, link: str, *, query: str = "") -> Page:
        """A page that has come by a link and shows a pair, the look at which is over."""
        page = await self.page()
        await page.goto(f"{self.url}/join/{link}{query}")
        await page.get_by_role("button", name="Begin").click()
        return page


@dataclass
class World:
    """One app, emptied for a test."""

    place: Place
    number: int
    browser: Browser
    preference: Preference

    @property
    def url(self) -> str:
        return self.place.url(self.number)

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[Watched]:
        """A browser of its own, with its own cookies."""
        context = await self.browser.new_context(**options)
        context.set_default_timeout(30_000)
        await context.add_init_script(_REPORT_VIOLATIONS)
        watched = Watched(context, self.url)
        try:
            yield watched
        except BaseException as error:
            error.add_note(f"heard: {watched.heard}; shown: {await watched.shown()}")
            raise
        finally:
            await context.close()
        assert watched.heard == []

    @asynccontextmanager
    async def rater(self, **options: Any) -> AsyncIterator[Page]:
        """Somebody before their first pair, looked at."""
        async with self.open(**options) as watched:
            page = await watched.join(await self.invite())
            await looked(page)
            yield page

    async def invite(self, **wanted: Any) -> str:
        return await self.place.invite(self.number, **wanted)

    async def answers(self) -> list[Answer]:
        """Oldest first."""
        return (await self.preference.queue.latest(1000))[::-1]

    async def choices(self) -> list[str]:
        return [answer.choice for answer in await self.answers()]


async def looked(page: Page) -> None:
    """Waits until a choice counts."""
    await page.locator("#work.seen").wait_for()


async def saved(page: Page, count: int) -> None:
    """Waits until the page says that so many choices are kept."""
    await page.locator("#count", has_text=str(count)).wait_for()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None and os.environ.get("REWARDMESH_NO_BROWSER"):
        pytest.skip("no Chromium, and REWARDMESH_NO_BROWSER is set")
    if found is None:
        pytest.fail(f"no browser: none of {', '.join(_BROWSERS)} is on PATH; `apt-get install chromium`")
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    with Place([QueueSettings.model_validate({**_PLAIN, **more}) for more in _SETTINGS]) as place:
        yield place


@asynccontextmanager
async def world(place: Place, number: int, browser: Browser) -> AsyncIterator[World]:
    """Two groups of four pictures, small and larger, in an empty database."""
    async with place.opened(number) as preference:
        await preference.redis.flushdb()
        rng = np.random.default_rng(7)
        for group, prompt in enumerate(PROMPTS):
            await accept_group(preference.queue, f"g{group}", rng=rng, prompt=prompt, side=48 + 152 * group)
        yield World(place, number, browser, preference)


@pytest_asyncio.fixture(loop_scope="session")
async def pairs(place: Place, browser: Browser) -> AsyncIterator[World]:
    async with world(place, PAIRS, browser) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def short(place: Place, browser: Browser) -> AsyncIterator[World]:
    async with world(place, SHORT, browser) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def singles(place: Place, browser: Browser) -> AsyncIterator[World]:
    async with world(place, SINGLES, browser) as made:
        yield made


async def picture_of(page: Page, name: str) -> None:
    """Keeps what the page shows as test output, to be looked at."""
    SCREENSHOTS.mkdir(exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
