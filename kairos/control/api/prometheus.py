"""The metrics that the gateway's own /metrics has, on the admin port: for scrapers that are kept off the gateway's."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency

from kairos.control.api.guards import needs
from kairos.telemetry.prometheus import GatewayCollector

TAGS = ["Metrics"]


@get("/metrics", tags=TAGS, media_type="text/plain", sync_to_thread=True, **needs("metrics:read"))
def prometheus(request: Request[Any, Any, Any], collector: NamedDependency[GatewayCollector]) -> Response[str]:
    """Prometheus' text format, or OpenMetrics where Accept asks for it."""
    body, kind = collector.expose(request.headers.get("Accept", ""))
    return Response(body.decode(), media_type=kind)


HANDLERS = [prometheus]
