"""A Kairos plugin in Python: tells the backend which plan a customer has, and refuses customers it does not know.

plugins: [{file: examples/plugins/stamp.py, settings: {plans: {acme: gold}}}]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from kairos.proxy.exchange import Exchange, Filter, Response

if TYPE_CHECKING:
    from kairos.proxy.site import Site


class Settings(Struct, forbid_unknown_fields=True):
    """What the configuration may set; anything else refuses the revision."""

    plans: dict[str, str] = field(default_factory=dict)
    """Customer to plan."""


class Stamp(Filter):
    """Hooks that are not there cost nothing."""

    def __init__(self, settings: Settings) -> None:
        self._plans = settings.plans

    def on_request(self, x: Exchange) -> Response | None:
        customer = (x.header(b"x-customer") or b"").decode("latin-1")
        plan = self._plans.get(customer)
        if plan is None:
            return Response(403, b"unknown customer\n", [(b"Content-Type", b"text/plain")])
        x.set_request_header("X-Plan", plan)
        return None

    def on_response(self, x: Exchange) -> None:
        x.set_response_header("X-Stamped", "yes")


def build(settings: Settings, site: Site) -> Filter:
    """The filter for one route."""
    return Stamp(settings)
