from collections.abc import Awaitable

from kairos._speedups.cachestore import CacheStore
from kairos.proxy.exchange import Exchange, Filter, Response

VALIDATE: int
NEVER_STALE: int
EXPLICIT_STALE: int
MARKER: int
PASS: int
DIRECTIVES: int
CONDITIONS: int
RANGE: int
FORWARD: int
AUTHORIZATION: int
COOKIE: int
OVERRIDES: int
BODY: int
EDITED: int
META_BYTES: int
OVERRIDING: frozenset[bytes]

def pack(
    born: int,
    fresh: int,
    revalidate: int,
    error: int,
    stored: int,
    status: int,
    flags: int,
    hidden: int = 0,
    alone: int = 0,
) -> bytes: ...
def unpack(meta: bytes) -> tuple[int, int, int, int, int, int, int, int, int]: ...
def is_delimited(x: Exchange) -> bool: ...

class CacheHit(Filter):
    store: CacheStore | None
    plain: bool
    tells: bool
    def __init__(self, store: CacheStore | None, plain: bool, tells: bool, slow: int) -> None: ...
    def url_of(self, x: Exchange) -> bytes: ...
    def count(self, x: Exchange, cell: int, n: int = 1) -> None: ...
    def mark_hit(self, x: Exchange, detail: str) -> None: ...
    def consider(self, x: Exchange, asks: int) -> Response | Awaitable[Response | None] | None: ...
    def variant(self, x: Exchange, url: bytes, marker: bytes) -> bytes | None: ...
    def change(self, x: Exchange) -> Response | Awaitable[Response | None] | None: ...
    def forget(self, x: Exchange) -> None: ...
