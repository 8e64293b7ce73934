"""Two gateways with one PostgreSQL: a change at one is everybody's, and the database may go away."""

from __future__ import annotations

import contextlib
import json
import threading

import pytest

from tests.support.gateway import Gateway, route
from tests.support.net import echo, origin


@pytest.fixture(scope="module")
def url(postgres):
    return postgres.database()


def config(url, node, *routes, **more):
    return {
        "storage": {"url": url, "source": "database", "node": node},
        "admin": {"host": "127.0.0.1", "port": 0},
        "routers": list(routes),
        **more,
    }


@pytest.fixture(scope="module")
def nodes(url):
    with origin(echo) as served:
        backend = served.url
        first = Gateway(config(url, "one", route("/a", backend)))
        try:
            following(first, 1)
            second = Gateway(config(url, "two", route("/other", backend)))
            try:
                following(second, 1)
                yield first, second, backend
            finally:
                second.stop()
        finally:
            first.stop()


def following(g, revision):
    """Wait until a node serves with this shared revision."""

    def current():
        found = [node for node in g.admin("GET", "/api/nodes")[1]["nodes"] if node["this"]]
        return found[0]["revision"] >= revision

    g.wait(current, f"shared revision {revision}", 30)


def status(g, path):
    return int(g.get(path)[0].split()[1])


def test_who_comes_later_serves_what_the_first_one_wrote(nodes):
    first, second, _ = nodes
    assert [status(g, "/a") for g in (first, second)] == [200, 200]
    assert status(second, "/other") == 404


def test_a_change_at_one_is_everybodys(nodes):
    first, second, backend = nodes
    code, answer = second.admin("POST", "/api/routes", route("/b", backend))
    assert code == 201, answer
    first.wait(lambda: status(first, "/b") == 200, "the new route at the other node", 20)
    assert "/b" in json.dumps(first.admin("GET", "/api/config")[1])
    names = [(node["name"], node["alive"], node["current"]) for node in first.admin("GET", "/api/nodes")[1]["nodes"]]
    assert names == [("one", True, True), ("two", True, True)]


def test_changes_at_both_at_once_are_all_kept(nodes):
    first, second, backend = nodes

    def add(g, name):
        for number in range(5):
            wanted = route(f"/{name}{number}", backend)
            g.wait(lambda wanted=wanted: g.admin("POST", "/api/routes", wanted)[0] == 201, "its turn", 30)

    threads = [threading.Thread(target=add, args=pair) for pair in ((first, "x"), (second, "y"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    paths = [f"/{name}{number}" for name in "xy" for number in range(5)]
    for g in (first, second):
        g.wait(lambda g=g: all(status(g, path) == 200 for path in paths), "all routes", 30)


def test_a_database_that_is_gone_stops_no_traffic_and_no_change_is_half_made(nodes, postgres):
    first, second, backend = nodes
    postgres.kill()
    try:
        assert [status(g, "/a") for g in (first, second)] == [200, 200]
        code, answer = first.admin("POST", "/api/routes", route("/lost", backend))
        assert code in (409, 503), answer
        assert status(first, "/lost") == 404
        shown = first.admin("GET", "/api/nodes")[1]
        assert [node["name"] for node in shown["nodes"]] == ["one"]
        assert "database" in shown["problem"]
        first.restart()  # cut off from the start
        assert [status(first, path) for path in ("/a", "/b")] == [200, 200]
    finally:
        with contextlib.suppress(RuntimeError):
            postgres.start()
    first.wait(lambda: second.admin("POST", "/api/routes", route("/back", backend))[0] == 201, "the database", 60)
    first.wait(lambda: status(first, "/back") == 200, "the change of after", 30)


def test_what_concerns_the_machine_comes_from_its_own_file(nodes, url):
    first, second, backend = nodes
    first.write(config(url, "one", route("/mine", backend), access_log={"format": "off"}))
    assert first.admin("POST", "/api/reload")[0] == 200
    assert first.admin("GET", "/api/config")[1]["access_log"]["format"] == "off"
    assert (status(first, "/a"), status(first, "/mine")) == (200, 404)
    assert second.admin("GET", "/api/config")[1].get("access_log", {}).get("format") != "off"
