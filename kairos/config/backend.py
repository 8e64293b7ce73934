"""A server that requests are sent to, as routes and what divides their requests name it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from kairos.config.spec import Port, Spec


class Backend(Spec, frozen=True):
    """One upstream server."""

    host: str
    """`http://`, `https://`, `ws://` or `wss://` and a name or address; `unix:/path` for a socket.
    FTP and DNS routes also take `ftp://`, `ftps://`, `dns://`, `udp://`, `tcp://` and a bare address."""
    port: Port | None = None
    """By default that of the scheme."""
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    health_check_path: str | None = None
    """Probe it with GET on this path (see health_check)."""
    max_requests: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Requests under way at once, those of all workers and routes together; further ones go elsewhere or wait."""
