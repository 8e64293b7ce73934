"""Cookies of logins on routes that do not take them: browsers send them to every path of a host, backends get none.

What a route's own login hides is its own doing (kairos/proxy/oidc/login.py). This is for all others: a copy of such a
cookie would be a session, for whoever runs a backend that is merely on the same host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.config.oidc import cookie_name, own_cookies
from kairos.proxy.exchange import Exchange, Filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kairos.proxy.site import Site


class SessionCookies(Filter):
    """Takes cookies with these base names out."""

    def __init__(self, names: Sequence[str]) -> None:
        self._marks = tuple(name.encode() for name in names)
        self._ours = own_cookies(names)

    def on_request(self, x: Exchange) -> None:
        header = x.header(b"cookie")
        if header is None or not any(mark in line for line in x.header_values(b"cookie") for mark in self._marks):
            return
        pairs = [pair.strip() for line in x.upstream_values(b"cookie") for pair in line.split(b";")]
        kept = [pair for pair in pairs if not self._ours.fullmatch(pair.partition(b"=")[0])]
        if len(kept) < len(pairs):
            x.set_request_header("Cookie", b"; ".join(kept) or None)


def build(site: Site) -> Filter | None:
    """The filter of a route, where there are providers that it does not log in at."""
    auth = site.policies.auth
    own = (auth.oidc or next(iter(site.config.oidc), None)) if auth is not None and "oidc" in auth.methods else None
    names = [cookie_name(name, provider) for name, provider in site.config.oidc.items() if name != own]
    return SessionCookies(names) if names else None
