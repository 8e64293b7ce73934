"""What authenticators remember: answers that hold for a while, and questions that are under way."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")


class Recent(Generic[_T]):
    """Values by key, each for its time; of more than `size` the one not used for longest goes first."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._values: OrderedDict[bytes, tuple[_T, float]] = OrderedDict()

    def find(self, key: bytes) -> _T | None:
        found = self._values.get(key)
        if found is None or found[1] < self._clock():
            return None
        self._values.move_to_end(key)
        return found[0]

    def keep(self, key: bytes, value: _T, keep_s: float) -> None:
        if keep_s <= 0:
            return
        self._values[key] = (value, self._clock() + keep_s)
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)


class Once(Generic[_T]):
    """Work that several wait for at the same time is done once; it goes on when whoever began it leaves."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, asyncio.Task[_T]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, key: bytes) -> bool:
        return key in self._under_way

    async def do(self, key: bytes, work: Callable[[], Awaitable[_T]]) -> _T:
        """The outcome of the work under this key, which begins now unless it is under way."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.get_running_loop().create_task(self._run(key, work))
        return await asyncio.shield(task)

    async def _run(self, key: bytes, work: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await work()
        finally:
            del self._under_way[key]
