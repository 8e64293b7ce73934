"""Compressed responses: what is compressed, how, and for whom."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, field

from kairos.config.spec import Bytes, Count, Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

Coding = Literal["zstd", "gzip", "br"]

_RANGE = re.compile(r"\*/\*(?:\+[a-z0-9.-]+)?|[a-z0-9!#$&^_.+-]+/(?:\*|[a-z0-9!#$&^_.+-]+)")
_COMPRESSED = re.compile(
    r"image/(?:avif|gif|jpeg|png|webp)|video/.*|audio/.*|font/woff2?|application/(?:gzip|zip|zstd|x-7z-compressed|pdf)"
)
EVENT_STREAM = "text/event-stream"


class Compression(Spec, frozen=True):
    """Responses in a content coding the client accepts. What comes compressed, in parts (206) or with
    `Cache-Control: no-transform` stays as it is."""

    enabled: bool = True
    codings: list[Coding] = field(default_factory=lambda: ["zstd", "gzip", "br"])
    """In the order of preference among those a client weighs the same; others are not used."""
    types: list[str] = field(
        default_factory=lambda: [
            "text/*", "*/*+json", "*/*+xml", "application/json", "application/javascript", "application/xml",
            "application/x-ndjson", "application/x-javascript", "application/yaml", "application/wasm", "font/otf",
            "font/ttf", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon",
        ]
    )  # fmt: skip
    """Media types: `type/subtype`, `type/*`, or `*/*+suffix` for a structured syntax."""
    min_bytes: Bytes = 1024
    """Smaller responses stay as they are; those of unknown length do not."""
    zstd_level: Annotated[int, Meta(ge=1, le=6)] = 3
    gzip_level: Annotated[int, Meta(ge=1, le=3)] = 1
    br_level: Annotated[int, Meta(ge=0, le=6)] = 4
    event_streams: bool = False
    """Compress `text/event-stream` too; every event is flushed."""
    etag: Literal["weak", "suffix"] = "weak"
    """A strong ETag of a response that is compressed: made weak, or marked (`"v1-gzip"`), which keeps If-Match working:
    the mark is taken off what clients send."""
    accept_encoding: Literal["pass", "strip"] = "pass"
    """Towards the upstream: pass Accept-Encoding on, so that it may compress itself, or take it out."""
    breach: Literal["off", "pad", "avoid"] = "off"
    """Against guessing secrets by the length of compressed pages: `pad` by a random length, or `avoid` compression of
    what may hold a secret: requests with Cookie or Authorization from other sites, unless the response is public."""
    padding: Annotated[int, Meta(ge=8, le=255)] = 64
    """Most bytes that `pad` adds."""
    max_streams: Count = 256
    """Responses compressed at once, per worker and route; further ones go out as they are."""


def check(spec: Compression, keys: Path, found: Findings) -> None:
    """What types cannot say."""
    if not spec.codings:
        found.error((*keys, "codings"), "name one at least, or set enabled to false")
    for at, coding in enumerate(spec.codings):
        if coding in spec.codings[:at]:
            found.error((*keys, "codings", at), f"'{coding}' is listed twice")
    for at, text in enumerate(spec.types):
        _check_type((*keys, "types", at), text, spec, found)
    if spec.codings[:1] == ["br"] and spec.br_level > 4:
        message = f"br at level {spec.br_level} costs five times the CPU time of zstd: list it last, or take level 4"
        found.hint((*keys, "br_level"), message)


def _check_type(keys: Path, text: str, spec: Compression, found: Findings) -> None:
    lower = text.lower()
    if not _RANGE.fullmatch(lower):
        found.error(keys, f"'{text}' is no media type: write type/subtype, type/* or */*+suffix")
    elif _COMPRESSED.fullmatch(lower):
        found.warning(keys, f"'{text}' is compressed by itself: compressing it again costs time and saves nothing")
    elif lower == EVENT_STREAM and not spec.event_streams:
        found.warning(keys, "event streams are left as they are unless event_streams is set")
