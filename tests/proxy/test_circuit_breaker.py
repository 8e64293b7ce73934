"""Circuit breakers seen from outside: what clients get, what backends are asked, what the log tells."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kairos._speedups import breaker, cells
from kairos.scoreboard import Capacity, Scoreboard
from tests.proxy.test_retry import (
    Act,
    Backend,
    Hold,
    Served,
    answer,
    asked,
    before,
    hang_up,
    head,
    reset,
    then_hang_up,
)  # fmt: skip
from tests.support.gateway import Gateway, gateway, route
from tests.support.net import Peer, dead_port, origin, status_of
from tests.support.ws import handshake, open_websocket, switching

BREAKER = {"failure_threshold": 5, "success_threshold": 2, "reset_timeout": 30.0, "half_open_requests": 2}


def shared(served: Served) -> int:
    """Where the shared cells of the first backend begin."""
    return served.board.shared_upstream(served._revision.series.upstream(served.urls[0]))


def state(served: Served) -> tuple[str, int]:
    """State and count of the first backend's breaker."""
    word = served.board.page.get(shared(served) + cells.SU_BREAKER)
    names = {breaker.CLOSED: "closed", breaker.OPEN: "open", breaker.HALF_OPEN: "half-open"}
    return names[word & 3], word >> 22


def wait_state(served: Served, name: str, count: int) -> None:
    served.wait(lambda: state(served) == (name, count), f"{(name, count)}, it is {state(served)}")


# ---- what counts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acts", "failures"),
    [
        ([answer(500)] * 4, 4),
        ([answer(503), answer(599)], 2),
        ([answer(400), answer(404), answer(429), answer(499)], 0),
        ([answer(500)] * 4 + [answer(200)], 0),
        ([answer(500)] * 4 + [answer(404)], 0),
        ([answer(503, b"", "Content-Type: text/event-stream")] * 3, 3),
        ([reset] * 3, 3),
        ([then_hang_up(b"HTTP/1.1 200 OK\r\nContent-Le")] * 3, 3),
        ([then_hang_up(b"no HTTP\r\n\r\n")] * 3, 3),
    ],
)
def test_what_counts_as_a_failure(acts: list[Act], failures: int) -> None:
    with before(Backend("only", *acts), circuit_breaker=BREAKER) as served:
        for _ in acts:
            served.send()
        wait_state(served, "closed", failures)


