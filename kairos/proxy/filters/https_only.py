"""HTTPS only: who comes without is sent there, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.proxy.exchange import Exchange, Filter, Response

if TYPE_CHECKING:
    from kairos.config.policies.https_only import HttpsOnly
    from kairos.proxy.site import Site


class HttpsOnlyFilter(Filter):
    """Lets pass what was encrypted on its way here."""

    def __init__(self, spec: HttpsOnly) -> None:
        self._refuses = spec.action == "refuse"
        self._exempt = tuple(prefix.encode() for prefix in spec.exempt)
        self._port = b"" if spec.port == 443 else b":%d" % spec.port

    def on_request(self, x: Exchange) -> Response | None:
        if x.client_scheme == "https" or x.path.startswith(self._exempt):
            return None
        if self._refuses or not x.host:
            x.fail_as("https_required")
            return None
        place = b"https://" + _bare(x.host.encode("latin-1")) + self._port + x.target
        return Response(308, b"", [(b"Location", place)])


def _bare(host: bytes) -> bytes:
    """Without its port; brackets of an IPv6 address stay."""
    return host.rpartition(b":")[0] if host.rpartition(b":")[2].isdigit() and not host.endswith(b"]") else host


def build(site: Site) -> Filter | None:
    """The filter of a route that is served over HTTPS only."""
    spec = site.policies.https_only
    return None if spec is None else HttpsOnlyFilter(spec)
