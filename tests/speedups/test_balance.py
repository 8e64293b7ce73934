"""Balancers: traces of picks over shared cells, as the workers of one gateway would make them."""

from __future__ import annotations

import os
from collections import Counter
from mmap import mmap
from typing import get_args

import pytest

from kairos._speedups import cells
from kairos._speedups.balance import ALL_FULL, NONE_LEFT, Balancer, cycle_weights, make
from kairos._speedups.breaker import OPEN
from kairos._speedups.cells import OUT_DOWN, OUT_DRAIN, OUT_MAINTENANCE, SU_CELLS, Page
from kairos._speedups.ring import hash_of
from kairos.config.model import Strategy

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
NOW = 1_000_000_000
SLOW_START = 10_000_000


class Gateway:
    """A page with a cursor, the backends' shared blocks, and their in-flight cells for each worker."""

    def __init__(
        self,
        strategy: Strategy,
        *weights: int,
        workers: int = 2,
        limits: tuple[int, ...] = (),
        panic: float = 0,
        breakers: bool = True,
    ) -> None:
        self.strategy, self.weights, self.workers = strategy, weights, workers
        self.limits = limits or (0,) * len(weights)
        self.panic, self.breakers = panic, breakers
        self.stride = 8 * len(weights)
        self.flights = 8 + SU_CELLS * len(weights)
        self.page = Page(mmap(-1, 8 * (self.flights + self.stride * workers + 8)))
        self.balancer = self.worker(seed=1)

    def worker(self, seed: int) -> Balancer:
        """A balancer as another process makes it, over the same cells."""
        backends = [
            (8 + SU_CELLS * number, self.flights + 8 * number, weight, f"http://b{number}:80", limit)
            for number, (weight, limit) in enumerate(zip(self.weights, self.limits, strict=True))
        ]
        return make(
            self.strategy,
            self.page,
            cursor=0,
            workers=self.workers,
            stride=self.stride,
            backends=backends,
            seed=seed,
            slow_us=SLOW_START,
            panic_percent=self.panic,
            breakers=self.breakers,
        )

    def picks(self, count: int, now_us: int = NOW, tried: str = "") -> str:
        """The next picks as letters; - where none is left, + where all are full."""
        mask = sum(1 << ord(letter) - 65 for letter in tried)
        picked = [self.balancer.choose(hash_of(b"%d" % n), now_us, mask) for n in range(count)]
        return "".join({NONE_LEFT: "-", ALL_FULL: "+"}.get(index) or chr(65 + index) for index in picked)

    def set(self, backend: str, cell: int, value: int) -> None:
        self.page.set(8 + SU_CELLS * (ord(backend) - 65) + cell, value)

    def out(self, backends: str, why: int = OUT_DOWN) -> None:
        for backend in backends:
            self.set(backend, cells.SU_OUT, why)

    def skip_until(self, backend: str, us: int) -> None:
        self.set(backend, cells.SU_SKIP_UNTIL_US, us)

    def weight(self, backend: str, percent: int) -> None:
        self.set(backend, cells.SU_WEIGHT, percent + 1)

    def in_flight(self, backend: str, count: int, worker: int = 0) -> None:
        self.page.set(self.flights + worker * self.stride + 8 * (ord(backend) - 65), count)


# --- who may be picked -----------------------------------------------------------------------------------------------

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
counting = pytest.mark.parametrize("strategy", ["round_robin", "weighted", "random"])
comparing = pytest.mark.parametrize("strategy", ["least_connections", "p2c", "ewma"])


@each_strategy
def test_no_backends_no_pick(strategy: Strategy) -> None:
    gateway = Gateway(strategy)
    assert gateway.picks(1) == "-"
    assert len(gateway.balancer) == 0


@each_strategy
def test_one_backend_is_always_picked(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 3)
    assert gateway.picks(20) == "A" * 20
    gateway.out("A")
    assert gateway.picks(20) == "A" * 20


@each_strategy
@pytest.mark.parametrize("why", [OUT_DOWN, OUT_DRAIN, OUT_MAINTENANCE])
def test_a_backend_that_is_out_is_skipped(strategy: Strategy, why: int) -> None:
    gateway = Gateway(strategy, 1, 1, 1)
    gateway.out("B", why)
    assert set(gateway.picks(200)) == {"A", "C"}
    gateway.out("A", why)
    assert set(gateway.picks(200)) == {"C"}


@each_strategy
def test_a_backend_is_skipped_until_its_time(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1)
    gateway.skip_until("A", NOW + 1)
    assert set(gateway.picks(50, NOW)) == {"B"}
    gateway.out("B")
    gateway.skip_until("A", NOW)
    assert set(gateway.picks(50, NOW)) == {"A"}


