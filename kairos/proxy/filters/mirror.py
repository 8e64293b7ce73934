"""Mirroring: a copy of the request, as it was sent upstream, to other backends once the original is over.

Nobody waits for a copy. What cannot be copied (a body too large, too many copies under way) is dropped and counted.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from kairos._speedups.cells import R_MIRROR_DROPPED, R_MIRRORED
from kairos.config.serving import MIRROR
from kairos.proxy.conditions import predicate
from kairos.proxy.detached import fetch
from kairos.proxy.exchange import Exchange, Filter

if TYPE_CHECKING:
    from asyncio import Future

    from kairos.config.policies.mirror import Mirror
    from kairos.proxy.detached import Fetched
    from kairos.proxy.site import Site

_CREDENTIALS = frozenset((b"authorization", b"cookie", b"proxy-authorization"))


class _Tally:
    """Copies under way, over reloads."""

    def __init__(self) -> None:
        self.in_flight = 0


class Mirroring(Filter):
    """Marks what is to be copied, and copies it at the end."""

    def __init__(self, spec: Mirror, site: Site) -> None:
        self._spec = spec
        self._holds = None if spec.when is None else predicate(spec.when)
        self._share = spec.percent / 100
        self._left_out = frozenset() if spec.credentials else _CREDENTIALS
        self._mark = [] if spec.header is None else [(spec.header.encode(), b"1")]
        self._tally = site.kept(("mirror", site.name), _Tally)
        self._page = site.board.page
        self._cells = site.services.route_block(site.name)

    def on_request(self, x: Exchange) -> None:
        if self._share < 1 and random.random() >= self._share:
            return
        if self._holds is not None and not self._holds(x):
            return
        x.notes = x.notes or {}
        x.notes[self] = True
        x.tap_body(self._spec.body_bytes)

    def on_finish(self, x: Exchange) -> None:
        if not x.notes or self not in x.notes or x.tunnelling:
            return
        body = x.tapped_body
        if body is None or self._tally.in_flight >= self._spec.max_in_flight:
            self._count(R_MIRROR_DROPPED)
        else:
            self._send(x, body)

    def _send(self, x: Exchange, body: bytes) -> None:
        plan = x.plan.branches[MIRROR]
        target = x.upstream_target if self._spec.internal_path is None else x.target_on(plan)
        headers = [(name, value) for name, value in x.upstream_headers if name.lower() not in self._left_out]
        secure = x.client_scheme == "https"
        client = x.client.encode()
        copy = fetch(x.runtime, plan, x.method, target, headers + self._mark, body, client=client, secure=secure)
        self._count(R_MIRRORED)
        self._tally.in_flight += 1
        copy.add_done_callback(self._done)

    def _done(self, _: Future[Fetched]) -> None:
        self._tally.in_flight -= 1

    def _count(self, cell: int) -> None:
        self._page.set(self._cells + cell, self._page.get(self._cells + cell) + 1)


def build(site: Site) -> Filter | None:
    """The filter of a route with a mirror."""
    return None if site.policies.mirror is None else Mirroring(site.policies.mirror, site)
