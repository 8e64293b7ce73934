"""Balancers: traces of picks over shared cells, as the workers of one gateway would make them."""

from __future__ import annotations

import os
from collections import Counter
from mmap import mmap
from typing import get_args

import pytest

from kairos._speedups.balance import Balancer, cycle_weights, make
from kairos._speedups.cells import STATE_DOWN, STATE_DRAIN, STATE_UP, SU_CELLS, SU_SKIP_UNTIL_US, SU_STATE, Page
from kairos._speedups.ring import hash_of
from kairos.config.model import Strategy

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
NOW = 1_000_000_000


class Gateway:
    """A page with a cursor, the backends' shared blocks, and their in-flight cells for each worker."""

    def __init__(self, strategy: Strategy, *weights: int, workers: int = 2) -> None:
        self.strategy, self.weights, self.workers = strategy, weights, workers
        self.stride = 8 * len(weights)
        self.flights = 8 + SU_CELLS * len(weights)
        self.page = Page(mmap(-1, 8 * (self.flights + self.stride * workers + 8)))
        self.balancer = self.worker(seed=1)

    def worker(self, seed: int) -> Balancer:
        """A balancer as another process makes it, over the same cells."""
        count = len(self.weights)
        backends = [
            (8 + SU_CELLS * number, self.flights + 8 * number, self.weights[number], f"http://b{number}:80")
            for number in range(count)
        ]
        return make(
            self.strategy,
            self.page,
            cursor=0,
            workers=self.workers,
            stride=self.stride,
            backends=backends,
            seed=seed,
        )

    def picks(self, count: int, now_us: int = NOW) -> str:
        """The next picks as letters."""
        return "".join(chr(65 + self.balancer.choose(hash_of(b"%d" % n), now_us)) for n in range(count))

    def state(self, backend: int, value: int) -> None:
        self.page.set(8 + SU_CELLS * backend + SU_STATE, value)

    def skip_until(self, backend: int, us: int) -> None:
        self.page.set(8 + SU_CELLS * backend + SU_SKIP_UNTIL_US, us)

    def in_flight(self, backend: int, worker: int, count: int) -> None:
        self.page.set(self.flights + worker * self.stride + 8 * backend, count)


