"""How the pages look and whom they shut out: narrow, zoomed, light, dark, by axe's rules, without a script.

Screenshots of every state are kept in `tests/browser/screenshots`.
"""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page

from benchmarks.people import Rater
from services.gateway.audit import OPERATOR
from services.gateway.tokens import TokenRequest
from services.preference.model import Choice
from tests.browser.conftest import World, looked, picture_of, saved

pytestmark = pytest.mark.asyncio(loop_scope="session")

VIEWS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone-360": {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
    # What zooming to 200 % does to a window of 1280 x 720: half as many pixels of CSS, twice as large.
    "zoom-200": {"viewport": {"width": 640, "height": 360}, "device_scale_factor": 2},
}


async def sound(page: Page) -> None:
    """No rule of axe is broken, and nothing is wider than the window."""
    results = await Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    wide, window = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window


async def reachable(page: Page) -> None:
    """Each control can be brought into view, and is large enough for a finger."""
    for button in await page.get_by_role("button").all():
        if await button.is_visible():
            await button.scroll_into_view_if_needed()
            box = await button.bounding_box()
            assert box is not None
            width, height = await page.evaluate("[innerWidth, innerHeight]")
            assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1, await button.inner_text()
            assert box["height"] >= 24 and box["width"] >= 24
            assert box["y"] < height and box["y"] + box["height"] > 0


@pytest.mark.parametrize("view", VIEWS)
async def test_the_raters_page(pairs: World, view: str) -> None:
    async with pairs.open(**VIEWS[view]) as watched:
        page = await watched.page()
        await page.goto(f"{pairs.url}/join/{await pairs.invite(max_raters=2, num_choices=3, completion_code='C0DE')}")
        await sound(page)
        await picture_of(page, f"{view}-join")
        await page.get_by_role("button", name="Begin").click()
        await looked(page)
        await sound(page)
        await reachable(page)
        await page.evaluate("scrollTo(0, 0)")
        await picture_of(page, f"{view}-pair")
        sizes = await page.locator(".frame img").evaluate_all("(all) => all.map((one) => one.clientWidth)")
        assert min(sizes) >= 180, "large, also on a phone"
        assert {
            await one.evaluate("(one) => getComputedStyle(one).imageRendering")
            for one in await page.locator(".frame img").all()
        } == {"pixelated"}
        await page.keyboard.press("?")
        await page.get_by_text("equally good").wait_for()
        await page.keyboard.press("1")  # says nothing while the help is open
        await sound(page)
        await picture_of(page, f"{view}-help")
        await page.keyboard.press("Escape")
        for number in range(1, 4):
            await looked(page)
            await page.keyboard.press("1")
            await saved(page, number)
        await page.get_by_text("C0DE").wait_for()
        await sound(page)
        await picture_of(page, f"{view}-done")
        assert await pairs.choices() == ["left"] * 3


async def test_pages_that_show_no_pair(pairs: World) -> None:
    async with pairs.open() as watched:
        page = await watched.page()
        await page.goto(f"{pairs.url}/join/forged.link")
        await page.get_by_text("not one of ours").wait_for()
        await sound(page)
        await picture_of(page, "forged")
        await pairs.preference.queue.pause(paused=True)
        page = await watched.join(await pairs.invite())
        await page.get_by_text("A short break").wait_for()
        await sound(page)
        await picture_of(page, "paused")
        await pairs.preference.queue.pause(paused=False)
        await page.evaluate("dispatchEvent(new Event('online'))")  # or some seconds later by itself
        await looked(page)
        (rater,) = await pairs.preference.queue.raters()
        while (await pairs.preference.queue.depth()).comparisons:
            for lease in await pairs.preference.queue.held(rater.rater_id):
                said = {"rater_id": rater.rater_id, "choice_id": f"of-{lease.lease_id}", "look_s": 1.0}
                await pairs.preference.queue.choose(lease.lease_id, "tie", **said)  # type: ignore[arg-type]
            await pairs.preference.queue.lease(rater.rater_id)
        await page.reload()
        await page.get_by_text("Nothing waits for you just now").wait_for()
        await sound(page)
        await picture_of(page, "empty")
        await pairs.preference.queue.pause_rater(rater.rater_id, paused=True)
        await page.reload()
        await page.get_by_text("Your work is paused").wait_for()
        for invite in await pairs.preference.invites.all():
            await pairs.preference.invites.revoke(invite.invite_id, actor=OPERATOR)
        await page.evaluate("dispatchEvent(new Event('online'))")
        await page.get_by_text("does not hold any more").wait_for()


