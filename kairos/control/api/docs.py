"""A page at /docs to read the API and try things out; everything it loads comes from this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import swagger_ui
from litestar import MediaType, Request, Response, get
from litestar.datastructures import CacheControlHeader
from litestar.static_files import create_static_files_router

from kairos.control.api.guards import public

ASSETS = Path(swagger_ui.__file__).with_name("static")
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Kairos admin API</title><link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="icon" href="/docs/assets/favicon-32x32.png"></head>
<body><div id="swagger-ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>
"""
START = """SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  defaultModelsExpandDepth: 0, tagsSorter: "alpha", displayRequestDuration: true});
"""
_DAY = CacheControlHeader(max_age=86_400, public=True)


@get("/docs", media_type=MediaType.HTML, include_in_schema=False, sync_to_thread=False, **public())
def page() -> str:
    """The API, to browse."""
    return PAGE


@get("/docs/start.js", media_type="text/javascript", include_in_schema=False, sync_to_thread=False, **public())
def start() -> str:
    return START


@get("/openapi.json", include_in_schema=False, sync_to_thread=False, **public())
def document(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """OpenAPI 3.1."""
    return Response(request.app.openapi_schema.to_schema(), headers={"Cache-Control": "no-cache"})


assets = create_static_files_router(
    "/docs/assets", [ASSETS], include_in_schema=False, cache_control=_DAY, name="docs-assets", **public()
)