# --- common to all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_backends_no_pick(strategy: Strategy) -> None:
    gateway = Gateway(strategy)
    assert gateway.balancer.choose() == -1
    assert len(gateway.balancer) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_backend_is_always_picked(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 3)
    assert gateway.picks(20) == "A" * 20
    gateway.state(0, STATE_DOWN)
    assert gateway.picks(20) == "A" * 20


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("state", [STATE_DOWN, STATE_DRAIN])
def test_a_backend_that_is_out_is_skipped(strategy: Strategy, state: int) -> None:
    gateway = Gateway(strategy, 1, 1, 1)
    gateway.state(1, state)
    assert set(gateway.picks(200)) <= {"A", "C"}
    gateway.state(0, state)
    assert set(gateway.picks(50)) == {"C"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_backend_is_skipped_until_its_time(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1)
    gateway.skip_until(0, NOW + 1)
    assert set(gateway.picks(50, NOW)) == {"B"}
    gateway.state(1, STATE_DOWN)
    gateway.skip_until(0, NOW)
    assert set(gateway.picks(50, NOW)) == {"A"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_all_out_all_are_tried(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1)
    for backend in range(3):
        gateway.state(backend, STATE_DOWN)
    assert set(gateway.picks(300)) == {"A", "B", "C"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cells_outside_the_page_are_refused(strategy: Strategy) -> None:
    page = Page(mmap(-1, 8 * 64))
    with pytest.raises(IndexError):
        make(strategy, page, cursor=0, workers=9, stride=8, backends=[(8, 16, 1, "a")], seed=1)
    with pytest.raises(IndexError):
        make(strategy, page, cursor=64, workers=1, stride=8, backends=[(8, 16, 1, "a")], seed=1)
    with pytest.raises(ValueError, match="0 workers"):
        make(strategy, page, cursor=0, workers=0, stride=8, backends=[(8, 16, 1, "a")], seed=1)


# --- round robin -----------------------------------------------------------------------------------------------------


def test_round_robin_begins_with_the_first() -> None:
    assert Gateway("round_robin", 1, 1, 1).picks(7) == "ABCABCA"


def test_round_robin_is_exact_over_two_workers() -> None:
    gateway = Gateway("round_robin", 1, 1, 1)
    here, there = gateway.worker(1), gateway.worker(2)
    assert [here.choose(), there.choose(), there.choose(), here.choose()] == [0, 1, 2, 0]


def test_round_robin_gives_the_turns_of_one_that_is_out_to_the_others_in_turn() -> None:
    gateway = Gateway("round_robin", 1, 1, 1)
    gateway.state(1, STATE_DOWN)
    assert gateway.picks(12) == "AACACCAACACC"
    gateway.state(1, STATE_UP)
    assert gateway.picks(3) == "ABC"


def test_round_robin_is_exact_over_forked_processes() -> None:
    gateway = Gateway("round_robin", 1, 1, 1, 1)
    tally = Page(memory := mmap(-1, 4096))
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            for _ in range(4000):
                tally.add(gateway.balancer.choose(), 1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert [tally.get(backend) for backend in range(4)] == [3000] * 4
    assert len(memory) == 4096


# --- least connections, p2c, random ----------------------------------------------------------------------------------


def test_least_connections_counts_all_workers() -> None:
    gateway = Gateway("least_connections", 1, 1, 1)
    gateway.in_flight(0, 0, 2)
    gateway.in_flight(1, 1, 1)
    gateway.in_flight(2, 0, 1)
    gateway.in_flight(2, 1, 1)
    assert gateway.picks(5) == "BBBBB"
    gateway.in_flight(1, 0, 5)
    assert set(gateway.picks(5)) == {"A", "C"}


def test_least_connections_rotates_ties() -> None:
    assert Gateway("least_connections", 1, 1, 1).picks(6) == "ABCABC"


def test_least_connections_passes_a_free_backend_that_is_out() -> None:
    gateway = Gateway("least_connections", 1, 1)
    gateway.in_flight(0, 0, 9)
    gateway.state(1, STATE_DOWN)
    assert gateway.picks(3) == "AAA"


@pytest.mark.parametrize("strategy", ["random", "p2c"])
def test_random_picks_are_even(strategy: Strategy) -> None:
    shares = Counter(Gateway(strategy, 1, 1, 1, 1).picks(8000))
    assert all(1800 < shares[letter] < 2200 for letter in "ABCD")


@pytest.mark.parametrize("strategy", ["random", "p2c"])
def test_two_workers_draw_different_numbers(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1, 1)
    here, there = gateway.worker(1), gateway.worker(2)
    assert [here.choose() for _ in range(64)] != [there.choose() for _ in range(64)]


def test_random_stays_even_without_one() -> None:
    gateway = Gateway("random", 1, 1, 1, 1)
    gateway.state(0, STATE_DOWN)
    shares = Counter(gateway.picks(6000))
    assert all(1800 < shares[letter] < 2200 for letter in "BCD")


def test_p2c_never_picks_the_busiest() -> None:
    gateway = Gateway("p2c", 1, 1, 1)
    gateway.in_flight(1, 1, 10)
    assert set(gateway.picks(300)) == {"A", "C"}


def test_p2c_prefers_the_less_busy() -> None:
    gateway = Gateway("p2c", 1, 1)
    gateway.in_flight(0, 0, 1)
    assert set(gateway.picks(100)) == {"B"}


# --- weighted --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "cycle"),
    [
        ((2, 1), "ABA"),
        ((200, 100), "ABA"),
        ((1, 1, 1), "ABC"),
        ((5, 1, 1), "AABACAA"),
        ((1, 2, 3), "CBACBC"),
        ((7,), "A"),
    ],
)
def test_weighted_is_smooth_and_exact(weights: tuple[int, ...], cycle: str) -> None:
    assert Gateway("weighted", *weights).picks(len(cycle) * 3) == cycle * 3


def test_weighted_two_to_one_over_thirty_picks() -> None:
    assert Counter(Gateway("weighted", 2, 1).picks(30)) == {"A": 20, "B": 10}


def test_weighted_is_exact_over_two_workers() -> None:
    gateway = Gateway("weighted", 3, 1)
    here, there = gateway.worker(1), gateway.worker(2)
    assert Counter([here.choose() for _ in range(50)] + [there.choose() for _ in range(50)]) == {0: 75, 1: 25}


def test_weighted_shares_the_turns_of_one_that_is_out_by_weight() -> None:
    gateway = Gateway("weighted", 6, 3, 1)
    gateway.state(0, STATE_DOWN)
    shares = Counter(gateway.picks(8000))
    assert shares["A"] == 0
    assert 2.6 < shares["B"] / shares["C"] < 3.4


@pytest.mark.parametrize("weights", [[1_000_000, 1], [999_983, 999_979, 7], [1_000_000] * 3 + [1]])
def test_a_long_cycle_is_scaled_down(weights: list[int]) -> None:
    cycle = cycle_weights(weights)
    assert sum(cycle) <= 65_536
    assert min(cycle) >= 1
    for weight, turns in zip(weights, cycle, strict=True):
        if weight > 1000:
            assert abs(turns / sum(cycle) - weight / sum(weights)) < 0.001


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Gateway("weighted", 1, 0)


# --- ip hash ---------------------------------------------------------------------------------------------------------


def test_ip_hash_keeps_a_client_with_its_backend() -> None:
    gateway = Gateway("ip_hash", 1, 1, 1)
    other = gateway.worker(9)
    for number in range(200):
        key = hash_of(b"10.0.0.%d" % number)
        assert len({gateway.balancer.choose(key), gateway.balancer.choose(key), other.choose(key)}) == 1


def test_ip_hash_moves_only_the_clients_of_a_backend_that_is_out() -> None:
    gateway = Gateway("ip_hash", 1, 1, 1, 1)
    before = gateway.picks(1000)
    gateway.state(2, STATE_DOWN)
    after = gateway.picks(1000)
    assert {old for old, new in zip(before, after, strict=True) if old != new} == {"C"}
    assert set(after) == {"A", "B", "D"}
    gateway.state(2, STATE_UP)
    assert gateway.picks(1000) == before


# --- ewma ------------------------------------------------------------------------------------------------------------


def test_ewma_prefers_the_faster() -> None:
    gateway = Gateway("ewma", 1, 1)
    gateway.balancer.observe(0, 20_000, NOW)
    gateway.balancer.observe(1, 5_000, NOW)
    assert gateway.picks(5) == "BBBBB"


def test_ewma_weighs_latency_by_requests_in_flight() -> None:
    gateway = Gateway("ewma", 1, 1)
    gateway.balancer.observe(0, 20_000, NOW)
    gateway.balancer.observe(1, 5_000, NOW)
    gateway.in_flight(1, 0, 2)
    gateway.in_flight(1, 1, 2)
    assert gateway.picks(3) == "AAA"


def test_ewma_starts_in_turn_and_does_not_flood_one_never_tried() -> None:
    gateway = Gateway("ewma", 1, 1, 1)
    assert gateway.picks(6) == "ABCABC"
    gateway.balancer.observe(0, 5_000, NOW)
    gateway.in_flight(1, 0, 1)
    gateway.in_flight(2, 0, 1)
    assert gateway.picks(3) == "AAA"


def test_ewma_sees_what_another_worker_observed() -> None:
    gateway = Gateway("ewma", 1, 1)
    there = gateway.worker(2)
    there.observe(0, 50_000, NOW)
    there.observe(1, 1_000, NOW)
    assert gateway.picks(3) == "BBB"


def test_ewma_goes_up_at_once_and_down_slowly() -> None:
    gateway = Gateway("ewma", 1, 1)
    gateway.balancer.observe(0, 1_000, NOW)
    gateway.balancer.observe(1, 3_000, NOW)
    assert gateway.picks(2) == "AA"
    gateway.balancer.observe(0, 90_000, NOW + 1_000)
    gateway.balancer.observe(0, 1_000, NOW + 2_000)
    assert gateway.picks(2, NOW + 2_000) == "BB"


def test_ewma_tries_a_slow_backend_again_once_its_latency_has_faded() -> None:
    gateway = Gateway("ewma", 1, 1)
    gateway.balancer.observe(0, 80_000, NOW)
    later = NOW
    for _ in range(30):
        later += 1_000_000
        gateway.balancer.observe(1, 5_000, later)
        if gateway.picks(1, later) == "A":
            break
    assert 10_000_000 < later - NOW < 25_000_000  # four half-lives from 80 ms to 5 ms


def test_ewma_survives_odd_times() -> None:
    gateway = Gateway("ewma", 1, 1)
    gateway.balancer.observe(0, -5, NOW)
    gateway.balancer.observe(1, 1 << 40, NOW - 1_000_000)
    assert gateway.picks(2, NOW - 2_000_000) == "AA"
    assert set(gateway.picks(4, 1 << 60)) == {"A", "B"}
    with pytest.raises(IndexError, match="backend 2 of 2"):
        gateway.balancer.observe(2, 1, NOW)
