"""Every kind of configuration file that kairos-rs ships starts as it is, the one it cannot load itself included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.gateway import gateway
from tests.support.net import status_of

FILES = sorted((Path(__file__).parents[1] / "config" / "kairos_rs").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_starts_and_knows_its_routes(file: Path) -> None:
    config = json.loads(file.read_text())
    route = config["routers"][0]
    with gateway(config) as site:
        assert status_of(site.get("/health")[0]) == 200
        path = route["external_path"].replace("{", "").replace("}", "")
        unlisted = next(method for method in ("TRACE", "PATCH", "PUT") if method not in route["methods"])
        head, _ = site.request(f"{unlisted} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert status_of(head) == 405


def test_there_are_seven() -> None:
    assert len(FILES) == 7
