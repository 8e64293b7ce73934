from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Self

from kairos._speedups.cells import Page
from kairos._speedups.limits import Lease, Limit, LimitTable
from kairos.config.policies.ratelimit import Rule
from kairos.proxy.exchange import Exchange, Filter, Response

class Shared:
    up: bool
    asking: dict[int, Any]
    def ahead(self, meter: Meter, key: int, text: str) -> None: ...

class Meter:
    rule: Rule
    limit: Limit
    lease: Lease | None
    leases: LimitTable
    shared: Shared | None
    cost: int
    place: str
    policy: str
    def __init__(self, rule: Rule, limit: Limit, table: LimitTable, seed: int, page: Page, cells: int) -> None: ...
    def by_key(self) -> Self: ...
    def share(self, shared: Shared, lease: Lease | None, leases: LimitTable) -> Self: ...
    def text_of(self, x: Exchange) -> str: ...

class Case: ...

class RateLimiter(Filter):
    meters: tuple[Meter, ...]
    def __init__(self, meters: Sequence[Meter], own: Callable[[Any], Iterable[Meter]] | None = None) -> None: ...
    def on_request(self, x: Exchange) -> Response | Awaitable[Response | None] | None: ...
