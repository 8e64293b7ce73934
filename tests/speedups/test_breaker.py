"""Circuit breaker: its moves one by one, then any sequence of them against a slow model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from mmap import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos._speedups import cells
from kairos._speedups.breaker import (
    ADMITTED,
    CLOSED,
    FAILURE,
    HALF_OPEN,
    NO_VERDICT,
    OPEN,
    REFUSED,
    SUCCESS,
    TRIAL,
    Gate,
)
from kairos._speedups.cells import FORCED_CLOSED, FORCED_NOT, FORCED_OPEN, Page
from kairos.config.model import CircuitBreaker

NOW = 1_000_000_000
RESET = 30_000_000


class Upstream:
    """A block of shared cells, and gates to it as workers and routes have them."""

    def __init__(self, **settings: float) -> None:
        self.page = Page(mmap(-1, 8 * cells.SU_CELLS))
        self.gate = self.another(**settings)
        self.now = NOW

    def another(self, **settings: float) -> Gate:
        return Gate(self.page, 0, CircuitBreaker(**settings))  # type: ignore[arg-type]

    def admit(self) -> int:
        blocked = self.gate.blocked(self.now)
        admitted = self.gate.admit(self.now)
        assert blocked == (admitted == REFUSED)
        return admitted

    def settle(self, outcome: int, trial: bool = False) -> int:
        return self.gate.settle(outcome, trial, self.now)

    def fail(self, times: int = 5) -> None:
        for _ in range(times):
            assert self.admit() == ADMITTED
            self.settle(FAILURE)

    def half_open(self) -> None:
        """Open, and the reset time is over: one trial is under way."""
        self.fail()
        self.now += RESET
        assert self.admit() == TRIAL

    def force(self, verdict: int) -> None:
        self.page.set(cells.SU_FORCED, verdict)

    @property
    def opened(self) -> int:
        return self.page.get(cells.SU_OPENED)

    def __repr__(self) -> str:
        return f"{('closed', 'open', 'half-open')[self.gate.state]} {self.gate.count}"


# --- closed ----------------------------------------------------------------------------------------------------------


def test_failures_in_a_row_open_it() -> None:
    upstream = Upstream()
    upstream.fail(4)
    assert repr(upstream) == "closed 4"
    assert upstream.settle(FAILURE) == OPEN
    assert repr(upstream) == "open 0"
    assert upstream.admit() == REFUSED
    assert upstream.opened == 1


def test_a_success_begins_the_row_anew() -> None:
    upstream = Upstream()
    upstream.fail(4)
    assert upstream.settle(SUCCESS) == -1
    upstream.fail(4)
    assert repr(upstream) == "closed 4"


def test_no_verdict_changes_nothing() -> None:
    upstream = Upstream()
    upstream.fail(4)
    assert upstream.settle(NO_VERDICT) == -1
    assert repr(upstream) == "closed 4"


@pytest.mark.parametrize("threshold", [1, 1_000_000])
def test_thresholds_at_their_limits(threshold: int) -> None:
    upstream = Upstream(failure_threshold=threshold, success_threshold=threshold, half_open_requests=1)
    upstream.page.set(cells.SU_BREAKER, (threshold - 1) << 22)
    assert upstream.settle(FAILURE) == OPEN
    upstream.now += RESET
    assert upstream.admit() == TRIAL
    upstream.page.set(cells.SU_BREAKER, HALF_OPEN | (threshold - 1) << 22)
    assert upstream.settle(SUCCESS, trial=True) == CLOSED


# --- open ------------------------------------------------------------------------------------------------------------


def test_open_lasts_for_the_reset_time() -> None:
    upstream = Upstream()
    upstream.fail()
    upstream.now += RESET - 1
    assert upstream.admit() == REFUSED
    upstream.now += 1
    assert upstream.admit() == TRIAL
    assert repr(upstream) == "half-open 0"


@pytest.mark.parametrize("outcome", [SUCCESS, FAILURE, NO_VERDICT])
def test_late_answers_to_requests_from_before_are_ignored(outcome: int) -> None:
    upstream = Upstream()
    upstream.fail()
    assert upstream.settle(outcome) == -1
    assert repr(upstream) == "open 0"
    upstream.now += RESET
    assert upstream.admit() == TRIAL
    assert upstream.settle(outcome) == -1
    assert repr(upstream) == "half-open 0"
    assert upstream.opened == 1


# --- half-open -------------------------------------------------------------------------------------------------------


def test_trials_at_once_are_limited() -> None:
    upstream = Upstream()
    upstream.half_open()
    assert [upstream.admit() for _ in range(4)] == [TRIAL, TRIAL, REFUSED, REFUSED]


def test_a_success_makes_room_for_the_next_trial() -> None:
    upstream = Upstream(success_threshold=10, half_open_requests=1)
    upstream.half_open()
    assert upstream.admit() == REFUSED
    assert upstream.settle(SUCCESS, trial=True) == -1
    assert repr(upstream) == "half-open 1"
    assert [upstream.admit(), upstream.admit()] == [TRIAL, REFUSED]


def test_enough_successes_close_it_and_begin_a_slow_start() -> None:
    upstream = Upstream()
    upstream.half_open()
    assert [upstream.admit(), upstream.admit()] == [TRIAL, TRIAL]
    assert [upstream.settle(SUCCESS, trial=True) for _ in range(2)] == [-1, -1]
    upstream.now += 7
    assert upstream.settle(SUCCESS, trial=True) == CLOSED
    assert repr(upstream) == "closed 0"
    assert upstream.admit() == ADMITTED
    assert upstream.page.get(cells.SU_BACK_AT_US) == upstream.now


def test_one_failure_opens_it_anew() -> None:
    upstream = Upstream()
    upstream.half_open()
    upstream.settle(SUCCESS, trial=True)
    upstream.now += 5
    assert upstream.settle(FAILURE, trial=True) == OPEN
    assert upstream.opened == 2
    upstream.now += RESET - 1
    assert upstream.admit() == REFUSED
    upstream.now += 1
    assert upstream.admit() == TRIAL
    assert repr(upstream) == "half-open 0"


@pytest.mark.parametrize("outcome", [SUCCESS, FAILURE, NO_VERDICT])
def test_the_other_trials_of_a_round_that_failed_are_ignored(outcome: int) -> None:
    upstream = Upstream()
    upstream.half_open()
    assert upstream.admit() == TRIAL
    upstream.settle(FAILURE, trial=True)
    assert upstream.settle(outcome, trial=True) == -1
    assert (repr(upstream), upstream.opened) == ("open 0", 2)


def test_a_trial_without_a_verdict_is_given_back() -> None:
    upstream = Upstream(half_open_requests=1)
    upstream.half_open()
    assert upstream.admit() == REFUSED
    assert upstream.settle(NO_VERDICT, trial=True) == -1
    assert repr(upstream) == "half-open 0"
    assert upstream.admit() == TRIAL


def test_lost_trials_are_replaced_after_another_reset_time() -> None:
    upstream = Upstream(half_open_requests=2)
    upstream.half_open()
    assert upstream.admit() == TRIAL  # both were of a worker that is killed now
    upstream.now += RESET - 1
    assert upstream.admit() == REFUSED
    upstream.now += 1
    assert [upstream.admit() for _ in range(3)] == [TRIAL, TRIAL, REFUSED]


def test_trials_of_an_earlier_round_do_not_add_to_those_at_once() -> None:
    upstream = Upstream(half_open_requests=1, success_threshold=9)
    upstream.half_open()
    upstream.now += RESET
    assert upstream.admit() == TRIAL  # the first one is taken for lost
    upstream.settle(SUCCESS, trial=True)
    upstream.settle(SUCCESS, trial=True)
    assert [upstream.admit(), upstream.admit()] == [TRIAL, REFUSED]


def test_failures_of_trials_count_once_it_is_closed() -> None:
    upstream = Upstream(success_threshold=1)
    upstream.half_open()
    assert upstream.admit() == TRIAL
    assert upstream.settle(SUCCESS, trial=True) == CLOSED
    assert upstream.settle(FAILURE, trial=True) == -1
    assert repr(upstream) == "closed 1"


def test_processes_that_race_for_trials_get_no_more_than_there_are() -> None:
    upstream = Upstream(half_open_requests=7)
    upstream.fail()
    tally = Page(mmap(-1, 8))
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(3000):
                tally.add(0, upstream.gate.admit(NOW + RESET) == TRIAL)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert tally.get(0) == 7


# --- operators and settings ------------------------------------------------------------------------------------------


def test_forced_open_refuses_whatever_the_state() -> None:
    upstream = Upstream()
    upstream.force(FORCED_OPEN)
    assert upstream.admit() == REFUSED
    upstream.force(FORCED_NOT)
    assert upstream.admit() == ADMITTED


def test_forced_closed_admits_whatever_the_state() -> None:
    upstream = Upstream()
    upstream.fail()
    upstream.force(FORCED_CLOSED)
    assert upstream.admit() == ADMITTED
    upstream.settle(FAILURE)
    upstream.force(FORCED_NOT)
    assert upstream.admit() == REFUSED


def test_disabled_admits_and_learns_nothing() -> None:
    upstream = Upstream()
    off = upstream.another(enabled=False)
    for _ in range(20):
        assert off.admit(NOW) == ADMITTED
        assert off.settle(FAILURE, False, NOW) == -1
    assert repr(upstream) == "closed 0"
    upstream.fail()
    assert off.admit(NOW) == ADMITTED
    assert not off.blocked(NOW)


def test_an_operators_word_holds_for_who_disabled_it_too() -> None:
    upstream = Upstream()
    off = upstream.another(enabled=False)
    upstream.force(FORCED_OPEN)
    assert off.blocked(NOW)
    assert off.admit(NOW) == REFUSED


def test_routes_share_the_state_and_keep_their_settings() -> None:
    upstream = Upstream(failure_threshold=5)
    strict = upstream.another(failure_threshold=2)
    upstream.fail(1)
    assert strict.settle(FAILURE, False, NOW) == OPEN
    assert upstream.admit() == REFUSED


# --- any sequence ----------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """What is said in breaker.pyx, without bits and races."""

    failures_open: int
    successes_close: int
    trials: int
    state: str = "closed"
    failures: int = 0
    successes: int = 0
    room: int = 0
    until: int = 0
    forced: int = FORCED_NOT
    opened: int = 0

    def admit(self, now: int) -> int:
        if self.forced:
            return REFUSED if self.forced == FORCED_OPEN else ADMITTED
        if self.state == "closed":
            return ADMITTED
        if (self.state == "open" or self.room == 0) and now >= self.until:
            self.state, self.successes, self.room, self.until = "half-open", 0, self.trials, now + RESET
        if self.state == "open" or self.room == 0:
            return REFUSED
        self.room -= 1
        return TRIAL

    def settle(self, outcome: int, trial: bool, now: int) -> int:
        if self.state == "closed":
            return self._counted(outcome, now)
        if self.state == "half-open" and trial:
            return self._tried(outcome, now)
        return -1

    def _counted(self, outcome: int, now: int) -> int:
        if outcome == SUCCESS:
            self.failures = 0
        elif outcome == FAILURE:
            self.failures += 1
            if self.failures >= self.failures_open:
                return self._open(now)
        return -1

    def _tried(self, outcome: int, now: int) -> int:
        if outcome == FAILURE:
            return self._open(now)
        if outcome == SUCCESS and self.successes + 1 >= self.successes_close:
            self.state, self.failures = "closed", 0
            return CLOSED
        if self.room < self.trials:  # else it is of an earlier round
            self.room += 1
            self.successes += outcome == SUCCESS
        return -1

    def _open(self, now: int) -> int:
        self.state, self.until = "open", now + RESET
        self.opened += 1
        return OPEN

    def __repr__(self) -> str:
        count = {"closed": self.failures, "open": 0, "half-open": self.successes}[self.state]
        return f"{self.state} {count}"


small = st.integers(1, 4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([1, RESET // 2, RESET - 1, RESET])),
        st.tuples(st.sampled_from(["succeed", "fail", "leave", "lose"]), st.integers(0, 7)),
        st.tuples(st.just("force"), st.sampled_from([FORCED_NOT, FORCED_NOT, FORCED_OPEN, FORCED_CLOSED])),
    ),
    max_size=80,
)
OUTCOMES = {"succeed": SUCCESS, "fail": FAILURE, "leave": NO_VERDICT}


@given(failures=small, successes=small, trials=small, workers=st.integers(1, 3), steps=steps)
def test_any_sequence_goes_as_in_the_model(
    failures: int, successes: int, trials: int, workers: int, steps: list[tuple[str, int]]
) -> None:
    settings = {"failure_threshold": failures, "success_threshold": successes, "half_open_requests": trials}
    upstream, model = Upstream(**settings), Model(failures, successes, trials)
    gates = [upstream.another(**settings) for _ in range(workers)]
    under_way: list[bool] = []  # whether each is a trial
    for number, (step, value) in enumerate(steps):
        upstream.gate = gates[number % workers]
        if step == "admit":
            admitted = upstream.admit()
            assert admitted == model.admit(upstream.now)
            if admitted != REFUSED:
                under_way.append(admitted == TRIAL)
        elif step == "wait":
            upstream.now += value
        elif step == "force":
            upstream.force(value)
            model.forced = value
        elif under_way:
            trial = under_way.pop(value % len(under_way))
            if step != "lose":  # with its worker
                outcome = OUTCOMES[step]
                assert upstream.settle(outcome, trial) == model.settle(outcome, trial, upstream.now)
        assert (repr(upstream), upstream.opened) == (repr(model), model.opened)