@each_strategy
def test_with_all_down_all_are_tried(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1)
    gateway.out("AB")
    gateway.skip_until("C", NOW + 1)
    assert set(gateway.picks(300)) == {"A", "B", "C"}


@each_strategy
def test_what_an_operator_took_out_is_never_tried(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1)
    gateway.out("A", OUT_DRAIN | OUT_DOWN)
    gateway.out("B", OUT_MAINTENANCE)
    gateway.out("C")
    assert set(gateway.picks(300)) == {"C"}
    gateway.weight("C", 0)
    assert set(gateway.picks(300)) == {"-"}


@each_strategy
def test_an_open_breaker_keeps_everybody_out(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1)
    for backend in "AB":
        gateway.set(backend, cells.SU_FORCED, cells.FORCED_OPEN)
    assert set(gateway.picks(50)) == {"-"}
    gateway.set("B", cells.SU_FORCED, cells.FORCED_NOT)
    assert set(gateway.picks(50)) == {"B"}


@each_strategy
def test_a_route_without_breakers_does_not_ask_them(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, breakers=False)
    gateway.set("A", cells.SU_BREAKER, OPEN)
    gateway.set("A", cells.SU_OPEN_UNTIL_US, NOW + 1)
    assert set(gateway.picks(100)) == {"A", "B"}
    gateway.set("A", cells.SU_FORCED, cells.FORCED_OPEN)  # an operator's word holds on all routes
    assert set(gateway.picks(100)) == {"B"}


@each_strategy
def test_in_panic_verdicts_are_not_believed(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1, 1, panic=50)
    gateway.out("A")
    assert set(gateway.picks(400)) == {"B", "C", "D"}
    gateway.skip_until("B", NOW + 1)
    assert set(gateway.picks(400)) == {"A", "B", "C", "D"}
    gateway.out("C", OUT_DRAIN)
    assert set(gateway.picks(400)) == {"A", "B", "D"}


@each_strategy
def test_tried_backends_are_avoided_while_there_is_another(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1)
    assert set(gateway.picks(200, tried="B")) == {"A", "C"}
    assert set(gateway.picks(200, tried="AB")) == {"C"}
    assert set(gateway.picks(200, tried="ABC")) == {"A", "B", "C"}
    gateway.out("C", OUT_DRAIN)
    assert set(gateway.picks(200, tried="A")) == {"B"}
    assert set(gateway.picks(200, tried="AB")) == {"A", "B"}


@each_strategy
def test_one_that_was_tried_is_avoided_among_many_too(strategy: Strategy) -> None:
    """A bit stands for each 64th backend, so that 1 is avoided with 65."""
    gateway = Gateway(strategy, *[1] * 66)
    picked = {gateway.balancer.choose(hash_of(b"%d" % n), NOW, 1 << (65 & 63)) for n in range(2000)}
    assert len(picked) > 40
    assert not picked & {1, 65}
    all_but_64 = ((1 << 64) - 1) ^ 1
    assert {gateway.balancer.choose(hash_of(b"%d" % n), NOW, all_but_64) for n in range(400)} == {0, 64}


@each_strategy
def test_a_full_backend_is_passed_over(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1, limits=(3, 0, 2))
    gateway.in_flight("A", 2, worker=0)
    gateway.in_flight("A", 1, worker=1)
    gateway.in_flight("C", 1)
    assert set(gateway.picks(300)) <= {"B", "C"}
    gateway.in_flight("C", 2)
    assert set(gateway.picks(300)) == {"B"}
    gateway.out("B")
    assert set(gateway.picks(300)) == {"+"}
    gateway.in_flight("A", 0, worker=1)
    assert set(gateway.picks(300)) == {"A"}


@each_strategy
def test_full_is_not_none_left(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, limits=(1, 1))
    gateway.in_flight("A", 1)
    gateway.in_flight("B", 1)
    assert gateway.picks(1) == "+"
    gateway.out("AB", OUT_MAINTENANCE)
    assert gateway.picks(1) == "-"


@pytest.mark.parametrize("strategy", ["round_robin", "weighted"])
def test_a_further_attempt_uses_up_no_turn(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1)
    begun = ""
    for _ in range(4):
        begun += (first := gateway.picks(1))
        assert gateway.picks(1, tried=first) != first
    assert begun == "ABAB"


@each_strategy
def test_a_tried_one_is_better_than_a_full_one(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, limits=(1, 1))
    gateway.in_flight("A", 1)
    assert gateway.picks(3, tried="B") == "BBB"


