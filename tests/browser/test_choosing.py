"""Choosing in the browser: by key, by button, once; undoing; when the lease, the network or the server is gone."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page

from benchmarks.people import Rater
from tests.browser.conftest import World, looked, picture_of, saved

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEYS = [
    ("ArrowLeft", "left"),
    ("1", "left"),
    ("ArrowRight", "right"),
    ("2", "right"),
    ("ArrowDown", "tie"),
    ("0", "tie"),
    ("ArrowUp", "both_bad"),
    ("s", "skip"),
    ("S", "skip"),
]


async def hold(page: Page, key: str, *, times: int = 6) -> None:
    """A key that is held down: the browser repeats it."""
    for _ in range(times):
        await page.keyboard.down(key)
        await asyncio.sleep(0.1)
    await page.keyboard.up(key)


async def test_every_key_says_what_it_should(pairs: World) -> None:
    async with pairs.rater() as page:
        for number, (key, _) in enumerate(KEYS, start=1):
            await looked(page)
            await page.keyboard.press(key)
            await saved(page, number)
        assert await pairs.choices() == [choice for _, choice in KEYS]
        for key in ("x", "3", "Control+1", "Alt+ArrowLeft"):
            await looked(page)
            await page.keyboard.press(key)
        assert len(await pairs.choices()) == len(KEYS)


async def test_a_key_held_down_votes_once(pairs: World) -> None:
    async with pairs.rater() as page:
        for number, (key, choice) in enumerate((("1", "left"), ("ArrowDown", "tie"), ("s", "skip")), start=1):
            await hold(page, key)  # for longer than the minimum look at the next pair
            await saved(page, number)
            assert (await pairs.choices())[number - 1 :] == [choice]
        await page.get_by_role("button", name="Picture 2").focus()
        await hold(page, "Enter")
        await saved(page, 4)
        await hold(page, "u")
        await saved(page, 3)
        assert len(await pairs.choices()) == 3, "one undo, not six"


async def test_buttons_by_mouse_and_by_keyboard_alone(pairs: World) -> None:
    async with pairs.rater() as page:
        for number, name in enumerate(("Picture 1 is better", "Both bad", "Tie", "Skip"), start=1):
            await looked(page)
            await page.get_by_role("button", name=name).click()
            await saved(page, number)
        await looked(page)
        await page.locator("body").click(position={"x": 2, "y": 300})
        focused: list[str] = []
        while "Picture 2" not in (focused[-1] if focused else ""):
            await page.keyboard.press("Tab")
            focused.append(await page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.innerText"))
            assert len(focused) < 12, focused
            outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", "focus is seen"
        await page.keyboard.press("Space")
        await saved(page, 5)
        assert await pairs.choices() == ["left", "both_bad", "tie", "skip", "right"]


async def test_touch(pairs: World) -> None:
    async with pairs.rater(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800}) as page:
        await page.get_by_role("button", name="Picture 2").tap()
        await saved(page, 1)
        assert await pairs.choices() == ["right"]


async def test_a_double_click_is_one_vote(pairs: World) -> None:
    async with pairs.rater() as page:
        await page.get_by_role("button", name="Picture 1").dblclick(delay=20)
        await saved(page, 1)
        await looked(page)
        await asyncio.sleep(0.3)
        assert await pairs.choices() == ["left"]


async def test_nothing_counts_before_both_pictures_were_looked_at(pairs: World) -> None:
    async with pairs.open() as watched:
        held_back = asyncio.Event()

        async def late(route: object) -> None:
            await held_back.wait()
            await route.continue_()  # type: ignore[attr-defined]

        await watched.context.route("**/picture/*", late)
        page = await watched.join(await pairs.invite())
        await page.locator("#work").wait_for()
        await asyncio.sleep(0.4)
        await page.keyboard.press("1")
        assert "still on their way" in await page.inner_text("#status")
        held_back.set()
        await page.locator("#work.look").wait_for()
        await page.keyboard.press("1")
        await looked(page)
        assert await pairs.choices() == []
        await page.keyboard.press("1")
        await saved(page, 1)
        (answer,) = await pairs.answers()
        assert answer.look_s >= 0.3


async def test_undo_and_what_a_reward_has_used(pairs: World) -> None:
    async with pairs.rater() as page:
        first = await source(page)
        await page.keyboard.press("1")
        await page.keyboard.press("u")  # at once: the choice is saved, then taken back
        await page.get_by_text("Taken back").wait_for()
        assert await source(page) == first, "the same pair, the same sides"
        assert await pairs.choices() == []
        await looked(page)
        await page.keyboard.press("2")
        await saved(page, 1)
        assert await pairs.choices() == ["right"]
        (answer,) = await pairs.answers()
        await close(pairs, answer.group_key)
        await page.get_by_role("button", name="Undo").first.click()
        await page.get_by_text("used already").wait_for()
        assert answer in await pairs.answers()


async def source(page: Page) -> str:
    """Where the picture on the left comes from."""
    found: str = await page.locator(".frame img").first.evaluate("(image) => image.src")
    return found


async def close(world: World, group_key: str) -> None:
    """Has another answer all that is open, and the group closed: its choices are used."""
    queue = world.preference.queue
    for rater in await queue.raters():
        for lease in await queue.held(rater.rater_id):
            await queue.release(lease.lease_id, rater_id=rater.rater_id)
    async with Rater(world.url, await world.invite(), "1") as other:
        while (pair := await other.lease())["kind"] == "pair":
            await other.choose(pair, "tie")
    assert group_key in {group.key for group in await queue.close_due()}


async def test_two_raters_never_hold_one_lease(pairs: World) -> None:
    async with pairs.open() as here, pairs.open() as there:
        pages = await asyncio.gather(here.join(await pairs.invite()), there.join(await pairs.invite()))
        for number in range(1, 5):
            await asyncio.gather(*(looked(page) for page in pages))
            raters = await pairs.preference.queue.raters()
            held = [lease for one in raters for lease in await pairs.preference.queue.held(one.rater_id)]
            assert len({lease.comparison_id for lease in held}) == len(held) >= 2
            await asyncio.gather(*(page.keyboard.press("1") for page in pages))
            await asyncio.gather(*(saved(page, number) for page in pages))
    answers = await pairs.answers()
    assert len({answer.comparison_id for answer in answers}) == len(answers) == 8


async def test_a_lease_lasts_as_long_as_somebody_is_there(short: World) -> None:
    async with short.rater() as page:
        first = await source(page)
        for step in range(24):  # longer than a lease of four seconds
            await page.mouse.move(100 + step, 100)
            await asyncio.sleep(0.2)
        assert "Yours for" in await page.inner_text("#lease")
        assert await source(page) == first
        await page.get_by_text("This pair went to someone else").wait_for()  # nobody moves any more
        await picture_of(page, "expired")
        await page.keyboard.press("1")
        await page.keyboard.press("Enter")  # "Go on" has the focus
        await looked(page)
        assert await short.choices() == []
        await page.keyboard.press("1")
        await saved(page, 1)


async def test_a_choice_after_the_lease_is_refused_in_words(pairs: World) -> None:
    async with pairs.rater() as page:
        (rater,) = await pairs.preference.queue.raters()
        for lease in await pairs.preference.queue.held(rater.rater_id):
            await pairs.preference.queue.release(lease.lease_id, rater_id=rater.rater_id)
        await page.keyboard.press("1")
        await page.get_by_text("That came too late").wait_for()
        assert await pairs.choices() == []


async def test_the_back_button_is_harmless(pairs: World) -> None:
    async with pairs.rater() as page:
        await page.keyboard.press("1")
        await saved(page, 1)
        await page.go_back()
        await page.get_by_role("button", name="Begin").wait_for()
        await page.go_forward()
        await looked(page)
        assert await page.inner_text("#count") == "1"
        await page.keyboard.press("2")
        await saved(page, 2)
        assert await pairs.choices() == ["left", "right"]


async def test_offline_then_online(pairs: World) -> None:
    async with pairs.rater() as page:
        await page.context.set_offline(True)
        await page.keyboard.press("1")
        await page.get_by_text("Your choice is kept here").wait_for()
        await looked(page)  # the next pair was there already
        await page.keyboard.press("2")
        await page.get_by_text("The network is gone").wait_for()
        await picture_of(page, "offline")
        assert await pairs.choices() == []
        await page.context.set_offline(False)
        await saved(page, 2)
        await looked(page)
        assert await pairs.choices() == ["left", "right"]


async def test_an_answer_that_was_lost_counts_once(pairs: World) -> None:
    """The choice arrived, its answer did not; and the page was loaded again before it could be sent again."""
    async with pairs.rater() as page:
        reached = asyncio.Event()

        async def lose(route: object) -> None:
            await route.fetch()  # type: ignore[attr-defined]
            reached.set()
            await route.abort()  # type: ignore[attr-defined]

        await page.route("**/api/choice", lose)
        await page.keyboard.press("1")
        await reached.wait()
        await page.unroute("**/api/choice")
        await page.reload()
        await looked(page)
        await page.wait_for_function("localStorage.length === 1 && localStorage.getItem(localStorage.key(0)) === '[]'")
        assert await pairs.choices() == ["left"]


async def test_a_restart_in_the_middle_of_a_vote(pairs: World) -> None:
    async with pairs.rater() as page:
        pairs.place.kill()
        await page.keyboard.press("1")
        await page.get_by_text("Your choice is kept here").wait_for()
        await asyncio.to_thread(pairs.place.restart)
        await saved(page, 1)
        await looked(page)
        await page.keyboard.press("2")
        await saved(page, 2)
        assert await pairs.choices() == ["left", "right"]


async def test_the_next_pair_is_there_within_100_ms(pairs: World, capsys: pytest.CaptureFixture[str]) -> None:
    async with pairs.rater() as page:
        for number in range(1, 6):
            await page.keyboard.press("1")
            await saved(page, number)
            await looked(page)
        took = await page.evaluate("performance.getEntriesByName('choice to next pair').map((one) => one.duration)")
    assert len(took) == 5
    with capsys.disabled():
        print(f"\nchoice to next pair in the browser: median {sorted(took)[2]:.0f} ms, most {max(took):.0f} ms")
    assert sorted(took)[2] < 100


async def test_single_pictures(singles: World) -> None:
    async with singles.rater() as page:
        for number, key in enumerate(("1", "ArrowRight", "s"), start=1):
            await looked(page)
            await page.keyboard.press(key)
            await saved(page, number)
        await looked(page)
        await picture_of(page, "single")
        await page.get_by_role("button", name="Dislike").click()
        await saved(page, 4)
        assert await singles.choices() == ["dislike", "like", "skip", "dislike"]