def test_an_answer_that_breaks_off_counts() -> None:
    part = then_hang_up(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
    with before(Backend("only", part), circuit_breaker=BREAKER) as served:
        with served.connect() as client:
            client.send(head())
            client.receive_all()
        wait_state(served, "closed", 1)


def test_a_refused_connection_counts() -> None:
    with before(None, circuit_breaker=BREAKER) as served:
        assert [status_of(served.send("POST", body=b"x")[0]) for _ in range(6)] == [502] * 5 + [503]
        wait_state(served, "open", 0)


def test_a_timeout_counts() -> None:
    hold = Hold()
    with before(Backend("only", hold), circuit_breaker=BREAKER, timeouts={"first_byte": 0.1}) as served:
        assert status_of(served.send()[0]) == 504
        wait_state(served, "closed", 1)
        hold.released.set()


def test_so_do_the_statuses_the_route_lists_and_no_others() -> None:
    acts = [answer(429), answer(429), answer(500), answer(429)]
    with before(Backend("only", *acts), circuit_breaker={**BREAKER, "failure_status_codes": [429]}) as served:
        found = []
        for _ in acts:
            served.send()
            found.append(state(served)[1])
    assert found == [1, 2, 0, 1]


@pytest.mark.parametrize(
    ("members", "failures"),
    [({"cache": {}}, 0), ({}, 3), ({"cache": {"enabled": False}}, 3), ({"cache": {}, "circuit_breaker": BREAKER}, 3)],
)
def test_an_error_of_the_only_backend_behind_a_cache_is_none(members: dict[str, Any], failures: int) -> None:
    given: dict[str, Any] = {"circuit_breaker": None, **members}
    with before(Backend("only", *[answer(500)] * 3), **given) as served:
        for _ in range(3):
            served.send()
        wait_state(served, "closed", failures)


def test_of_two_backends_behind_a_cache_errors_count() -> None:
    with before(Backend("one", answer(500)), Backend("other"), circuit_breaker=None, cache={}) as served:
        served.send()
        wait_state(served, "closed", 1)


def test_a_refused_connection_behind_a_cache_counts() -> None:
    with before(None, circuit_breaker=None, cache={}) as served:
        assert [status_of(served.send("POST", body=b"x")[0]) for _ in range(6)] == [502] * 5 + [503]


def test_an_attempt_that_was_retried_counts() -> None:
    first, other = Backend("first", answer(503), hang_up), Backend("other")
    with before(first, other, circuit_breaker=BREAKER, retry={"initial_backoff_ms": 0}) as served:
        assert served.send()[1] == b"other"
        wait_state(served, "closed", 1)


def test_a_client_that_leaves_says_nothing_of_the_backend() -> None:
    holds = [Hold() for _ in range(2)]

    def half(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        holds[1](peer)

    with before(Backend("only", answer(500), holds[0], half), circuit_breaker=BREAKER) as served:
        served.send()
        with served.connect() as client:
            client.send(head(path="/1"))
            assert holds[0].reached.wait(25)
        served.wait_access(path="/1", status=499)
        with served.connect() as client:
            client.send(head(path="/2"))
            client.receive_until(b"12345")
        served.wait_access(path="/2", status=499)
        assert state(served) == ("closed", 1)
        for hold in holds:
            hold.released.set()


def test_a_client_that_reads_slowly_until_its_time_is_over_says_nothing_of_the_backend() -> None:
    large = answer(200, bytes(30_000_000))
    with before(Backend("only", large), circuit_breaker=BREAKER, timeouts={"total": 1.0}) as served:
        with served.connect() as client:
            client.send(head())
            served.wait_access(path="/x")
        assert served.access_lines()[-1]["detail"] == "total_timeout"
        assert state(served) == ("closed", 0)
        assert served.count("U_FAILURES") == 0


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_a_client_that_stops_in_its_body_says_nothing_of_the_backend(framing: str) -> None:
    """However short the time for the answer is: the backend waits for the client as we do."""
    timeouts = {"first_byte": 0.2, "total": 3.0}
    hold = Hold()
    first, other = Backend("first", hold, whole=False), Backend("other", hold, whole=False)
    retry = {"initial_backoff_ms": 0}
    with before(first, other, circuit_breaker=BREAKER, timeouts=timeouts, retry=retry) as served:
        with served.connect() as client:
            client.send(head("PUT", "/x", framing) + b"1\r\nx\r\n")
            served.wait_access(path="/x")
        hold.released.set()
        assert state(served) == ("closed", 0)
        assert served.count("U_FAILURES") == 0
        assert asked(first, other) == [1, 0]


def test_a_stale_connection_says_nothing_of_the_backend() -> None:
    acts: list[Act] = [answer(200), hang_up, answer(200), hang_up, answer(500), hang_up]
    with before(Backend("only", *acts), circuit_breaker=BREAKER) as served:
        with served.connect() as client:
            for _ in range(2):
                client.send(head())
                client.receive_response()
        assert status_of(served.send("POST", body=b"x")[0]) == 502
        assert state(served) == ("closed", 0)


def let_reset_time_pass(served: Served) -> None:
    """As the clock would: the next request is a trial, and the round it begins lasts as configured."""
    assert state(served)[0] == "open"
    served.board.page.set(shared(served) + cells.SU_OPEN_UNTIL_US, 1)


# ---- open -----------------------------------------------------------------------------------------------------------


def open_it(served: Served, path: str = "/x") -> None:
    while state(served)[0] != "open":
        served.send(path=path)


def test_an_open_one_lets_nothing_through_and_says_when_to_come_again() -> None:
    only = Backend("only", *[answer(500)] * 100)
    with before(only, circuit_breaker=BREAKER) as served:
        open_it(served)
        head_, body = served.send()
        line = served.wait_access(status=503)
    assert (status_of(head_), only.came) == (503, 5)
    problem = json.loads(body)
    assert (problem["code"], problem["type"]) == ("circuit_open", "circuit_breaker")
    assert 28 <= int(re.search(rb"\r\nRetry-After: (\d+)\r\n", head_)[1]) <= 30  # type: ignore[index]
    assert line["flag"] == "UO"
    assert "upstream" not in line
    assert served.count("R_NO_BACKEND") == 1
    assert served.requests() == 6


def test_one_of_two_that_is_open_is_passed_over() -> None:
    bad, good = Backend("bad", *[answer(500)] * 100), Backend("good")
    with before(bad, good, circuit_breaker=BREAKER) as served:
        open_it(served)
        came = bad.came
        assert [served.send()[1] for _ in range(20)] == [b"good"] * 20
    assert bad.came == came == 5


def test_with_all_open_the_first_to_let_somebody_through_is_told() -> None:
    with before(None, None, None, circuit_breaker=BREAKER) as served:
        statuses = [status_of(served.send()[0]) for _ in range(8)]
        assert statuses[-1] == 503
        head_, body = served.send("POST", body=b"x")
    assert b"Retry-After: " in head_
    assert b'"code":"circuit_open"' in body


def test_a_breaker_that_opens_during_the_retries_ends_them() -> None:
    only = Backend("only", *[answer(503)] * 20)
    with before(only, circuit_breaker=BREAKER, retry={"initial_backoff_ms": 0, "max_retries": 10}) as served:
        assert status_of(served.send()[0]) == 503
    assert only.came == 5


def test_a_websocket_asks_the_breaker_too() -> None:
    only = Backend("only", *[answer(500)] * 9)
    with before(only, circuit_breaker=BREAKER, upgrade=True) as served:
        assert [status_of(served.request(handshake("/x"))[0]) for _ in range(6)] == [500] * 5 + [503]
    assert only.came == 5


def test_one_that_is_disabled_never_opens() -> None:
    with before(Backend("only", *[answer(500)] * 20), circuit_breaker={"enabled": False}) as served:
        assert [status_of(served.send()[0]) for _ in range(20)] == [500] * 20
        assert state(served) == ("closed", 0)


# ---- half-open ------------------------------------------------------------------------------------------------------


def test_an_operators_word_holds_on_routes_without_breakers_too() -> None:
    first, second = Backend("first"), Backend("second")
    with before(first, second, circuit_breaker={"enabled": False}) as served:
        served.board.page.set(shared(served) + cells.SU_FORCED, cells.FORCED_OPEN)
        assert [served.send()[1] for _ in range(4)] == [b"second"] * 4
        served.board.page.set(shared(served) + cells.SU_FORCED, cells.FORCED_NOT)
        served.board.page.set(shared(served) + cells.SU_BREAKER, breaker.OPEN)
        served.board.page.set(shared(served) + cells.SU_OPEN_UNTIL_US, 1 << 62)
        assert {served.send()[1] for _ in range(4)} == {b"first", b"second"}


def test_successes_close_it() -> None:
    only = Backend("only", *[answer(500)] * 5)
    with before(only, circuit_breaker=BREAKER) as served:
        open_it(served)
        let_reset_time_pass(served)
        assert served.send()[1] == b"only"
        assert state(served) == ("half-open", 1)
        assert served.send()[1] == b"only"
        assert state(served) == ("closed", 0)


def test_a_failure_opens_it_again() -> None:
    only = Backend("only", *[answer(500)] * 5, answer(200), answer(500))
    with before(only, circuit_breaker=BREAKER) as served:
        open_it(served)
        let_reset_time_pass(served)
        assert status_of(served.send()[0]) == 200
        assert status_of(served.send()[0]) == 500
        assert (state(served), served.count("SU_OPENED")) == (("open", 0), 2)
        assert status_of(served.send()[0]) == 503


def test_so_many_trials_at_once() -> None:
    hold = Hold(answer(200, b"held"))
    only = Backend("only", *[answer(500)] * 5, hold, hold)
    with before(only, circuit_breaker=BREAKER) as served:
        open_it(served)
        let_reset_time_pass(served)
        clients = [served.connect() for _ in range(6)]
        for client in clients:
            client.send(head())
        served.wait(lambda: served.requests() == 5 + 4, "four that are turned away")
        assert only.came == 7
        hold.released.set()
        statuses = sorted(status_of(client.receive_response()[0]) for client in clients)
        assert statuses == [200, 200, 503, 503, 503, 503]
        wait_state(served, "closed", 0)
        for client in clients:
            client.close()


@pytest.mark.parametrize("left", ["waiting", "dialling"])
def test_a_trial_whose_client_leaves_is_given_back(left: str) -> None:
    hold = Hold()
    only = Backend("only", *[answer(500)] * 5, *[hold] * 4)
    with before(only, circuit_breaker={**BREAKER, "half_open_requests": 1}) as served:
        open_it(served)
        let_reset_time_pass(served)
        for _ in range(4):  # within one round: each was given back, or there would be no other
            with served.connect() as client:
                client.send(head(path="/left"))
                if left == "waiting":
                    served.wait(lambda: served.count("U_IN_FLIGHT") == 1, "the trial")
            served.wait(lambda: not served.under_way(), "rest")
            assert state(served) == ("half-open", 0)
        hold.released.set()
        assert status_of(served.send()[0]) != 503


def test_a_websocket_that_opened_gave_its_trial_back() -> None:
    """It may stay open for hours."""

    def grant(peer: Peer) -> None:
        peer.send(switching(only.requests.queue[-1][0]))
        peer.receive_all()
        raise EOFError

    only = Backend("only", *[answer(500)] * 5, grant, grant)
    with before(only, circuit_breaker={**BREAKER, "half_open_requests": 1}, upgrade=True) as served:
        open_it(served)
        let_reset_time_pass(served)
        sockets = [open_websocket(served.port, "/x")[0] for _ in range(2)]
        assert state(served) == ("closed", 0)
        for sock in sockets:
            sock.close()


# ---- whose it is ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def failing(workers: int = 2, count: int = 5, **settings: Any) -> Iterator[tuple[Gateway, Backend, str]]:
    """A gateway with two routes to a backend that fails its first requests."""
    only = Backend("only", *[answer(500)] * count)
    with origin(only) as o:
        first, second = route("/one", o.url), route("/two", o.url)
        config = {"routers": [first, second], "circuit_breaker": {**BREAKER, **settings}}
        with gateway(config, workers=workers) as g:
            yield g, only, o.url


def statuses(g: Gateway, path: str, count: int) -> list[int]:
    """Of requests on connections of their own, which go to different workers."""
    return [status_of(g.get(path)[0]) for _ in range(count)]


def breaker_is(g: Gateway, name: str) -> bool:
    return re.search(rf'breaker_state{{state="{name}",upstream="[^"]*"}} 1.0', g.metrics()) is not None


def test_all_workers_and_routes_share_it() -> None:
    with failing() as (g, only, url):
        assert statuses(g, "/one", 3) + statuses(g, "/two", 2) == [500] * 5
        assert statuses(g, "/one", 10) + statuses(g, "/two", 10) == [503] * 20
        assert only.came == 5
        assert breaker_is(g, "open")
        g.wait_log("circuit breaker opened")
        [opened] = [line for line in g.log.splitlines() if "circuit breaker opened" in line]
    for said in (url, "5 failures in a row", "status_500", "30"):
        assert said in opened


def test_who_was_answered_finds_the_breaker_told_at_any_worker() -> None:
    """However soon the next request comes: what a worker knows when it answers, all know."""
    with failing(workers=2, count=400, failure_threshold=200) as (g, only, _):
        assert statuses(g, "/one", 250) == [500] * 200 + [503] * 50
        assert only.came == 200


def test_the_log_tells_how_it_went_on() -> None:
    with failing(1, 6, reset_timeout=0.3) as (g, _, _):
        statuses(g, "/one", 5)
        g.wait(lambda: statuses(g, "/one", 1) == [500], "a trial that fails")
        g.wait_log("a trial failed")
        g.wait(lambda: statuses(g, "/one", 1) == [200], "a trial that does not")
        statuses(g, "/one", 1)
        g.wait_log("circuit breaker closed")
        assert g.log.count("circuit breaker opened") == 2
        assert "kairos_upstream_breaker_openings_total" in g.metrics()


def test_the_log_tells_the_failure_of_this_backend() -> None:
    """Not that of another one which the request had tried before."""
    with origin(Backend("bad", *[answer(500)] * 9)) as bad:
        dead = f"http://127.0.0.1:{dead_port()}"
        made = route("/x", f"{dead},{bad.url}", load_balancing_strategy="round_robin")
        with gateway({"routers": [made], "circuit_breaker": BREAKER}) as g:
            g.wait(lambda: status_of(g.get("/x")[0]) == 503, "both open")
            for url in (dead, bad.url):
                g.wait(lambda: any("breaker opened" in line and url in line for line in g.log.splitlines()), url)  # noqa: B023
            lines = {url: line for line in g.log.splitlines() for url in (dead, bad.url)
                     if "breaker opened" in line and url in line}  # fmt: skip
            assert "connect_failed" in lines[dead]
            assert "status_500" in lines[bad.url]


def test_it_outlives_a_reload_and_its_workers() -> None:
    with failing(count=5) as (g, only, url):
        statuses(g, "/one", 5)
        config = json.loads(g.config_path.read_text())
        config["routers"].append(route("/three", url))
        g.write(config)
        g.signal(signal.SIGHUP)
        g.wait(lambda: statuses(g, "/three", 1) == [503], "the new route, whose backend is known to fail")
        for name, pid in g.children().items():
            if "worker" in name:
                os.kill(pid, signal.SIGKILL)
        g.wait(lambda: g.log.count("killed by SIGKILL") >= 2, "the end of both workers")
        g.wait(lambda: _answers(g), "new workers")
        assert statuses(g, "/one", 6) == [503] * 6
        assert only.came == 5


def _answers(g: Gateway) -> bool:
    try:
        return bool(g.get("/one")[0])
    except (OSError, EOFError):
        return False


def test_trials_of_a_killed_worker_are_replaced() -> None:
    hold = Hold()
    only = Backend("only", *[answer(500)] * 5, hold)
    settings = {**BREAKER, "half_open_requests": 1, "success_threshold": 1, "reset_timeout": 1.0}
    with origin(only) as o, gateway({"routers": [route("/x", o.url)], "circuit_breaker": settings}) as g:
        statuses(g, "/x", 5)
        time.sleep(1.05)
        with g.connect() as client:
            client.send(head())
            assert hold.reached.wait(25)
            os.kill(g.child("kairos-worker0"), signal.SIGKILL)
            g.wait_log("killed by SIGKILL")
        g.wait(lambda: _answers(g) and statuses(g, "/x", 1) == [200], "a trial in the next round")
        hold.released.set()
        assert statuses(g, "/x", 3) == [200] * 3


def test_an_operator_has_the_last_word() -> None:
    with failing(count=8) as (g, only, url):
        path = "/api/backends/" + url.replace(":", "%3A").replace("/", "%2F")

        def force(word: str) -> None:
            code, said = g.admin("PATCH", path, {"breaker": word})
            assert code == 200, said

        statuses(g, "/one", 5)
        force("closed")
        assert statuses(g, "/one", 3) == [500] * 3  # they failed: nobody says otherwise
        assert statuses(g, "/two", 10) == [200] * 10
        force("open")
        assert statuses(g, "/one", 4) == [503] * 4
        assert only.came == 18
        force("auto")
        assert statuses(g, "/one", 4) == [503] * 4  # still within the 30 s
    assert only.came == 18


def test_backends_without_cells_of_their_own_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the page is full they share one block: they must not be judged together."""
    small = Capacity(workers=1, routes=16, pairs=16, upstreams=2)
    monkeypatch.setattr(Scoreboard, "create", lambda **_: Scoreboard(small))
    good, bad, other = Backend("good"), Backend("bad", *[answer(500)] * 20), Backend("other")
    with before(good, bad, other, circuit_breaker=BREAKER) as served:
        found = [status_of(served.send()[0]) for _ in range(60)]
        assert served.board.page.get(served.board.shared_upstream(0) + cells.SU_BREAKER) == 0
    assert (found.count(500), asked(good, bad, other)) == (20, [20, 20, 20])
