"""Parameters in paths that may hold a slash: a backend's key, a route's path.

Servers hand over a path decoded, and a `%2F` would then cut a parameter in two. So a path is decoded here, but for
`%2F` and `%25`; a handler takes its parameter with `segment`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

if TYPE_CHECKING:
    from litestar.types import Scope

_KEPT = re.compile(rb"%(?!2[Ff]|25)[0-9A-Fa-f]{2}")


def keep_slashes(scope: Scope) -> None:
    """Before the app looks for a handler."""
    raw = cast("dict[str, Any]", scope).get("raw_path")
    if raw and b"%" in raw:
        decoded = _KEPT.sub(lambda found: bytes([int(found[0][1:], 16)]), raw.partition(b"?")[0])
        scope["path"] = decoded.decode("utf-8", "replace")


def segment(given: str) -> str:
    """What a parameter stands for."""
    return unquote(given)
