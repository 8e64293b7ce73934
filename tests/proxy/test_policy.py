"""The retry policy by itself: what counts, how long to wait, what may be spent."""

from __future__ import annotations

import pytest

from kairos.config.model import CircuitBreaker, Retry
from kairos.proxy.upstream.policy import Policy

SEEDS = range(1, 400)


def policy(*, breaker: CircuitBreaker | None = None, backends: int = 2, **retry: object) -> Policy:
    return Policy(breaker or CircuitBreaker(), Retry(**retry), backends)  # type: ignore[arg-type]


def waits(made: Policy, retry: int) -> list[int]:
    """Waits in µs before this retry, as different dice have it."""
    return [made.wait(retry, seed * 0x9E3779B97F4A7C15 % 2**64) for seed in SEEDS]


def test_without_a_section_no_answer_is_asked_for_again() -> None:
    made = Policy(CircuitBreaker(), None, 4)
    assert not [status for status in range(1000) if made.retries_on(status)]
    assert set(waits(made, 1) + waits(made, 3)) == {0}


def test_with_one_three_statuses_are() -> None:
    assert [status for status in range(1000) if policy().retries_on(status)] == [502, 503, 504]


def test_any_status_a_backend_may_send_can_be_listed() -> None:
    listed = [100, 199, 200, 429, 500, 575, 576, 639, 640, 999]
    made = policy(retry_on_status_codes=listed)
    assert [status for status in range(-10, 2000) if made.retries_on(status)] == listed


def test_every_5xx_counts_as_a_failure_unless_others_are_listed() -> None:
    assert [status for status in range(1000) if policy().counts_as_failure(status)] == list(range(500, 600))
    listed = policy(breaker=CircuitBreaker(failure_status_codes=[429, 503]))
    assert [status for status in range(1000) if listed.counts_as_failure(status)] == [429, 503]
    none = policy(breaker=CircuitBreaker(failure_status_codes=[]))
    assert not [status for status in range(1000) if none.counts_as_failure(status)]


@pytest.mark.parametrize(
    ("retry", "bound_ms"), [(1, 100), (2, 200), (3, 400), (4, 800), (6, 3200), (7, 5000), (10, 5000)]
)
def test_a_wait_is_anything_up_to_its_bound(retry: int, bound_ms: int) -> None:
    found = waits(policy(), retry)
    bound = bound_ms * 1000
    assert all(0 <= wait < bound for wait in found)
    assert min(found) < bound * 0.05
    assert max(found) > bound * 0.95
    assert 0.4 * bound < sum(found) / len(found) < 0.6 * bound


def test_no_wait_is_longer_than_the_longest() -> None:
    assert max(waits(policy(initial_backoff_ms=5000, max_backoff_ms=100), 1)) < 100_000
    steep = policy(initial_backoff_ms=3_600_000, max_backoff_ms=3_600_000, backoff_multiplier=100.0)
    assert 0 <= min(waits(steep, 10)) <= max(waits(steep, 10)) < 3_600_000_000


def test_a_multiplier_of_one_keeps_the_bound() -> None:
    made = policy(backoff_multiplier=1.0)
    assert max(waits(made, 10)) < 100_000


@pytest.mark.parametrize(("initial", "longest"), [(0, 5000), (100, 0)])
def test_no_wait_at_all_can_be_asked_for(initial: int, longest: int) -> None:
    assert set(waits(policy(initial_backoff_ms=initial, max_backoff_ms=longest), 3)) == {0}


@pytest.mark.parametrize(
    ("percent", "least", "live", "allowed"),
    [
        (20.0, 10, 0, 10), (20.0, 10, 50, 10), (20.0, 10, 55, 11), (20.0, 10, 1000, 200), (20.0, 0, 1, 1),
        (20.0, 0, 0, 0), (0.0, 0, 10_000, 0), (0.0, 3, 10_000, 3), (100.0, 0, 7, 7), (0.1, 0, 10_000, 10),
    ],
)  # fmt: skip
def test_the_budget_is_a_share_of_what_is_under_way_or_a_least(
    percent: float, least: int, live: int, allowed: int
) -> None:
    made = policy(budget_percent=percent, budget_min=least)
    extra = 0
    while made.may_spend(extra, live):
        extra += 1
    assert extra == allowed
