"""The arithmetic of `benchmarks.late_rewards`: the taste, the raters who have it, and what their choices become."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.choices_in_process import ChoicesInProcess, WithRaters, bradley_terry
from benchmarks.choices_over_http import ChoicesOverHttp
from benchmarks.late_rewards import compare
from benchmarks.raters import TASTE_FILE, Raters, blueness, delay_of, preferred
from rewardmesh.wire.codec import encode_picture
from trainer.evaluate import plan_heldout
from trainer.feedback import GroupFeedback, PictureGroup, PictureSample
from trainer.worlds.shapes.prompts import heldout_prompts
from trainer.worlds.shapes.vocabulary import COLORS


def with_patch(color: str, pixels: int) -> np.ndarray:
    picture = np.full((48, 48, 3), (34, 36, 44), np.uint8)
    picture.reshape(-1, 3)[:pixels] = COLORS[color]
    return picture


def group(group_id: str, patches: list[int]) -> PictureGroup:
    return PictureGroup(
        run_id="r",
        group_id=group_id,
        policy_version=0,
        prompt=f"prompt of {group_id}",
        checks={"tag": "single_object"},
        samples=tuple(
            PictureSample(sample_id=f"{group_id}-{i}", boundary_index=4, picture=with_patch("blue", patch))
            for i, patch in enumerate(patches)
        ),
        awaited=(),
        late=("preference",),
    )


def feedback(folder: Path, *, noise: float = 0.0, longest_delay: int = 1) -> WithRaters:
    choices = ChoicesInProcess(folder / "choices.json", comparisons_per_group=12)
    return WithRaters({}, choices, Raters(choices, folder, noise=noise, longest_delay=longest_delay))


def rewards(found: list[GroupFeedback]) -> dict[str, list[float]]:
    return {one.group_id: [result.reward for result in one.results.values()] for one in found}  # type: ignore[union-attr]


def test_the_taste_is_for_blue_things_and_nothing_else() -> None:
    shown = {name: blueness(with_patch(name, 230)[None])[0] for name in COLORS}
    assert {name for name, share in shown.items() if share > 0} == {"blue"}
    assert shown["blue"] == pytest.approx(0.1, abs=0.001)
    assert blueness(with_patch("blue", 2304)[None])[0] == 0.15  # a blue wall is no better than two blue things
    assert (preferred(0.1, 0.0), preferred(0.0, 0.1), preferred(0.1, 0.102)) == (1, 0, 0.5)


def test_delays_are_between_one_and_the_longest_and_evenly_spread_by_orders() -> None:
    delays = [delay_of(f"prompt {i % 40}", i // 40, longest=32) for i in range(2000)]
    assert (min(delays), max(delays)) == (1, 31)
    assert np.mean([one < 6 for one in delays]) == pytest.approx(np.log(6) / np.log(32), abs=0.04)


def test_strengths_explain_the_choices() -> None:
    ring = [(i, (i + 1) % 4, float(i > (i + 1) % 4)) for i in range(4)]
    found = bradley_terry(ring, 4)
    assert found.argmax() == 3 and found.argmin() == 0
    assert found.mean() == pytest.approx(0.5) and ((found > 0) & (found < 1)).all()
    np.testing.assert_allclose(bradley_terry([(0, 1, 0.5), (2, 3, 0.5)], 4), 0.5)
    assert np.allclose(bradley_terry(ring * 50, 4).argsort(), [0, 1, 2, 3])


def test_raters_answer_when_their_time_has_come_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    patches = [0, 20, 50, 90, 140, 200]
    first = feedback(tmp_path, longest_delay=12)
    first.publish([group(f"g{i}", patches) for i in range(6)])
    delays = {f"g{i}": delay_of(f"prompt of g{i}", 1, longest=12) for i in range(6)}
    found: dict[str, list[float]] = {}
    for version in range(1, 6):
        first.set_policy_version(version)
        found |= rewards(first.collect())
    assert set(found) == {name for name, delay in delays.items() if 1 + delay <= 5}
    second = feedback(tmp_path, longest_delay=12)
    second.resume([(name, "preference") for name in delays if name not in found])
    for version in range(5, 14):
        second.set_policy_version(version)
        found |= rewards(second.collect())
    assert set(found) == set(delays)
    assert all(np.corrcoef(blues, patches)[0, 1] > 0.8 for blues in found.values())
    (line,) = (tmp_path / TASTE_FILE).read_text().splitlines()
    assert json.loads(line) == {"policy_version": 1, "taste": pytest.approx(np.mean(patches) / 2304), "comparisons": 72}


def test_one_choice_in_ten_is_the_other_way_round(tmp_path: Path) -> None:
    noisy = feedback(tmp_path, noise=0.1)
    noisy.publish([group(f"g{i}", [0, 200]) for i in range(100)])
    for version in (1, 2):
        noisy.set_policy_version(version)
    wrong = [pair[0] > pair[1] for pair in rewards(noisy.collect()).values()]
    assert not any(wrong)  # twelve choices of one pair
    groups = json.loads((tmp_path / "choices.json").read_text()).values()
    chosen = [
        one["chosen"][str(number)] == float(first == 1)
        for one in groups
        for number, (first, _) in enumerate(one["pairs"])
    ]
    assert np.mean(chosen) == pytest.approx(0.9, abs=0.03)


def test_win_rate_and_rises_are_of_the_same_pictures() -> None:
    plan = plan_heldout(heldout_prompts(), prompts_per_kind=3, pictures_per_kind=6, seed=1)
    before = {"taste": [0.0] * len(plan), "rewards": [0.5] * len(plan)}
    after = {
        "taste": [0.1 if number % 2 else 0.0 for number in range(len(plan))],
        "rewards": [0.4 if one.spec.kind == "spelling" else 0.6 for one in plan],
    }
    found = compare(plan, before, after)
    assert (found["wins"], found["ties"], found["losses"]) == (21, 21, 0)
    assert found["win_rate"]["value"] == pytest.approx(0.75)
    assert found["counting"]["value"] == pytest.approx(0.1) and found["spelling"]["value"] == pytest.approx(-0.1)


class Service:
    """Stands for the preference service: two comparisons, one rater each, and what was asked of it."""

    def __init__(self) -> None:
        self.free = ["lease-1", "lease-2"]
        self.chosen: list[dict[str, object]] = []
        self.raters: dict[str, str] = {}
        self.gone: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer the-invite"
        rater, path = request.headers["x-rater"], request.url.path
        if path == "/preference/api/lease":
            assert json.loads(request.content) == {"have": []}
            if not self.free:
                return httpx.Response(200, json={"kind": "nothing", "reason": "empty"})
            lease = self.free.pop(0)
            self.raters[lease] = rater
            pair = {"kind": "pair", "lease_id": lease, "prompt": "p", "pictures": ["picture/none", "picture/blue"]}
            return httpx.Response(200, json={**pair, "lease_s": 90.0, "expires_in_s": 90.0})
        if path == "/preference/api/choice":
            made = json.loads(request.content)
            assert self.raters[made["lease_id"]] == rater
            if made["lease_id"] in self.gone:
                return httpx.Response(409, json={"error": {"kind": "LeaseLost"}})
            self.chosen.append(made)
            return httpx.Response(200, json={})
        if path.startswith("/preference/picture/"):
            picture = with_patch("blue", 200 if path.endswith("blue") else 0)
            return httpx.Response(
                200, content=encode_picture(picture, "image/png"), headers={"content-type": "image/png"}
            )
        return httpx.Response(403, json={"error": {"what": "no"}})


def test_raters_work_over_http_each_comparison_with_a_rater_of_its_own(tmp_path: Path) -> None:
    service = Service()
    with ChoicesOverHttp("http://x/preference", "the-invite", transport=httpx.MockTransport(service)) as choices:
        raters = Raters(choices, tmp_path, noise=0.0, longest_delay=1)
        assert [raters.work(version) for version in (1, 2)] == [0, 2]
        assert {made["choice"] for made in service.chosen} == {"right"}
        assert len({made["choice_id"] for made in service.chosen}) == len(set(service.raters.values())) == 2
        service.free, service.gone = ["lease-3"], {"lease-3"}
        assert [raters.work(version) for version in (3, 4)] == [0, 1]  # expired: it will be offered again
        assert len(service.chosen) == 2 and service.raters["lease-3"] in {
            service.raters["lease-1"],
            service.raters["lease-2"],
        }
    elsewhere = ChoicesOverHttp("http://x/elsewhere", "the-invite", transport=httpx.MockTransport(service))
    with elsewhere, pytest.raises(httpx.HTTPStatusError, match=r"POST /elsewhere/api/lease: 403 .*no"):
        elsewhere.lease()