@pytest.mark.parametrize("view", ["desktop", "dark", "phone-360"])
async def test_the_operators_page(pairs: World, view: str) -> None:
    queue = pairs.preference.queue
    async with Rater(pairs.url, await pairs.invite(), "1") as rater:
        for choice in ("left", "right", "tie"):
            await rater.choose(await rater.lease(), choice)
    request = TokenRequest(team="ops", scopes=("admin",))
    _, token = await pairs.preference.tokens.create(request, actor=OPERATOR)
    async with pairs.open(**VIEWS[view]) as watched:
        page = await watched.page()
        await page.goto(f"{pairs.url}/operator")
        await sound(page)
        await picture_of(page, f"{view}-signin")
        await page.get_by_label("Admin token").fill(token)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_text("comparisons waiting").wait_for()
        await page.get_by_label("For whom").fill("study 1")
        await page.get_by_role("button", name="Invite", exact=True).click()
        await page.get_by_role("cell", name="study 1", exact=True).wait_for()
        await sound(page)
        await reachable(page)
        await page.evaluate("Promise.all([...document.images].map((one) => ((one.loading = 'eager'), one.decode())))")
        await picture_of(page, f"{view}-operator")
        await page.get_by_role("button", name="Pause", exact=True).first.click()
        await page.get_by_text("The queue is paused").wait_for()
        assert (await queue.depth()).paused
        async with page.expect_download() as waiting:
            await page.get_by_role("link", name="Parquet", exact=True).click()
        assert (await waiting.value).suggested_filename == "preferences.parquet"


async def test_without_javascript(pairs: World) -> None:
    async with pairs.open(java_script_enabled=False) as watched:
        page = await watched.join(await pairs.invite())
        await page.locator("noscript .note").wait_for()
        await picture_of(page, "without-javascript")
        names = ("Picture 1", "Picture 2", "Tie", "Both bad", "Skip")
        said: list[Choice] = ["left", "right", "tie", "both_bad", "skip"]
        for number, name in enumerate(names, start=1):
            await page.get_by_role("button", name=name).click()
            await saved(page, number)
        assert await pairs.choices() == said
        await page.get_by_role("button", name="Undo").first.click()
        await saved(page, 4)
        await page.get_by_role("button", name="Picture 1").dblclick()
        await saved(page, 5)
        assert await pairs.choices() == [*said[:4], "left"]
        await page.go_back()
        await page.get_by_role("button", name="Tie").click()
        await page.wait_for_load_state()
        assert len(await pairs.choices()) in {5, 6}, "never twice for one pair"
        assert len({answer.comparison_id for answer in await pairs.answers()}) == len(await pairs.choices())
        await page.get_by_role("button", name="Help").click()
        await page.get_by_text("equally good").wait_for()


async def test_a_violation_of_the_policy_is_heard(pairs: World) -> None:
    """What every test of this folder listens for."""
    async with pairs.open() as watched:
        page = await watched.join(await pairs.invite())
        await looked(page)
        assert watched.heard == []
        await page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')")
        await page.evaluate("document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.2/x.png' }))")
        await page.wait_for_timeout(200)
        assert any("style-src" in one for one in watched.heard)
        assert any("img-src" in one for one in watched.heard)
        watched.heard.clear()
