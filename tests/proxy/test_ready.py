"""/ready that depends on backends (`health.require_backends`): which of them count as live."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kairos._speedups import cells
from tests.support.gateway import route
from tests.support.inprocess import InProcess, serving
from tests.support.net import free_port, status_of

FAR = 1 << 62


@pytest.fixture
def served() -> Iterator[InProcess]:
    url = f"http://127.0.0.1:{free_port()}"
    unguarded = route("/unguarded", url, circuit_breaker={"enabled": False})
    with serving({"routers": [route("/a", url), unguarded], "health": {"require_backends": True}}) as made:
        made.board.set_flag(cells.FLAG_READY, on=True)
        yield made


def dead(served: InProcess) -> list[str]:
    head, body = served.get("/ready")
    told = json.loads(body)
    assert (status_of(head), told["status"]) in ((200, "ready"), (503, "no live backend"))
    return list(told.get("routes", []))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (cells.SU_OUT, cells.OUT_DOWN),
        (cells.SU_OUT, cells.OUT_MAINTENANCE),
        (cells.SU_SKIP_UNTIL_US, FAR),
        (cells.SU_WEIGHT, 1),
        (cells.SU_FORCED, cells.FORCED_OPEN),
    ],
    ids=["down", "maintenance", "ejected", "no_weight", "forced_open"],
)
def test_what_makes_a_backend_count_as_dead(served: InProcess, cell: int, value: int) -> None:
    assert dead(served) == []
    at = served.board.shared_upstream(1) + cell
    served.board.page.set(at, value)
    assert dead(served) == ["/a", "/unguarded"]
    served.board.page.set(at, 0)
    assert dead(served) == []


def test_an_open_breaker_counts_where_the_route_has_one(served: InProcess) -> None:
    served.board.page.set(served.board.shared_upstream(1) + cells.SU_OPEN_UNTIL_US, FAR)
    served.board.page.set(served.board.shared_upstream(1) + cells.SU_BREAKER, 1)
    assert dead(served) == ["/a"]
