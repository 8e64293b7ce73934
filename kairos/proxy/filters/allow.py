"""Only clients from listed networks pass; all others get 403."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.proxy.exchange import Exchange, Filter
from kairos.proxy.peers import Networks

if TYPE_CHECKING:
    from collections.abc import Iterable


class Allow(Filter):
    """Made of CIDR strings."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = Networks(networks)

    def on_request(self, x: Exchange) -> None:
        if x.client not in self._networks:
            x.fail_as("forbidden", "Forbidden: this client's network may not read it")
