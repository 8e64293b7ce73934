"""Who guesses passwords has to wait: by account and by address, longer each time. Pure: `now` is passed in.

An attempt counts as wrong from its beginning, so that a thousand at once are not a thousand guesses; a right one takes
that back. What is known of one key is forgotten after a day without an attempt, or when the table is full and its
lock ended longest ago.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.config.admin import Lockout

ROOM = 10_000
FORGOTTEN_S = 86_400.0


class _Known:
    __slots__ = ("last", "until", "wrong")

    def __init__(self) -> None:
        self.wrong = 0
        self.until = 0.0
        self.last = 0.0


class Guessing:
    """`begin` each attempt, then `right` where it was."""

    def __init__(self, spec: Lockout) -> None:
        self.spec = spec
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def begin(self, keys: Iterable[str], now: float) -> float:
        """Seconds to wait; 0: go on."""
        keys = list(keys)
        if wait := max((self._waits(key, now) for key in keys), default=0.0):
            return wait
        for key in keys:
            self._count(key, now)
        return 0.0

    def right(self, account: str, address: str) -> None:
        """The account has nothing to be feared for; its address only guessed one less."""
        self._known.pop(account, None)
        known = self._known.get(address)
        if known is not None:
            known.wrong = max(0, known.wrong - 1)
            known.until = 0.0 if known.wrong < self.spec.attempts else known.until

    def forgive(self, account: str) -> None:
        """Somebody gave it another password."""
        self._known.pop(account, None)

    def _waits(self, key: str, now: float) -> float:
        known = self._known.get(key)
        return 0.0 if known is None else max(0.0, known.until - now)

    def _count(self, key: str, now: float) -> None:
        known = self._known.pop(key, None)
        if known is None or now - known.last > FORGOTTEN_S:
            known = _Known()
        self._known[key] = known
        known.last = now
        known.wrong += 1
        over = known.wrong - self.spec.attempts
        if over >= 0:
            known.until = now + min(self.spec.longest, self.spec.duration * 2 ** min(over, 30))
        while len(self._known) > ROOM:
            self._known.popitem(last=False)
