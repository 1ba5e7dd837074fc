from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_workers.policy import RetryPolicy, backoff_s, is_retryable
from reward_workers.retry_after import parse_retry_after
from rewardmesh.wire.messages import FailureCode, OracleEndpoint, RetryBound, ScoreFailure

POLICY = RetryPolicy(
    every=RetryBound(max_attempts=4, budget_s=60.0),
    by_class={"timeout": RetryBound(max_attempts=2, budget_s=5.0), "dropped": RetryBound(max_attempts=1, budget_s=60)},
    base_s=0.5,
    cap_s=10.0,
)


@given(draw=st.floats(0, 1), failures=st.integers(1, 500), base_s=st.floats(0.001, 10), cap_s=st.floats(0.1, 100))
def test_backoff_lies_between_zero_and_its_ceiling(draw: float, failures: int, base_s: float, cap_s: float) -> None:
    delay_s = backoff_s(draw, failures=failures, base_s=base_s, cap_s=cap_s)
    assert 0.0 <= delay_s <= min(cap_s, base_s * 2.0 ** min(failures - 1, 60))


@pytest.mark.parametrize(("failures", "mean_s"), [(1, 0.25), (2, 0.5), (3, 1.0), (10, 5.0)])
def test_backoff_is_uniform_below_a_ceiling_that_doubles(failures: int, mean_s: float) -> None:
    rng = random.Random(0)
    delays = [backoff_s(rng.random(), failures=failures, base_s=0.5, cap_s=10.0) for _ in range(4000)]
    assert sum(delays) / len(delays) == pytest.approx(mean_s, rel=0.05)
    assert min(delays) < 0.01 * mean_s * 2  # full jitter reaches down to nothing


def gives_up(code: FailureCode) -> list[bool]:
    """After the first, second … failure."""
    return [POLICY.delay_s(0.999, code=code, failures=count, elapsed_s=0.0) is None for count in range(1, 6)]


def test_attempts_are_bounded() -> None:
    assert gives_up("server_error") == [False, False, False, True, True]


def test_attempts_are_bounded_by_class() -> None:
    assert gives_up("timeout") == [False, True, True, True, True]
    assert gives_up("dropped") == [False, True, True, True, True]  # once more, alone, whatever the bound says


def test_time_is_bounded() -> None:
    assert POLICY.delay_s(0.999, code="unreachable", failures=1, elapsed_s=59.4) is not None
    assert POLICY.delay_s(0.999, code="unreachable", failures=1, elapsed_s=60.0) is None
    assert POLICY.delay_s(0.999, code="timeout", failures=1, elapsed_s=5.0) is None


@given(draw=st.floats(0, 1), retry_after_s=st.floats(0, 59))
def test_retry_after_is_a_floor(draw: float, retry_after_s: float) -> None:
    delay_s = POLICY.delay_s(draw, code="overloaded", failures=1, elapsed_s=0.0, retry_after_s=retry_after_s)
    assert delay_s is not None
    assert delay_s >= retry_after_s


def test_a_retry_after_beyond_the_budget_ends_the_attempts() -> None:
    assert POLICY.delay_s(0.999, code="overloaded", failures=1, elapsed_s=0.0, retry_after_s=3600.0) is None


def test_bounds_come_from_the_registry() -> None:
    endpoint = OracleEndpoint(
        name="o",
        url="http://h",
        max_batch=1,
        max_attempts=7,
        retry_base_s=0.1,
        retry_budget_s=9.0,
        retries={"timeout": RetryBound(max_attempts=1, budget_s=2.0)},
    )
    assert RetryPolicy.of(endpoint) == RetryPolicy(
        every=RetryBound(max_attempts=7, budget_s=9.0), by_class=endpoint.retries, base_s=0.1
    )


@pytest.mark.parametrize(
    ("code", "says", "retryable"),
    [("oracle_error", True, True), ("oracle_error", False, False), ("timeout", True, True), ("poison", True, False)],
)
def test_what_is_retried(code: str, says: bool, retryable: bool) -> None:
    failure = ScoreFailure.model_validate({"sample_id": "s", "code": code, "detail": "", "retryable": says})
    assert is_retryable(failure) is retryable


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-7", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Mon, 23 Nov 2026 12:00:10 GMT", 10.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=datetime(2026, 11, 23, 12, tzinfo=UTC)) == seconds
