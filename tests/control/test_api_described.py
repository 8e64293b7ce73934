"""Every operation of the admin API of a real gateway, under random requests made from its own description.

No answer is a server's error, and the gateway serves as before. Left out are those that never end (streams) and the one
that replaces the gateway.
"""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.support.gateway import gateway, route
from tests.support.net import echo, origin

ENDLESS = {"/api/events", "/api/events/metrics", "/api/tail", "/api/logs/tail"}
ELSEWHERE = {"/api/upgrade"}
EXAMPLES = 5


@pytest.fixture(scope="module")
def one():
    with origin(echo) as backend:
        config = {
            "cache_storage": {"memory_bytes": 16 << 20},
            "routers": [route("/a", backend.url), route("/cached", backend.url, cache={})],
        }
        with (
            gateway(config) as g,
            httpx.Client(
                transport=httpx.HTTPTransport(uds=str(g.state_dir / "admin.sock")), base_url="http://kairos", timeout=30
            ) as client,
        ):
            g.client = client
            g.wait(lambda: client.get("/api/users").status_code == 200, "the database")
            yield g


def test_no_request_that_fits_the_description_is_a_servers_error(one):
    schema = schemathesis.openapi.from_dict(one.client.get("/openapi.json").json())
    operations = [result.ok() for result in schema.get_all_operations()]
    wanted = [operation for operation in operations if operation.path not in ENDLESS | ELSEWHERE]
    assert len(wanted) > 80
    counts: dict[int, int] = {}
    broken = [found for operation in wanted for found in tried(one, operation, counts)]
    assert broken == []
    assert counts.get(200, 0) > len(wanted) / 2, counts
    one.wait(lambda: one.client.get("/api/status").json()["phase"] == "running", "the gateway as it was")
    assert all(worker["pid"] for worker in one.client.get("/api/status").json()["workers"])


def tried(one, operation, counts):
    """What an operation answers with 5xx."""
    found = []

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case):
        answer = sent(one.client, case)
        counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
        if answer.status_code >= 500:
            found.append((operation.label, answer.status_code, answer.text[:200], str(case.body)[:200], case.query))

    ask()
    return found


def sent(client, case):
    words = case.as_transport_kwargs(base_url="http://kairos")
    names = ("method", "url", "headers", "params", "json", "data")
    words = {name: words[name] for name in names if words.get(name) is not None}
    words["headers"] = {name: value for name, value in words["headers"].items() if name.lower() != "authorization"}
    if isinstance(words.get("data"), bytes | str):
        words["content"] = words.pop("data")
    return client.request(**words)