@each_strategy
def test_cells_outside_the_page_are_refused(strategy: Strategy) -> None:
    page = Page(mmap(-1, 8 * 64))

    def made(cursor: int, workers: int) -> Balancer:
        backends = [(8, 40, 1, "a", 0)]
        return make(
            strategy,
            page,
            cursor=cursor,
            workers=workers,
            stride=8,
            backends=backends,
            seed=1,
            slow_us=0,
            panic_percent=0,
            breakers=True,
        )

    with pytest.raises(IndexError):
        made(cursor=0, workers=9)
    with pytest.raises(IndexError):
        made(cursor=64, workers=1)
    with pytest.raises(ValueError, match="0 workers"):
        made(cursor=0, workers=0)


# --- shares ----------------------------------------------------------------------------------------------------------


def part(gateway: Gateway, backend: str, now_us: int = NOW, count: int = 20_000) -> float:
    return gateway.picks(count, now_us).count(backend) / count


@counting
@pytest.mark.parametrize(("percent", "expected"), [(100, 1 / 4), (50, 0.5 / 3.5), (10, 0.1 / 3.1), (1, 0.01 / 3.01)])
def test_an_operators_weight_is_met_exactly(strategy: Strategy, percent: int, expected: float) -> None:
    gateway = Gateway(strategy, 1, 1, 1, 1)
    gateway.weight("B", percent)
    assert part(gateway, "B") == pytest.approx(expected, abs=0.012, rel=0.1)
    assert part(gateway, "C") == pytest.approx((1 - expected) / 3, abs=0.012)


def test_weighted_multiplies_weight_and_share() -> None:
    gateway = Gateway("weighted", 6, 3, 1)
    gateway.weight("A", 50)
    assert part(gateway, "A") == pytest.approx(3 / 7, abs=0.012)
    assert part(gateway, "B") == pytest.approx(3 / 7, abs=0.012)


@each_strategy
def test_small_shares_of_all_leave_everybody_served(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1)
    for backend in "ABC":
        gateway.weight(backend, 1)
    assert set(gateway.picks(600)) == {"A", "B", "C"}


@comparing
def test_idle_backends_are_compared_by_share(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1, 1)
    gateway.weight("B", 20)
    assert 0.01 < part(gateway, "B") < 0.12


@comparing
def test_a_load_counts_as_much_more_as_the_share_is_less(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1)
    gateway.weight("B", 10)
    gateway.in_flight("A", 4)
    gateway.in_flight("B", 1)
    assert set(gateway.picks(100)) == {"A"}
    gateway.in_flight("A", 200)
    assert set(gateway.picks(100)) == {"B"}


