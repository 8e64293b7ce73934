"""Routes over the admin API: what comes of each call in every worker, in the file and in the answer."""

import pytest

from tests.support.gateway import gateway, route
from tests.support.net import echo, origin


@pytest.fixture(scope="module")
def served():
    with origin(echo) as backend, gateway({"routers": [route("/kept", backend.url)]}, workers=2) as g:
        g.url = backend.url
        yield g


def workers_serve(g, path, status):
    """Each worker is asked: connections go to both."""
    for _ in range(8):
        assert status in g.get(path)[0].split(b"\r\n")[0], path


def test_created(served):
    status, answer = served.admin("POST", "/api/routes", route("/new", served.url))
    assert status == 201, answer
    print(answer)
    workers_serve(served, "/new", b"200")


def test_explained(served):
    status, answer = served.admin(
        "POST", "/api/routes/explain", {"path": "/kept?a=b", "headers": {"Host": "a.example"}}
    )
    assert (status, answer["outcome"], answer["external_path"]) == (200, "forwarded", "/kept")
    assert answer["backends"][0]["state"] == "healthy"
    assert answer["backends"][0]["breaker"] == "closed"
    assert served.admin("POST", "/api/routes/explain", {"path": "/none"})[1]["status"] == 404
    status, answer = served.admin("POST", "/api/routes/explain", {"path": "/kept", "client_ip": "nobody"})
    assert (status, answer["detail"]) == (400, "'nobody' does not appear to be an IPv4 or IPv6 address")
    served.admin("POST", "/api/routes", route("/later", served.url))
    assert served.admin("POST", "/api/routes/explain", {"path": "/later"})[1]["outcome"] == "forwarded"
