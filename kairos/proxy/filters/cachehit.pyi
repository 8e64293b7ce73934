from asyncio import Event
from collections.abc import Awaitable

from kairos._speedups.cachestore import CacheStore
from kairos.proxy.cachecontrol import Fields, Wanted
from kairos.proxy.edits import Edits
from kairos.proxy.exchange import Exchange, Filter, Response
from kairos.proxy.filters.cacheentry import Entry
from kairos.rediscache import Put

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
ANNOUNCED: int
META_BYTES: int
PASS_US: int
APART: bytes
ASK: int
NO_STORE: int
PRIVATE: int
ZERO: int
SILENT: int
STORED: int
SHARED: int
COOKIES: int

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

class Look:
    url: bytes
    request: Fields
    asks: int
    asked: int
    wanted: Wanted
    why: str
    entry: Entry | None
    needs: frozenset[bytes]
    passed: bool
    held: int
    validates: bool
    stores: bool
    collapsed: bool
    change: bool
    there: dict[bytes, tuple[bytes, bytes, bool]]
    writes: list[Put | bytes]
    done: bool
    @property
    def unix(self) -> float: ...
    def __init__(self, url: bytes, request: Fields, asks: int) -> None: ...

class CacheHit(Filter):
    store: CacheStore | None
    plain: bool
    tells: bool
    collapse_us: int
    most: int
    guards: bool
    waiters: dict[int, Event]
    def __init__(
        self,
        store: CacheStore | None,
        plain: bool,
        tells: bool,
        slow: int,
        special: frozenset[bytes],
        waiters: dict[int, Event],
    ) -> None: ...
    def url_of(self, x: Exchange) -> bytes: ...
    def count(self, x: Exchange, cell: int, n: int = 1) -> None: ...
    def mark_hit(self, x: Exchange, word: str) -> None: ...
    def mark(self, x: Exchange, word: str) -> None: ...
    def consider(self, x: Exchange, asks: int) -> Response | Awaitable[Response | None] | None: ...
    def marked(self, marker: bytes) -> tuple[bytes, tuple[bytes, ...]] | tuple[()]: ...
    def parted(self, name: bytes, lines: list[bytes]) -> bytes: ...
    def judge(self, control: bytes) -> int: ...
    def saying(self, status: int, reason: str) -> Edits: ...
    def responded(self, x: Exchange, look: Look) -> Response | None: ...
    def settle(self, look: Look) -> None: ...
    def wake(self, mark: int) -> None: ...
    def change(self, x: Exchange) -> Response | Awaitable[Response | None] | None: ...