@counting
def test_slow_start_goes_from_a_tenth_to_all(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1)
    gateway.set("A", cells.SU_BACK_AT_US, NOW)
    assert part(gateway, "A", NOW - 1) == pytest.approx(0.1 / 1.1, abs=0.012)  # another worker's clock was read before
    assert part(gateway, "A", NOW) == pytest.approx(0.1 / 1.1, abs=0.012)
    assert part(gateway, "A", NOW + SLOW_START // 2) == pytest.approx(0.55 / 1.55, abs=0.012)
    assert part(gateway, "A", NOW + SLOW_START) == pytest.approx(0.5, abs=0.012)


@comparing
def test_slow_start_holds_back_those_that_compare(strategy: Strategy) -> None:
    gateway = Gateway(strategy, 1, 1, 1)
    gateway.set("A", cells.SU_BACK_AT_US, NOW)
    assert part(gateway, "A", NOW) < 0.08
    assert part(gateway, "A", NOW + SLOW_START) == pytest.approx(1 / 3, abs=0.02)


def test_ip_hash_ignores_slow_start() -> None:
    gateway = Gateway("ip_hash", 1, 1, 1)
    before = gateway.picks(1000)
    gateway.set("A", cells.SU_BACK_AT_US, NOW)
    assert gateway.picks(1000) == before


def test_ip_hash_moves_always_the_same_keys_when_a_weight_falls() -> None:
    gateway = Gateway("ip_hash", 1, 1, 1)
    whole = gateway.picks(3000)
    kept = {n for n, letter in enumerate(whole) if letter == "B"}
    for percent in (70, 30, 5):
        gateway.weight("B", percent)
        picks = gateway.picks(3000)
        assert picks == gateway.picks(3000)
        left = {n for n, letter in enumerate(picks) if letter == "B"}
        assert left < kept
        assert len(left) == pytest.approx(whole.count("B") * percent / 100, rel=0.25, abs=15)
        assert all(old == new for old, new in zip(whole, picks, strict=True) if old != "B")
        kept = left


def test_ip_hash_has_a_place_for_keys_that_nobody_keeps() -> None:
    gateway = Gateway("ip_hash", 1, 1)
    gateway.weight("A", 1)
    gateway.weight("B", 1)
    assert set(gateway.picks(500)) == {"A", "B"}


# --- round robin -----------------------------------------------------------------------------------------------------


def test_round_robin_begins_with_the_first() -> None:
    assert Gateway("round_robin", 1, 1, 1).picks(7) == "ABCABCA"


def test_round_robin_is_exact_over_two_workers() -> None:
    gateway = Gateway("round_robin", 1, 1, 1)
    here, there = gateway.worker(1), gateway.worker(2)
    assert [here.choose(), there.choose(), there.choose(), here.choose()] == [0, 1, 2, 0]


def test_round_robin_spreads_the_turns_of_one_that_is_out_evenly() -> None:
    gateway = Gateway("round_robin", 1, 1, 1)
    gateway.out("B")
    shares = Counter(gateway.picks(300))
    assert abs(shares["A"] - shares["C"]) <= 4
    gateway.out("B", 0)
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
    gateway.in_flight("A", 2)
    gateway.in_flight("B", 1, worker=1)
    gateway.in_flight("C", 1)
    gateway.in_flight("C", 1, worker=1)
    assert gateway.picks(5) == "BBBBB"
    gateway.in_flight("B", 5)
    assert set(gateway.picks(5)) == {"A", "C"}


def test_least_connections_rotates_ties() -> None:
    assert Gateway("least_connections", 1, 1, 1).picks(6) == "ABCABC"


def test_least_connections_passes_a_free_backend_that_is_out() -> None:
    gateway = Gateway("least_connections", 1, 1)
    gateway.in_flight("A", 9)
    gateway.out("B")
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
    gateway.out("A")
    shares = Counter(gateway.picks(6000))
    assert all(1800 < shares[letter] < 2200 for letter in "BCD")


def test_p2c_never_picks_the_busiest() -> None:
    gateway = Gateway("p2c", 1, 1, 1)
    gateway.in_flight("B", 10, worker=1)
    assert set(gateway.picks(300)) == {"A", "C"}


def test_p2c_prefers_the_less_busy() -> None:
    gateway = Gateway("p2c", 1, 1)
    gateway.in_flight("A", 1)
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
    gateway.out("A")
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
    gateway.out("C")
    after = gateway.picks(1000)
    assert {old for old, new in zip(before, after, strict=True) if old != new} == {"C"}
    assert set(after) == {"A", "B", "D"}
    gateway.out("C", 0)
    assert gateway.picks(1000) == before


# --- many backends ---------------------------------------------------------------------------------------------------


@comparing
def test_among_many_the_loaded_are_avoided(strategy: Strategy) -> None:
    gateway = Gateway(strategy, *[1] * 40)
    for backend in range(20):
        gateway.in_flight(chr(65 + backend), 50)
    busy = sum(gateway.balancer.choose(0, NOW) < 20 for _ in range(2000))
    assert busy < 2000 * 0.3  # by chance it would be half


@comparing
def test_among_many_one_that_is_out_is_never_picked(strategy: Strategy) -> None:
    gateway = Gateway(strategy, *[1] * 40)
    gateway.out("ABCDE")
    picked = Counter(gateway.balancer.choose(0, NOW) for _ in range(8000))
    assert set(picked) == set(range(5, 40))
    assert min(picked.values()) > 100


# --- ewma ------------------------------------------------------------------------------------------------------------


def learned(gateway: Gateway, backend: str, us: int, samples: int = 200, ok: bool = True) -> None:
    """So many attempts, one after the other, ending now."""
    for _ in range(samples):
        gateway.balancer.observe(ord(backend) - 65, us, ok, NOW)


def test_ewma_prefers_the_faster() -> None:
    gateway = Gateway("ewma", 1, 1)
    learned(gateway, "A", 20_000)
    learned(gateway, "B", 5_000)
    assert gateway.picks(5) == "BBBBB"


def test_ewma_does_not_crowd_the_faster() -> None:
    gateway = Gateway("ewma", 1, 1)
    learned(gateway, "A", 7_000)
    learned(gateway, "B", 5_000)
    gateway.in_flight("B", 20)
    gateway.in_flight("B", 20, worker=1)
    assert gateway.picks(3) == "AAA"


def test_ewma_leaves_a_fast_backend_alone_whose_queue_grows() -> None:
    gateway = Gateway("ewma", 1, 1)
    learned(gateway, "A", 20_000)
    for load in [*range(1, 10)] * 40:  # one slot: each request in flight adds 5 ms
        gateway.in_flight("B", load - 1)
        gateway.balancer.observe(1, 5_000 * load, True, NOW)
    gateway.in_flight("B", 0)
    assert gateway.picks(100).count("B") > 80
    gateway.in_flight("B", 8)
    assert set(gateway.picks(100)) == {"A"}


def test_ewma_fills_a_fast_backend_whose_slots_are_free() -> None:
    gateway = Gateway("ewma", 1, 1)
    learned(gateway, "A", 20_000)
    for load in [*range(1, 10)] * 40:
        gateway.in_flight("B", load - 1)
        gateway.balancer.observe(1, 5_000, True, NOW)
    assert gateway.picks(3) == "BBB"


def test_ewma_ignores_differences_within_the_noise() -> None:
    gateway = Gateway("ewma", 1, 1)
    for _ in range(200):
        for us in (1_000, 9_000):
            gateway.balancer.observe(0, us, True, NOW)
            gateway.balancer.observe(1, us + 200, True, NOW)
    assert set(gateway.picks(100)) == {"A", "B"}


def test_ewma_does_not_flood_one_never_tried() -> None:
    gateway = Gateway("ewma", 1, 1, 1)
    assert set(gateway.picks(60)) == {"A", "B", "C"}
    learned(gateway, "A", 5_000)
    gateway.in_flight("B", 3)
    gateway.in_flight("C", 3)
    assert gateway.picks(5) == "AAAAA"


def test_ewma_avoids_one_that_fails_although_it_is_fast() -> None:
    gateway = Gateway("ewma", 1, 1)
    learned(gateway, "A", 20_000)
    learned(gateway, "B", 20_000)
    learned(gateway, "B", 100, samples=12, ok=False)
    gateway.in_flight("A", 2)
    assert gateway.picks(5) == "AAAAA"
    learned(gateway, "B", 20_000, samples=60)
    assert gateway.picks(5) == "BBBBB"


def test_ewma_counts_attempts_without_an_answer_as_failures_only() -> None:
    gateway = Gateway("ewma", 1, 1)
    learned(gateway, "A", 20_000)
    learned(gateway, "B", 20_000)
    before = gateway.page.get(8 + SU_CELLS + cells.SU_EWMA_NS)
    learned(gateway, "B", -1, samples=12, ok=False)
    assert gateway.page.get(8 + SU_CELLS + cells.SU_EWMA_NS) == before
    assert gateway.picks(5) == "AAAAA"


def test_ewma_sees_what_another_worker_observed() -> None:
    gateway = Gateway("ewma", 1, 1)
    there = gateway.worker(2)
    for _ in range(50):
        there.observe(0, 50_000, True, NOW)
        there.observe(1, 1_000, True, NOW)
    assert gateway.picks(3) == "BBB"


def test_ewma_asks_a_slow_backend_now_and_then_and_takes_it_back() -> None:
    gateway = Gateway("ewma", 1, 1)
    learned(gateway, "A", 80_000)
    learned(gateway, "B", 5_000)
    asked = []
    for second in range(1, 41):
        now = NOW + second * 1_100_000
        picks = gateway.picks(200, now)
        asked.append(picks.count("A"))
        for letter in picks:
            gateway.balancer.observe(ord(letter) - 65, 80_000 if letter == "A" and second <= 20 else 5_000, True, now)
    assert max(asked[:20]) <= 2
    assert sum(asked[:20]) >= 20
    assert min(asked[30:]) > 50


def test_ewma_probes_only_an_idle_backend() -> None:
    gateway = Gateway("ewma", 1, 1)
    learned(gateway, "A", 80_000)
    learned(gateway, "B", 5_000)
    gateway.in_flight("A", 1)  # the answer is still to come
    assert set(gateway.picks(500, NOW + 3_600_000_000)) == {"B"}


def test_ewma_survives_odd_times() -> None:
    gateway = Gateway("ewma", 1, 1)
    gateway.balancer.observe(0, -5, True, NOW)
    gateway.balancer.observe(0, 0, True, NOW)
    gateway.balancer.observe(1, 1 << 40, True, NOW - 1_000_000)
    gateway.in_flight("B", 1_000_000)
    gateway.balancer.observe(1, 1 << 62, True, NOW)
    gateway.in_flight("B", 0)
    assert set(gateway.picks(50, NOW - 2_000_000)) <= {"A", "B"}
    assert set(gateway.picks(400, 1 << 60)) <= {"A", "B"}
    with pytest.raises(IndexError, match="backend 2 of 2"):
        gateway.balancer.observe(2, 1, True, NOW)
