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
