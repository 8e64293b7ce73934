"""A connection made for one host name asks for another, of which other client certificates are demanded: 421
(RFC 9110 section 15.5.20), so that the client makes a connection for that name and shows what is asked for there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.proxy.exchange import Exchange, Filter

if TYPE_CHECKING:
    from kairos.proxy.site import Site


class Misdirected(Filter):
    """Only where names differ in what they ask of clients."""

    def on_request(self, x: Exchange) -> None:
        if x.misdirected:
            x.fail_as("misdirected")


def build(site: Site) -> Filter | None:
    """The filter, where certificates of the secure listener have their own client_auth."""
    tls = site.config.server.tls
    if tls is None or len({one.client_auth or tls.client_auth for one in tls.certificates}) < 2:
        return None
    return Misdirected()
