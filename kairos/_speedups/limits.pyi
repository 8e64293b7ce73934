from typing import final

from kairos._speedups.cells import Page

class Limit:
    capacity: int
    words: int
    def __init__(self, requests: int, window_us: int, burst: int = 0) -> None: ...

@final
class TokenBucket(Limit): ...

@final
class FixedWindow(Limit): ...

@final
class SlidingWindow(Limit): ...

@final
class LimitCell:
    def __init__(self, page: Page, cell: int, limit: Limit) -> None: ...
    def acquire(self, now_us: int, cost: int = 1) -> int: ...

@final
class LimitTable:
    limit: Limit
    slots: int
    def __init__(self, page: Page, cell: int, count: int, limit: Limit) -> None: ...
    def __len__(self) -> int: ...
    def acquire(self, key: int, now_us: int, cost: int = 1) -> int: ...
