"""How large what passes may be, without holding it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from kairos.config.spec import Bytes, Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

_RANGE = re.compile(r"[a-z0-9!#$&^_.+-]+/(?:\*|[a-z0-9!#$&^_.+-]+)")


class SizeLimits(Spec, frozen=True):
    """Sizes that are refused, judged by what is announced and by what comes. 0 means no limit."""

    enabled: bool = True
    request_body: Bytes | None = None
    """Instead of limits.body_bytes (413). A route's own body_bytes counts before it."""
    types: dict[str, Bytes] = field(default_factory=dict)
    """Request bodies by media type, `type/subtype` or `type/*`, instead of request_body."""
    response_body: Bytes = 0
    """Of backends: 502, or the connection cut once the head went out."""
    target: Bytes = 0
    """Path and query, in bytes (414)."""
    query_parameters: Annotated[int, Meta(ge=0)] = 0
    """How many (414)."""
    header_bytes: Bytes = 0
    """All header fields of a request, names and values (431)."""
    header_count: Annotated[int, Meta(ge=0)] = 0
    """How many (431)."""
    upload_rate: Annotated[int, Meta(ge=0)] | None = None
    """Least bytes per second of a request body, instead of limits.body_rate (408)."""


def check(spec: SizeLimits, keys: Path, found: Findings) -> None:
    """What types cannot say."""
    for kind in spec.types:
        if not _RANGE.fullmatch(kind.lower()):
            found.error((*keys, "types", kind), f"'{kind}' is no media type: write type/subtype or type/*")


def widest(spec: SizeLimits) -> int | None:
    """The largest request body that may come, before its type is known; None: nothing is said, 0: any."""
    if spec.request_body is None:
        return None
    limits = [spec.request_body, *spec.types.values()]
    return 0 if 0 in limits else max(limits)
